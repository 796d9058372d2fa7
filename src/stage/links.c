/* Ping-pong, a sum over all ranks, and a file that is written and read. */
#include "stage/links.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"

enum { TURNS = 64, SUM_FLOATS = 2 << 20, LONG = 4 << 20, FILE_BYTES = 64 << 20 };

/* Seconds of one way between rank 0 and `peer`; the others wait. */
static enum status ping(struct par_group *world, int peer, int64_t bytes, int turns, double *out) {
    char *data;
    int me = par_rank();
    enum status st = mem_alloc(&data, (size_t)bytes, 1);
    TM_TRY(par_agree(world, st));
    for (int i = 0; st == TM_OK && (me == 0 || me == peer) && i <= turns; i++) {
        if (i == 1) *out = clock_seconds(); /* the first turn warms up */
        if (me == 0) {
            st = par_send(world, data, bytes, peer, 1);
            if (st == TM_OK) st = par_recv(world, data, bytes, peer, 1);
        } else {
            st = par_recv(world, data, bytes, 0, 1);
            if (st == TM_OK) st = par_send(world, data, bytes, 0, 1);
        }
    }
    if (me == 0) *out = (clock_seconds() - *out) / (2.0 * turns);
    mem_free(&data);
    st = par_agree(world, st);
    return st == TM_OK ? par_bcast(world, out, sizeof *out, 0) : st;
}

/* The lowest rank on another host than rank 0's, and the lowest on the same one; -1: none. */
static enum status find_peers(struct par_group *world, int *far, int *near) {
    int64_t x[2] = {par_size(), par_size()}, hosts = par_rank() == 0 ? par_host() : 0;
    TM_TRY(par_bcast(world, &hosts, sizeof hosts, 0));
    if (par_rank() > 0) x[par_host() == hosts] = par_rank();
    TM_TRY(par_reduce_i64(world, x, 2, PAR_MIN));
    *far = x[0] < par_size() ? (int)x[0] : -1;
    *near = x[1] < par_size() ? (int)x[1] : -1;
    return TM_OK;
}

static enum status sum_seconds(struct par_group *world, struct dev *d, double *out) {
    dptr x;
    double t[3];
    TM_TRY(par_agree(world, dev_alloc(d, "probe", (size_t)SUM_FLOATS * 4, &x)));
    enum status st = TM_OK;
    for (int i = 0; i < 4 && st == TM_OK; i++) {
        double begin = clock_seconds();
        st = par_tree_sum(world, d, x, SUM_FLOATS, UINT64_MAX);
        if (st == TM_OK) st = dev_sync(d);
        if (i > 0) t[i - 1] = clock_seconds() - begin;
    }
    dev_free(d, &x);
    *out = st == TM_OK ? fmax(fmin(t[0], t[1]), fmin(fmax(t[0], t[1]), t[2])) : 0;
    st = par_agree(world, st);
    return st == TM_OK ? par_bcast(world, out, sizeof *out, 0) : st;
}

enum status links_measure_all(const struct par_grid *g, struct dev *d, struct deck_machine *m) {
    int far, near;
    double short_s, long_s, sum_s, size = par_size();
    if (par_size() == 1) return TM_OK;
    TM_TRY(find_peers(g->world, &far, &near));
    TM_TRY(sum_seconds(g->world, d, &sum_s));
    double moved = (size == 2 ? 1 : 2 * (size - 1) / size) * SUM_FLOATS * 4;
    if (near > 0) {
        TM_TRY(ping(g->world, near, 8, TURNS, &short_s));
        TM_TRY(ping(g->world, near, LONG, 4, &long_s));
        m->node = (struct deck_machine_link){short_s * 1e6, (far < 0 ? moved / sum_s : LONG / long_s) * 1e-9};
    }
    if (far > 0) {
        TM_TRY(ping(g->world, far, 8, TURNS, &short_s));
        m->network = (struct deck_machine_link){short_s * 1e6, moved / sum_s * 1e-9};
    }
    return TM_OK;
}

/* --- files ------------------------------------------------------------------------------------------------------------------------ */
static enum status write_file(const char *path, double *seconds) {
    const size_t block = (size_t)4 << 20;
    char *data;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return TM_FAIL(TM_ERR_IO, "cannot write %s", path);
    enum status st = mem_alloc(&data, block, 1);
    double begin = clock_seconds();
    for (int64_t at = 0; st == TM_OK && at < FILE_BYTES; at += (int64_t)block) {
        memset(data, (int)(at >> 22), block);
        st = file_pwrite(fd, path, data, block, at);
    }
    if (st == TM_OK && fsync(fd) != 0) st = TM_FAIL(TM_ERR_IO, "cannot sync %s", path);
    *seconds = clock_seconds() - begin;
    close(fd);
    mem_free(&data);
    return st;
}

/* From the disk: what the page cache has of it is dropped first. */
static enum status read_file(const char *path, double *seconds) {
    char *data;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return TM_FAIL(TM_ERR_IO, "cannot read %s", path);
    enum status st = mem_alloc(&data, FILE_BYTES, 1);
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    double begin = clock_seconds();
    if (st == TM_OK) st = file_pread(fd, path, data, FILE_BYTES, 0);
    *seconds = clock_seconds() - begin;
    close(fd);
    mem_free(&data);
    return st;
}

enum status links_measure_files_all(const char *folder, struct deck_machine *m) {
    char path[4200];
    double t[2] = {0, 0};
    enum status st = TM_OK;
    if (par_local_rank() == 0) {
        snprintf(path, sizeof path, "%s/file.%d", folder, par_rank());
        st = write_file(path, &t[0]);
        if (st == TM_OK) st = read_file(path, &t[1]);
    }
    TM_TRY(par_agree_all(st));
    if (par_rank() != 0) return TM_OK; /* rank 0 writes the machine file */
    m->files.write_gbs = FILE_BYTES * 1e-9 / t[0];
    m->files.read_gbs = FILE_BYTES * 1e-9 / t[1];
    return TM_OK;
}
