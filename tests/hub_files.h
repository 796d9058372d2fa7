/* For the tests of hub/: a scratch directory, hand-made safetensors files, and where the shared goldens are. */
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "tap.h"

static char scratch[64], shared[512];

static inline void scratch_open(void) {
    snprintf(scratch, sizeof scratch, "/tmp/temper-hub-XXXXXX");
    ok(mkdtemp(scratch) != NULL, "scratch directory");
}
static inline void scratch_close(void) { is_status(file_remove_tree(scratch), TM_OK); }

/* A path in the scratch directory; good until the fourth call after it. */
static inline const char *in_scratch(const char *name) {
    static char path[4][256];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", scratch, name);
    return path[turn];
}

/* The bytes of a file whose header is `header` and whose length field says `length`, with n bytes of data (NULL: 0, 1, 2, ...). */
static inline void put_file(const char *name, const char *header, uint64_t length, const void *data, size_t n) {
    size_t h = strlen(header);
    unsigned char *b;
    must(mem_alloc(&b, 8 + h + n, 1));
    memcpy(b, &length, 8);
    memcpy(b + 8, header, h);
    for (size_t i = 0; i < n; i++) b[8 + h + i] = data ? ((const unsigned char *)data)[i] : (unsigned char)i;
    must(file_write(in_scratch(name), b, 8 + h + n));
    mem_free(&b);
}

/* Looks for <shared>/golden; false when it is not on this machine. */
static inline bool find_shared(void) {
    const char *dirs[] = {getenv("TEMPER_SHARED"), "../shared", "../../shared"};
    for (int i = 0; i < 3; i++) {
        snprintf(shared, sizeof shared, "%s/golden", dirs[i] ? dirs[i] : "/nowhere");
        if (access(shared, R_OK) == 0) return true;
    }
    return false;
}
static inline const char *in_shared(const char *path) {
    static char full[2][1024];
    static int turn;
    turn = !turn;
    snprintf(full[turn], sizeof full[turn], "%s/%s", shared, path);
    return full[turn];
}
