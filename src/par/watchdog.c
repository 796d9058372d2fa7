/* The watchdog: a thread that sees communications pass their deadline, or ranks wait for one that failed, says where every rank is, and ends the job.
 *
 * Open MPI notices neither a cut network nor a rank that never comes. The thread makes no MPI call; it knows the other ranks by their
 * heartbeats. Monitor 0 (rank 0) reports first. Later monitors, and then the ranks that are no monitors, take their turn in case the earlier
 * ones are gone: the first report ends the job, since mpirun or srun kills the rest when one rank exits with an error. */
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "par/room.h"

static const double TURN_SECONDS = 3; /* mpirun needs 2 s to kill a rank that catches SIGTERM */
static const double STRANDED_SECONDS = 5;
enum { MAX_LINES = 64 }; /* of a report */
enum { MAX_COMMS = 16, ABORT_SECONDS = 5 };

struct peer {
    struct beat beat;
    double heard; /* 0 = never */
};

static struct {
    bool on; /* written by the main thread alone, while there is no watchdog thread */
    pthread_t thread;
    int stop_fd;
    double deadline, period, started;
    struct peer *peer; /* [world], on monitors; of the thread alone */
    int ranks, monitor;
    struct beat seen; /* the thread's copy of this rank's beat */
} dog_;

static pthread_mutex_t lock_ = PTHREAD_MUTEX_INITIALIZER; /* guards here_ */
static struct {
    struct beat beat;
    double since, noted; /* since: 0 = in no communication */
} here_ = {.beat = {.stage = "-", .operation = "-", .peer = -1, .step = -1}};

/* The devices' own communicators. Their transfers are queued: the main thread goes on, and is in no communication while they wait. */
static pthread_mutex_t comms_lock_ = PTHREAD_MUTEX_INITIALIZER; /* guards comms_ */
static struct {
    struct watched {
        struct dev_comm *comm;
        const struct par_group *group;
        const char *last; /* the group's last call: on a device it may wait in the queue */
    } comm[MAX_COMMS];
    int n;
} comms_;

/* ---- the main thread's side ---- */

static void text(char *out, const char *in) {
    memset(out, 0, BEAT_TEXT);
    snprintf(out, BEAT_TEXT, "%s", in);
}

/* Who wants to know of notes: of the thread that asked alone. */
static struct {
    void (*changed)(void *context, const char *operation);
    void *context;
    pthread_t thread;
} listener_;

void par_on_note(void (*changed)(void *context, const char *operation), void *context) {
    listener_.changed = changed;
    listener_.context = context;
    listener_.thread = pthread_self();
}

static void tell_listener(const char *operation) {
    if (listener_.changed && pthread_equal(listener_.thread, pthread_self()))
        listener_.changed(listener_.context, operation);
}

void par_phase(const char *operation) {
    pthread_mutex_lock(&lock_);
    text(here_.beat.operation, operation);
    here_.noted = clock_seconds();
    pthread_mutex_unlock(&lock_);
    tell_listener(operation);
}

void par_note(const char *stage, int64_t step, const char *operation) {
    tell_listener(operation);
    pthread_mutex_lock(&lock_);
    text(here_.beat.stage, stage);
    text(here_.beat.operation, operation);
    here_.beat.step = step;
    here_.noted = clock_seconds();
    pthread_mutex_unlock(&lock_);
}

void watch_enter(enum par_kind kind, const struct par_group *g, int peer) {
    if (!dog_.on) return;
    pthread_mutex_lock(&lock_);
    memset(here_.beat.waits_in, 0, BEAT_TEXT);
    snprintf(here_.beat.waits_in, BEAT_TEXT, "%s over %s (%d ranks)", par_counter((int)kind).name, g->name, g->size);
    here_.beat.peer = peer >= 0 ? g->world_rank[peer] : -1;
    here_.since = clock_seconds();
    pthread_mutex_unlock(&lock_);
    pthread_mutex_lock(&comms_lock_);
    for (int i = 0; i < comms_.n; i++)
        if (comms_.comm[i].group == g && kind != KIND_wait) comms_.comm[i].last = par_counter((int)kind).name;
    pthread_mutex_unlock(&comms_lock_);
}

