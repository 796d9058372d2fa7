/* The points of a sweep on this machine, several at a time, for people without a batch system. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "stage/shared.h"
#include "stage/sweep.h"

extern char **environ;

enum job_state { WAITING, RUNS, ENDED };

struct job {
    int64_t point, number;
    char dir[4096];
    char shared[160]; /* the last level of what it shares; "" = nothing */
    int shared_stages;
    int ranks;
    enum job_state state;
    pid_t pid;
    int code; /* of the program; 128 + signal where one ended it */
    double begin;
};

struct runner {
    const struct stage_options *o;
    const struct deck *deck;
    struct job *v;
    int n, most, running;
    char self[4096];
};

/* --- signals ------------------------------------------------------------------------------------------------------------------ */
static volatile sig_atomic_t stops_, saves_;

static void on_signal(int number) {
    if (number == SIGUSR1)
        saves_ = saves_ + 1;
    else
        stops_ = stops_ + 1;
}

static void catch_signals(void) {
    static const int numbers[] = {SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
    struct sigaction a, old;
    memset(&a, 0, sizeof a);
    a.sa_handler = on_signal;
    a.sa_flags = SA_RESTART;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) sigaction(numbers[i], &a, NULL);
    if (sigaction(SIGHUP, NULL, &old) == 0 && old.sa_handler != SIG_IGN) sigaction(SIGHUP, &a, NULL); /* else nohup's */
    signal(SIGCHLD, SIG_DFL); /* ignored, as we may have been started, ends would not be told */
}

/* To the started process alone: mpirun passes SIGUSR1 and SIGUSR2 on to its ranks. `whole`: to its process group. */
static void tell(const struct runner *r, int number, bool whole) {
    for (int i = 0; i < r->n; i++)
        if (r->v[i].state == RUNS) kill(whole ? -r->v[i].pid : r->v[i].pid, number);
}

/* --- what there is to do ------------------------------------------------------------------------------------------------------ */
static enum status make_job(struct runner *r, int64_t number) {
    struct job *j = &r->v[r->n];
    struct deck *d;
    bool done;
    *j = (struct job){.point = r->n, .number = number};
    TM_TRY(deck_load_point(r->o->deck_path, r->o->sets, r->o->n_sets, j->point, NULL, &d));
    j->ranks = (int)(d->grid.tp * d->grid.cp * d->grid.pp * (d->grid.dp > 0 ? d->grid.dp : 1));
    enum status st = str_copy(j->dir, sizeof j->dir, d->run.dir);
    if (st == TM_OK) st = stage_all_finished(d->run.dir, d, &done);
    deck_free(&d);
    TM_TRY(st);
    char dir[160];
    for (int level = 0, stages; (stages = deck_sweep_shared(r->deck, number, level, dir, sizeof dir)); level++) {
        j->shared_stages = stages;
        TM_TRY(str_copy(j->shared, sizeof j->shared, dir));
    }
    if (done && strcmp(r->o->resume, "never")) j->state = ENDED;
    r->n++;
    return TM_OK;
}

/* Is what the point shares being made by one that runs now? Then it would only wait. */
static bool would_wait(const struct runner *r, const struct job *j) {
    char dir[4096];
    struct deck level = *r->deck;
    bool busy = false, made = false;
    for (int i = 0; i < r->n && *j->shared; i++) busy |= r->v[i].state == RUNS && !strcmp(r->v[i].shared, j->shared);
    if (!busy) return false;
    level.stages.n = j->shared_stages;
    if (str_path(dir, sizeof dir, r->deck->run.dir, j->shared) != TM_OK) return false;
    return stage_all_finished(dir, &level, &made) == TM_OK && !made;
}

static struct job *next_job(const struct runner *r) {
    for (int i = 0; i < r->n; i++)
        if (r->v[i].state == WAITING && !would_wait(r, &r->v[i])) return &r->v[i];
    return NULL;
}

/* --- a process a point -------------------------------------------------------------------------------------------------------- */
struct words { /* an argument list */
    char **v;
    size_t n, cap;
};

static enum status add_word(struct words *w, const char *text) {
    TM_TRY(mem_grow(&w->v, &w->cap, w->n + 2, sizeof *w->v));
    TM_TRY(mem_alloc(&w->v[w->n], strlen(text) + 1, 1));
    strcpy(w->v[w->n++], text);
    w->v[w->n] = NULL;
    return TM_OK;
}

