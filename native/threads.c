/* A small pool of threads, and parallel_for on top of it.
 *
 * One loop at a time owns the pool. Idle workers wait for `serial` to rise, join the open loop, take chunks from its counter until
 * none is left, and leave. The caller takes chunks too; when they are all handed out it closes the loop, so that a worker that wakes
 * late finds nothing to join and nobody waits for it. A caller that finds the pool owned (another Python thread, or a loop within a
 * loop) runs its chunks by itself.
 *
 * Workers start with the first loop that can use them, never at import, and block every signal, so that Ctrl-C reaches Python's main
 * thread. A forked child has none of them: it forgets the pool and starts its own when it needs one. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "tl.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { MAX_THREADS = 1024, SPIN_NS = 20000 };

void *(*tl_gil_save)(void);
void (*tl_gil_restore)(void *);

typedef struct {
    tl_range_fn body;
    void *arg;
    int64_t n, grain, chunks;
    _Atomic int64_t next;       /* chunk to hand out */
    _Atomic int active;         /* workers inside */
    int seats;                  /* workers that may still join; under pool.lock */
    bool flush;                 /* the caller's mode, which holds for all of the loop */
} loop;

static struct {
    pthread_mutex_t owner;      /* held by the caller whose loop the pool runs */
    pthread_mutex_t lock;       /* guards open, workers and waiting */
    pthread_cond_t work, done;
    loop *open;                 /* the loop to join, or NULL */
    int workers;                /* threads alive */
    _Atomic int threads;        /* how many a loop may use, the caller included; 0: not decided yet */
    _Atomic uint64_t serial;    /* rises with every loop */
} pool = {.owner = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER,
          .work = PTHREAD_COND_INITIALIZER, .done = PTHREAD_COND_INITIALIZER};

/* ---- how many threads ---- */

static int cores_of(pid_t pid)
{
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(pid, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    if (pid != 0) return 0;
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

/* What a container may use ("quota period" in microseconds, or "max ..."), rounded up; `most` where nothing limits it. */
static int quota_cores(int most)
{
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "r");
    if (!f) return most;
    long long quota, period;
    int got = fscanf(f, "%lld %lld", &quota, &period);
    fclose(f);
    if (got != 2 || quota <= 0 || period <= 0) return most;
    long long cores = (quota + period - 1) / period;
    return cores < most ? (int)cores : most;
}

static int env_int(const char *name)
{
    const char *text = getenv(name);
    long value = text ? strtol(text, NULL, 10) : 0;
    return value < 1 ? 0 : value > MAX_THREADS ? MAX_THREADS : (int)value;
}

static int local_ranks(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_LOCAL_SIZE", "SLURM_NTASKS_PER_NODE"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int ranks = env_int(names[i]);
        if (ranks) return ranks;
    }
    return 1;
}

/* A launcher may have bound this rank to some of the node's cores, alone or together with others: the parent's cores are the node's
 * as far as this job sees them, and a fair share of those is the most a rank takes. */
static int default_threads(void)
{
    int mine = cores_of(0), ranks = local_ranks(), asked = env_int("TENSORLIB_NUM_THREADS");
    if (asked) return asked < mine ? asked : mine;
    if (ranks > 1) {
        int node = cores_of(getppid());
        int share = (node > mine ? node : mine) / ranks;
        if (share < mine) mine = share;
    }
    mine = quota_cores(mine);
    return mine < 1 ? 1 : mine > MAX_THREADS ? MAX_THREADS : mine;
}

int tl_get_num_threads(void)
{
    int n = atomic_load_explicit(&pool.threads, memory_order_relaxed);
    if (n) return n;
    int expected = 0;
    n = default_threads();
    return atomic_compare_exchange_strong(&pool.threads, &expected, n) ? n : expected;
}

void tl_set_num_threads(int n)
{
    atomic_store(&pool.threads, n < 1 ? 1 : n > MAX_THREADS ? MAX_THREADS : n);
    pthread_mutex_lock(&pool.lock);
    pthread_cond_broadcast(&pool.work);         /* those now too many retire */
    pthread_mutex_unlock(&pool.lock);
}

