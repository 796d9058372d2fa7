/* GGUF files (llama.cpp), version 2 and 3: metadata by key, tensors by name, decoded to fp32 in pieces.
 *
 * A file is: "GGUF" | version | number of tensors, of keys | keys: name, type, value | tensors: name, shape, type, offset | padding to
 * general.alignment | data. Everything is little-endian; counts and lengths are 64 bits and are not to be believed: all of them are
 * checked against the file's size when it is opened. Texts and arrays of numbers are read when they are asked for, so a handle is small.
 * All functions are Local; the handle keeps its file open and may be read from several threads at once.
 * Source: the GGUF specification in the docs of ggml. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { HUB_GGUF_MAX_RANK = 4 };

struct hub_gguf;

struct hub_gguf_tensor {
    const char *name; /* owned by the handle */
    int type;         /* row of numfmt/ggml.def */
    int rank;
    int64_t shape[HUB_GGUF_MAX_RANK]; /* row-major, outermost first (the file has it the other way round) */
    int64_t elems, bytes, offset;     /* offset: of its first byte in the file */
};

/* Does the file begin as a GGUF does? False too when it cannot be read. */
bool hub_is_gguf(const char *path);
/* The caller closes with hub_gguf_close. Errors: IO; FORMAT (damaged, naming key or tensor); UNSUPPORTED (version, tensor type, one
 * file of several); MEMORY. */
enum status hub_gguf_open(const char *path, struct hub_gguf **out);
void hub_gguf_close(struct hub_gguf **g);
const char *hub_gguf_path(const struct hub_gguf *g);

/* Tensors in the order of their names (bytewise). hub_gguf_find: NULL when there is none of that name. */
int hub_gguf_count(const struct hub_gguf *g);
const struct hub_gguf_tensor *hub_gguf_tensor(const struct hub_gguf *g, int i);
const struct hub_gguf_tensor *hub_gguf_find(const struct hub_gguf *g, const char *name);
const char *hub_gguf_type(const struct hub_gguf_tensor *t); /* "Q4_K" */
/* Decode elements [first, first + n), row-major, into out. Both are multiples of the type's block, which every row of the last axis is;
 * bytes go through a buffer of at most 1 MiB. Errors: SHAPE, IO, FORMAT (the file became shorter), MEMORY. */
enum status hub_gguf_read(const struct hub_gguf *g, const struct hub_gguf_tensor *t, int64_t first, int64_t n,
                          float *out);

/* Values by key. An absent key gives `absent` (get) or raises FORMAT (need); another type raises FORMAT. Integers of any width pass as
 * i64, and as f64. Texts are owned by the handle; one with a NUL byte raises FORMAT. */
bool hub_gguf_has(const struct hub_gguf *g, const char *key);
enum status hub_gguf_get_i64(const struct hub_gguf *g, const char *key, int64_t absent, int64_t *out);
enum status hub_gguf_need_i64(const struct hub_gguf *g, const char *key, int64_t *out);
enum status hub_gguf_get_f64(const struct hub_gguf *g, const char *key, double absent, double *out);
enum status hub_gguf_get_bool(const struct hub_gguf *g, const char *key, bool absent, bool *out);
enum status hub_gguf_get_text(const struct hub_gguf *g, const char *key, const char *absent, const char **out);

/* An array of texts: text i is at[i], NUL-terminated. Free with hub_gguf_texts_free. */
struct hub_gguf_texts {
    char *bytes;
    const char **at;
    int64_t n;
};
/* n = 0 when the key is absent. Errors: FORMAT (another type, a text with a NUL byte), IO, MEMORY. */
enum status hub_gguf_get_texts(const struct hub_gguf *g, const char *key, struct hub_gguf_texts *out);
void hub_gguf_texts_free(struct hub_gguf_texts *t);
/* An array of numbers of any type; free with mem_free. As above. */
enum status hub_gguf_get_numbers(const struct hub_gguf *g, const char *key, double **out, int64_t *n);