void watch_progress(void) {
    if (!dog_.on) return;
    pthread_mutex_lock(&lock_);
    if (here_.since > 0) here_.since = clock_seconds();
    pthread_mutex_unlock(&lock_);
}

void watch_leave(void) {
    if (!dog_.on) return;
    pthread_mutex_lock(&lock_);
    here_.since = 0;
    here_.beat.failed = 0;
    pthread_mutex_unlock(&lock_);
}

void watch_failed(enum status st) {
    if (!dog_.on) return;
    pthread_mutex_lock(&lock_);
    here_.beat.failed = (int32_t)st;
    memset(here_.beat.why, 0, BEAT_WHY);
    snprintf(here_.beat.why, BEAT_WHY, "%s", status_message());
    pthread_mutex_unlock(&lock_);
}

enum status watch_comm(struct dev_comm *c, const struct par_group *g) {
    enum status st = TM_OK;
    pthread_mutex_lock(&comms_lock_);
    if (comms_.n < MAX_COMMS) {
        comms_.comm[comms_.n++] = (struct watched){c, g, "transfer"};
    } else {
        st = TM_FAIL(TM_ERR_INTERNAL, "more than %d communicators of one device", MAX_COMMS);
    }
    pthread_mutex_unlock(&comms_lock_);
    return st;
}

void watch_comm_end(const struct dev_comm *c) {
    pthread_mutex_lock(&comms_lock_);
    for (int i = 0; i < comms_.n; i++)
        if (comms_.comm[i].comm == c) comms_.comm[i] = comms_.comm[--comms_.n];
    pthread_mutex_unlock(&comms_lock_);
}

/* ---- the thread's side ---- */

/* The transfer on the device that waits longest, if the main thread waits in nothing itself. */
static enum status look_at_comms(struct beat *b) {
    enum status st = TM_OK;
    double most = 0, seconds;
    pthread_mutex_lock(&comms_lock_);
    for (int i = 0; i < comms_.n && st == TM_OK; i++) {
        const struct par_group *g = comms_.comm[i].group;
        st = dev_comm_poll(comms_.comm[i].comm, &seconds);
        if (st != TM_OK) st = status_context(st, "group %s: ", g->name);
        if (st != TM_OK || b->waited_s >= 0 || seconds <= most) continue;
        most = seconds;
        snprintf(b->waits_in, BEAT_TEXT, "a queued %s over %s (%d ranks)", comms_.comm[i].last, g->name, g->size);
    }
    pthread_mutex_unlock(&comms_lock_);
    if (most > 0) b->waited_s = most;
    return st;
}

static void *abort_comms(void *unused) {
    (void)unused;
    pthread_mutex_lock(&comms_lock_);
    for (int i = 0; i < comms_.n; i++) (void)dev_comm_abort(comms_.comm[i].comm);
    pthread_mutex_unlock(&comms_lock_);
    return NULL;
}

/* Ends this rank, and with it the job. Transfers that wait on the device are ended first: aborting may hang itself, so not for long. */
_Noreturn static void end_job(enum status st) {
    pthread_t thread;
    struct timespec until;
    log_error("watchdog: ending the job: %s (%d)", status_sentence(st), (int)st);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += ABORT_SECONDS;
    if (comms_.n > 0 && pthread_create(&thread, NULL, abort_comms, NULL) == 0)
        (void)pthread_timedjoin_np(thread, NULL, &until);
    _exit((int)st);
}

static struct beat own_beat(double now) {
    pthread_mutex_lock(&lock_);
    struct beat b = here_.beat;
    b.waited_s = here_.since > 0 ? now - here_.since : -1;
    b.noted_s = here_.noted > 0 ? now - here_.noted : now - dog_.started;
    pthread_mutex_unlock(&lock_);
    return b;
}

/* How long nothing came from a rank, if that is too long to be a lost packet; else 0. */
static double silence(int rank, double now) {
    if (!dog_.peer || rank == par_rank()) return 0;
    const struct peer *p = &dog_.peer[rank];
    double age = now - (p->heard > 0 ? p->heard : dog_.started);
    return age > 3 * dog_.period + 0.5 ? age : 0;
}

