/* The caching allocator. Every function here is called with the GIL held: there are no locks, and a forked child just goes on.
 *
 *   tiny   <= 4 KiB   multiples of 64 bytes, carved from slabs, kept on one free list per size
 *   runs    > 4 KiB   eight sizes per doubling (so at most 1/8 is wasted), from malloc below 2 MiB, above it mapped on huge pages
 *
 * A free run lies on the list of its size class, from where the next request of the class (or one class below: at most a quarter is
 * wasted then) takes it, and on the list of all free runs by age. Free runs are kept while they take less than a quarter of the
 * machine's memory and what is reserved stays below 5/4 of the most that was ever in use at once; beyond that the oldest go back to
 * the system. So a loop reaches a steady state without page faults, and sizes that never come back do not pile up.
 *
 * Under AddressSanitizer each block is a malloc of its exact size, so that an overrun is seen. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "tl.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define PLAIN_MALLOC 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PLAIN_MALLOC 1
#endif
#endif
#ifndef PLAIN_MALLOC
#define PLAIN_MALLOC 0
#endif

#define KIB ((size_t)1024)
#define MIB (KIB * KIB)
#define TINY_MAX (4 * KIB)
#define SLAB (64 * KIB)
#define HUGE_PAGE (2 * MIB)
#define KEEP_AT_LEAST (64 * MIB)                /* cached whatever the rest of the policy says */
enum { TINY_CLASSES = TINY_MAX / TL_ALIGN + 1, RUN_CLASSES = 8 * (63 - 12) };

/* A free tiny block starts with `next`; a free run with this. */
typedef struct run {
    struct run *next, *prev;                    /* the same class, newest first */
    struct run *younger, *older;                /* all free runs */
    size_t size;
} run;
typedef struct tiny { struct tiny *next; } tiny;
typedef struct slab {                           /* at the start of each SLAB-aligned slab; blocks follow at TL_ALIGN */
    struct slab *next;
    size_t size;                                /* of its blocks */
    size_t free;                                /* counted by release_slabs only */
} slab;

static tiny *tiny_free[TINY_CLASSES];
static slab *slabs;
static run *run_free[RUN_CLASSES + 1];          /* one more, so that `class + 1` always exists */
static run *youngest, *oldest;
static size_t cached;                           /* bytes in free runs */
static int64_t most;                            /* bytes in use at once, ever: figures.peak can be reset */
static tl_memory_figures figures;
static size_t machine;                          /* bytes of memory this process may hope for; 0: not asked yet */

/* ---- what the system gives ---- */

static void set_up(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    machine = pages > 0 && page > 0 ? (size_t)pages * (size_t)page : (size_t)1 << 46;
    FILE *f = fopen("/sys/fs/cgroup/memory.max", "r");     /* "max", or what a container may use */
    if (f) {
        unsigned long long limit;
        if (fscanf(f, "%llu", &limit) == 1 && limit && limit < machine) machine = (size_t)limit;
        fclose(f);
    }
    const char *cap = getenv("TENSORLIB_MEMORY_CAP");
    long long bytes = cap ? strtoll(cap, NULL, 10) : 0;
    if (bytes > 0) figures.cap = bytes;
}

static void *aligned_malloc(size_t align, size_t size)
{
    void *p = NULL;
    return posix_memalign(&p, align, size ? size : 1) ? NULL : p;
}

static void *map_huge(size_t size)
{
    size_t whole = size + HUGE_PAGE;
    char *p = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    size_t before = (HUGE_PAGE - (uintptr_t)p % HUGE_PAGE) % HUGE_PAGE, after = HUGE_PAGE - before;
    if (before) munmap(p, before);
    if (after) munmap(p + before + size, after);
#ifdef MADV_HUGEPAGE
    madvise(p + before, size, MADV_HUGEPAGE);
#endif
    return p + before;
}

static void *system_alloc(size_t size) { return size < HUGE_PAGE ? aligned_malloc(TL_ALIGN, size) : map_huge(size); }

static void system_free(void *p, size_t size)
{
    if (size < HUGE_PAGE) free(p);
    else munmap(p, size);
    figures.reserved -= (int64_t)size;
}

/* ---- size classes of runs ---- */

/* Rounds nbytes (above TINY_MAX, below 2^62) up to its class, which comes back; its size goes to *size. */
static int run_class(size_t nbytes, size_t *size)
{
    int doubling = 63 - __builtin_clzll(nbytes - 1);            /* 2^doubling < nbytes <= 2^(doubling + 1) */
    size_t step = (size_t)1 << (doubling - 3), steps = (nbytes - 1) / step + 1;     /* 9 .. 16 */
    *size = steps * step;
    return (doubling - 12) * 8 + (int)steps - 9;
}

/* ---- free runs ---- */

static void unlink_run(run *r, int class)
{
    if (r->prev) r->prev->next = r->next;
    else run_free[class] = r->next;
    if (r->next) r->next->prev = r->prev;
    if (r->younger) r->younger->older = r->older;
    else youngest = r->older;
    if (r->older) r->older->younger = r->younger;
    else oldest = r->younger;
    cached -= r->size;
}

static void link_run(run *r, size_t size, int class)
{
    *r = (run){.next = run_free[class], .older = youngest, .size = size};
    if (r->next) r->next->prev = r;
    run_free[class] = r;
    if (youngest) youngest->younger = r;
    else oldest = r;
    youngest = r;
    cached += size;
}

static void free_oldest(void)
{
    run *r = oldest;
    size_t size = r->size;
    unlink_run(r, run_class(size, &size));
    system_free(r, size);
}

static bool keeps_too_much(void)
{
    if (cached <= KEEP_AT_LEAST) return false;
    return cached > machine / 4 || figures.reserved > most + most / 4;
}

