/* What a report says, as plain values: the quality of each evaluated model, and curves over steps. All functions are Local and are
 * called on rank 0. */
#pragma once

#include "stage/run.h"

/* The columns of the quality table: COLUMN(name, key in results, title, unit, change against the first row). */
#define REPORT_COLUMNS(COLUMN)                                      \
    COLUMN(NLL, "nll", "NLL", "nats/token", DIFFERENCE)             \
    COLUMN(PERPLEXITY, "perplexity", "perplexity", "", PERCENT)     \
    COLUMN(KL, "kl", "KL to teacher", "nats/token", NOTHING)        \
    COLUMN(AGREEMENT, "agreement", "top-1 agreement", "", NOTHING)  \
    COLUMN(BITS, "bits_per_weight", "bits per weight", "", NOTHING) \
    COLUMN(BYTES, "", "size on disk", "", PERCENT)
enum report_column {
#define COLUMN(name, key, title, unit, change) REPORT_##name,
    REPORT_COLUMNS(COLUMN)
#undef COLUMN
        REPORT_COLUMN_COUNT
};

/* One evaluate stage that has run. */
struct report_row {
    const struct deck_stage *stage;
    double value[REPORT_COLUMN_COUNT]; /* NAN: unknown. Agreement as a share, size in bytes */
    bool comparable;                   /* scored on the first row's data set */
};
struct report_rows { /* in deck order */
    struct report_row *v;
    int n;
};
/* Free with mem_free(&out->v). The size is that of the files of model.path, or what an export stage wrote of the same model. */
enum status report_collect(const struct stage_run *r, struct report_rows *out);

/* What a distill or train stage won back of what the calibrate stage below it lost against the first row. */
struct report_recovery {
    const struct deck_stage *calibrate, *learn; /* learn NULL: there are no three such rows on one data set */
    double lost, left;                          /* NLL over the first row's after either, nats/token */
};
struct report_recovery report_recovery(const struct stage_run *r, const struct report_rows *rows);

/* Curves: one per (stage, metric) of metrics.jsonl. */
struct report_point {
    double step, y; /* y NAN: logged, but not finite */
};
struct report_curve {
    char stage[64], metric[32];
    struct report_point *p;
    size_t n, cap;
};
struct report_curves {
    struct report_curve *v;
    size_t n, cap;
};
/* Read them in the order in which they first occur; an absent file has none, lines that are no metrics are passed over. Free with
 * report_curves_free. Errors: IO, MEMORY. */
enum status report_read_curves(const char *path, struct report_curves *out);
void report_curves_free(struct report_curves *c);