static const struct beat *beat_of(int rank) {
    if (rank == par_rank()) return &dog_.seen;
    return dog_.peer && dog_.peer[rank].heard > 0 ? &dog_.peer[rank].beat : NULL;
}

/* The lowest rank whose communication is past the deadline, or -1. */
static int late_rank(void) {
    for (int r = 0; r < dog_.ranks; r++) {
        const struct beat *b = beat_of(r);
        if (b && b->waited_s >= dog_.deadline) return r;
    }
    return -1;
}

/* How long to leave the report to others: the monitors before this one that are heard now. (Asked once, when a late rank is noticed: the
 * one that reports falls silent itself.) */
static double turn(double now) {
    int before = 0, end = dog_.monitor >= 0 ? dog_.monitor : channel_monitors();
    if (channel_fd() < 0) return 0;
    for (int k = 0; k < end; k++)
        if (dog_.monitor < 0 || silence(channel_monitor_rank(k), now) <= 0) before++;
    return before * TURN_SECONDS;
}

enum state { SILENT, BUSY, WAITING };

static enum state state_of(int rank, double now) {
    const struct beat *b = beat_of(rank);
    if (!b || silence(rank, now) > 0) return SILENT;
    return b->waited_s < 0 ? BUSY : WAITING;
}

/* "rank 3 on node17" */
static void name_rank(char *out, size_t cap, int rank) {
    const struct beat *b = beat_of(rank);
    snprintf(out, cap, "rank %d%s%s", rank, b ? " on " : "", b ? b->host : "");
}

static void report_rank(int rank, double now) {
    const struct beat *b = beat_of(rank);
    char place[3 * BEAT_TEXT] = "", peer[32] = "", who[BEAT_TEXT + 32];
    bool fresh = rank != par_rank() && b && silence(rank, now) <= 0;
    double age = fresh ? now - dog_.peer[rank].heard : 0; /* what has passed since it told */
    if (b)
        snprintf(place, sizeof place, "stage=%s step=%lld operation=\"%s\" for %.1f s", b->stage, (long long)b->step,
                 b->operation, b->noted_s + age);
    name_rank(who, sizeof who, rank);
    switch (state_of(rank, now)) {
    case SILENT:
        if (b) {
            log_error("watchdog: %s is silent for %.1f s; last: %s", who, silence(rank, now), place);
        } else {
            log_error("watchdog: %s was never heard of", who);
        }
        break;
    case BUSY: log_error("watchdog: %s is in no communication: %s", who, place); break;
    case WAITING:
        if (b->peer >= 0) snprintf(peer, sizeof peer, " for rank %d", b->peer);
        log_error("watchdog: %s waits in %s%s since %.1f s: %s", who, b->waits_in, peer, b->waited_s + age, place);
        break;
    }
}

/* Those that are waited for first. */
static void report(int late, double now) {
    const struct beat *b = beat_of(late);
    int lines = 0, left = 0;
    char who[BEAT_TEXT + 32];
    name_rank(who, sizeof who, late);
    log_error("watchdog: %s has waited %.1f s in %s: the deadline is %.1f s", who, b->waited_s, b->waits_in,
              dog_.deadline);
    for (enum state s = SILENT; s <= WAITING; s++)
        for (int r = 0; r < dog_.ranks; r++) {
            if (state_of(r, now) != s || (!dog_.peer && r != par_rank())) continue;
            if (++lines > MAX_LINES) {
                left++;
            } else {
                report_rank(r, now);
            }
        }
    if (left) log_error("watchdog: and %d more ranks", left);
}

/* The lowest rank that waits with an error in an agreement while nobody computes and one waits in another call, or -1. Transfers that go on,
 * if slowly, start the clocks again. */
static int stranding_rank(double now) {
    const double least = fmin(STRANDED_SECONDS, dog_.deadline / 2);
    int failed = -1;
    if (!dog_.peer) return -1;
    for (int r = 0; r < dog_.ranks; r++) {
        if (state_of(r, now) != WAITING || beat_of(r)->waited_s < least) return -1;
        if (failed < 0 && beat_of(r)->failed) failed = r;
    }
    for (int r = 0; r < dog_.ranks && failed >= 0; r++)
        if (strcmp(beat_of(r)->waits_in, beat_of(failed)->waits_in) != 0) return failed;
    return -1;
}

