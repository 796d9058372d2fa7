/* What an open GGUF file is made of; for the files of this room. */
#pragma once

#include "hub/gguf.h"

/* Types of values, in the order of their numbers in the file: KIND(name, what messages call it, bytes of a value). */
#define GGUF_KIND_LIST(KIND)       \
    KIND(U8, "an integer", 1)      \
    KIND(I8, "an integer", 1)      \
    KIND(U16, "an integer", 2)     \
    KIND(I16, "an integer", 2)     \
    KIND(U32, "an integer", 4)     \
    KIND(I32, "an integer", 4)     \
    KIND(F32, "a number", 4)       \
    KIND(BOOL, "true or false", 1) \
    KIND(TEXT, "a text", 0)        \
    KIND(ARRAY, "an array", 0)     \
    KIND(U64, "an integer", 8)     \
    KIND(I64, "an integer", 8)     \
    KIND(F64, "a number", 8)
enum gguf_kind_id {
#define KIND(name, text, bytes) GGUF_##name,
    GGUF_KIND_LIST(KIND)
#undef KIND
        GGUF_KINDS
};
struct gguf_kind {
    const char *name;
    int bytes;
};
extern const struct gguf_kind gguf_kinds[GGUF_KINDS];

struct gguf_value {
    char *key;
    enum gguf_kind_id kind, of; /* of: what an array holds */
    char *text;
    int64_t i;
    double f;
    int64_t n, at; /* an array's length, and its place in the file */
};

struct hub_gguf {
    char *path;
    int fd;
    int64_t bytes;
    struct gguf_value *values;       /* by key */
    struct hub_gguf_tensor *tensors; /* by name */
    size_t n_values, n_tensors;
};

/* A place in the file that moves on as values are taken, through a buffer. */
struct gguf_cursor {
    const struct hub_gguf *g;
    int64_t at, from, n; /* the buffer holds bytes [from, from + n) */
    char buffer[1 << 16];
};
/* The next n bytes. Errors: FORMAT (the file ends before; `what` is for the message), IO. */
enum status gguf_take(struct gguf_cursor *c, void *out, size_t n, const char *what);
/* The length of the text that follows; it lies inside the file. */
enum status gguf_take_length(struct gguf_cursor *c, const char *what, size_t *out);

/* A value of a type that is neither text nor array; false when it is out of range. i is 0 for F32 and F64. */
bool gguf_number(enum gguf_kind_id kind, const void *raw, int64_t *i, double *f);
const struct gguf_value *gguf_find_value(const struct hub_gguf *g, const char *key);
