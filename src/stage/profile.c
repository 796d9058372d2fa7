/* --profile: the table of operations and collectives. */
#include "stage/profile.h"

#include <stdio.h>

#include "base/mem.h"

struct row {
    const char *name;
    double calls, seconds, flops, bytes;
};

static void print_row(const struct row *all, int ranks, int n, int i) {
    double low = all[i].seconds, high = low, sum = 0;
    for (int r = 0; r < ranks; r++) {
        double s = all[r * n + i].seconds;
        low = s < low ? s : low;
        high = s > high ? s : high;
        sum += s;
    }
    const struct row *x = &all[i];
    if (x->calls == 0 && high == 0) return;
    fprintf(stderr, "profile %-18s calls=%-8.0f seconds min=%.3f mean=%.3f max=%.3f", x->name, x->calls, low,
            sum / ranks, high);
    if (x->seconds > 0 && x->flops > 0) fprintf(stderr, " gflops=%.1f", x->flops / x->seconds * 1e-9);
    if (x->seconds > 0 && x->bytes > 0) fprintf(stderr, " gbytes/s=%.1f", x->bytes / x->seconds * 1e-9);
    fprintf(stderr, "\n");
}

enum status stage_profile_all(struct stage_run *r) {
    int ops = dev_op_count(), n = ops + par_counter_count(), ranks = par_size();
    struct row *mine = NULL, *all = NULL;
    enum status st = mem_alloc(&mine, (size_t)n, sizeof *mine);
    if (st == TM_OK) st = mem_alloc(&all, (size_t)(n * ranks), sizeof *all);
    for (int i = 0; st == TM_OK && i < n; i++) {
        if (i < ops) {
            struct dev_counter c = dev_counter(r->dev, i);
            mine[i] = (struct row){c.name, (double)c.calls, c.seconds, c.flops, c.bytes};
        } else {
            struct par_counter c = par_counter(i - ops);
            mine[i] = (struct row){c.name, (double)c.calls, c.seconds, 0, (double)c.bytes};
        }
    }
    st = par_agree_all(st);
    if (st == TM_OK) st = par_gather_bytes(r->grid.world, mine, (int64_t)((size_t)n * sizeof *mine), all, 0);
    for (int i = 0; st == TM_OK && par_rank() == 0 && i < n; i++) print_row(all, ranks, n, i);
    mem_free(&mine);
    mem_free(&all);
    return st;
}