static void free_words(struct words *w) {
    for (size_t i = 0; i < w->n; i++) mem_free(&w->v[i]);
    mem_free(&w->v);
}

static enum status add_mpirun(struct words *w, int ranks) {
    const char *text = getenv("MPIRUN") && *getenv("MPIRUN") ? getenv("MPIRUN") : "mpirun";
    char word[4096], number[16];
    for (size_t n; text += strspn(text, " "), n = strcspn(text, " "); text += n) {
        snprintf(word, sizeof word, "%.*s", (int)n, text);
        TM_TRY(add_word(w, word));
    }
    snprintf(number, sizeof number, "%d", ranks);
    TM_TRY(add_word(w, "-np"));
    return add_word(w, number);
}

static enum status command(const struct runner *r, const struct job *j, struct words *w) {
    const struct stage_options *o = r->o;
    char point[32];
    snprintf(point, sizeof point, "%lld", (long long)j->point);
    if (j->ranks > 1) TM_TRY(add_mpirun(w, j->ranks));
    TM_TRY(add_word(w, r->self));
    TM_TRY(add_word(w, o->deck_path));
    for (int i = 0; i < o->n_sets; i++) {
        TM_TRY(add_word(w, "--set"));
        TM_TRY(add_word(w, o->sets[i]));
    }
    for (int i = 0; i < o->n_allow; i++) {
        TM_TRY(add_word(w, "--allow-mismatch"));
        TM_TRY(add_word(w, o->allow[i]));
    }
    TM_TRY(add_word(w, "--resume"));
    TM_TRY(add_word(w, o->resume));
    if (o->profile) TM_TRY(add_word(w, "--profile"));
    TM_TRY(add_word(w, "--sweep-point"));
    return add_word(w, point);
}

/* In a process group of its own, so that Ctrl-C on a terminal reaches us alone; nothing to read; its output appended to <point>/log. */
static enum status spawn(struct job *j, char **words) {
    char log[4096];
    posix_spawnattr_t attr;
    posix_spawn_file_actions_t files;
    sigset_t none;
    TM_TRY(str_path(log, sizeof log, j->dir, "log"));
    sigemptyset(&none);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setpgroup(&attr, 0);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&files, 1, log, O_WRONLY | O_CREAT | O_APPEND, 0666);
    posix_spawn_file_actions_adddup2(&files, 1, 2);
    int error = posix_spawnp(&j->pid, words[0], &files, &attr, words, environ);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attr);
    return error ? TM_FAIL(TM_ERR_IO, "cannot start %s: %s", words[0], strerror(error)) : TM_OK;
}

static void say(const struct runner *r, const struct job *j, const char *what) {
    printf("point %lld of %d %s\n", (long long)j->point, r->n, what);
    fflush(stdout);
}

static enum status start(struct runner *r, struct job *j) {
    struct words w = {0};
    struct str text = {0};
    enum status st = file_make_dirs(j->dir);
    if (st == TM_OK) st = command(r, j, &w);
    if (st == TM_OK) st = spawn(j, w.v);
    free_words(&w);
    TM_TRY(st);
    j->state = RUNS;
    j->begin = clock_seconds();
    r->running++;
    st = str_printf(&text, "began on %d rank%s: ", j->ranks, j->ranks == 1 ? "" : "s");
    if (st == TM_OK) st = stage_sweep_values(r->deck, j->number, &text);
    if (st == TM_OK) say(r, j, text.p);
    str_free(&text);
    return st;
}

static void reap(struct runner *r) {
    for (int i = 0; i < r->n; i++) {
        struct job *j = &r->v[i];
        char text[4300];
        int status;
        if (j->state != RUNS || waitpid(j->pid, &status, WNOHANG) != j->pid) continue;
        j->state = ENDED;
        j->code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        r->running--;
        snprintf(text, sizeof text, "ended after %.1f s with exit code %d%s%s", clock_seconds() - j->begin, j->code,
                 j->code ? ": see " : "", j->code ? j->dir : "");
        say(r, j, text);
    }
}

