/* TEST ranks=1,2,4 tier=1 */
/* hub/: the collective writer: the same bytes on any number of ranks and with any block; failures of one rank reach all and leave nothing. */
#include <dirent.h>

#include "base/fault.h"
#include "base/hash.h"
#include "hub/export.h"
#include "hub_files.h"
#include "tap_mpi.h"

static const struct hub_tensor list[] = {
    {"model.norm.weight", DTYPE_bf16, 1, {37}},   {"model.a.weight", DTYPE_u8, 2, {64, 33}},
    {"model.a.weight_scale", DTYPE_f32, 0, {0}},  {"model.b.weight", DTYPE_f32, 3, {5, 7, 11}},
    {"lm_head.weight", DTYPE_bf16, 2, {101, 16}}, {"model.empty", DTYPE_f32, 2, {0, 8}},
    {"model.c.weight", DTYPE_e4m3, 2, {3, 200}},  {"model.c.input_scale", DTYPE_f32, 1, {1}}};
enum { TENSORS = sizeof list / sizeof *list };

static struct par_grid grid;

/* Byte k of tensor i, whoever makes it. */
static unsigned char byte_at(int i, int64_t k) {
    return (unsigned char)(hash_element((uint64_t)i, (uint64_t)k, 0) >> 17);
}

static int64_t bytes_of(const struct hub_tensor *t) {
    int64_t n = (int64_t)dtype_bytes(t->dtype);
    for (int k = 0; k < t->rank; k++) n *= t->shape[k];
    return n;
}

struct maker {
    int64_t limit, calls;
    int fail_rank, fail_call; /* this call and the later ones fail there */
    bool within;              /* no block larger than the limit, but for single rows */
};

/* Row r of tensor i lies with rank (r + i) % size and nobody else, so that every call is collective. */
static enum status produce(void *ctx, int i, int64_t row0, int64_t rows, int root, void *out) {
    struct maker *m = ctx;
    const struct hub_tensor *t = &list[i];
    int64_t row_bytes = bytes_of(t) / (t->rank ? t->shape[0] : 1);
    unsigned char row[4096];
    m->within =
        m->within && (rows == 1 || rows * row_bytes <= m->limit) && rows > 0 && (out != NULL) == (par_rank() == root);
    for (int64_t r = row0; r < row0 + rows; r++) {
        int owner = (int)((r + i) % par_size());
        for (int64_t k = 0; owner == par_rank() && k < row_bytes; k++) row[k] = byte_at(i, r * row_bytes + k);
        TM_TRY(par_bcast(grid.world, row, row_bytes, owner));
        if (out) memcpy((char *)out + (r - row0) * row_bytes, row, (size_t)row_bytes);
    }
    int64_t call = m->calls++;
    if (m->fail_call < 0 || call < m->fail_call || par_rank() != m->fail_rank) return TM_OK;
    if (call > m->fail_call) return TM_FAIL(TM_ERR_IO, "a later failure, which must not hide the first");
    return TM_FAIL(TM_ERR_NUMERIC, "%s: rows from %lld on hold a NaN", t->name, (long long)row0);
}

/* On rank 0: files of the plan that are as they should be. */
static int right_files(const char *dir, const struct hub_plan *p) {
    int right = 0;
    for (int f = 0; f < p->files_n; f++) {
        char path[512], *got;
        size_t n;
        snprintf(path, sizeof path, "%s/%s", dir, p->files[f].name);
        if (file_read(path, 1 << 20, &got, &n) != TM_OK) continue;
        bool same =
            (int64_t)n == p->files[f].bytes && !memcmp(got, p->files[f].header, (size_t)p->files[f].header_bytes);
        for (int i = p->files[f].first; same && i < p->files[f].first + p->files[f].count; i++)
            for (int64_t k = 0; k < p->items[i].bytes; k++)
                same = same && (unsigned char)got[p->items[i].offset + k] == byte_at(p->items[i].source, k);
        right += same;
        mem_free(&got);
    }
    return right;
}

