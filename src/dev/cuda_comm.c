/* The communicators of the CUDA backend: what comm.h says, passed on to the plugin. */
#include "dev/comm.h"

#include "base/mem.h"
#include "dev/cuda_plugin.h"
#include "dev/device.h"

struct dev_comm {
    struct dev *dev;
    const struct cuda_plugin *plugin;
    struct cuda_comm *comm;
};

static enum status failed(const struct cuda_plugin *p, int status) {
    return status ? TM_FAIL((enum status)status, "cuda: %s", p->error()) : TM_OK;
}

bool dev_comm_serves(const struct dev *d) { return d->backend == DEV_CUDA && cuda_plugin()->comm_open; }

enum status dev_comm_id(struct dev *d, void *id) {
    if (!dev_comm_serves(d)) return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: no communicators", d->describe);
    return failed(cuda_plugin(), cuda_plugin()->comm_id(id));
}

enum status dev_comm_open(struct dev *d, const struct dev_comm_options *o, struct dev_comm **out) {
    struct dev_comm *c;
    *out = NULL;
    if (!dev_comm_serves(d)) return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: no communicators", d->describe);
    TM_TRY(mem_alloc(&c, 1, sizeof *c));
    c->dev = d;
    c->plugin = cuda_plugin();
    const struct cuda_comm_options to = {.id = o->id,
                                         .ranks = o->ranks,
                                         .rank = o->rank,
                                         .scratch = o->scratch,
                                         .side = o->side,
                                         .timed = d->profile,
                                         .deadline_s = o->deadline_s};
    enum status st = failed(c->plugin, c->plugin->comm_open(d->gpu, &to, &c->comm));
    if (st != TM_OK) mem_free(&c);
    *out = c;
    return st;
}

void dev_comm_close(struct dev_comm **c) {
    if (!*c) return;
    (*c)->plugin->comm_close((*c)->comm);
    mem_free(c);
}

dptr dev_comm_scratch(struct dev_comm *c, size_t *bytes) {
    dptr at = {0};
    (void)c->plugin->comm_scratch(c->comm, &at.a, bytes);
    return at;
}

enum status dev_comm_abort(struct dev_comm *c) { return failed(c->plugin, c->plugin->comm_abort(c->comm)); }
enum status dev_comm_poll(struct dev_comm *c, double *seconds) {
    return failed(c->plugin, c->plugin->comm_poll(c->comm, seconds));
}

enum status dev_comm_group_begin(struct dev_comm *c) { return failed(c->plugin, c->plugin->comm_group_begin(c->comm)); }
enum status dev_comm_group_end(struct dev_comm *c) { return failed(c->plugin, c->plugin->comm_group_end(c->comm)); }
enum status dev_comm_send(struct dev_comm *c, dptr x, size_t bytes, int to) {
    return failed(c->plugin, c->plugin->comm_send(c->comm, x.a, bytes, to));
}
enum status dev_comm_recv(struct dev_comm *c, dptr x, size_t bytes, int from) {
    return failed(c->plugin, c->plugin->comm_recv(c->comm, x.a, bytes, from));
}
enum status dev_comm_gather(struct dev_comm *c, dptr mine, dptr out, size_t bytes) {
    return failed(c->plugin, c->plugin->comm_gather(c->comm, mine.a, out.a, bytes));
}
enum status dev_comm_bcast(struct dev_comm *c, dptr x, size_t bytes, int root) {
    return failed(c->plugin, c->plugin->comm_bcast(c->comm, x.a, bytes, root));
}
enum status dev_comm_sum_one_nonzero(struct dev_comm *c, dptr x, int64_t n) {
    return failed(c->plugin, c->plugin->comm_sum_one_nonzero(c->comm, x.a, n));
}
enum status dev_comm_max(struct dev_comm *c, dptr x, int64_t n) {
    return failed(c->plugin, c->plugin->comm_max(c->comm, x.a, n));
}
enum status dev_comm_argmax(struct dev_comm *c, dptr value, dptr index, int64_t n) {
    return failed(c->plugin, c->plugin->comm_argmax(c->comm, value.a, index.a, n));
}

enum status dev_comm_start(struct dev_comm *c, bool send, dptr x, size_t bytes, int peer, void **ticket) {
    return failed(c->plugin, c->plugin->comm_start(c->comm, send, x.a, bytes, peer, ticket));
}
enum status dev_comm_wait(struct dev_comm *c, void *ticket) {
    return failed(c->plugin, c->plugin->comm_wait(c->comm, ticket));
}

enum status dev_comm_beside_begin(struct dev_comm *c) {
    TM_TRY(failed(c->plugin, c->plugin->comm_beside(c->comm, 1)));
    c->dev->beside = true;
    return TM_OK;
}
enum status dev_comm_beside_end(struct dev_comm *c) {
    c->dev->beside = false;
    return failed(c->plugin, c->plugin->comm_beside(c->comm, 0));
}
enum status dev_comm_join(struct dev_comm *c) { return failed(c->plugin, c->plugin->comm_join(c->comm)); }
enum status dev_comm_times(struct dev_comm *c, double (*times)[2], int most, int *n) {
    *n = 0;
    return c->dev->profile ? failed(c->plugin, c->plugin->comm_times(c->comm, times, most, n)) : TM_OK;
}
