/* Files: whole reads, durable writes, directories; every error names the path and the system's reason. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* Open a regular file for reading; what else has the name (a pipe, a directory) neither blocks nor surprises. The caller closes *fd, which is -1
 * after an error. *bytes (may be NULL): its size. Local. */
enum status file_open(const char *path, int *fd, int64_t *bytes);
/* Read a whole file (at most max_bytes; larger raises FORMAT) into new memory, NUL-terminated; free with mem_free. Local. */
enum status file_read(const char *path, size_t max_bytes, char **text, size_t *n);
/* Write a whole file durably: to path.tmp, fsync, rename over path, fsync of the directory. A link of the first name is refused, one of the
 * second is replaced: nothing is written through links. Local. */
enum status file_write(const char *path, const void *bytes, size_t n);
/* Append bytes and fsync: for ledgers. A line of less than 4 KiB is not torn. */
enum status file_append(const char *path, const void *bytes, size_t n);
/* pread / pwrite until all n bytes are done (short transfers are continued); `path` is for the message. */
enum status file_pread(int fd, const char *path, void *out, size_t n, int64_t offset);
enum status file_pwrite(int fd, const char *path, const void *bytes, size_t n, int64_t offset);
/* Let the system start writing [0, end) of a growing file to the disk now, so that the fsync at its end finds little left: `*begun` (0 at first) is
 * how far that went; nothing is done until some MiB are new. A hint: it cannot fail. */
void file_write_behind(int fd, int64_t end, int64_t *begun);
/* mkdir -p. */
enum status file_make_dirs(const char *path);
/* rm -r of a directory tree; an absent path is fine. Does not follow links. */
enum status file_remove_tree(const char *path);
enum status file_sync_dir(const char *path);
/* fsync, again when a signal interrupts it; close, where an interrupted one has closed. 0, or -1 and errno. */
int file_sync(int fd);
int file_close(int fd);
bool file_exists(const char *path);
bool file_is_dir(const char *path);
/* Size in bytes, or -1. */
int64_t file_size(const char *path);
/* Bytes free for this user on the file system of `path`, or -1. */
int64_t file_free_bytes(const char *path);
