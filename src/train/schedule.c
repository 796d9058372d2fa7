/* The 1F1B pipeline schedule: pp - stage - 1 forwards ahead, then one forward and one backward in turn, then the rest backwards.
 * At most pp - stage micro-batches are in flight on a stage. */
#include "base/size.h"
#include "train/pass.h"

int train_slots(const struct par_grid *g, int n) {
    int depth = g->pp - g->pp_rank;
    return depth < n ? depth : n;
}

int64_t train_wave(const struct par_grid *g, int64_t n) {
    return g->pp > 1 ? size_max(1, size_min(4 * g->pp, size_ceil_div(n, g->dp))) : 1;
}

enum status train_1f1b(const struct par_grid *g, int n, int slots, const struct train_work *w) {
    int ahead = train_slots(g, n) - 1;
    for (int i = 0; i < ahead; i++) TM_TRY(w->forward(w->context, i, i % slots));
    for (int i = 0; i < n; i++) {
        if (i + ahead < n) TM_TRY(w->forward(w->context, i + ahead, (i + ahead) % slots));
        TM_TRY(w->backward(w->context, i, i % slots));
    }
    return TM_OK;
}