/* --- all of them -------------------------------------------------------------------------------------------------------------- */
static enum status loop(struct runner *r) {
    static const struct timespec pause = {0, 50 * 1000 * 1000};
    int told = 0, saved = 0;
    for (;;) {
        struct job *j = NULL;
        for (; stops_ > told; told++) tell(r, told ? SIGTERM : SIGUSR2, told > 0);
        for (; saves_ > saved; saved++) tell(r, SIGUSR1, false);
        while (!stops_ && r->running < r->most && (j = next_job(r))) {
            enum status st = start(r, j);
            if (st != TM_OK && !r->running) return st;
            if (st != TM_OK) break; /* no more processes now: again when one has ended */
        }
        reap(r);
        if (!r->running && (stops_ || !next_job(r))) return TM_OK;
        nanosleep(&pause, NULL);
    }
}

/* The cores are shared by all processes, which do not know of each other; what the user has set stays. */
static void share_cores(const struct runner *r) {
    char threads[16];
    cpu_set_t cores;
    int ranks = 1;
    for (int i = 0; i < r->n; i++) ranks = r->v[i].ranks > ranks ? r->v[i].ranks : ranks;
    int n = sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) / (r->most * ranks) : 1;
    snprintf(threads, sizeof threads, "%d", n > 1 ? n : 1);
    setenv("OMP_NUM_THREADS", threads, 0);
    if (r->most < 2) return;
    setenv("OMPI_MCA_hwloc_base_binding_policy", "none", 0); /* each mpirun would bind to the first cores: Open MPI 4 */
    setenv("PRTE_MCA_hwloc_default_binding_policy", "none", 0); /* Open MPI 5 */
}

static enum status verdict(const struct runner *r) {
    const struct job *failed = NULL, *stopped = NULL;
    for (int i = r->n; i-- > 0;) {
        const struct job *j = &r->v[i];
        if (j->state == WAITING || j->code == TM_STOPPED || (stops_ && j->code > 128))
            stopped = j;
        else if (j->code)
            failed = j;
    }
    if (stopped && stops_) return TM_FAIL(TM_STOPPED, "stopped by a signal; the same command goes on from here");
    if (stopped)
        return TM_FAIL(TM_STOPPED, "point %lld stopped at a checkpoint; the same command goes on from there",
                       (long long)stopped->point);
    if (failed)
        return TM_FAIL(failed->code > 128 ? TM_ERR_INTERNAL : (enum status)failed->code,
                       "point %lld ended with exit code %d: see %s", (long long)failed->point, failed->code,
                       failed->dir);
    return TM_OK;
}

static enum status prepare(struct runner *r) {
    int done = 0;
    if (getenv("PMIX_RANK") || getenv("PMI_RANK") || getenv("OMPI_UNIVERSE_SIZE"))
        return TM_FAIL(TM_ERR_DECK, "--sweep-run starts the ranks itself: run it without mpirun or srun");
    if (!r->deck->sweep.n) return TM_FAIL(TM_ERR_DECK, "%s has no sweep", r->o->deck_path);
    ssize_t n = readlink("/proc/self/exe", r->self, sizeof r->self - 1);
    if (n <= 0) return TM_FAIL(TM_ERR_IO, "cannot read /proc/self/exe: %s", strerror(errno));
    r->self[n] = 0;
    TM_TRY(mem_alloc(&r->v, (size_t)deck_sweep_count(r->deck), sizeof *r->v));
    for (int64_t k = deck_sweep_next(r->deck, -1); k >= 0; k = deck_sweep_next(r->deck, k)) TM_TRY(make_job(r, k));
    for (int i = 0; i < r->n; i++) done += r->v[i].state == ENDED;
    if (done) printf("%d of %d points are done already\n", done, r->n);
    return TM_OK;
}

enum status stage_sweep_run(const struct stage_options *o, const struct deck *deck, int jobs) {
    struct runner r = {.o = o, .deck = deck, .most = jobs};
    struct str text = {0};
    catch_signals();
    enum status st = prepare(&r);
    if (st == TM_OK) {
        share_cores(&r);
        st = loop(&r);
    }
    if (st == TM_OK) st = stage_sweep_collect(o, deck, &text);
    if (text.len) printf("%s", text.p);
    fflush(stdout);
    if (st == TM_OK) st = verdict(&r);
    str_free(&text);
    mem_free(&r.v);
    return st;
}
