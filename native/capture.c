/* The memory that a CUDA graph refers to: it stays as long as the graph, and a replay counts as the writes that it is.
 *
 * While a thread captures, every storage elsewhere (TL_FOREIGN) enters a list as soon as the thread makes it, writes it or asks where it is.
 *   made by the step itself    not held, so that its memory serves again within the step once nobody refers to it; then it leaves the list
 *   there before               held from then on: the graph has its address
 * When the capture ends, what is still listed is held until the graph goes; each replay raises the version of what was made or written.
 * One capture at a time, under the GIL. Memory of this machine that was there before must not be written: a replay would not. */
#include "api.h"
#include <stdlib.h>

struct tl_capture {
    tl_storage **of;
    bool *written;
    int64_t n, room;
    int32_t serial, host_line; /* host_line: of the first write to memory of this machine, 0: none */
    bool wrote_host, open;
};
bool tl_capture_open;
static tl_capture *now;
static _Thread_local bool here;
static int32_t serial;

tl_capture *tl_capture_begin(void)
{
    if (now) return tl_fail(TL_DECLINE);
    tl_capture *c = calloc(1, sizeof *c);
    if (!c) return tl_fail(TL_NOMEM);
    c->serial = ++serial;
    c->open = true;
    now = c;
    return tl_capture_open = here = true, c;
}

static void enter(tl_storage *s, bool made)
{
    if (now->n == now->room) {
        int64_t room = now->room ? 2 * now->room : 256;
        tl_storage **of = realloc(now->of, (size_t)room * sizeof *of);
        if (of) now->of = of;
        bool *written = realloc(now->written, (size_t)room * sizeof *written);
        if (written) now->written = written;
        if (!of || !written) abort(); /* a few kilobytes */
        now->room = room;
    }
    now->of[now->n] = s;
    now->written[now->n++] = made;
    s->captured = made ? -now->serial : now->serial;
    if (!made) atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
}

static int64_t place_of(const tl_storage *s)
{
    int64_t i = now->n - 1;
    while (i >= 0 && now->of[i] != s) i--;
    return i;
}

void tl_capture_made(tl_storage *s)
{
    if (!here) return;
    if (s->kind == TL_FOREIGN) enter(s, true);
    else s->captured = -now->serial;
}

void tl_capture_touched(tl_storage *s, bool write, int line)
{
    if (!here || s->captured == -now->serial) return;
    if (s->kind != TL_FOREIGN) {
        if (write && !now->wrote_host) now->wrote_host = true, now->host_line = line;
        return;
    }
    if (s->captured != now->serial) enter(s, false);
    if (write) now->written[place_of(s)] = true;
}

void tl_capture_died(tl_storage *s)
{
    if (s->kind != TL_FOREIGN || s->captured != -now->serial) return;
    int64_t i = place_of(s);
    memmove(now->of + i, now->of + i + 1, (size_t)(now->n - i - 1) * sizeof *now->of);
    memmove(now->written + i, now->written + i + 1, (size_t)(now->n - i - 1));
    now->n--;
}

bool tl_capture_is_made(tl_tensor *t) { return now && t->storage->captured == -now->serial; }

bool tl_capture_wrote_host(tl_capture *c) { return c->wrote_host; }
int tl_capture_host_line(tl_capture *c) { return c->host_line; }

void tl_capture_end(tl_capture *c)
{
    if (!c->open) return;
    for (int64_t i = 0; i < c->n; i++)
        if (c->of[i]->captured == -c->serial) atomic_fetch_add_explicit(&c->of[i]->refs, 1, memory_order_relaxed);
    now = NULL;
    tl_capture_open = here = c->open = false;
}

void tl_capture_replayed(tl_capture *c)
{
    for (int64_t i = 0; i < c->n; i++) c->of[i]->version += c->written[i];
}

void tl_capture_free(tl_capture *c)
{
    tl_capture_end(c);
    for (int64_t i = 0; i < c->n; i++) tl_storage_release(c->of[i]);
    free(c->of);
    free(c->written);
    free(c);
}