/* ---- denormal numbers: a mode of each thread; what a loop computes depends on its caller's, whichever thread runs it ---- */
#if defined(__x86_64__)
enum { FLUSH = 0x8040 };        /* MXCSR: results that are denormal become 0, and operands */
static unsigned float_mode(void) { return __builtin_ia32_stmxcsr(); }
static void set_float_mode(unsigned mode) { __builtin_ia32_ldmxcsr(mode); }
#elif defined(__aarch64__)
enum { FLUSH = 1 << 24 };       /* FPCR: both */
static uint64_t float_mode(void)
{
    uint64_t mode;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
static void set_float_mode(uint64_t mode) { __asm__ __volatile__("msr fpcr, %0" : : "r"(mode)); }
#else
enum { FLUSH = 0 };
static unsigned float_mode(void) { return 0; }
static void set_float_mode(unsigned mode) { (void)mode; }
#endif

static bool flushes(void) { return FLUSH != 0 && (float_mode() & FLUSH) == FLUSH; }

bool tl_set_flush_denormal(bool on)
{
    if (FLUSH != 0 && flushes() != on) set_float_mode(on ? float_mode() | FLUSH : float_mode() & ~FLUSH);
    return FLUSH != 0;
}

/* ---- waiting ---- */

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Spins for SPIN_NS at most while *value still is what it was: the next loop, or the last worker's leaving, is often just ahead. */
#define SPIN_WHILE(condition)                                                   \
    for (int64_t until = now_ns() + SPIN_NS; (condition) && now_ns() < until;)  \
        for (int spin = 0; spin < 16 && (condition); spin++) relax()

/* ---- the pool ---- */

static void run_chunks(loop *l)
{
    int64_t i;
    while ((i = atomic_fetch_add_explicit(&l->next, 1, memory_order_relaxed)) < l->chunks) {
        int64_t begin = i * l->grain;
        l->body(l->arg, begin, l->n - begin < l->grain ? l->n : begin + l->grain);
    }
}

static void leave(loop *l)
{
    if (atomic_fetch_sub_explicit(&l->active, 1, memory_order_acq_rel) != 1) return;
    pthread_mutex_lock(&pool.lock);             /* *l may be gone from here on */
    pthread_cond_signal(&pool.done);
    pthread_mutex_unlock(&pool.lock);
}

static bool too_many(void) { return pool.workers >= atomic_load(&pool.threads); }

static void *worker(void *unused)
{
    (void)unused;
    uint64_t seen = 0;
    for (;;) {
        SPIN_WHILE(atomic_load_explicit(&pool.serial, memory_order_relaxed) == seen);
        pthread_mutex_lock(&pool.lock);
        while (atomic_load(&pool.serial) == seen && !too_many()) pthread_cond_wait(&pool.work, &pool.lock);
        if (too_many()) {
            pool.workers--;
            pthread_mutex_unlock(&pool.lock);
            return NULL;
        }
        seen = atomic_load(&pool.serial);
        loop *l = pool.open;
        if (l && l->seats > 0) {
            l->seats--;
            atomic_fetch_add_explicit(&l->active, 1, memory_order_relaxed);
        } else l = NULL;
        pthread_mutex_unlock(&pool.lock);
        if (!l) continue;
        tl_set_flush_denormal(l->flush);
        run_chunks(l);
        leave(l);
    }
}

/* In a forked child: no worker exists, and whoever held a lock is not there to release it. */
static void forget_pool(void)
{
    pool.owner = pool.lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    pool.work = pool.done = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    pool.open = NULL;
    pool.workers = 0;
}

/* Called with pool.lock held. Where the system gives no more threads, fewer do the work. */
static void start_workers(int wanted)
{
    static bool registered;
    if (!registered) registered = pthread_atfork(NULL, NULL, forget_pool) == 0;
    if (!registered || pool.workers >= wanted) return;
    sigset_t all, before;
    pthread_attr_t attr;
    if (pthread_attr_init(&attr)) return;
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (pthread_t id; pool.workers < wanted && pthread_create(&id, &attr, worker, NULL) == 0;) pool.workers++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
}

uint64_t tl_shared_loops(void) { return atomic_load(&pool.serial); }

static void run_with_pool(loop *l, int threads)
{
    int helpers = l->chunks < threads ? (int)l->chunks - 1 : threads - 1;
    pthread_mutex_lock(&pool.lock);
    start_workers(threads - 1);
    l->seats = helpers;
    pool.open = l;
    atomic_fetch_add(&pool.serial, 1);
    pthread_cond_broadcast(&pool.work);
    pthread_mutex_unlock(&pool.lock);

    run_chunks(l);

    pthread_mutex_lock(&pool.lock);
    pool.open = NULL;
    pthread_mutex_unlock(&pool.lock);
    SPIN_WHILE(atomic_load_explicit(&l->active, memory_order_acquire));
    if (!atomic_load_explicit(&l->active, memory_order_acquire)) return;
    pthread_mutex_lock(&pool.lock);
    while (atomic_load_explicit(&l->active, memory_order_acquire)) pthread_cond_wait(&pool.done, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
}

void tl_parallel_for(tl_range_fn body, void *arg, int64_t n, int64_t grain)
{
    if (n <= 0) return;
    if (n <= grain) {
        body(arg, 0, n);
        return;
    }
    if (grain < 1) grain = 1;
    loop l = {.body = body, .arg = arg, .n = n, .grain = grain, .chunks = n / grain + (n % grain != 0), .flush = flushes()};
    int threads = tl_get_num_threads();
    if (threads == 1 || pthread_mutex_trylock(&pool.owner) != 0) {
        run_chunks(&l);
        return;
    }
    run_with_pool(&l, threads);
    pthread_mutex_unlock(&pool.owner);
}