static enum status report_failed(int failed, double now) {
    const struct beat *b = beat_of(failed);
    const enum status st = (enum status)b->failed;
    log_error("%s: rank %d: %s", status_name(st), failed, b->why);
    report_rank(failed, now);
    for (int r = 0, lines = 0; r < dog_.ranks && lines < MAX_LINES; r++)
        if (strcmp(beat_of(r)->waits_in, b->waits_in) != 0 && ++lines) report_rank(r, now);
    return st;
}

static void *run(void *unused) {
    double next = 0, report_at = 0, tick = fmin(dog_.period, 0.1);
    struct pollfd p[2] = {{.fd = dog_.stop_fd, .events = POLLIN}, {.fd = channel_fd(), .events = POLLIN}};
    (void)unused;
    for (;;) {
        (void)poll(p, 2, 1 + (int)(1000 * tick)); /* a negative fd is skipped */
        if (p[0].revents) return NULL;
        struct beat b;
        double now = clock_seconds();
        while (channel_receive(&b))
            if (dog_.peer) dog_.peer[b.rank] = (struct peer){b, now};
        dog_.seen = own_beat(now);
        enum status st = look_at_comms(&dog_.seen);
        if (st != TM_OK) {
            log_error("watchdog: %s", status_message());
            end_job(st);
        }
        if (now >= next) {
            channel_send(&dog_.seen);
            next = now + dog_.period;
        }
        const int late = late_rank(), failed = late < 0 ? stranding_rank(now) : -1;
        if (late < 0 && failed < 0) {
            report_at = 0;
            continue;
        }
        if (report_at <= 0) report_at = now + turn(now);
        if (now < report_at) continue;
        if (failed >= 0) end_job(report_failed(failed, now));
        report(late, now);
        end_job(TM_ERR_TIMEOUT);
    }
}

/* ---- start and stop ---- */

static enum status start_thread(void) {
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are the main thread's */
    int rc = pthread_create(&dog_.thread, NULL, run, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc != 0) return TM_FAIL(TM_ERR_INTERNAL, "the watchdog's thread: %s", strerror(rc));
    return TM_OK;
}

enum status par_watchdog_start(double deadline_s) {
    if (!(deadline_s >= 0)) return TM_FAIL(TM_ERR_DECK, "watchdog deadline %g s: expected >= 0", deadline_s);
    if (deadline_s == 0 || par_size() == 1 || dog_.on) return TM_OK;
    dog_.deadline = deadline_s;
    dog_.period = fmin(1, deadline_s / 4);
    dog_.started = clock_seconds();
    dog_.ranks = par_size();
    dog_.monitor = -1;
    for (int k = 0; k < channel_monitors(); k++)
        if (channel_monitor_rank(k) == par_rank()) dog_.monitor = k;
    if (channel_fd() < 0) log_warn("watchdog: no UDP socket: it will not know where the other ranks are");
    if (dog_.monitor >= 0 && channel_fd() >= 0) TM_TRY(mem_alloc(&dog_.peer, (size_t)dog_.ranks, sizeof *dog_.peer));
    if (gethostname(here_.beat.host, BEAT_TEXT - 1) != 0) text(here_.beat.host, "?");
    dog_.seen = own_beat(dog_.started);
    dog_.stop_fd = eventfd(0, EFD_CLOEXEC);
    enum status st =
        dog_.stop_fd < 0 ? TM_FAIL(TM_ERR_INTERNAL, "the watchdog's eventfd: %s", strerror(errno)) : start_thread();
    if (st != TM_OK) {
        if (dog_.stop_fd >= 0) close(dog_.stop_fd);
        mem_free(&dog_.peer);
        return st;
    }
    dog_.on = true;
    return TM_OK;
}

void par_watchdog_stop(void) {
    if (!dog_.on) return;
    uint64_t one = 1;
    if (write(dog_.stop_fd, &one, sizeof one) != sizeof one) log_warn("watchdog: %s", strerror(errno));
    pthread_join(dog_.thread, NULL);
    close(dog_.stop_fd);
    mem_free(&dog_.peer);
    dog_.on = false;
    here_.since = 0;
}
