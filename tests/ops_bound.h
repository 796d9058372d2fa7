/* The bounds of ops.def: what a result on cuda may differ by from the host's. */
#pragma once

#include <math.h>
#include <string.h>

#include "dev/dev.h"
#include "tap.h"

/* Row `name`; a name that no row has fails the test. */
static inline struct dev_op ops_row(const char *name) {
    for (int i = 0; i < dev_op_count(); i++)
        if (!strcmp(dev_op_name(i), name)) return dev_op(i);
    ok(false, "ops.def has no row %s", name);
    return (struct dev_op){.bound = -1, .bound_bf16 = -1};
}

/* The loosest fp32 bound of the rows that ran on d since its counters were reset. */
static inline double ops_loosest(const struct dev *d) {
    double bound = 0;
    for (int i = 0; i < dev_op_count(); i++)
        if (dev_counter(d, i).calls) bound = fmax(bound, dev_op(i).bound);
    return bound;
}

/* got against want within an NMSE; 0: the same bits, but any NaN is a NaN. */
static inline bool ops_agree(const float *got, const float *want, size_t n, double bound) {
    double error = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        if (!memcmp(&got[i], &want[i], sizeof *got) || (isnan(got[i]) && isnan(want[i]))) {
            norm += isfinite(want[i]) ? (double)want[i] * (double)want[i] : 0;
            continue;
        }
        if (bound == 0 || !isfinite(got[i]) || !isfinite(want[i])) return false;
        error += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
        norm += (double)want[i] * (double)want[i];
    }
    return error <= bound * norm;
}

/* What the kernels took as they went along, against what ops.def says of the operations that ran on d. */
static inline void ops_work(struct dev *d) {
    size_t had = 0;
    must(dev_reserve(d, 0, &had));
    ok(had > 0 && had <= dev_work(d), "work space: %zu bytes taken, at most %zu by ops.def", had, dev_work(d));
}
