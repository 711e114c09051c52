/* Gradients of weights that many small products of one backward run share: see deferred.c. */
#ifndef TL_DEFERRED_H
#define TL_DEFERRED_H
#include "map.h"

typedef struct { map leaves; bool failed, places; } tl_deferred; /* leaf -> what waits for it; whether gradients go where leaves want them. A part of a run */
extern _Thread_local tl_deferred *tl_deferring;             /* of the run whose node computes its gradients right now; NULL: nothing is put off */
/* g^T x, or g's sum over its rows (x NULL), where it is a gradient that e (of a node's C gradient) leads to: written to *to, or put off, then it comes
 * there with others, and g and x are kept; or the leaf has it as factors. */
bool tl_weight_gradient(const tl_edge *e, const tl_tensor *g, const tl_tensor *x, tl_tensor **to);
/* The same of rows by number, g added to rows `index` of zeros (arr_embedding_grad): then each use costs its rows, not the table's. Keeps nothing. */
bool tl_rows_gradient(const tl_edge *e, const tl_tensor *g, const tl_tensor *index, int64_t padding, tl_tensor **to);
/* *g: what waits for the leaf, now a gradient of it, or NULL. False: status says why. */
bool tl_deferred_take(tl_deferred *d, tl_tensor *leaf, tl_tensor **g);
void tl_deferred_free(tl_deferred *d);
bool tl_run_puts_off(const tl_deferred *d, tl_tensor *leaf, const tl_tensor *g, const tl_tensor *x); /* engine.c: tl_put_off, where nobody in the run minds */
#endif
