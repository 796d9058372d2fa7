/* Saving in the background: a thread copies, hashes and writes this rank's share; the caller's thread does all that ranks agree on. */
#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/size.h"
#include "ckpt/save.h"

enum { ALIGN = 64 };

struct ckpt_background {
    struct ckpt_save_args a; /* our copy; its folder's name, tensors and metadata are ours */
    char dir[4096];
    struct save s;
    struct ckpt_tensor *tensors, *staged; /* the caller's list; the same in the copy's memory */
    struct part {
        bool used;        /* this rank writes some of the tensor */
        size_t at;        /* its place in the copy */
        const void *live; /* host backend: where the thread copies from; NULL: nothing left to copy */
    } * part;
    char *memory; /* the copy; the thread frees it */
    json_t *meta;
    double stalled;
    pthread_t thread;
    bool started;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t changed;
    bool copied, written, given_up, finished;
    int turn; /* waves up to this one may write; s.waves: it has its name, rank 0 prunes */
    enum status st;
    char message[2048];
};

/* --- the thread -------------------------------------------------------------------------------------------------------------- */
static size_t box_bytes(const struct ckpt_tensor *t) {
    return (size_t)tensor_box_elems(&t->desc.box) * dtype_bytes(t->desc.dtype);
}

static void copy_live(struct ckpt_background *b) {
    for (int i = 0; i < b->a.n; i++)
        if (b->part[i].live) memcpy(b->staged[i].host, b->part[i].live, box_bytes(&b->staged[i]));
    pthread_mutex_lock(&b->lock);
    b->copied = true;
    pthread_cond_broadcast(&b->changed);
    pthread_mutex_unlock(&b->lock);
}

static bool wait_turn(struct ckpt_background *b, int turn) {
    pthread_mutex_lock(&b->lock);
    while (b->turn < turn && !b->given_up) pthread_cond_wait(&b->changed, &b->lock);
    bool go = !b->given_up;
    pthread_mutex_unlock(&b->lock);
    return go;
}

/* Where OpenMP binds its threads (OMP_PROC_BIND), it has bound the one that started this one to a core of its own, and this one with it: let it
 * run wherever OpenMP's threads may. */
static void unbind(void) {
    int id[CPU_SETSIZE];
    cpu_set_t all;
    CPU_ZERO(&all);
    for (int p = 0; p < omp_get_num_places(); p++) {
        if (omp_get_place_num_procs(p) > CPU_SETSIZE) return;
        omp_get_place_proc_ids(p, id);
        for (int i = 0; i < omp_get_place_num_procs(p); i++)
            if (id[i] >= 0 && id[i] < CPU_SETSIZE) CPU_SET(id[i], &all);
    }
    if (CPU_COUNT(&all) > 0)
        (void)pthread_setaffinity_np(pthread_self(), sizeof all, &all); /* else it only is slower */
}

static void *run(void *background) {
    struct ckpt_background *b = background;
    unbind();
    copy_live(b);
    enum status st = wait_turn(b, b->s.wave) ? ckpt_save_write(&b->s, NULL, b->staged) : TM_OK;
    mem_free(&b->memory);
    pthread_mutex_lock(&b->lock);
    b->st = st;
    snprintf(b->message, sizeof b->message, "%s", st == TM_OK ? "" : status_message());
    b->written = true;
    pthread_cond_broadcast(&b->changed);
    pthread_mutex_unlock(&b->lock);
    if (b->s.first && wait_turn(b, b->s.waves)) ckpt_save_prune(&b->s);
    pthread_mutex_lock(&b->lock);
    b->finished = true;
    pthread_cond_broadcast(&b->changed);
    pthread_mutex_unlock(&b->lock);
    return NULL;
}

static enum status start_thread(struct ckpt_background *b) {
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are the main thread's */
    int rc = pthread_create(&b->thread, NULL, run, b);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    b->started = rc == 0;
    return rc == 0 ? TM_OK : TM_FAIL(TM_ERR_INTERNAL, "the thread that writes checkpoints: %s", strerror(rc));
}

