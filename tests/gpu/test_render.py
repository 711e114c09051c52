"""render.h keeps to CUDA's rules: what is computed, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.gpu import render

SOURCE = r"""
extern "C" __global__ __launch_bounds__(256) void sums(float *out, const float *x, long long n, double scale)
{
    __shared__ float part[32];
    float s = 0;
    for (long long i = threadIdx.x; i < n; i += blockDim.x) s += x[blockIdx.x * n + i];
    for (int d = 16; d; d >>= 1) s += __shfl_xor_sync(0xffffffffu, s, d);
    if (threadIdx.x % warpSize == 0) part[threadIdx.x / warpSize] = s;
#ifdef BARRIER
    __syncthreads();
#endif
    if (threadIdx.x < 32) {
        s = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0.f;
        for (int d = 16; d; d >>= 1) s += __shfl_down_sync(0xffffffffu, s, d);
        if (!threadIdx.x) out[blockIdx.x] = s * scale;
    }
}
extern "C" __global__ void some_miss_the_barrier(int *out)
{
    if (threadIdx.x < 5) __syncthreads();
    out[threadIdx.x] = 1;
}
extern "C" __global__ void a_lane_is_elsewhere(int *out)
{
    if (threadIdx.x == 5) __syncthreads();
    else out[threadIdx.x] = __shfl_sync(~0u, 1, 0);
}
extern "C" __global__ void a_lane_is_gone(int *out)
{
    if (threadIdx.x == 5) return;
    out[threadIdx.x] = __shfl_sync(~0u, 1, 0);
}
extern "C" __global__ void two_barriers(int *out)
{
    if (threadIdx.x < 5) __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = 1;
}
extern "C" __global__ void dynamic(int *out)
{
    extern __shared__ __align__(16) int room[];
    room[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = room[blockDim.x - 1 - threadIdx.x];
}
extern "C" __global__ void votes(int *out, long long odd)
{
    int i = threadIdx.x;
    out[i] = __ballot_sync(~0u, i % 2 == odd);
    out[i + 32] = __any_sync(~0u, i == 7) + 2 * __all_sync(~0u, i < 31) + 4 * __all_sync(~0u, i < 32);
    if (i < 4) out[i + 64] = __shfl_up_sync(0xfu, i, 1) * 10 + __shfl_sync(0xfu, i, 2);
    out[i + 96] = __shfl_sync(~0u, i, 3, 8);
}
extern "C" __global__ void counted(unsigned *count, unsigned long long *largest)
{
    atomicAdd(count, 1);
    atomicMax(largest, blockIdx.x * blockDim.x + threadIdx.x);
}
extern "C" __global__ void unwritten(float *out)
{
    __shared__ float room[4];
    out[threadIdx.x] = room[threadIdx.x];
}
"""


@pytest.fixture(params=[0, 1, 2, 3], ids=["ascending", "descending", "drawn", "drawn_again"])
def order(request: pytest.FixtureRequest) -> Iterator[None]:
    render.Kernel.order = request.param
    yield
    render.Kernel.order = 0


def run(
    name: str,
    grid: int,
    block: int,
    *arguments: np.ndarray | float,
    shared: int = 0,
    macros: tuple[str, ...] = ("-DBARRIER",),
) -> None:
    kernel = render.Module(SOURCE, macros).get_function(name)
    kernel((grid,), (block,), [a.ctypes.data if isinstance(a, np.ndarray) else a for a in arguments], shared)


@pytest.mark.usefixtures("order")
def test_sums_over_blocks_and_warps(rng: np.random.Generator) -> None:
    x, out = rng.random((64, 1000), np.float32), np.empty(64, np.float32)
    run("sums", 64, 256, out, x, 1000, 2.0)
    np.testing.assert_allclose(out, 2 * x.sum(1), rtol=1e-5)


def test_a_missing_barrier_shows() -> None:
    out = np.zeros(4, np.float32)
    run("sums", 4, 256, out, np.ones((4, 1000), np.float32), 1000, 2.0, macros=())
    assert np.isnan(out).all()


@pytest.mark.usefixtures("order")
def test_votes_and_shuffles() -> None:
    out = np.zeros(128, np.int32)
    run("votes", 1, 32, out, 1)
    assert (out[:32].view(np.uint32) == 0xAAAAAAAA).all() and (out[32:64] == 5).all()
    assert out[64:68].tolist() == [2, 2, 12, 22]  # up: the first lane keeps its own
    assert out[96:].tolist() == [i // 8 * 8 + 3 for i in range(32)]


@pytest.mark.usefixtures("order")
def test_atomics() -> None:
    count, largest = np.zeros(1, np.uint32), np.zeros(1, np.uint64)
    run("counted", 7, 96, count, largest)
    assert count[0] == 7 * 96 and largest[0] == 7 * 96 - 1


def test_dynamic_memory_has_a_size() -> None:
    out = np.zeros(64, np.int32)
    run("dynamic", 1, 64, out, shared=256)
    assert out.tolist() == [*range(64)][::-1]
    with pytest.raises(RuntimeError, match="dynamic shared memory is written at byte 252 of 252"):
        run("dynamic", 1, 64, out, shared=252)


def test_shared_memory_starts_as_nan() -> None:
    out = np.zeros(4, np.float32)
    run("unwritten", 1, 4, out)
    assert np.isnan(out).all()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("some_miss_the_barrier", "threads wait for each other.*__syncthreads.*has returned"),
        ("a_lane_is_elsewhere", "threads wait for each other.*a _sync.*__syncthreads"),
        ("a_lane_is_gone", "a lane that a mask names is gone"),
        ("two_barriers", "two barriers at once"),
    ],
)
def test_what_a_device_leaves_undefined_is_an_error(name: str, words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        run(name, 1, 32, np.zeros(64, np.int32))


def test_arguments_fit_parameters() -> None:
    out = np.zeros(128, np.int32)
    with pytest.raises(TypeError, match=r"argument 1 is 1\.0, the parameter is a long long"):
        run("votes", 1, 32, out, 1.0)
    with pytest.raises(TypeError, match="got 1 arguments, it has 2 parameters"):
        run("votes", 1, 32, out)
    with pytest.raises(RuntimeError, match="no kernel absent"):
        run("absent", 1, 32)
    with pytest.raises(RuntimeError, match="invalid grid"):
        run("votes", 0, 32, out, 1)
    with pytest.raises(RuntimeError, match="parameters are pointers, long long and double"):
        render.Module('extern "C" __global__ void narrow(int n) {}')
