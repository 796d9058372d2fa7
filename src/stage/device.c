/* Choosing, binding and joining the ranks' devices. */
#include "stage/device.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "dev/comm.h"
#include "dev/place.h"
#include "stage/plan.h"

/* Cores that this process may use, shared with the other ranks of the host. OMP_NUM_THREADS decides when it is set. */
static int threads_here(void) {
    cpu_set_t cores;
    if (getenv("OMP_NUM_THREADS") || sched_getaffinity(0, sizeof cores, &cores) != 0) return 0;
    int n = CPU_COUNT(&cores) / par_local_size();
    return n > 0 ? n : 1;
}

/* "auto": cuda where there is a device that the plugin has code for, else the host, with the reason. */
static enum dev_backend choose_backend(const char *word) {
    char address[32];
    int n;
    if (strcmp(word, "auto") != 0) return dev_backend_named(word);
    enum status st = dev_cuda_devices(&n);
    if (st == TM_OK) st = dev_cuda_address(par_local_rank() % n, address);
    if (st == TM_OK) return DEV_CUDA;
    log_info("device host: %s", status_message());
    return DEV_HOST;
}

/* "0-15,64-79" */
static bool parse_cores(const char *text, cpu_set_t *out) {
    CPU_ZERO(out);
    while (*text) {
        char *end;
        long lo = strtol(text, &end, 10), hi = lo;
        if (end == text || lo < 0) return false;
        if (*end == '-') hi = strtol(end + 1, &end, 10);
        for (long c = lo; c <= hi && c < CPU_SETSIZE; c++) CPU_SET((size_t)c, out);
        text = *end == ',' ? end + 1 : end;
        if (*end && *end != ',') return false;
    }
    return true;
}

/* Of the cores that the launcher left us, those near the GPU, if there are any: threads started from here on stay there. */
static void bind_near(const struct dev_place *p) {
    cpu_set_t near, ours;
    if (!parse_cores(p->cores, &near) || sched_getaffinity(0, sizeof ours, &ours) != 0) return;
    CPU_AND(&near, &near, &ours);
    if (CPU_COUNT(&near) > 0 && !CPU_EQUAL(&near, &ours) && sched_setaffinity(0, sizeof near, &near) != 0)
        log_warn("this rank could not be bound to the cores near its GPU (%s)", p->cores);
}

/* Rank k of a host takes GPU k of those it sees; a launcher may show each rank one of its own. */
static enum status choose_gpu(int *device) {
    struct dev_place place;
    char address[32];
    int n;
    TM_TRY(dev_cuda_devices(&n));
    *device = par_local_rank() % n;
    TM_TRY(dev_cuda_address(*device, address));
    dev_place("/sys", address, &place);
    bind_near(&place);
    return TM_OK;
}

enum status stage_device_open(struct stage_run *r) {
    struct dev_options o = {.backend = choose_backend(r->deck->device.backend),
                            .threads = (int)r->deck->device.threads,
                            .invariant = r->invariant,
                            .graphs = r->deck->device.graphs,
                            .profile = r->o.profile,
                            .kernel = getenv("TEMPER_KERNEL")}; /* tests: another instruction set, the same bits */
    if (o.threads == 0) o.threads = threads_here();
    if (o.backend == DEV_CUDA) TM_TRY(choose_gpu(&o.device));
    TM_TRY(dev_open(&o, &r->dev));
    log_info("device %s", dev_describe(r->dev));
    stage_memory_begin(r);
    return TM_OK;
}

/* --- what the log says of them ---------------------------------------------------------------------------------------------- */
enum { LINE = 256 };

static void place_line(const struct dev *d, char *out) {
    struct dev_place p;
    char host[65] = "?", numa[16] = "?";
    dev_place("/sys", dev_address(d), &p);
    (void)gethostname(host, sizeof host - 1);
    if (p.numa >= 0) snprintf(numa, sizeof numa, "%d", p.numa);
    snprintf(out, LINE, "rank %d -> host %s, device %d, NUMA %s, NIC %s", par_rank(), host, dev_device(d), numa,
             *p.nic ? p.nic : "none");
}

static enum status log_places_all(struct stage_run *r) {
    char mine[LINE] = "", *all = NULL;
    place_line(r->dev, mine);
    enum status st = par_rank() == 0 ? mem_alloc(&all, (size_t)par_size(), LINE) : TM_OK;
    TM_TRY(par_agree_all(st));
    st = par_gather_bytes(r->grid.world, mine, LINE, all, 0);
    for (int i = 0; st == TM_OK && par_rank() == 0 && i < par_size(); i++) log_info("%s", all + (size_t)i * LINE);
    mem_free(&all);
    if (st == TM_OK && par_size() > 1)
        log_info("between devices: %s", par_grid_has_comms(&r->grid) ? "NCCL" : "MPI through pinned host memory");
    return st;
}

/* Ranks on one GPU have equal parts of what was free. */
static enum status share_memory_all(struct stage_run *r) {
    char mine[LINE] = "", *all;
    int sharers = 0;
    (void)gethostname(mine, LINE / 2);
    snprintf(mine + strlen(mine), LINE / 2, " %s", dev_address(r->dev));
    TM_TRY(par_agree_all(mem_alloc(&all, (size_t)par_size(), LINE)));
    enum status st = par_allgather_bytes(r->grid.world, mine, LINE, all);
    for (int i = 0; i < par_size(); i++) sharers += !memcmp(mine, all + (size_t)i * LINE, LINE);
    mem_free(&all);
    if (st == TM_OK) r->room = 1 + (int64_t)dev_capacity(r->dev) / sharers; /* 0: unknown */
    return st;
}

enum status stage_device_join_all(struct stage_run *r) {
    const struct deck *d = r->deck;
    TM_TRY(par_grid_devices_all(&r->grid, r->dev, d->device.share, d->limits.deadline_s));
    if (dev_backend(r->dev) != DEV_CUDA) return TM_OK;
    TM_TRY(share_memory_all(r));
    return log_places_all(r);
}
