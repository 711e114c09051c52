#include "common.cuh"
/* out, (..., channels, inner) contiguous, n elements: each channel filled with its value. */
extern "C" __global__ void spread(T *out, const T *values, i64 n, i64 channels, i64 inner)
{
    for (i64 i = first_index(); i < n; i += index_step()) out[i] = values[i / inner % channels];
}
