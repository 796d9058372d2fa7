/* TEST ranks=2,4 backends=cuda tier=1 */
/* TEST ranks=2 backends=cuda1 tier=1 */
/* par/: communicators of the devices' own: who gets them, who is refused, deadlines; sums in many chunks. With an argument it is the job that
 * t414 watches: t413-comms mismatch|sizes|queued DEADLINE. */
#include <unistd.h>

#include "dev/comm.h"
#include "par/room.h"
#include "tap_mpi.h"

static struct par_grid grid;
static struct dev *dev;

static bool own_devices(void) {
    const char *devices = getenv("CUEMU_DEVICES");
    return devices && atoi(devices) >= par_size();
}

/* Two ranks on one GPU, and ranks of two backends. */
static void refused(void) {
    struct dev *other;
    enum status st = par_grid_devices_all(&grid, dev, false, 20);
    if (own_devices()) {
        is_status(st, TM_OK);
        par_grid_destroy(&grid); /* once for each grid */
        must(par_grid_create_all(1, 1, 1, &grid));
    } else {
        is_status(st, TM_ERR_DEVICE);
        ok(strstr(status_message(), "ranks 0 and 1 have one GPU (PCI 0000:00:00.0)") &&
               strstr(status_message(), "device.share = true"),
           "%s", status_message());
    }
    must(dev_open(&(struct dev_options){.backend = DEV_HOST, .threads = 1, .invariant = true}, &other));
    is_status(par_grid_devices_all(&grid, par_rank() == 1 ? other : dev, true, 20), TM_ERR_DEVICE);
    is_str(status_message(), "rank 1 has the host backend and rank 0 the cuda: expected one for all (device.backend)",
           "both are named");
    dev_close(&other);
}

/* A communicator that its other rank never joins. */
static void deadline(void) {
    char id[DEV_COMM_ID];
    struct dev_comm *c;
    must(dev_comm_id(dev, id));
    struct dev_comm_options o = {.id = id, .ranks = 2, .scratch = 1024, .deadline_s = 0.3};
    is_status(dev_comm_open(dev, &o, &c), TM_ERR_TIMEOUT);
    ok(!c && strstr(status_message(), "joining a communicator is not done after 0.3 s") != NULL, "%s",
       status_message());
    o.ranks = 0;
    is_status(dev_comm_open(dev, &o, &c), TM_ERR_COMM);
}

/* A vector of small integers, whose sum is exact in any order: only the cutting into chunks is tried here. */
static void chunks(struct par_group *g, int64_t chunk) {
    enum { N = 10007 };
    static float x[N];
    dptr at;
    bool right = true;
    int size = par_group_size(g), r = par_group_rank(g);
    must(dev_alloc(dev, "test", sizeof x, &at));
    for (int i = 0; i < N; i++) x[i] = (float)(i + 3 * r);
    must(dev_upload(dev, at, x, sizeof x));
    if (g->comms.all) g->comms.chunk = chunk;
    must(par_tree_sum(g, dev, at, N, UINT64_MAX));
    must(dev_download(dev, x, at, sizeof x));
    for (int i = 0; i < N; i++) right &= x[i] == (float)(size * i + 3 * size * (size - 1) / 2);
    ok(right, "%s: %d floats in chunks of %lld over %d ranks", g->name, N, (long long)chunk, size);
    dev_free(dev, &at);
}

/* Each rank sends its number once around the ring of stages while operations go on. */
static void around(void) {
    enum { N = 70000 };
    static float x[N];
    dptr mine, in;
    int send, recv, size = par_group_size(grid.pp_group), r = par_group_rank(grid.pp_group);
    if (size == 1) return;
    must(dev_alloc(dev, "test", sizeof x, &mine));
    must(dev_alloc(dev, "test", sizeof x, &in));
    must(dev_fill(dev, &(struct fill_args){.y = mine, .n = N, .value = (float)r}));
    for (int hop = 1; hop <= size; hop++) {
        must(par_recv_start(grid.pp_group, dev, in, sizeof x, (r + size - 1) % size, 7, &recv));
        must(par_send_start(grid.pp_group, dev, mine, sizeof x, (r + 1) % size, 7, &send));
        must(par_wait(grid.pp_group, send));
        must(par_wait(grid.pp_group, recv));
        must(dev_copy(dev, &(struct copy_args){.x = in, .y = mine, .bytes = sizeof x}));
        must(dev_scale(dev, &(struct scale_args){.y = mine, .n = N, .s = 2}));
    }
    must(dev_download(dev, x, mine, sizeof x));
    ok(x[0] == (float)(r << size) && x[N - 1] == x[0], "once around %d stages", size);
    dev_free(dev, &mine);
    dev_free(dev, &in);
}

/* The job that goes wrong. */
static int wrong(const char *how, double deadline) {
    dptr x;
    int request;
    if (par_grid_create_all(2, 1, 1, &grid) != TM_OK || tap_device(&dev) != TM_OK) return 1;
    if (!strcmp(how, "queued")) {
        par_grid_destroy(&grid);
        if (par_grid_create_all(1, 1, 2, &grid) != TM_OK) return 1;
    }
    if (par_grid_devices_all(&grid, dev, false, 20) != TM_OK || dev_alloc(dev, "test", 4096, &x) != TM_OK) return 1;
    if (par_watchdog_start(deadline) != TM_OK) return 1;
    par_note("qad", 7, "tree");
    if (!strcmp(how, "mismatch"))
        (void)(par_rank() ? par_max_f32(grid.tp_group, dev, x, 100) : par_bcast_dev(grid.tp_group, dev, x, 400, 0));
    if (!strcmp(how, "sizes")) (void)par_max_f32(grid.tp_group, dev, x, par_rank() ? 100 : 101);
    if (!strcmp(how, "queued") && par_rank() == 0) { /* the wait returns: the message is queued on the device */
        (void)par_recv_start(grid.pp_group, dev, x, 4096, 1, 0, &request);
        (void)par_wait(grid.pp_group, request);
        fprintf(stderr, "# waited: %s\n", status_name(dev_sync(dev)));
    }
    sleep(60);
    return 0;
}

int main(int argc, char **argv) {
    if (tap_mpi_start(&argc, &argv)) return 1;
    if (argc == 3) return wrong(argv[1], atof(argv[2]));
    must(par_grid_create_all(1, 1, 1, &grid));
    must(tap_device(&dev));
    ok(dev_comm_serves(dev) && strstr(dev_describe(dev), "NCCL 2.") != NULL, "%s", dev_describe(dev));
    refused();
    deadline();
    par_grid_destroy(&grid);
    dev_close(&dev);

    must(par_grid_create_all(par_size() > 2 ? 2 : 1, 1, 2, &grid)); /* tp x pp */
    tap_devices_all(&grid, &dev);
    must(par_watchdog_start(30));
    chunks(grid.tp_group, 1000);
    around();
    par_grid_destroy(&grid);
    must(par_grid_create_all(1, 1, 1, &grid)); /* replicas */
    must(par_grid_devices_all(&grid, dev, true, 20));
    chunks(grid.dp_group, 999);
    chunks(grid.dp_group, 4096);
    chunks(grid.dp_group, 100000);
    par_grid_destroy(&grid);
    dev_close(&dev);
    return tap_mpi_done();
}
