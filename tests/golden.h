/* The peers' reference data for tests: where it lies, and a minimal reader of safetensors files (trusted: made by our scripts). */
#pragma once

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "tap.h"

/* The folder with the goldens ($TEMPER_SHARED, or beside the checkout), or NULL. */
static inline const char *golden_root(void) {
    static const char *const places[] = {"../shared", "../../shared"};
    const char *env = getenv("TEMPER_SHARED");
    if (env) return file_is_dir(env) ? env : NULL;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        if (file_is_dir(places[i])) return places[i];
    return NULL;
}

struct golden {
    char path[1024];
    char *bytes;
    size_t n;
    json_t *header;
    const char *data;
};
struct golden_tensor {
    const char *dtype; /* "BF16" */
    int rank;
    int64_t shape[8], elems;
    const void *data;
    size_t bytes;
};

static inline bool golden_open(struct golden *g, const char *path) {
    uint64_t header = 0;
    memset(g, 0, sizeof *g);
    snprintf(g->path, sizeof g->path, "%s", path);
    if (file_read(path, 1u << 28, &g->bytes, &g->n) != TM_OK) return false;
    memcpy(&header, g->bytes, 8);
    if (header > g->n - 8 || json_read_buffer(g->bytes + 8, header, path, &g->header) != TM_OK) return false;
    g->data = g->bytes + 8 + header;
    return true;
}
static inline void golden_close(struct golden *g) {
    mem_free(&g->bytes);
    json_decref(g->header);
}
/* False when there is no tensor of this name. */
static inline bool golden_find(const struct golden *g, const char *name, struct golden_tensor *t) {
    const json_t *j = json_object_get(g->header, name), *shape = json_object_get(j, "shape");
    if (!j) return false;
    *t = (struct golden_tensor){.dtype = json_string_value(json_object_get(j, "dtype")), .elems = 1};
    t->rank = (int)json_array_size(shape);
    for (int i = 0; i < t->rank; i++) {
        t->shape[i] = json_integer_value(json_array_get(shape, (size_t)i));
        t->elems *= t->shape[i];
    }
    const json_t *at = json_object_get(j, "data_offsets");
    int64_t begin = json_integer_value(json_array_get(at, 0)), end = json_integer_value(json_array_get(at, 1));
    t->data = g->data + begin;
    t->bytes = (size_t)(end - begin);
    return true;
}
/* As golden_find; the test ends when there is none. */
static inline struct golden_tensor golden_need(const struct golden *g, const char *name) {
    struct golden_tensor t;
    if (!golden_find(g, name, &t)) {
        ok(false, "%s holds %s", g->path, name);
        exit(tap_done());
    }
    return t;
}
