/* The run directory's lock: an fcntl lock, which the kernel drops when the process ends in whatever way. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "ckpt/ckpt.h"

/* Who holds it: the kernel knows the pid (of this host), the file's text the host. */
static enum status held(const char *path, int fd, struct flock *l) {
    char text[128] = "";
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = 0;
    text[strcspn(text, "\n")] = 0;
    if (fcntl(fd, F_GETLK, l) != 0 || l->l_type == F_UNLCK) l->l_pid = 0; /* gone in this moment */
    return TM_FAIL(TM_ERR_DECK,
                   "run directory in use: %s is locked by process %ld (it says: %s); give another run.dir or wait",
                   path, (long)l->l_pid, text);
}

enum status ckpt_lock_run(const char *run_dir, int *fd) {
    char path[4096], host[64] = "?", text[128];
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    *fd = -1;
    TM_TRY(file_make_dirs(run_dir));
    TM_TRY(str_path(path, sizeof path, run_dir, ".lock"));
    int f = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (f < 0) return TM_FAIL(TM_ERR_IO, "cannot open %s: %s", path, strerror(errno));
    enum status st = TM_OK;
    if (fcntl(f, F_SETLK, &l) != 0)
        st = errno == EACCES || errno == EAGAIN ? held(path, f, &l)
                                                : TM_FAIL(TM_ERR_IO, "cannot lock %s: %s", path, strerror(errno));
    gethostname(host, sizeof host - 1);
    int n = snprintf(text, sizeof text, "pid %ld on %s\n", (long)getpid(), host);
    if (st == TM_OK && ftruncate(f, 0) != 0) st = TM_FAIL(TM_ERR_IO, "cannot write %s: %s", path, strerror(errno));
    if (st == TM_OK) st = file_pwrite(f, path, text, (size_t)n, 0);
    if (st != TM_OK)
        close(f);
    else
        *fd = f;
    return st;
}

void ckpt_unlock_run(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}
