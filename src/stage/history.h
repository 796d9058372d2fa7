/* The run's history: what each start writes to the ledger about itself, and the same read back, one row a start. */
#pragma once

#include "stage/run.h"

/* The command line as a shell would take it, with mpirun where there are several ranks. Local. Errors: MEMORY. */
enum status stage_command(const struct stage_options *o, int ranks, struct str *out);
/* Rank 0: append the line of this start to the ledger, with what it read; sets r->begun. Local. Errors: IO, MEMORY. */
enum status stage_history_start(struct stage_run *r, const json_t *fingerprint);
/* Rank 0: take over what earlier starts took, from usage.json, where it can be read. Local. */
void stage_history_usage(struct stage_run *r);
/* Rank 0, after a start that began: append how it ended, and write the report once more. Failures are logged; the thread's message
 * stays. Local. */
void stage_history_end(struct stage_run *r, enum status st);

/* One start of the run. */
struct start {
    char when[32], until[32]; /* UTC, "2026-11-21 12:05:09"; until: the last that is known of it */
    char version[64], host[64], job[64], grid[48];
    char from[96], to[96]; /* "the beginning", "qad step 40", "all of ptq" */
    char end[24];          /* a status' name; "" = it wrote none */
    char why[256];
    int64_t ranks, checkpoints;
    double seconds; /* of the process, NAN: unknown */
};
struct starts {
    struct start *v;
    size_t n, cap;
};
/* Read them from the ledger; lines of versions that wrote less have gaps. Free with mem_free(&out->v). Local. Errors: IO, MEMORY. */
enum status stage_history_read(const char *run_dir, struct starts *out);
