/* What the fuzz targets share: a scratch folder in memory, inputs cut into parts, and what holds for every input: no memory is left, and
 * it takes less than a second of processor time, however hostile. A target is one file: set_up, run, seeds, FUZZ_TARGET at its end. */
#pragma once

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"

struct fuzz_input {
    const uint8_t *p;
    size_t n;
};

static char fuzz_dir[128], fuzz_seeds_dir[512];

/* A property: libFuzzer takes the abort for a finding and keeps the input. */
static inline void fuzz_check(bool holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "does not hold: %s (%s)\n", what, status_message());
    abort();
}
#define fuzz_must(expr) fuzz_check((expr) == TM_OK, #expr)

/* --- files --- */
/* A path in the scratch folder; good until the fourth call after it. */
static inline const char *fuzz_path(const char *name) {
    static char path[4][256];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", fuzz_dir, name);
    return path[turn];
}
static inline void fuzz_write(const char *path, const void *bytes, size_t n) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    fuzz_check(fd >= 0 && write(fd, bytes, n) == (ssize_t)n, path);
    close(fd);
}
static inline void fuzz_put(const char *name, const void *bytes, size_t n) { fuzz_write(fuzz_path(name), bytes, n); }
static inline void fuzz_put_text(const char *name, const char *text) { fuzz_put(name, text, strlen(text)); }

static inline void fuzz_scratch_remove(void) { (void)file_remove_tree(fuzz_dir); }
static inline void fuzz_scratch_make(void) {
    const char *memory = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    const char *base = getenv("TMPDIR") ? getenv("TMPDIR") : memory;
    snprintf(fuzz_dir, sizeof fuzz_dir, "%s/temper-fuzz-XXXXXX", base);
    fuzz_check(mkdtemp(fuzz_dir) != NULL, fuzz_dir);
    atexit(fuzz_scratch_remove);
}

/* --- inputs --- */
/* Cut off the part before the next NUL byte (all, without one) as a text of its own; free with mem_free. */
static inline char *fuzz_take_text(struct fuzz_input *in) {
    const uint8_t *end = in->n ? memchr(in->p, 0, in->n) : NULL;
    size_t n = end ? (size_t)(end - in->p) : in->n;
    char *text;
    fuzz_must(mem_alloc(&text, n + 1, 1));
    if (n) memcpy(text, in->p, n);
    in->p += n + (end != NULL);
    in->n -= n + (end != NULL);
    return text;
}
/* Cut off one byte; 0 when there is none. */
static inline unsigned fuzz_take_byte(struct fuzz_input *in) {
    if (!in->n) return 0;
    in->n--;
    return *in->p++;
}
/* An input to begin with. */
static inline void fuzz_seed(const char *name, const void *bytes, size_t n) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", fuzz_seeds_dir, name);
    fuzz_write(path, bytes, n);
}
static inline void fuzz_seed_text(const char *name, const char *text) { fuzz_seed(name, text, strlen(text)); }

/* --- what libFuzzer calls --- */
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static inline double fuzz_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* --seeds=DIR as the first argument: write them there and end. */
#define FUZZ_TARGET(set_up, run, seeds)                                        \
    int LLVMFuzzerInitialize(int *argc, char ***argv) {                        \
        log_set_level(LOG_ERROR);                                              \
        fuzz_scratch_make();                                                   \
        set_up();                                                              \
        if (*argc < 2 || strncmp((*argv)[1], "--seeds=", 8)) return 0;         \
        snprintf(fuzz_seeds_dir, sizeof fuzz_seeds_dir, "%s", (*argv)[1] + 8); \
        fuzz_must(file_make_dirs(fuzz_seeds_dir));                             \
        seeds();                                                               \
        exit(0);                                                               \
    }                                                                          \
    int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {                \
        size_t before = mem_bytes();                                           \
        double begin = fuzz_seconds();                                         \
        run((struct fuzz_input){data, n});                                     \
        fuzz_check(mem_bytes() == before, "all memory is given back");         \
        fuzz_check(fuzz_seconds() - begin < 1, "it takes less than a second"); \
        return 0;                                                              \
    }