static int files_in(const char *dir) {
    int n = 0;
    DIR *d = opendir(dir);
    if (!d) return -1;
    for (struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static void same_bytes(void) {
    static const int64_t shard[] = {1 << 20, 2500, 700, 1}, block[] = {0, 1000, 16};
    static const int files[] = {1, 3, 4, 8}; /* dealt by hand */
    for (int s = 0; s < 4; s++)
        for (int b = 0; b < 3; b++) {
            struct hub_plan *p;
            struct maker m = {.limit = block[b] ? block[b] : 4 << 20, .fail_call = -1, .within = true};
            char name[32];
            snprintf(name, sizeof name, "same-%d-%d", s, b);
            must(hub_plan_create(list, TENSORS, shard[s], NULL, &p));
            is_int(p->files_n, files[s], "files of the plan");
            must(hub_write_all(in_scratch(name), p, block[b], produce, &m));
            ok(m.within, "blocks of at most %lld bytes, at the root alone", (long long)m.limit);
            if (par_rank() == 0) {
                ok(right_files(in_scratch(name), p) == p->files_n, "every byte of %d files", p->files_n);
                ok(files_in(in_scratch(name)) == p->files_n + (p->files_n > 1), "no other files, one index");
                struct hub_model *model;
                must(hub_open(in_scratch(name), &model));
                ok(hub_count(model) == TENSORS, "read back");
                hub_close(&model);
            }
            must(par_barrier(grid.world));
            hub_plan_destroy(&p);
        }
}

/* The last rank fails in the middle of its work: all learn it, with its words, and keep calling until then. */
static void failing_rank(void) {
    struct hub_plan *p;
    struct maker m = {.limit = 1000, .fail_rank = par_size() - 1, .fail_call = 2, .within = true};
    must(hub_plan_create(list, TENSORS, 2500, NULL, &p));
    is_status(hub_write_all(in_scratch("failed"), p, 1000, produce, &m), TM_ERR_NUMERIC);
    ok(strstr(status_message(), "hold a NaN") != NULL, "its message arrives: %s", status_message());
    int64_t most = m.calls, least = m.calls;
    must(par_reduce_i64(grid.world, &most, 1, PAR_MAX));
    must(par_reduce_i64(grid.world, &least, 1, PAR_MIN));
    ok(most == least && most > 3, "all ranks made %lld calls", (long long)most);
    if (par_rank() == 0) ok(files_in(in_scratch("failed")) == 0, "nothing stays");
    struct maker again = {.limit = 1000, .fail_call = -1, .within = true};
    must(hub_write_all(in_scratch("failed"), p, 1000, produce, &again));
    must(hub_write_all(in_scratch("failed"), p, 1000, produce, &again));
    if (par_rank() == 0)
        ok(right_files(in_scratch("failed"), p) == p->files_n, "a second attempt writes, a third replaces");
    hub_plan_destroy(&p);
    must(hub_plan_create(list, TENSORS, 1 << 20, NULL, &p));
    is_status(hub_write_all(in_scratch("failed"), p, 1000, produce, &again), TM_ERR_IO);
    ok(strstr(status_message(), "is not part of this export") != NULL, "another layout is refused everywhere");
    must(par_barrier(grid.world));
    hub_plan_destroy(&p);
}

/* The disk of the last rank that writes is full at its third write (TEMPER_FAULT, set in main before anything is written). */
static void disk_full(int writer) {
    struct hub_plan *p;
    struct maker m = {.limit = 300, .fail_call = -1, .within = true};
    must(hub_plan_create(list, TENSORS, 2500, NULL, &p));
    is_status(hub_write_all(in_scratch("full"), p, 300, produce, &m), TM_ERR_IO);
    ok(strstr(status_message(), "No space left on device") != NULL, "rank %d: %s", writer, status_message());
    if (par_rank() == 0) ok(files_in(in_scratch("full")) == 0, "nothing stays");
    must(par_barrier(grid.world));
    hub_plan_destroy(&p);
}

int main(int argc, char **argv) {
    char fault[64];
    if (tap_mpi_start(&argc, &argv)) return 1;
    must(par_grid_create_all(1, 1, 1, &grid));
    int writer = par_size() > 2 ? 2 : par_size() - 1; /* three files */
    snprintf(fault, sizeof fault, "file:write:%d:3", writer);
    setenv("TEMPER_FAULT", fault, 1);
    fault_set_rank(par_rank());
    if (par_rank() == 0) scratch_open();
    must(par_bcast(grid.world, scratch, sizeof scratch, 0));
    disk_full(writer);
    same_bytes();
    failing_rank();
    if (par_rank() == 0) scratch_close();
    par_grid_destroy(&grid);
    return tap_mpi_done();
}
