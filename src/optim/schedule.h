/* Learning-rate schedules. */
#pragma once

#include <stdint.h>

enum optim_schedule_kind { OPTIM_CONSTANT, OPTIM_LINEAR, OPTIM_COSINE };

struct optim_schedule {
    enum optim_schedule_kind kind;
    double lr;        /* peak */
    double min_ratio; /* lr at the end / peak */
    int64_t warmup;   /* steps from 0 to the peak, linear: step i (from 0) has lr * (i + 1) / warmup */
    int64_t steps;    /* steps in all; the decay ends at the last one */
};

/* Learning rate of step i (from 0). Local. */
double optim_lr(const struct optim_schedule *s, int64_t step);
