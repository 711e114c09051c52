/* A map from pointers to pointers for the engine: open addressing, linear probing, deletion by shifting back, so no tombstones pile up. */
#ifndef TL_MAP_H
#define TL_MAP_H
#include "tl.h"
#include <stdlib.h>

typedef struct { void *key; void *value; } slot;
typedef struct { slot *slots; int64_t n, capacity; } map;

static inline int64_t map_home(const map *m, const void *key) { return (int64_t)(((uintptr_t)key >> 5) * UINT64_C(0x9E3779B97F4A7C15) >> 20) & (m->capacity - 1); }

static inline slot *map_find(const map *m, const void *key)
{
    if (!m->capacity) return NULL;
    for (int64_t i = map_home(m, key);; i = (i + 1) & (m->capacity - 1)) {
        if (m->slots[i].key == key) return &m->slots[i];
        if (!m->slots[i].key) return NULL;
    }
}

static inline slot *map_insert(map *m, void *key);

static inline bool map_grow(map *m)
{
    map bigger = {calloc((size_t)(m->capacity ? 2 * m->capacity : 32), sizeof(slot)), 0, m->capacity ? 2 * m->capacity : 32};
    if (!bigger.slots) return tl_fail(TL_NOMEM);
    for (int64_t i = 0; i < m->capacity; i++)
        if (m->slots[i].key) map_insert(&bigger, m->slots[i].key)->value = m->slots[i].value;
    free(m->slots);
    *m = bigger;
    return true;
}

/* The slot of a key that is not in the map yet. NULL where memory ended. */
static inline slot *map_insert(map *m, void *key)
{
    if (2 * (m->n + 1) > m->capacity && !map_grow(m)) return NULL;
    int64_t i = map_home(m, key);
    while (m->slots[i].key) i = (i + 1) & (m->capacity - 1);
    m->slots[i] = (slot){key, NULL};
    m->n++;
    return &m->slots[i];
}

static inline void map_remove(map *m, slot *s)
{
    int64_t hole = s - m->slots, mask = m->capacity - 1;
    m->n--;
    for (int64_t i = (hole + 1) & mask; m->slots[i].key; i = (i + 1) & mask) {
        int64_t h = map_home(m, m->slots[i].key);
        if (((i - h) & mask) < ((i - hole) & mask)) continue; /* its home lies behind the hole: it stays */
        m->slots[hole] = m->slots[i];
        hole = i;
    }
    m->slots[hole] = (slot){0};
}
#endif
