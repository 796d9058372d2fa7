/* Reading from an open GGUF file: values by key, arrays, and tensors decoded through a bounded buffer. */
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/size.h"
#include "hub/gguf_file.h"
#include "numfmt/ggml.h"

enum { BUFFER_BYTES = 1 << 20 };

/* --- values ---------------------------------------------------------------------------------------------------------------- */

#define NUMBER(name, type, is_integer)    \
    case GGUF_##name: {                   \
        type x;                           \
        memcpy(&x, raw, sizeof x);        \
        *f = (double)x;                   \
        *i = is_integer ? (int64_t)x : 0; \
        return true;                      \
    }

bool gguf_number(enum gguf_kind_id kind, const void *raw, int64_t *i, double *f) {
    uint64_t u;
    switch (kind) {
        NUMBER(U8, uint8_t, true)
        NUMBER(I8, int8_t, true)
        NUMBER(U16, uint16_t, true)
        NUMBER(I16, int16_t, true)
        NUMBER(U32, uint32_t, true)
        NUMBER(I32, int32_t, true)
        NUMBER(I64, int64_t, true)
    case GGUF_U64:
        memcpy(&u, raw, sizeof u);
        *i = (int64_t)u;
        *f = (double)u;
        return u <= INT64_MAX;
    case GGUF_BOOL:
        *i = *(const unsigned char *)raw;
        *f = (double)*i;
        return *i <= 1;
    case GGUF_F32: {
        float x;
        memcpy(&x, raw, sizeof x);
        *i = 0;
        *f = (double)x;
        return true;
    }
    case GGUF_F64:
        *i = 0;
        memcpy(f, raw, sizeof *f);
        return true;
    default: return false;
    }
}

static bool is_integer(enum gguf_kind_id k) {
    return gguf_kinds[k].bytes > 0 && k != GGUF_BOOL && k != GGUF_F32 && k != GGUF_F64;
}

static enum status wrong(const struct hub_gguf *g, const struct gguf_value *v, const char *expected) {
    return TM_FAIL(TM_ERR_FORMAT, "%s: \"%s\" is %s: expected %s", g->path, v->key, gguf_kinds[v->kind].name, expected);
}

bool hub_gguf_has(const struct hub_gguf *g, const char *key) { return gguf_find_value(g, key) != NULL; }

enum status hub_gguf_get_i64(const struct hub_gguf *g, const char *key, int64_t absent, int64_t *out) {
    const struct gguf_value *v = gguf_find_value(g, key);
    if (v && !is_integer(v->kind)) return wrong(g, v, "an integer");
    *out = v ? v->i : absent;
    return TM_OK;
}

enum status hub_gguf_need_i64(const struct hub_gguf *g, const char *key, int64_t *out) {
    if (!hub_gguf_has(g, key)) return TM_FAIL(TM_ERR_FORMAT, "%s: \"%s\" is missing", g->path, key);
    return hub_gguf_get_i64(g, key, 0, out);
}

enum status hub_gguf_get_f64(const struct hub_gguf *g, const char *key, double absent, double *out) {
    const struct gguf_value *v = gguf_find_value(g, key);
    if (v && !is_integer(v->kind) && v->kind != GGUF_F32 && v->kind != GGUF_F64) return wrong(g, v, "a number");
    *out = v ? v->f : absent;
    return TM_OK;
}

enum status hub_gguf_get_bool(const struct hub_gguf *g, const char *key, bool absent, bool *out) {
    const struct gguf_value *v = gguf_find_value(g, key);
    if (v && v->kind != GGUF_BOOL) return wrong(g, v, "true or false");
    *out = v ? v->i != 0 : absent;
    return TM_OK;
}

enum status hub_gguf_get_text(const struct hub_gguf *g, const char *key, const char *absent, const char **out) {
    const struct gguf_value *v = gguf_find_value(g, key);
    if (v && v->kind != GGUF_TEXT) return wrong(g, v, "a text");
    *out = v ? v->text : absent;
    return TM_OK;
}

/* --- arrays ---------------------------------------------------------------------------------------------------------------- */

/* The bytes of all texts, less than the array takes in the file: there each has 8 bytes of length, here one of NUL. */
static enum status take_texts(struct gguf_cursor *c, const struct gguf_value *v, struct hub_gguf_texts *out) {
    int64_t total = 0;
    c->at = v->at;
    for (int64_t i = 0; i < v->n; i++) {
        size_t n;
        TM_TRY(gguf_take_length(c, v->key, &n));
        c->at += (int64_t)n;
        total += (int64_t)n + 1;
    }
    TM_TRY(mem_alloc(&out->bytes, (size_t)total, 1));
    TM_TRY(mem_alloc(&out->at, (size_t)v->n, sizeof *out->at));
    char *put = out->bytes;
    c->at = v->at;
    for (out->n = 0; out->n < v->n; out->n++) {
        size_t n;
        TM_TRY(gguf_take_length(c, v->key, &n));
        if ((int64_t)n >= out->bytes + total - put) return TM_FAIL(TM_ERR_FORMAT, "%s has changed", c->g->path);
        TM_TRY(gguf_take(c, put, n, v->key));
        if (strlen(put) != n)
            return TM_FAIL(TM_ERR_FORMAT, "%s: \"%s\"[%lld] is a text with a NUL byte", c->g->path, v->key,
                           (long long)out->n);
        out->at[out->n] = put;
        put += n + 1;
    }
    return TM_OK;
}

