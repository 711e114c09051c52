/* CUDA C++ on the CPU: with this in front, a host compiler reads a .cu source, and `render_launch` runs a kernel of it.
 *
 * Blocks run one after the other. A block's threads are fibers: each runs until it returns or waits, at a barrier for its block, at a shuffle or
 * vote for the lanes in its mask. What a device leaves undefined is an error here: threads that miss a barrier, lanes that miss a shuffle, mixed
 * lines, memory written past what was asked for. Shared memory starts as NaN, whatever the block before left there. Threads and blocks run in
 * ascending, descending or drawn order (`order` 0, 1, more), so that what relies on an order shows. There is no lockstep: a warp whose lanes
 * talk without a _sync talks to nobody.
 *
 * Limits: x86-64 has a quick switch between fibers, others use ucontext; no textures, no cooperative groups, no inline PTX (sources keep a plain
 * form for compilers that do not define __CUDA_ARCH__). */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <tuple>
#include <type_traits>
#include <utility>
#ifndef __x86_64__
#include <ucontext.h>
#endif

#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)
#define __shared__ static __attribute__((section("render_shared")))

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };
#define RENDER_VECTOR(T, name, bytes) \
    struct alignas(bytes > 8 ? 16 : bytes) name##2 { T x, y; }; \
    struct alignas(2 * bytes > 16 ? 16 : 2 * bytes) name##4 { T x, y, z, w; }; \
    static inline name##2 make_##name##2(T x, T y) { return {x, y}; } \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
RENDER_VECTOR(char, char, 2)
RENDER_VECTOR(unsigned char, uchar, 2)
RENDER_VECTOR(short, short, 4)
RENDER_VECTOR(unsigned short, ushort, 4)
RENDER_VECTOR(int, int, 8)
RENDER_VECTOR(unsigned, uint, 8)
RENDER_VECTOR(float, float, 8)
RENDER_VECTOR(double, double, 16)
RENDER_VECTOR(long long, longlong, 16)
RENDER_VECTOR(unsigned long long, ulonglong, 16)

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
static const int warpSize = 32;

