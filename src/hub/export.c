/* The collective writer of exports: files are dealt to ranks, rows arrive in blocks, all ranks agree after each file. */
#include "hub/export.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/size.h"
#include "base/str.h"
#include "par/par.h"

enum { PATH_BYTES = 4096, BLOCK_BYTES = 4 << 20 };

struct export {
    const char *dir;
    const struct hub_plan *plan;
    int64_t block_bytes;
    hub_produce_fn produce;
    void *ctx;
    bool apart;         /* ranks fill their files side by side */
    char *block;        /* on ranks that write */
    char message[1024]; /* of the first failure on this rank */
};

static int64_t rows_of(const struct hub_item *it) { return it->rank > 0 ? it->shape[0] : 1; }

/* Rows per block: as many as fit, at least one. */
static int64_t block_rows(const struct export *x, const struct hub_item *it) {
    int64_t rows = rows_of(it), row_bytes = rows ? it->bytes / rows : 0;
    return row_bytes ? size_max(1, size_min(rows, x->block_bytes / row_bytes)) : rows;
}

/* The largest block of the files that rank `rank` of `size` writes. */
static int64_t block_need(const struct export *x, int rank, int size) {
    int64_t need = 0;
    for (int i = 0; i < x->plan->n; i++) {
        const struct hub_item *it = &x->plan->items[i];
        if (it->bytes && it->file % size == rank) need = size_max(need, block_rows(x, it) * (it->bytes / rows_of(it)));
    }
    return need;
}

/* Keep the first failure and its message. */
static enum status first_of(struct export *x, enum status st, enum status now) {
    if (st != TM_OK || now == TM_OK) return st;
    snprintf(x->message, sizeof x->message, "%s", status_message());
    return now;
}

/* One tensor in blocks. Where all ranks share a file, every rank calls produce for every block, whatever its status, and the root writes
 * while all is well; apart, a failure ends it. */
static enum status write_item(struct export *x, struct hub_writer *w, int item, int root, enum status st) {
    const struct hub_item *it = &x->plan->items[item];
    int64_t rows = it->bytes ? rows_of(it) : 0, row_bytes = rows ? it->bytes / rows : 0, step = block_rows(x, it);
    char *out = par_rank() == root ? x->block : NULL;
    for (int64_t row = 0; row < rows && !(x->apart && st != TM_OK); row += step) {
        int64_t n = size_min(step, rows - row);
        st = first_of(x, st, x->produce(x->ctx, it->source, row, n, root, out));
        if (st == TM_OK && w) st = first_of(x, st, hub_write_tensor(w, item, row * row_bytes, x->block, n * row_bytes));
    }
    return st;
}

static enum status write_file_all(struct export *x, int file) {
    const struct hub_plan_file *f = &x->plan->files[file];
    int root = file % par_size();
    struct hub_writer *w = NULL;
    char path[PATH_BYTES];
    enum status st = str_path(path, sizeof path, x->dir, f->name);
    if (st == TM_OK && par_rank() == root) st = hub_write_begin(x->plan, file, path, &w);
    st = par_agree_all(st);
    if (st == TM_OK) {
        for (int i = f->first; i < f->first + f->count; i++) st = write_item(x, w, i, root, st);
        if (st == TM_OK && w) st = first_of(x, st, hub_write_end(&w));
        if (st != TM_OK) status_set_message(x->message);
        st = par_agree_all(st);
    }
    hub_write_drop(&w);
    return st;
}

/* Local. The files of this rank, one after another. */
static enum status write_own_files(struct export *x) {
    enum status st = TM_OK;
    for (int f = par_rank(); f < x->plan->files_n && st == TM_OK; f += par_size()) {
        const struct hub_plan_file *p = &x->plan->files[f];
        struct hub_writer *w = NULL;
        char path[PATH_BYTES];
        st = str_path(path, sizeof path, x->dir, p->name);
        if (st == TM_OK) st = hub_write_begin(x->plan, f, path, &w);
        if (st == TM_OK) {
            for (int i = p->first; i < p->first + p->count; i++) st = write_item(x, w, i, par_rank(), st);
            if (st == TM_OK) st = first_of(x, st, hub_write_end(&w));
            if (st != TM_OK) status_set_message(x->message);
        }
        hub_write_drop(&w);
    }
    return st;
}

static enum status write_files_all(const char *dir, const struct hub_plan *plan, int64_t block_bytes,
                                   hub_produce_fn produce, void *ctx, bool apart) {
    struct export x = {.dir = dir,
                       .plan = plan,
                       .block_bytes = block_bytes > 0 ? block_bytes : BLOCK_BYTES,
                       .produce = produce,
                       .ctx = ctx,
                       .apart = apart};
    enum status st = par_rank() == 0 ? hub_prepare_dir(dir, plan) : TM_OK;
    if (st == TM_OK) st = mem_alloc(&x.block, (size_t)block_need(&x, par_rank(), par_size()), 1);
    st = par_agree_all(st);
    if (st == TM_OK && apart) st = par_agree_all(write_own_files(&x));
    for (int f = 0; f < plan->files_n && st == TM_OK && !apart; f++) st = write_file_all(&x, f);
    if (st == TM_OK) st = par_agree_all(par_rank() == 0 ? hub_commit_dir(dir, plan) : TM_OK);
    for (int f = par_rank(); f < plan->files_n && st != TM_OK; f += par_size()) {
        char tmp[PATH_BYTES];
        if (snprintf(tmp, sizeof tmp, "%s/%s.tmp", dir, plan->files[f].name) < (int)sizeof tmp) unlink(tmp);
    }
    if (st != TM_OK) (void)par_agree_all(TM_OK); /* a barrier: nobody returns before all is removed */
    mem_free(&x.block);
    return st;
}

enum status hub_write_all(const char *dir, const struct hub_plan *plan, int64_t block_bytes, hub_produce_fn produce,
                          void *ctx) {
    return write_files_all(dir, plan, block_bytes, produce, ctx, false);
}

enum status hub_write_apart_all(const char *dir, const struct hub_plan *plan, int64_t block_bytes,
                                hub_produce_fn produce, void *ctx) {
    return write_files_all(dir, plan, block_bytes, produce, ctx, true);
}