enum status hub_gguf_get_texts(const struct hub_gguf *g, const char *key, struct hub_gguf_texts *out) {
    const struct gguf_value *v = gguf_find_value(g, key);
    struct gguf_cursor *c;
    *out = (struct hub_gguf_texts){0};
    if (!v) return TM_OK;
    if (v->kind != GGUF_ARRAY || (v->of != GGUF_TEXT && v->n > 0)) return wrong(g, v, "an array of texts");
    TM_TRY(mem_alloc(&c, 1, sizeof *c));
    c->g = g;
    enum status st = take_texts(c, v, out);
    mem_free(&c);
    if (st != TM_OK) hub_gguf_texts_free(out);
    return st;
}

void hub_gguf_texts_free(struct hub_gguf_texts *t) {
    mem_free(&t->bytes);
    mem_free(&t->at);
    *t = (struct hub_gguf_texts){0};
}

enum status hub_gguf_get_numbers(const struct hub_gguf *g, const char *key, double **out, int64_t *n) {
    const struct gguf_value *v = gguf_find_value(g, key);
    struct gguf_cursor *c;
    *out = NULL;
    *n = 0;
    if (!v) return TM_OK;
    if (v->kind != GGUF_ARRAY || (gguf_kinds[v->of].bytes == 0 && v->n > 0)) return wrong(g, v, "an array of numbers");
    TM_TRY(mem_alloc(&c, 1, sizeof *c));
    *c = (struct gguf_cursor){.g = g, .at = v->at};
    enum status st = mem_alloc(out, (size_t)v->n, sizeof **out);
    for (int64_t i = 0; i < v->n && st == TM_OK; i++) {
        unsigned char raw[8];
        int64_t unused;
        st = gguf_take(c, raw, (size_t)gguf_kinds[v->of].bytes, key);
        if (st == TM_OK && !gguf_number(v->of, raw, &unused, &(*out)[i]))
            st = TM_FAIL(TM_ERR_FORMAT, "%s: \"%s\"[%lld] is out of range", g->path, key, (long long)i);
    }
    mem_free(&c);
    if (st != TM_OK) mem_free(out);
    *n = st == TM_OK ? v->n : 0;
    return st;
}

/* --- tensors --------------------------------------------------------------------------------------------------------------- */

/* Decode n blocks. */
typedef void (*decode_fn)(const uint8_t *in, int64_t n, float *out);

#define GGML(id, name, elems, bytes)                                                         \
    static void decode_##name(const uint8_t *in, int64_t n, float *out) {                    \
        for (int64_t i = 0; i < n; i++) ggml_decode_##name(in + (bytes)*i, out + (elems)*i); \
    }
#include "numfmt/ggml.def"
#undef GGML

static const struct {
    int elems, bytes;
    decode_fn decode;
} types[] = {
#define GGML(id, name, elems, bytes) {elems, bytes, decode_##name},
#include "numfmt/ggml.def"
#undef GGML
};

enum status hub_gguf_read(const struct hub_gguf *g, const struct hub_gguf_tensor *t, int64_t first, int64_t n,
                          float *out) {
    int64_t block = types[t->type].elems, bytes = types[t->type].bytes;
    uint8_t *buffer;
    if (first < 0 || n < 0 || first > t->elems || n > t->elems - first || first % block || n % block)
        return TM_FAIL(TM_ERR_SHAPE, "%s: elements [%lld, %lld) of tensor \"%s\", which has %lld in blocks of %lld",
                       g->path, (long long)first, (long long)(first + n), t->name, (long long)t->elems,
                       (long long)block);
    int64_t blocks = n / block, step = size_min(blocks, BUFFER_BYTES / bytes);
    TM_TRY(mem_alloc(&buffer, (size_t)step, (size_t)bytes));
    enum status st = TM_OK;
    for (int64_t done = 0; done < blocks && st == TM_OK; done += step) {
        int64_t k = size_min(step, blocks - done);
        st = file_pread(g->fd, g->path, buffer, (size_t)(k * bytes), t->offset + (first / block + done) * bytes);
        if (st == TM_OK) types[t->type].decode(buffer, k, out + done * block);
    }
    mem_free(&buffer);
    return st;
}