namespace render {

enum { MAX_THREADS = 1024, STACK = 128 << 10, MAX_DYNAMIC = 227 << 10, GUARD = 4096, WARP = 32 };
enum State { READY, AT_BARRIER, AT_SYNC, DONE };
enum Kind { SHUFFLE, BALLOT, SYNC };

struct Thread {
    State state;
    uint3 index;
    int line;           /* where it waits */
    Kind kind;          /* AT_SYNC: what it waits for */
    unsigned mask;
    int source;         /* the lane it reads from */
    uint64_t given, got;
#ifdef __x86_64__
    void *stack_pointer;
#else
    ucontext_t context;
#endif
};

static Thread threads[MAX_THREADS];
static Thread *self;
static char *stacks;
static void (*body)(void *);
static void *body_arguments;
static char message[512];
alignas(128) static unsigned char dynamic_memory[MAX_DYNAMIC + GUARD];
static uint64_t drawn;

#ifdef __x86_64__
static void *scheduler;
/* Saves what a call must keep, swaps stacks, takes it back. */
asm(R"(
    .text
    .p2align 4
render_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
extern "C" void render_switch(void **from, void *to);
static void leave() { render_switch(&self->stack_pointer, scheduler); }
static void enter(Thread *t) { render_switch(&scheduler, t->stack_pointer); }
#else
static ucontext_t scheduler;
static void leave() { swapcontext(&self->context, &scheduler); }
static void enter(Thread *t) { swapcontext(&scheduler, &t->context); }
#endif

static void start()
{
    body(body_arguments);
    self->state = DONE;
    leave();
    abort();
}

static void prepare(int i)
{
    char *stack = stacks + (size_t)i * STACK;
#ifdef __x86_64__
    void **top = (void **)(stack + STACK) - 2;
    top[0] = (void *)start; /* where the switch returns to, on a stack aligned as a call leaves it */
    top[1] = 0;
    threads[i].stack_pointer = top - 6;
#else
    getcontext(&threads[i].context);
    threads[i].context.uc_stack.ss_sp = stack;
    threads[i].context.uc_stack.ss_size = STACK;
    threads[i].context.uc_link = 0;
    makecontext(&threads[i].context, start, 0);
#endif
}

static void wait(State state, int line)
{
    self->state = state;
    self->line = line;
    leave();
}

/* ---- warps ---- */
static unsigned lane() { return (unsigned)(self - threads) % WARP; }

static uint64_t exchange(Kind kind, unsigned mask, uint64_t given, int source, int line)
{
    self->kind = kind;
    self->mask = mask;
    self->given = given;
    self->source = source;
    wait(AT_SYNC, line);
    return self->got;
}

static const char *where(const Thread *t, char *words)
{
    if (t->state == DONE) snprintf(words, 64, "has returned");
    else snprintf(words, 64, "waits at %s in line %d", t->state == AT_BARRIER ? "__syncthreads" : "a _sync", t->line);
    return words;
}

static bool fail(const char *what, const Thread *a, const Thread *b)
{
    char one[64], other[64];
    snprintf(message, sizeof message, "%s: in block (%u, %u, %u), thread %d %s, thread %d %s", what, blockIdx.x, blockIdx.y, blockIdx.z,
             (int)(a - threads), where(a, one), (int)(b - threads), where(b, other));
    return false;
}

/* Serves the lanes that wait together with t, if all that its mask names have come. 0: not yet, -1: they never will. */
static int serve(Thread *t, Thread *warp, int lanes)
{
    unsigned vote = 0;
    if (!(t->mask >> (t - warp) & 1)) return fail("a lane is not in its own mask", t, t) - 1;
    for (int i = 0; i < lanes; i++) {
        Thread *u = warp + i;
        if (!(t->mask >> i & 1)) continue;
        if (u->state == DONE) return fail("a lane that a mask names is gone", t, u) - 1;
        if (u->state != AT_SYNC) return 0;
        if (u->line != t->line || u->mask != t->mask || u->kind != t->kind) return 0;
        vote |= (unsigned)(u->given & 1) << i;
    }
    for (int i = 0; i < lanes; i++) {
        Thread *u = warp + i;
        if (!(t->mask >> i & 1)) continue;
        bool there = u->source >= 0 && u->source < lanes && (t->mask >> u->source & 1);
        u->got = u->kind == SHUFFLE ? (there ? warp[u->source].given : ~0ull) : vote;
    }
    for (int i = 0; i < lanes; i++)
        if (t->mask >> i & 1) warp[i].state = READY;
    return 1;
}

/* ---- blocks ---- */
/* 0 .. n-1 in an order: ascending, descending, or multiples of a drawn step that has no factor in common with n. */
struct Order {
    uint64_t n, first = 0, step = 1;
    Order(uint64_t n, int order) : n(n)
    {
        if (order == 1) first = n - 1, step = n - 1;
        if (order < 2) return;
        drawn = drawn * 6364136223846793005ull + (uint64_t)order * 2 + 1;
        first = (drawn >> 20) % n;
        for (step = (drawn >> 33) % n + 1;; step++) {
            uint64_t a = step, b = n;
            while (b) { uint64_t c = a % b; a = b; b = c; }
            if (a == 1) break;
        }
    }
    uint64_t operator[](uint64_t i) const { return (i * step + first) % n; }
};

static bool run_block(int n, int order)
{
    for (int i = 0; i < n; i++) {
        threads[i].state = READY;
        threads[i].index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
        prepare(i);
    }
    for (;;) {
        int done = 0, at_barrier = 0, moved = 0;
        Order nth((uint64_t)n, order);
        for (int i = 0; i < n; i++) {
            self = threads + nth[(uint64_t)i];
            if (self->state != READY) continue;
            threadIdx = self->index;
            enter(self);
            moved = 1;
        }
        for (int i = 0; i < n; i++) {
            Thread *t = threads + i, *warp = threads + i / WARP * WARP;
            if (t->state == AT_SYNC) {
                int served = serve(t, warp, n - (int)(warp - threads) < WARP ? n - (int)(warp - threads) : WARP);
                if (served < 0) return false;
                moved |= served;
            }
            done += t->state == DONE;
            at_barrier += t->state == AT_BARRIER;
        }
        if (done == n) return true;
        if (at_barrier == n) {
            for (int i = 1; i < n; i++)
                if (threads[i].line != threads[0].line) return fail("two barriers at once", threads, threads + i);
            for (int i = 0; i < n; i++) threads[i].state = READY;
            moved = 1;
        }
        if (!moved) {
            Thread *a = threads, *b = threads;
            while (a->state == DONE) a++;
            while (b->state == a->state && b->line == a->line && b < threads + n - 1) b++;
            return fail("threads wait for each other", a, b);
        }
    }
}

extern "C" char __start_render_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_render_shared[] __attribute__((weak, visibility("hidden")));

static const char *run(const unsigned *grid, const unsigned *block, size_t dynamic, int order)
{
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    int n = (int)(block[0] * block[1] * block[2]);
    uint64_t blocks = (uint64_t)grid[0] * grid[1] * grid[2];
    if (!stacks)
        stacks = (char *)mmap(0, (size_t)MAX_THREADS * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED) return "no memory for the stacks";
    Order nth(blocks, order);
    for (uint64_t i = 0; i < blocks; i++) {
        uint64_t b = nth[i];
        blockIdx = {(unsigned)(b % grid[0]), (unsigned)(b / grid[0] % grid[1]), (unsigned)(b / grid[0] / grid[1])};
        if (__start_render_shared) memset(__start_render_shared, 0xff, (size_t)(__stop_render_shared - __start_render_shared));
        memset(dynamic_memory, 0xff, dynamic + GUARD);
        if (!run_block(n, order)) return message;
        for (size_t g = dynamic; g < dynamic + GUARD; g++)
            if (dynamic_memory[g] != 0xff) {
                snprintf(message, sizeof message, "dynamic shared memory is written at byte %zu of %zu in block (%u, %u, %u)", g, dynamic,
                         blockIdx.x, blockIdx.y, blockIdx.z);
                return message;
            }
    }
    return 0;
}

static size_t static_shared() { return __start_render_shared ? (size_t)(__stop_render_shared - __start_render_shared) : 0; }

/* ---- parameters: 8 bytes each, "p" pointer, "i" long long, "d" double ---- */
template <class P> constexpr char letter()
{
    static_assert(std::is_pointer<P>::value || std::is_same<P, long long>::value || std::is_same<P, double>::value,
                  "a kernel's parameters are pointers, long long and double");
    return std::is_pointer<P>::value ? 'p' : std::is_same<P, double>::value ? 'd' : 'i';
}
template <class P> static P parameter(uint64_t bits)
{
    P p;
    memcpy(&p, &bits, sizeof p);
    return p;
}
template <class... P> struct Call {
    void (*kernel)(P...);
    const uint64_t *arguments;
    template <size_t... I> void apply(std::index_sequence<I...>) const { kernel(parameter<P>(arguments[I])...); }
    static void thread(void *call) { ((Call *)call)->apply(std::make_index_sequence<sizeof...(P)>()); }
};
template <class... P> static const char *launch(
    void (*kernel)(P...), const uint64_t *arguments, const unsigned *grid, const unsigned *block, size_t dynamic, int order)
{
    Call<P...> call = {kernel, arguments};
    body = Call<P...>::thread;
    body_arguments = &call;
    return run(grid, block, dynamic, order);
}
template <class... P> static const char *letters(void (*)(P...))
{
    static const char found[] = {letter<P>()..., 0};
    return found;
}

/* ---- what kernels call ---- */
template <class T> static uint64_t bits(T x)
{
    static_assert(sizeof x <= 8, "a shuffle takes at most 8 bytes");
    uint64_t found = 0;
    memcpy(&found, &x, sizeof x);
    return found;
}
template <class T> static T value(uint64_t x)
{
    T found;
    memcpy(&found, &x, sizeof found);
    return found;
}
template <class T> static T shuffle(unsigned mask, T x, int source, int width, int line)
{
    int mine = (int)lane(), first = mine & ~(width - 1);
    if (source < first || source >= first + width) source = mine;
    return value<T>(exchange(SHUFFLE, mask, bits(x), source, line));
}
static void fence() { asm volatile("" ::: "memory"); }
static void barrier(int line) { fence(), wait(AT_BARRIER, line), fence(); }
template <class T, class F> static T atomic(T *p, F change)
{
    T old = *p;
    *p = change(old);
    return old;
}

} // namespace render

#define __syncthreads() render::barrier(__LINE__)
#define __syncwarp(...) ((void)render::exchange(render::SYNC, render::mask_or_all(__VA_ARGS__), 0, 0, __LINE__))
#define __ballot_sync(mask, x) ((unsigned)render::exchange(render::BALLOT, mask, (x) ? 1 : 0, 0, __LINE__))
#define __any_sync(mask, x) (__ballot_sync(mask, x) != 0)
#define __all_sync(mask, x) (__ballot_sync(mask, !(x)) == 0)
#define __shfl_sync(mask, x, from, ...) render::shuffle_from(__LINE__, mask, x, from, ##__VA_ARGS__)
#define __shfl_up_sync(mask, x, by, ...) render::shuffle_up(__LINE__, mask, x, by, ##__VA_ARGS__)
#define __shfl_down_sync(mask, x, by, ...) render::shuffle_down(__LINE__, mask, x, by, ##__VA_ARGS__)
#define __shfl_xor_sync(mask, x, by, ...) render::shuffle_xor(__LINE__, mask, x, by, ##__VA_ARGS__)

namespace render {
static inline unsigned mask_or_all(unsigned mask = ~0u) { return mask; }
template <class T> static T shuffle_from(int line, unsigned mask, T x, int from, int width = WARP)
{
    return shuffle(mask, x, ((int)lane() & ~(width - 1)) + (from & (width - 1)), width, line);
}
template <class T> static T shuffle_up(int line, unsigned mask, T x, int by, int width = WARP)
{
    return shuffle(mask, x, (int)lane() - by, width, line);
}
template <class T> static T shuffle_down(int line, unsigned mask, T x, int by, int width = WARP)
{
    return shuffle(mask, x, (int)lane() + by, width, line);
}
template <class T> static T shuffle_xor(int line, unsigned mask, T x, int by, int width = WARP)
{
    return shuffle(mask, x, (int)lane() ^ by, width, line);
}
template <class T> struct same { typedef T type; };
} // namespace render

static inline void __threadfence() {}
static inline void __threadfence_block() {}
[[noreturn]] static inline void __trap() { fputs("a kernel called __trap\n", stderr), abort(); }

template <class T> static inline T atomicAdd(T *p, typename render::same<T>::type x) { return render::atomic(p, [=](T y) { return (T)(y + x); }); }
template <class T> static inline T atomicSub(T *p, typename render::same<T>::type x) { return render::atomic(p, [=](T y) { return (T)(y - x); }); }
template <class T> static inline T atomicMax(T *p, typename render::same<T>::type x) { return render::atomic(p, [=](T y) { return y > x ? y : x; }); }
template <class T> static inline T atomicMin(T *p, typename render::same<T>::type x) { return render::atomic(p, [=](T y) { return y < x ? y : x; }); }
template <class T> static inline T atomicExch(T *p, typename render::same<T>::type x) { return render::atomic(p, [=](T) { return x; }); }
template <class T> static inline T atomicOr(T *p, typename render::same<T>::type x) { return render::atomic(p, [=](T y) { return (T)(y | x); }); }
template <class T> static inline T atomicAnd(T *p, typename render::same<T>::type x) { return render::atomic(p, [=](T y) { return (T)(y & x); }); }
template <class T> static inline T atomicXor(T *p, typename render::same<T>::type x) { return render::atomic(p, [=](T y) { return (T)(y ^ x); }); }
template <class T> static inline T atomicCAS(T *p, typename render::same<T>::type was, typename render::same<T>::type x)
{
    return render::atomic(p, [=](T y) { return y == was ? x : y; });
}

/* ---- numbers ---- */
static inline float __uint_as_float(unsigned x) { return render::value<float>(x); }
static inline float __int_as_float(int x) { return render::value<float>((unsigned)x); }
static inline unsigned __float_as_uint(float x) { return (unsigned)render::bits(x); }
static inline int __float_as_int(float x) { return (int)render::bits(x); }
static inline double __longlong_as_double(long long x) { return render::value<double>((uint64_t)x); }
static inline long long __double_as_longlong(double x) { return (long long)render::bits(x); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline int __mulhi(int a, int b) { return (int)((int64_t)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) { return (unsigned long long)((unsigned __int128)a * b >> 64); }
static inline long long __mul64hi(long long a, long long b) { return (long long)((__int128)a * b >> 64); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline unsigned __brev(unsigned x)
{
    unsigned found = 0;
    for (int i = 0; i < 32; i++) found |= (x >> i & 1) << (31 - i);
    return found;
}
static inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline double __fma_rn(double a, double b, double c) { return __builtin_fma(a, b, c); }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return __builtin_sqrtf(a); }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline float __fdividef(float a, float b) { return a / b; }
/* names that the C library has for itself */
#define __expf __builtin_expf
#define __logf __builtin_logf
#define __sinf __builtin_sinf
#define __cosf __builtin_cosf
#define __powf __builtin_powf
static inline int __float2int_rn(float x) { return (int)__builtin_rintf(x); }
static inline float rsqrtf(float x) { return 1 / __builtin_sqrtf(x); }
static inline double rsqrt(double x) { return 1 / __builtin_sqrt(x); }
static inline float rsqrt(float x) { return rsqrtf(x); }
static inline float rcbrtf(float x) { return 1 / __builtin_cbrtf(x); }
static inline double rcbrt(double x) { return 1 / __builtin_cbrt(x); }
static inline double sinpi(double x) { return __builtin_sin(M_PI * __builtin_fmod(x, 2)); }
static inline double cospi(double x) { return __builtin_cos(M_PI * __builtin_fmod(x, 2)); }
static inline float sinpif(float x) { return (float)sinpi(x); }
static inline float cospif(float x) { return (float)cospi(x); }
static inline double normcdf(double x) { return 0.5 * __builtin_erfc(-x * M_SQRT1_2); }
static inline float normcdff(float x) { return (float)normcdf(x); }
#define RENDER_MIN_MAX(T) \
    static inline T min(T a, T b) { return a < b ? a : b; } \
    static inline T max(T a, T b) { return a > b ? a : b; }
RENDER_MIN_MAX(int)
RENDER_MIN_MAX(unsigned)
RENDER_MIN_MAX(long long)
RENDER_MIN_MAX(unsigned long long)
static inline float min(float a, float b) { return __builtin_fminf(a, b); }
static inline float max(float a, float b) { return __builtin_fmaxf(a, b); }
static inline double min(double a, double b) { return __builtin_fmin(a, b); }
static inline double max(double a, double b) { return __builtin_fmax(a, b); }
template <class T> static inline T __ldg(const T *p) { return *p; }
