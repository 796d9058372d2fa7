/* The run directory's lock: an fcntl lock, which the kernel drops when the process ends in whatever way. The file's text says who holds it;
 * it is emptied at the end, so a text without a lock was left by a process that was killed. Where the file system has no locks the text
 * has to do: its process is asked for on this host, and believed on another. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/file.h"
#include "base/log.h"
#include "ckpt/ckpt.h"

enum { TEXT = 256, WORD = 64 };

struct holder {
    char text[TEXT]; /* as messages show it; "" = none */
    long pid;
    char host[WORD], job[WORD]; /* "" = not known */
};

/* The scheduler's number of this job. */
static const char *job_id(void) {
    static const char *const names[] = {"SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (getenv(names[i])) return getenv(names[i]);
    return "none";
}

static void this_process(struct holder *h) {
    char since[32] = "?";
    time_t now = time(NULL);
    struct tm t;
    *h = (struct holder){.pid = (long)getpid()};
    gethostname(h->host, sizeof h->host - 1);
    snprintf(h->job, sizeof h->job, "%s", job_id());
    if (gmtime_r(&now, &t)) strftime(since, sizeof since, "%Y-%m-%dT%H:%M:%SZ", &t);
    snprintf(h->text, sizeof h->text, "process %ld on %s, job %s, since %s", h->pid, h->host, h->job, since);
}

/* What the file says; anybody may have written it. */
static void read_holder(int fd, struct holder *h) {
    *h = (struct holder){0};
    ssize_t n = pread(fd, h->text, sizeof h->text - 1, 0);
    h->text[n > 0 ? n : 0] = 0;
    h->text[strcspn(h->text, "\n")] = 0;
    for (char *p = h->text; *p; p++)
        if ((unsigned char)*p < ' ') *p = '?';
    int words = sscanf(h->text, "process %ld on %63[^, ], job %63[^, ]", &h->pid, h->host, h->job);
    if (words != 3 || h->pid > INT32_MAX) h->pid = 0;
}

static enum status held(const char *path, const struct holder *h, const char *advice) {
    return TM_FAIL(TM_ERR_DECK, "run directory in use: %s is locked by %s; give another run.dir, wait%s", path,
                   *h->text ? h->text : "a process that has not said its name yet", advice);
}

/* Without locks. Two processes that start in the same moment are not told apart. A scheduler starts a job again only when its processes are
 * gone, so the same job number is no other job. */
static enum status check_text(const char *path, const struct holder *h, const struct holder *me) {
    if (!*h->text) return TM_OK;
    if (h->pid > 0 && !strcmp(h->host, me->host))
        return h->pid != me->pid && (kill((pid_t)h->pid, 0) == 0 || errno == EPERM) ? held(path, h, "") : TM_OK;
    if (h->pid > 0 && strcmp(h->job, "none") != 0 && !strcmp(h->job, me->job)) return TM_OK;
    return held(
        path, h,
        ", or remove this file when that process is gone: the file system has no locks, and another host cannot "
        "be asked");
}

/* 0, or the errno of the kernel's lock. */
static int take(int fd) {
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fault_here("ckpt", "nolock")) return ENOLCK;
    return fcntl(fd, F_SETLK, &l) == 0 ? 0 : errno;
}

static enum status lock_file(int fd, const char *path) {
    struct holder before, me;
    char line[TEXT + 1];
    this_process(&me);
    read_holder(fd, &before);
    int e = take(fd);
    if (e == EACCES || e == EAGAIN) return held(path, &before, "");
    if (e == ENOLCK || e == ENOSYS || e == EOPNOTSUPP || e == EINVAL) {
        TM_TRY(check_text(path, &before, &me));
        log_warn("%s: the file system has no locks (%s): another start in the same moment would not be noticed", path,
                 strerror(e));
    } else if (e) {
        return TM_FAIL(TM_ERR_IO, "cannot lock %s: %s", path, strerror(e));
    }
    if (*before.text) log_info("lock taken over from %s, which is gone", before.text);
    if (ftruncate(fd, 0) != 0) return TM_FAIL(TM_ERR_IO, "cannot write %s: %s", path, strerror(errno));
    int n = snprintf(line, sizeof line, "%s\n", me.text);
    return file_pwrite(fd, path, line, (size_t)n, 0);
}

enum status ckpt_lock_run(const char *run_dir, int *fd) {
    char path[4096];
    *fd = -1;
    TM_TRY(file_make_dirs(run_dir));
    TM_TRY(str_path(path, sizeof path, run_dir, ".lock"));
    int f = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (f < 0) return TM_FAIL(TM_ERR_IO, "cannot open %s: %s", path, strerror(errno));
    enum status st = lock_file(f, path);
    if (st != TM_OK)
        close(f);
    else
        *fd = f;
    return st;
}

void ckpt_unlock_run(int *fd) {
    if (*fd < 0) return;
    if (ftruncate(*fd, 0) != 0) log_warn("the run's lock file keeps its text: %s", strerror(errno));
    close(*fd);
    *fd = -1;
}