/* --- the copy ---------------------------------------------------------------------------------------------------------------- */
/* Where the tensors lie that this rank writes any piece of; bytes of them all. */
static size_t lay_out(struct ckpt_background *b) {
    size_t n = 0;
    const struct ckpt_table *t = &b->s.t;
    for (int64_t i = 0; i < t->n_pieces; i++) {
        struct part *p = &b->part[t->pieces[i].tensor];
        if (t->pieces[i].file != b->s.mine || p->used) continue;
        *p = (struct part){.used = true, .at = n};
        n += size_align(box_bytes(&b->tensors[t->pieces[i].tensor]), ALIGN);
    }
    return n;
}

/* Memory that only the thread and the caller's operations read may be copied later; the rest is copied now. */
static enum status copy_or_defer(struct ckpt_background *b, int i) {
    const struct ckpt_tensor *from = &b->tensors[i];
    size_t n = box_bytes(from);
    void *to = b->staged[i].host, *live;
    if (from->host) {
        memcpy(to, from->host, n);
        return TM_OK;
    }
    if (dev_backend(b->a.dev) != DEV_HOST) return dev_download(b->a.dev, to, from->data, n);
    TM_TRY(dev_map(b->a.dev, from->data, n, &live)); /* on the host backend: the memory itself, mapped or not */
    b->part[i].live = live;
    return dev_unmap(b->a.dev, from->data, n, live);
}

static enum status make_copy(struct ckpt_background *b) {
    TM_TRY(mem_alloc(&b->memory, lay_out(b), 1));
    for (int i = 0; i < b->a.n; i++) {
        b->staged[i].data = (dptr){0};
        b->staged[i].host = b->part[i].used ? b->memory + b->part[i].at : NULL;
        if (b->part[i].used) TM_TRY(copy_or_defer(b, i));
    }
    return TM_OK;
}

int64_t ckpt_share_bytes(const struct ckpt_tensor *tensors, int n, int dp) {
    int64_t sum = 0, most = 0;
    for (int i = 0; i < n; i++) {
        int64_t bytes = (int64_t)size_align(box_bytes(&tensors[i]), ALIGN);
        sum += bytes;
        most = size_max(most, bytes);
    }
    return dp > 1 ? size_min(sum, sum / dp + most) : sum; /* pieces are balanced to within the largest */
}

/* --- the caller's side --------------------------------------------------------------------------------------------------------- */
static void next_turn(struct ckpt_background *b) {
    pthread_mutex_lock(&b->lock);
    b->turn++;
    pthread_cond_broadcast(&b->changed);
    pthread_mutex_unlock(&b->lock);
}

static void destroy(struct ckpt_background **pb) {
    struct ckpt_background *b = *pb;
    if (!b) return;
    pthread_mutex_lock(&b->lock);
    b->given_up = true; /* a thread that waits for its turn ends */
    pthread_cond_broadcast(&b->changed);
    pthread_mutex_unlock(&b->lock);
    if (b->started) pthread_join(b->thread, NULL);
    pthread_cond_destroy(&b->changed);
    pthread_mutex_destroy(&b->lock);
    json_decref(b->meta);
    mem_free(&b->memory);
    mem_free(&b->tensors);
    mem_free(&b->staged);
    mem_free(&b->part);
    mem_free(pb);
}

static enum status create(const struct ckpt_save_args *a, struct ckpt_background **out) {
    TM_TRY(mem_alloc(out, 1, sizeof **out));
    struct ckpt_background *b = *out;
    b->a = *a;
    b->turn = -1;
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->changed, NULL);
    TM_TRY(str_copy(b->dir, sizeof b->dir, a->dir));
    b->a.dir = b->dir;
    TM_TRY(mem_alloc(&b->tensors, (size_t)a->n, sizeof *b->tensors));
    TM_TRY(mem_alloc(&b->staged, (size_t)a->n, sizeof *b->staged));
    TM_TRY(mem_alloc(&b->part, (size_t)a->n, sizeof *b->part));
    if (a->n) memcpy(b->tensors, a->tensors, (size_t)a->n * sizeof *b->tensors);
    if (a->n) memcpy(b->staged, a->tensors, (size_t)a->n * sizeof *b->staged);
    b->a.tensors = b->tensors;
    b->a.meta = b->meta = a->meta ? json_deep_copy(a->meta) : NULL;
    return b->meta || !a->meta ? TM_OK : TM_FAIL(TM_ERR_MEMORY, "out of memory");
}

