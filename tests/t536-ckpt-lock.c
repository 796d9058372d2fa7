/* TEST ranks=1 tier=1 */
/* ckpt/: the run directory's lock: who holds it is said, what a killed process left is taken over, with the kernel's locks and without. */
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/file.h"
#include "base/mem.h"
#include "ckpt/ckpt.h"
#include "tap.h"

static char run[64] = "/tmp/temper-lock-XXXXXX", path[128], host[64];

static void put(const char *text) { must(file_write(path, text, strlen(text))); }
static const char *text_of_file(void) {
    static char text[512];
    char *bytes;
    size_t n;
    must(file_read(path, sizeof text - 1, &bytes, &n));
    memcpy(text, bytes, n + 1);
    mem_free(&bytes);
    return text;
}

static void taken(const char *what) {
    int fd;
    is_status(ckpt_lock_run(run, &fd), TM_OK);
    ok(fd >= 0, "taken: %s", what);
    ckpt_unlock_run(&fd);
}
static void refused(const char *part, const char *what) {
    int fd;
    is_status(ckpt_lock_run(run, &fd), TM_ERR_DECK);
    ok(fd == -1 && strstr(status_message(), part) && strstr(status_message(), path), "%s: \"%s\" says %s", what,
       status_message(), part);
}

/* A process that holds the lock, or only lives. */
static pid_t start(bool locks) {
    int ready[2], fd = -1;
    char byte = 0;
    ok(pipe(ready) == 0, "a pipe");
    pid_t child = fork();
    if (child == 0) {
        byte = !locks || ckpt_lock_run(run, &fd) == TM_OK ? 'y' : 'n';
        if (write(ready[1], &byte, 1) == 1) pause();
        _exit(0);
    }
    ok(read(ready[0], &byte, 1) == 1 && byte == 'y', "a process");
    close(ready[0]);
    close(ready[1]);
    return child;
}
static void stop(pid_t child) {
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

static void kernel(void) {
    char want[160];
    int fd;
    setenv("SLURM_JOB_ID", "4711", 1);
    must(ckpt_lock_run(run, &fd));
    snprintf(want, sizeof want, "process %ld on %s, job 4711, since 2", (long)getpid(), host);
    ok(!strncmp(text_of_file(), want, strlen(want)), "the file says \"%s\"", text_of_file());
    ckpt_unlock_run(&fd);
    is_str(text_of_file(), "", "and nothing when it is given back");
    pid_t child = start(true);
    snprintf(want, sizeof want, "locked by process %ld on %s, job 4711, since 2", (long)child, host);
    refused(want, "another process");
    stop(child);
    ok(strstr(text_of_file(), "process ") != NULL, "a killed process leaves its name");
    taken("but no lock");
    put("process 1 on another-host, job 9, since 2026\n");
    taken("a name without a lock, of another host");
    put("\x1b[2J nonsense\n");
    taken("nonsense without a lock");
    unlink(path);
    must(file_write("/tmp/temper-lock-target", "keep", 4));
    ok(symlink("/tmp/temper-lock-target", path) == 0, "a link");
    is_status(ckpt_lock_run(run, &fd), TM_ERR_IO);
    is_int(file_size("/tmp/temper-lock-target"), 4, "nothing is written through a link");
    unlink(path);
    unlink("/tmp/temper-lock-target");
    taken("a new file");
}

static void text_alone(void) {
    char text[256], want[160];
    taken("an empty file");
    pid_t child = start(true);
    snprintf(want, sizeof want, "process %ld on %s, job 4711", (long)child, host);
    refused(want, "a process of this host that lives");
    stop(child);
    taken("of this host, gone");
    child = start(false);
    snprintf(text, sizeof text, "process %ld on another-host, job 9, since 2026\n", (long)child);
    stop(child);
    put(text);
    refused("job 9, since 2026; give another run.dir, wait, or remove this file when that process is gone",
            "of another host: no process is looked for here");
    put("process 1 on another-host, job 4711, since 2026\n");
    taken("of another host, but an earlier start of this job");
    setenv("SLURM_JOB_ID", "none", 1);
    put("process 1 on another-host, job none, since 2026\n");
    refused("another-host", "no job is no earlier start");
    put("process 99999999999999999999 on");
    refused("locked by process 99999999999999999999 on", "a text of others");
    unlink(path);
}

int main(void) {
    struct stat s;
    setenv("TEMPER_FAULT", "ckpt:nolock:*:0", 1);
    ok(mkdtemp(run) != NULL, "temporary directory");
    snprintf(path, sizeof path, "%s/.lock", run);
    gethostname(host, sizeof host - 1);
    umask(027);
    size_t before = mem_bytes();
    fault_suspend(true);
    kernel();
    ok(stat(path, &s) == 0 && (s.st_mode & 0777) == 0640, "the file has the user's umask");
    fault_suspend(false);
    text_alone();
    is_int(mem_bytes(), before, "nothing leaks");
    must(file_remove_tree(run));
    return tap_done();
}
