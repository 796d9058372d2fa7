/* A sweep as a whole: what its points are, running them on this machine, and what they came to. All functions are Local; no MPI. */
#pragma once

#include "base/str.h"
#include "stage/run.h"

/* --- the list ----------------------------------------------------------------------------------------------------------------- */
/* --sweep-list: a line a point with its values and directory, then what points share. Appends. Errors: those of the deck; MEMORY. */
enum status stage_sweep_list(const struct deck *deck, struct str *out);
/* --check: read every point's deck (the first 1000). Errors: the first bad point's, with its number; *report has its lines. */
enum status stage_sweep_check(const struct stage_options *o, const struct deck *deck, struct str *report);
/* "quant.preset = "fp8", qad.optim.lr = 0.0001": the values of the point of that number. Appends. */
enum status stage_sweep_values(const struct deck *deck, int64_t number, struct str *out);

/* --- what points came to ------------------------------------------------------------------------------------------------------ */
/* STATE(name, word, what it means) */
#define SWEEP_STATES(STATE)                                              \
    STATE(DONE, "done", "all stages finished")                           \
    STATE(RUNNING, "running", "a process holds its directory now")       \
    STATE(STOPPED, "stopped", "stopped at a checkpoint: start it again") \
    STATE(FAILED, "failed", "ended with an error")                       \
    STATE(BROKEN, "broken off", "killed: it began and wrote no end")     \
    STATE(MISSING, "missing", "not begun")
enum sweep_state {
#define STATE(name, word, doc) SWEEP_##name,
    SWEEP_STATES(STATE)
#undef STATE
        SWEEP_STATE_COUNT
};
const char *sweep_state_word(enum sweep_state s);

struct sweep_row {
    int64_t point, number;
    char dir[32]; /* below run.dir */
    enum sweep_state state;
    int code;       /* exit code of its last start; -1: not known */
    char why[256];  /* its message; "" = none */
    double steps;   /* of training, over all its stages */
    double before;  /* NLL of the first evaluation, nats/token; this and the following NAN: not known */
    double after;   /* NLL of the last evaluation on the same data */
    double kl;      /* of that evaluation, nats/token */
    double bits;    /* per weight */
    double seconds; /* of its own stages; what it shares with others is not in it */
    bool front;     /* done, and no other point has both fewer bits and a smaller result */
};
struct sweep_table {
    const struct deck *deck; /* borrowed: the deck of the whole sweep */
    struct sweep_row *v;
    int n;
    int best;   /* row of the smallest result among those done; -1: none is */
    bool by_kl; /* the result is the KL to the teacher; else the NLL after */
};
/* Read what all points left; free with mem_free(&out->v). Errors: IO, FORMAT, MEMORY. */
enum status sweep_read(const struct stage_options *o, const struct deck *deck, struct sweep_table *out);
double sweep_result(const struct sweep_table *t, int row); /* KL or NLL after; NAN */

/* Append a value of a deck as plain text: without the quotes and escapes of a string. */
enum status sweep_plain(const char *value, struct str *out);

/* Append the table: RFC 4180 CSV, a row a point; a page with plots. */
enum status sweep_csv(const struct sweep_table *t, struct str *out);
enum status sweep_html(const struct sweep_table *t, const char *date, struct str *out);

/* --sweep-collect: write run.dir/sweep.csv and sweep.html; append a few lines for people. */
enum status stage_sweep_collect(const struct stage_options *o, const struct deck *deck, struct str *out);

/* --- running ------------------------------------------------------------------------------------------------------------------ */
/* --sweep-run -j N: start the points that are not done, `jobs` at a time, each as a process of its own (by mpirun where the deck's grid has
 * several ranks; $MPIRUN), its output in <point>/log. A point that fails does not stop the others. SIGINT, SIGTERM, SIGHUP and SIGUSR2 let all
 * of them write a checkpoint and end; a second one ends them at once; SIGUSR1 is passed on. Collects at the end.
 * Errors: STOPPED when any point was stopped, else the status of the first point that failed. */
enum status stage_sweep_run(const struct stage_options *o, const struct deck *deck, int jobs);