enum status ckpt_background_begin_all(const struct ckpt_save_args *a, struct ckpt_background **out) {
    double begin = clock_seconds();
    *out = NULL;
    struct ckpt_background *b = NULL;
    enum status st = par_agree_all(create(a, &b));
    if (st == TM_OK) st = ckpt_save_plan_all(&b->s, &b->a);
    if (st != TM_OK) {
        destroy(&b);
        return st;
    }
    st = make_copy(b);
    if (st == TM_OK) st = start_thread(b);
    st = par_agree_all(st);
    if (st != TM_OK) { /* no rank has written anything yet */
        struct save s = b->s;
        destroy(&b);
        ckpt_save_drop(&s);
        return st;
    }
    next_turn(b);
    b->stalled = clock_seconds() - begin;
    *out = b;
    return TM_OK;
}

void ckpt_background_hold(struct ckpt_background *b) {
    if (!b) return;
    double begin = clock_seconds();
    pthread_mutex_lock(&b->lock);
    while (!b->copied) pthread_cond_wait(&b->changed, &b->lock);
    pthread_mutex_unlock(&b->lock);
    b->stalled += clock_seconds() - begin;
}

/* Nothing is being done for the present turn. Under the lock. */
static bool is_idle(const struct ckpt_background *b) {
    if (b->turn == b->s.waves) return b->finished;
    return b->written || (b->copied && b->turn < b->s.wave);
}

enum ckpt_state ckpt_background_state(struct ckpt_background *b) {
    pthread_mutex_lock(&b->lock);
    enum ckpt_state state = !is_idle(b) ? CKPT_BUSY : b->st == TM_OK ? CKPT_IDLE : CKPT_FAILED;
    pthread_mutex_unlock(&b->lock);
    return state;
}

/* Until this rank's part of the present turn is done; its status. */
static enum status wait_idle(struct ckpt_background *b) {
    pthread_mutex_lock(&b->lock);
    while (!is_idle(b)) pthread_cond_wait(&b->changed, &b->lock);
    enum status st = b->st;
    pthread_mutex_unlock(&b->lock);
    if (st != TM_OK) status_set_message(b->message);
    return st;
}

enum status ckpt_background_advance_all(struct ckpt_background **pb, struct ckpt_saved *info) {
    struct ckpt_background *b = *pb;
    double begin = clock_seconds();
    info->path[0] = 0;
    par_note(log_stage(), b->a.step, "checkpoint in the background");
    enum status st = par_agree_all(wait_idle(b));
    if (b->turn == b->s.waves) { /* pruned */
        destroy(pb);
        return st;
    }
    if (st == TM_OK && b->turn + 1 < b->s.waves) {
        next_turn(b);
        b->stalled += clock_seconds() - begin;
        return TM_OK;
    }
    if (st == TM_OK) {
        bool there = false;
        st = ckpt_save_publish_all(&b->s, info, &there);
        info->stalled = b->stalled + clock_seconds() - begin;
        if (st == TM_OK)
            next_turn(b);
        else
            destroy(pb);
        return st;
    }
    struct save s = b->s; /* all threads are idle: those that wait for their turn end without it */
    destroy(pb);
    ckpt_save_drop(&s);
    return st;
}

enum status ckpt_background_end_all(struct ckpt_background **b, struct ckpt_saved *info) {
    struct ckpt_saved now;
    enum status st = TM_OK;
    while (*b && st == TM_OK) {
        st = ckpt_background_advance_all(b, &now);
        if (info && now.path[0]) *info = now;
    }
    return st;
}
