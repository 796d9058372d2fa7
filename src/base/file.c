/* Files: whole reads, durable writes, directories. */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/mem.h"

static enum status io_error(const char *what, const char *path) {
    return TM_FAIL(TM_ERR_IO, "cannot %s %s: %s", what, path, strerror(errno));
}

enum status file_open(const char *path, int *fd, int64_t *bytes) {
    struct stat s;
    enum status st = TM_OK;
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0) return io_error("open", path);
    if (fstat(*fd, &s) != 0)
        st = io_error("stat", path);
    else if (!S_ISREG(s.st_mode))
        st = TM_FAIL(TM_ERR_IO, "%s is not a regular file", path);
    else if (bytes)
        *bytes = (int64_t)s.st_size;
    if (st == TM_OK) return TM_OK;
    close(*fd);
    *fd = -1;
    return st;
}

enum status file_pread(int fd, const char *path, void *out, size_t n, int64_t offset) {
    for (char *p = out; n > 0;) {
        ssize_t got = pread(fd, p, n, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return io_error("read", path);
        if (got == 0)
            return TM_FAIL(TM_ERR_FORMAT, "%s ends at byte %lld, %zu bytes early", path, (long long)offset, n);
        p += got;
        n -= (size_t)got;
        offset += got;
    }
    return TM_OK;
}

enum status file_pwrite(int fd, const char *path, const void *bytes, size_t n, int64_t offset) {
    if (fault_here("file", "write")) {
        errno = ENOSPC;
        return io_error("write", path);
    }
    for (const char *p = bytes; n > 0;) {
        ssize_t put = pwrite(fd, p, n, (off_t)offset);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return io_error("write", path);
        p += put;
        n -= (size_t)put;
        offset += put;
    }
    return TM_OK;
}

void file_write_behind(int fd, int64_t end, int64_t *begun) {
    enum { STEP = 16 << 20 };
    if (end - *begun < STEP) return;
#ifdef SYNC_FILE_RANGE_WRITE
    (void)sync_file_range(fd, (off64_t)*begun, (off64_t)(end - *begun), SYNC_FILE_RANGE_WRITE);
#else
    (void)fd;
#endif
    *begun = end;
}

enum status file_read(const char *path, size_t max_bytes, char **text, size_t *n) {
    int fd;
    int64_t bytes;
    *text = NULL;
    *n = 0;
    TM_TRY(file_open(path, &fd, &bytes));
    enum status st = TM_OK;
    if ((uint64_t)bytes > max_bytes)
        st = TM_FAIL(TM_ERR_FORMAT, "%s has %lld bytes, at most %zu expected", path, (long long)bytes, max_bytes);
    if (st == TM_OK) st = mem_alloc(text, (size_t)bytes + 1, 1);
    if (st == TM_OK) st = file_pread(fd, path, *text, (size_t)bytes, 0);
    if (st == TM_OK)
        *n = (size_t)bytes;
    else
        mem_free(text);
    close(fd);
    return st;
}

int file_sync(int fd) {
    int rc;
    while ((rc = fsync(fd)) != 0 && errno == EINTR) continue;
    return rc;
}

int file_close(int fd) { return close(fd) != 0 && errno != EINTR ? -1 : 0; }

enum status file_sync_dir(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return io_error("open directory", path);
    int rc = file_sync(fd);
    close(fd);
    return rc == 0 || errno == EINVAL ? TM_OK : io_error("sync directory", path); /* EINVAL: file system without it */
}

static enum status sync_parent(const char *path) {
    char dir[4096];
    const char *slash = strrchr(path, '/');
    if (!slash) return file_sync_dir(".");
    snprintf(dir, sizeof dir, "%.*s", (int)(slash == path ? 1 : slash - path), path);
    return file_sync_dir(dir);
}

enum status file_write(const char *path, const void *bytes, size_t n) {
    char tmp[4096];
    if (snprintf(tmp, sizeof tmp, "%s.tmp", path) >= (int)sizeof tmp)
        return TM_FAIL(TM_ERR_IO, "path too long: %s", path);
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0) return io_error("create", tmp);
    enum status st = file_pwrite(fd, tmp, bytes, n, 0);
    if (st == TM_OK && file_sync(fd) != 0) st = io_error("sync", tmp);
    if (file_close(fd) != 0 && st == TM_OK) st = io_error("close", tmp);
    if (st == TM_OK && rename(tmp, path) != 0) st = io_error("rename", tmp);
    if (st != TM_OK) {
        unlink(tmp);
        return st;
    }
    return sync_parent(path);
}

enum status file_append(const char *path, const void *bytes, size_t n) {
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0) return io_error("open", path);
    enum status st = TM_OK;
    for (const char *p = bytes; st == TM_OK && n > 0;) { /* in one piece, but where the file system has it otherwise */
        ssize_t put = write(fd, p, n);
        if (put < 0 && errno != EINTR) st = io_error("append to", path);
        if (put < 0) continue;
        p += put;
        n -= (size_t)put;
    }
    if (st == TM_OK && file_sync(fd) != 0) st = io_error("sync", path);
    close(fd);
    return st;
}

enum status file_make_dirs(const char *path) {
    char p[4096];
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof p) return TM_FAIL(TM_ERR_IO, "bad directory name \"%s\"", path);
    memcpy(p, path, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (p[i] != '/' && p[i] != 0) continue;
        char keep = p[i];
        p[i] = 0;
        if (mkdir(p, 0777) != 0 && errno != EEXIST) return io_error("create directory", p);
        p[i] = keep;
    }
    return file_is_dir(path) ? TM_OK : TM_FAIL(TM_ERR_IO, "%s exists and is no directory", path);
}

enum status file_remove_tree(const char *path) {
    struct stat s;
    if (lstat(path, &s) != 0) return errno == ENOENT ? TM_OK : io_error("stat", path);
    if (!S_ISDIR(s.st_mode)) return unlink(path) == 0 || errno == ENOENT ? TM_OK : io_error("remove", path);
    DIR *d = opendir(path);
    if (!d) return io_error("open directory", path);
    enum status st = TM_OK;
    for (struct dirent *e; st == TM_OK && (e = readdir(d));) {
        char child[4096];
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        if (snprintf(child, sizeof child, "%s/%s", path, e->d_name) >= (int)sizeof child)
            st = TM_FAIL(TM_ERR_IO, "path too long: %s/%s", path, e->d_name);
        else
            st = file_remove_tree(child);
    }
    closedir(d);
    if (st == TM_OK && rmdir(path) != 0 && errno != ENOENT) st = io_error("remove", path);
    return st;
}

bool file_exists(const char *path) {
    struct stat s;
    return stat(path, &s) == 0;
}

bool file_is_dir(const char *path) {
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

int64_t file_size(const char *path) {
    struct stat s;
    return stat(path, &s) == 0 ? (int64_t)s.st_size : -1;
}

int64_t file_free_bytes(const char *path) {
    struct statvfs v;
    if (statvfs(path, &v) != 0) return -1;
    return (int64_t)v.f_bavail * (int64_t)v.f_frsize;
}
