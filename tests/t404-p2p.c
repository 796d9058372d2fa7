/* TEST ranks=2,4 backends=host,guard tier=1 */
/* TEST ranks=2,4 backends=cuda,cuda1 tier=1 */
/* par/: messages between ranks: many in flight, out of order, long, empty, of the wrong length. */
#include "base/mem.h"
#include "tap_mpi.h"

enum { SLOTS = 32, FLOATS = 20000 };
static struct par_grid grid;
static struct dev *dev;

static float value(int from, int slot, int i) { return (float)(from * 1000003 + slot * 10007 + i); }

/* Every rank sends SLOTS messages to the next and receives as many from the one before; waits run backwards. */
static void many(void) {
    int r = par_rank(), p = par_size(), next = (r + 1) % p, before = (r + p - 1) % p, send[SLOTS], recv[SLOTS], none;
    static float buffer[FLOATS];
    dptr out, in;
    must(dev_alloc(dev, "test", sizeof(float) * SLOTS * FLOATS, &out));
    must(dev_alloc(dev, "test", sizeof(float) * SLOTS * FLOATS, &in));
    bool right = true;
    for (int s = 0; s < SLOTS; s++) {
        for (int i = 0; i < FLOATS; i++) buffer[i] = value(r, s, i);
        right &= dev_upload(dev, dptr_f32(out, (int64_t)s * FLOATS), buffer, sizeof buffer) == TM_OK;
    }
    for (int s = 0; s < SLOTS; s++) { /* different lengths: slot s has 100 * s + 1 floats */
        int64_t bytes = 4 * (s == SLOTS - 1 ? FLOATS : 100 * s + 1);
        right &=
            par_recv_start(grid.pp_group, dev, dptr_f32(in, (int64_t)s * FLOATS), bytes, before, s, &recv[s]) == TM_OK;
        right &=
            par_send_start(grid.pp_group, dev, dptr_f32(out, (int64_t)s * FLOATS), bytes, next, s, &send[s]) == TM_OK;
    }
    ok(right, "%d messages started", 2 * SLOTS);
    is_status(par_send_start(grid.pp_group, dev, out, 4, next, 0, &none), TM_ERR_INTERNAL);
    for (int s = SLOTS - 1; s >= 0; s--) {
        right &= par_wait(grid.pp_group, recv[s]) == TM_OK;
        right &= par_wait(grid.pp_group, send[s]) == TM_OK;
    }
    for (int s = 0; s < SLOTS; s++) {
        int n = s == SLOTS - 1 ? FLOATS : 100 * s + 1;
        right &= dev_download(dev, buffer, dptr_f32(in, (int64_t)s * FLOATS), sizeof buffer) == TM_OK;
        for (int i = 0; i < FLOATS; i++) right &= buffer[i] == (i < n ? value(before, s, i) : 0.0f);
    }
    ok(right, "all arrive, and nothing beside them");
    is_status(par_wait(grid.pp_group, recv[0]), TM_ERR_INTERNAL);
    is_status(par_wait(grid.pp_group, PAR_MAX_REQUESTS), TM_ERR_INTERNAL);
    is_status(par_send_start(grid.pp_group, dev, out, 4, p, 0, &none), TM_ERR_INTERNAL);
    is_status(par_send_start(grid.pp_group, dev, out, 4, next, PAR_MAX_TAG + 1, &none), TM_ERR_INTERNAL);
    dev_free(dev, &out);
    dev_free(dev, &in);
}

/* 9 MB and a bit: a type of blocks and a rest. Ranks 2k and 2k + 1 are partners. */
static void long_and_empty(void) {
    enum { N = 9000007 };
    uint8_t *b;
    int r = par_rank(), other = r ^ 1;
    bool right = true;
    must(mem_alloc(&b, N, 1));
    for (int i = 0; r % 2 == 0 && i < N; i++) b[i] = (uint8_t)(i * 31 + i / 1021 + r);
    if (r % 2 == 0) {
        must(par_send(grid.pp_group, b, N, other, 3));
        must(par_send(grid.pp_group, NULL, 0, other, 4));
        must(par_send(grid.pp_group, b, 10, other, 5));
        must(par_send(grid.pp_group, b, 10, other, 6));
    } else {
        must(par_recv(grid.pp_group, b, N, other, 3));
        for (int i = 0; i < N; i++) right &= b[i] == (uint8_t)(i * 31 + i / 1021 + other);
        ok(right, "%d bytes arrive", N);
        must(par_recv(grid.pp_group, NULL, 0, other, 4));
        is_status(par_recv(grid.pp_group, b, 11, other, 5), TM_ERR_COMM); /* too short */
        is_status(par_recv(grid.pp_group, b, 9, other, 6), TM_ERR_COMM);  /* too long */
        ok(strstr(status_message(), "truncated") != NULL, "in MPI's words: %s", status_message());
    }
    mem_free(&b);
}

int main(int argc, char **argv) {
    if (tap_mpi_start(&argc, &argv)) return 1;
    must(par_grid_create_all(1, 1, par_size(), &grid));
    tap_devices_all(&grid, &dev);
    if (par_size() > 1) {
        many();
        long_and_empty();
    }
    is_status(par_send(grid.pp_group, NULL, 0, par_rank(), 0), TM_ERR_INTERNAL);
    is_status(par_wait(NULL, 0), TM_ERR_INTERNAL);
    par_grid_destroy(&grid);
    dev_close(&dev);
    return tap_mpi_done();
}
