/* The host's numbers, written to memory as arguments of a launch. to[at ... at + n) = the first n of those that follow. One thread. */
#include "common.cuh"

extern "C" __global__ void doubles(double *to, long long at, long long n, double a, double b, double c, double d, double e, double f, double g, double h)
{
    const double from[8] = {a, b, c, d, e, f, g, h};
    for (int i = 0; i < n; i++) to[at + i] = from[i];
}

extern "C" __global__ void words(long long *to, long long at, long long n, long long a, long long b)
{
    to[at] = a;
    if (n > 1) to[at + 1] = b;
}
