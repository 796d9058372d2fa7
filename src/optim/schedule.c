/* Learning-rate schedules. */
#include "optim/schedule.h"

#include <math.h>

double optim_lr(const struct optim_schedule *s, int64_t step) {
    if (step < s->warmup) return s->lr * (double)(step + 1) / (double)s->warmup;
    double span = (double)(s->steps - s->warmup), done = span > 0 ? (double)(step + 1 - s->warmup) / span : 1;
    if (done > 1) done = 1;
    double low = s->lr * s->min_ratio;
    switch (s->kind) {
    case OPTIM_LINEAR: return s->lr + (low - s->lr) * done;
    case OPTIM_COSINE: return low + (s->lr - low) * 0.5 * (1 + cos(3.14159265358979323846 * done));
    default: return s->lr;
    }
}
