/* A preloaded library that makes calls on files fail: FAULTIO=CALL:ERRNO:NTH:RANK, for paths that contain FAULTIO_PATH.
 * CALL: write pwrite fsync close rename open, or `clock`. ERRNO: a name below; `short` (half of the bytes are written) and `EINTR` happen
 * at every NTH call, the others at the NTH one alone. `clock` is a wall clock that goes back by an hour at every look at it. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const struct {
    const char *name;
    int number;
} errors[] = {{"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT}, {"EIO", EIO},    {"EFAULT", EFAULT},
              {"EINTR", EINTR},   {"EACCES", EACCES}, {"EROFS", EROFS}};

static struct {
    bool read, mine, shorter;
    char call[16];
    int number, nth, seen;
    const char *path;
} fault_;

static void read_environment(void) {
    const char *text = getenv("FAULTIO"), *rank = getenv("OMPI_COMM_WORLD_RANK");
    char word[16] = "", who[16] = "*";
    fault_.read = true;
    fault_.path = getenv("FAULTIO_PATH");
    if (!text || sscanf(text, "%15[^:]:%15[^:]:%d:%15s", fault_.call, word, &fault_.nth, who) < 1) return;
    fault_.mine = !strcmp(who, "*") || (rank && !strcmp(who, rank));
    fault_.shorter = !strcmp(word, "short");
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (!strcmp(word, errors[i].name)) fault_.number = errors[i].number;
}

static bool due(const char *call, const char *path) {
    if (!fault_.read) read_environment();
    if (!fault_.mine || strcmp(call, fault_.call) || !fault_.path || !strstr(path, fault_.path)) return false;
    fault_.seen++;
    if (fault_.shorter || fault_.number == EINTR) return fault_.seen % fault_.nth == 0;
    return fault_.seen == fault_.nth;
}

static bool due_fd(const char *call, int fd) {
    char link[64], path[4096];
    if (fault_.read && !fault_.mine) return false;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return false;
    path[n] = 0;
    return due(call, path);
}

/* The function that this one stands before. */
#define REAL(type, name, ...)         \
    static type (*real)(__VA_ARGS__); \
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name);

ssize_t write(int fd, const void *p, size_t n) {
    REAL(ssize_t, write, int, const void *, size_t)
    if (!due_fd("write", fd)) return real(fd, p, n);
    if (fault_.shorter) return real(fd, p, n > 1 ? n / 2 : n);
    errno = fault_.number;
    return -1;
}
ssize_t pwrite(int fd, const void *p, size_t n, off_t at) {
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t)
    if (!due_fd("pwrite", fd)) return real(fd, p, n, at);
    if (fault_.shorter) return real(fd, p, n > 1 ? n / 2 : n, at);
    errno = fault_.number;
    return -1;
}
ssize_t pwrite64(int fd, const void *p, size_t n, off_t at) { return pwrite(fd, p, n, at); }
int fsync(int fd) {
    REAL(int, fsync, int)
    if (!due_fd("fsync", fd)) return real(fd);
    errno = fault_.number;
    return -1;
}
int close(int fd) {
    REAL(int, close, int)
    bool fail = due_fd("close", fd);
    int rc = real(fd);
    if (!fail) return rc;
    errno = fault_.number;
    return -1;
}
int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *)
    if (!due("rename", to)) return real(from, to);
    errno = fault_.number;
    return -1;
}
int open(const char *path, int flags, ...) {
    REAL(int, open, const char *, int, ...)
    va_list a;
    va_start(a, flags);
    int mode = flags & O_CREAT ? va_arg(a, int) : 0;
    va_end(a);
    if (!(flags & O_CREAT) || !due("open", path)) return real(path, flags, mode);
    errno = fault_.number;
    return -1;
}
int open64(const char *path, int flags, ...) {
    va_list a;
    va_start(a, flags);
    int mode = flags & O_CREAT ? va_arg(a, int) : 0;
    va_end(a);
    return open(path, flags, mode);
}

/* ---- the wall clock ---- */
static bool backwards(void) {
    if (!fault_.read) read_environment();
    return !strcmp(fault_.call, "clock");
}
static time_t earlier(time_t now) { return now - 3600 * (time_t)++fault_.seen; }

int clock_gettime(clockid_t id, struct timespec *t) {
    REAL(int, clock_gettime, clockid_t, struct timespec *)
    int rc = real(id, t);
    if (id == CLOCK_REALTIME && backwards()) t->tv_sec = earlier(t->tv_sec);
    return rc;
}
time_t time(time_t *out) {
    REAL(time_t, time, time_t *)
    time_t now = real(NULL);
    if (backwards()) now = earlier(now);
    if (out) *out = now;
    return now;
}
int gettimeofday(struct timeval *t, void *zone) {
    REAL(int, gettimeofday, struct timeval *, void *)
    int rc = real(t, zone);
    if (backwards()) t->tv_sec = earlier(t->tv_sec);
    return rc;
}