/* ---- slabs ---- */

static slab *slab_of(void *block) { return (slab *)((uintptr_t)block & ~(uintptr_t)(SLAB - 1)); }
static size_t slab_blocks(size_t size) { return (SLAB - TL_ALIGN) / size; }

static bool fits_cap(size_t more)
{
    return !figures.cap || (more <= (size_t)figures.cap && figures.reserved <= figures.cap - (int64_t)more);
}

static bool add_slab(size_t size)
{
    if (!fits_cap(SLAB)) tl_empty_cache();
    if (!fits_cap(SLAB)) return false;
    slab *s = aligned_malloc(SLAB, SLAB);
    if (!s) return false;
    *s = (slab){.next = slabs, .size = size};
    slabs = s;
    figures.reserved += (int64_t)SLAB;
    tiny **head = &tiny_free[size / TL_ALIGN];
    for (size_t i = slab_blocks(size); i-- > 0;) {              /* so that blocks are handed out in rising order */
        tiny *b = (tiny *)((char *)s + TL_ALIGN + i * size);
        b->next = *head;
        *head = b;
    }
    return true;
}

/* Slabs whose blocks are all free go back to the system. */
static void release_slabs(void)
{
    for (slab *s = slabs; s; s = s->next) s->free = 0;
    for (int c = 0; c < TINY_CLASSES; c++)
        for (tiny *b = tiny_free[c]; b; b = b->next) slab_of(b)->free++;
    for (int c = 0; c < TINY_CLASSES; c++)
        for (tiny **b = &tiny_free[c]; *b;) {
            slab *s = slab_of(*b);
            if (s->free == slab_blocks(s->size)) *b = (*b)->next;
            else b = &(*b)->next;
        }
    for (slab **s = &slabs; *s;) {
        slab *dead = *s;
        if (dead->free != slab_blocks(dead->size)) {
            s = &dead->next;
            continue;
        }
        *s = dead->next;
        free(dead);
        figures.reserved -= (int64_t)SLAB;
    }
}

/* ---- the interface ---- */

static void count(size_t size)
{
    figures.n_alloc++;
    figures.allocated += (int64_t)size;
    if (figures.allocated <= figures.peak) return;
    figures.peak = figures.allocated;
    if (figures.peak > most) most = figures.peak;
}

static void *alloc_tiny(size_t nbytes, size_t *granted)
{
    size_t class = nbytes ? (nbytes + TL_ALIGN - 1) / TL_ALIGN : 1;
    tiny **head = &tiny_free[class];
    if (__builtin_expect(!*head, 0)) {
        if (!machine) set_up();
        if (!add_slab(class * TL_ALIGN)) return tl_fail(TL_NOMEM);
    } else figures.n_reused++;
    tiny *b = *head;
    *head = b->next;
    *granted = class * TL_ALIGN;
    count(*granted);
    return b;
}

/* A fresh block within the cap, at the price of what is cached. More than the machine has is refused here: the system may promise it,
 * and kill the process when it is touched. */
static void *alloc_fresh(size_t size)
{
    if (size > machine) return NULL;
    if (!fits_cap(size)) tl_empty_cache();
    if (!fits_cap(size)) return NULL;
    void *p = system_alloc(size);
    if (!p && cached) {
        tl_empty_cache();
        p = system_alloc(size);
    }
    if (p) figures.reserved += (int64_t)size;
    return p;
}

static void *alloc_run(size_t nbytes, size_t *granted)
{
    if (!machine) set_up();
    if (nbytes > (size_t)1 << 61) return tl_fail(TL_NOMEM);
    size_t size;
    int class = run_class(nbytes, &size);
    run *r = run_free[class];
    if (!r && run_free[class + 1]) r = run_free[++class];
    if (r) {
        size = r->size;
        unlink_run(r, class);
        figures.n_reused++;
    } else {
        r = alloc_fresh(size);
        if (!r) return tl_fail(TL_NOMEM);
    }
    *granted = size;
    count(size);
    return r;
}

static void *alloc_plain(size_t nbytes, size_t *granted)
{
    if (!machine) set_up();
    void *p = nbytes > machine || !fits_cap(nbytes) ? NULL : aligned_malloc(TL_ALIGN, nbytes);
    if (!p) return tl_fail(TL_NOMEM);
    *granted = nbytes;
    figures.reserved += (int64_t)nbytes;
    count(nbytes);
    return p;
}

void *tl_alloc(size_t nbytes, size_t *granted)
{
    if (PLAIN_MALLOC) return alloc_plain(nbytes, granted);
    return nbytes <= TINY_MAX ? alloc_tiny(nbytes, granted) : alloc_run(nbytes, granted);
}

void tl_release(void *data, size_t granted)
{
    figures.allocated -= (int64_t)granted;
    if (PLAIN_MALLOC) {
        figures.reserved -= (int64_t)granted;
        free(data);
    } else if (granted <= TINY_MAX) {
        tiny *b = data;
        b->next = tiny_free[granted / TL_ALIGN];
        tiny_free[granted / TL_ALIGN] = b;
    } else {
        size_t size;
        int class = run_class(granted, &size);
        link_run(data, size, class);
        while (keeps_too_much()) free_oldest();
    }
}

void tl_empty_cache(void)
{
    tl_mm_forget(NULL);
    while (oldest) free_oldest();
    release_slabs();
}

void tl_memory_stats(tl_memory_figures *out)
{
    if (!machine) set_up();
    *out = figures;
}

void tl_memory_reset_peak(void) { figures.peak = figures.allocated; }

void tl_memory_set_cap(int64_t bytes)
{
    if (!machine) set_up();
    figures.cap = bytes > 0 ? bytes : 0;
    if (!fits_cap(0)) tl_empty_cache();
}
