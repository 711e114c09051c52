/* Sorting for one element type, included by sort.inc.c with
 *   T, KEY      the element; an unsigned integer as wide
 *   SN(name)    our name for type and instruction set; SN(key) makes a KEY
 *
 * Elements become items of key and place, in whose order no two are equal. Descending: keys are inverted, places are not. */
typedef struct { KEY key; uint32_t place; } SN(item);

TL_INLINE bool SN(before)(SN(item) a, SN(item) b) { return a.key < b.key || (a.key == b.key && a.place < b.place); }
TL_INLINE SN(item) SN(item_of)(const T *x, int64_t i, KEY flip) { return (SN(item)){SN(key)(x[i]) ^ flip, (uint32_t)i}; }

static void SN(insert)(SN(item) *a, int64_t n)
{
    for (int64_t i = 1; i < n; i++) {
        SN(item) v = a[i];
        int64_t j = i;
        for (; j > 0 && a[j - 1].key > v.key; j--) a[j] = a[j - 1];
        a[j] = v;
    }
}
/* By digits, the lowest first; those that all have in common are skipped. The result is a or b. */
static SN(item) *SN(radix)(SN(item) *a, SN(item) *b, int64_t n)
{
    const int bits = n >= SORT_WIDE ? 11 : 8;
    const KEY mask = ((KEY)1 << bits) - 1;
    KEY all = (KEY)-1, any = 0;
    for (int64_t i = 0; i < n; i++) all &= a[i].key, any |= a[i].key;
    for (int shift = 0; shift < (int)sizeof(KEY) * 8; shift += bits) {
        uint32_t first[SORT_DIGIT];
        if (((all ^ any) >> shift & mask) == 0) continue;
        memset(first, 0, sizeof *first << bits);
        for (int64_t i = 0; i < n; i++) first[a[i].key >> shift & mask]++;
        uint32_t sum = 0;
        for (KEY d = 0; d <= mask; d++) {
            uint32_t count = first[d];
            first[d] = sum;
            sum += count;
        }
        for (int64_t i = 0; i < n; i++) b[first[a[i].key >> shift & mask]++] = a[i];
        SN(item) *t = a;
        a = b;
        b = t;
    }
    return a;
}
/* The k first of a row, in heap[0..k), in no order: a heap whose root is the last of them. 1 <= k < n. */
static void SN(select)(SN(item) *heap, const T *x, int64_t n, int64_t k, KEY flip)
{
    int64_t filled = 0;
    for (int64_t i = 0; i < n;) {
        int64_t end = n - i < SORT_STEP ? n : i + SORT_STEP;
        if (filled == k && end - i == SORT_STEP) {
            KEY root = heap[0].key, better = 0;
            for (int64_t j = 0; j < SORT_STEP; j++) better |= (SN(key)(x[i + j]) ^ flip) < root;
            if (!better) {
                i = end;
                continue;
            }
        }
        for (; i < end; i++) {
            SN(item) v = SN(item_of)(x, i, flip);
            if (filled < k) { /* rise from the end */
                int64_t at = filled++;
                for (; at && SN(before)(heap[(at - 1) / 2], v); at = (at - 1) / 2) heap[at] = heap[(at - 1) / 2];
                heap[at] = v;
            } else if (SN(before)(v, heap[0])) { /* sink from the root */
                int64_t at = 0;
                for (int64_t child; (child = 2 * at + 1) < k; at = child) {
                    child += child + 1 < k && SN(before)(heap[child], heap[child + 1]);
                    if (!SN(before)(v, heap[child])) break;
                    heap[at] = heap[child];
                }
                heap[at] = v;
            }
        }
    }
}
/* heap order to ascending order */
static void SN(order)(SN(item) *heap, int64_t k)
{
    for (int64_t last = k - 1; last > 0; last--) {
        SN(item) v = heap[last];
        heap[last] = heap[0];
        int64_t at = 0;
        for (int64_t child; (child = 2 * at + 1) < last; at = child) {
            child += child + 1 < last && SN(before)(heap[child], heap[child + 1]);
            if (!SN(before)(v, heap[child])) break;
            heap[at] = heap[child];
        }
        heap[at] = v;
    }
}
/* Task t: rows [t rows / tasks, (t + 1) rows / tasks). */
static void SN(rows)(void *arg, int64_t begin, int64_t end)
{
    const tl_sort_task *p = arg;
    KEY flip = p->descending ? (KEY)-1 : 0;
    int64_t n = p->n, k = p->k;
    for (int64_t t = begin; t < end; t++) {
        SN(item) *a = (SN(item) *)(void *)(p->scratch + t * p->scratch_each), *b = a + n;
        for (int64_t row = t * p->rows / p->tasks; row < (t + 1) * p->rows / p->tasks; row++) {
            const T *x = (const T *)p->x + row * n;
            SN(item) *sorted = a;
            if (k < n && k <= n / 16) {
                SN(select)(a, x, n, k, flip);
                SN(order)(a, k);
            } else {
                for (int64_t i = 0; i < n; i++) a[i] = SN(item_of)(x, i, flip);
                if (n <= SORT_SHORT) SN(insert)(a, n);
                else sorted = SN(radix)(a, b, n);
            }
            for (int64_t i = 0; i < k; i++) p->places[row * k + i] = sorted[i].place;
            if (p->values)
                for (int64_t i = 0; i < k; i++) ((T *)p->values)[row * k + i] = x[sorted[i].place];
        }
    }
}

#undef T
#undef KEY
#undef SN
