/* Opening GGUF files: every count, length and offset of a file by others is checked here. */
#include "hub/gguf.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/size.h"
#include "base/str.h"
#include "hub/gguf_file.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF values are used as they lie in the file");

/* Far above any model; they bound what a hostile file can make us allocate. */
enum { KEYS_MAX = 1 << 16, TENSORS_MAX = 1 << 20, NAME_MAX_BYTES = 65535, ALIGNMENT = 32, ALIGNMENT_MAX = 1 << 20 };
/* The least bytes of a key (length, type, one-byte value), of a tensor (length, rank, one size, type, offset). */
enum { KEY_BYTES = 8 + 4 + 1, TENSOR_BYTES = 8 + 4 + 8 + 4 + 8 };

static const struct {
    const char *name;
    int id, elems, bytes;
} types[] = {
#define GGML(id, name, elems, bytes) {#name, id, elems, bytes},
#include "numfmt/ggml.def"
#undef GGML
};
enum { TYPES = sizeof types / sizeof *types };

const struct gguf_kind gguf_kinds[GGUF_KINDS] = {
#define KIND(name, text, bytes) {text, bytes},
    GGUF_KIND_LIST(KIND)
#undef KIND
};

/* --- reading in order ------------------------------------------------------------------------------------------------------ */

enum status gguf_take(struct gguf_cursor *c, void *out, size_t n, const char *what) {
    const struct hub_gguf *g = c->g;
    if (c->at > g->bytes || (uint64_t)n > (uint64_t)(g->bytes - c->at))
        return TM_FAIL(TM_ERR_FORMAT, "%s is truncated: %s needs %zu bytes at byte %lld, the file has %lld", g->path,
                       what, n, (long long)c->at, (long long)g->bytes);
    if (n > sizeof c->buffer / 2) {
        TM_TRY(file_pread(g->fd, g->path, out, n, c->at));
    } else {
        if (c->at < c->from || c->at + (int64_t)n > c->from + c->n) {
            c->from = c->at;
            c->n = size_min((int64_t)sizeof c->buffer, g->bytes - c->at);
            TM_TRY(file_pread(g->fd, g->path, c->buffer, (size_t)c->n, c->at));
        }
        memcpy(out, c->buffer + (c->at - c->from), n);
    }
    c->at += (int64_t)n;
    return TM_OK;
}

enum status gguf_take_length(struct gguf_cursor *c, const char *what, size_t *out) {
    uint64_t n;
    TM_TRY(gguf_take(c, &n, sizeof n, what));
    if (n > (uint64_t)(c->g->bytes - c->at))
        return TM_FAIL(TM_ERR_FORMAT, "%s: %s is a text of %llu bytes, %lld are left in the file", c->g->path, what,
                       (unsigned long long)n, (long long)(c->g->bytes - c->at));
    *out = (size_t)n;
    return TM_OK;
}

/* A text without NUL bytes in new memory. */
static enum status take_text(struct gguf_cursor *c, const char *what, size_t most, char **out) {
    size_t n;
    *out = NULL;
    TM_TRY(gguf_take_length(c, what, &n));
    if (n > most)
        return TM_FAIL(TM_ERR_FORMAT, "%s: %s is a text of %zu bytes, at most %zu expected", c->g->path, what, n, most);
    TM_TRY(mem_alloc(out, n + 1, 1));
    enum status st = gguf_take(c, *out, n, what);
    if (st == TM_OK && strlen(*out) != n)
        st = TM_FAIL(TM_ERR_FORMAT, "%s: %s is a text with a NUL byte", c->g->path, what);
    if (st != TM_OK) mem_free(out);
    return st;
}

/* --- keys ------------------------------------------------------------------------------------------------------------------ */

static enum status take_kind(struct gguf_cursor *c, const char *key, enum gguf_kind_id *out) {
    uint32_t kind;
    TM_TRY(gguf_take(c, &kind, sizeof kind, key));
    if (kind >= GGUF_KINDS)
        return TM_FAIL(TM_ERR_FORMAT, "%s: key \"%s\" has value type %u, at most %d expected", c->g->path, key, kind,
                       GGUF_KINDS - 1);
    *out = (enum gguf_kind_id)kind;
    return TM_OK;
}

/* Note where an array lies and step over it. */
static enum status take_array(struct gguf_cursor *c, struct gguf_value *v) {
    uint64_t n;
    TM_TRY(take_kind(c, v->key, &v->of));
    if (v->of == GGUF_ARRAY)
        return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: key \"%s\" is an array of arrays", c->g->path, v->key);
    TM_TRY(gguf_take(c, &n, sizeof n, v->key));
    uint64_t least = v->of == GGUF_TEXT ? 8 : (uint64_t)gguf_kinds[v->of].bytes, left = (uint64_t)(c->g->bytes - c->at);
    if (n > left / least)
        return TM_FAIL(TM_ERR_FORMAT, "%s: key \"%s\" is an array of %llu values, which do not fit into the file",
                       c->g->path, v->key, (unsigned long long)n);
    v->n = (int64_t)n;
    v->at = c->at;
    if (v->of != GGUF_TEXT) {
        c->at += (int64_t)(n * least);
        return TM_OK;
    }
    for (uint64_t i = 0; i < n; i++) {
        size_t length;
        TM_TRY(gguf_take_length(c, v->key, &length));
        c->at += (int64_t)length;
    }
    return TM_OK;
}

static enum status take_value(struct gguf_cursor *c, struct gguf_value *v) {
    unsigned char raw[8];
    TM_TRY(take_text(c, "the name of a key", NAME_MAX_BYTES, &v->key));
    TM_TRY(take_kind(c, v->key, &v->kind));
    if (v->kind == GGUF_ARRAY) return take_array(c, v);
    if (v->kind == GGUF_TEXT) return take_text(c, v->key, (size_t)c->g->bytes, &v->text);
    TM_TRY(gguf_take(c, raw, (size_t)gguf_kinds[v->kind].bytes, v->key));
    if (!gguf_number(v->kind, raw, &v->i, &v->f))
        return TM_FAIL(TM_ERR_FORMAT, "%s: key \"%s\" holds %s that is out of range", c->g->path, v->key,
                       gguf_kinds[v->kind].name);
    return TM_OK;
}

static int by_key(const void *a, const void *b) {
    return strcmp(((const struct gguf_value *)a)->key, ((const struct gguf_value *)b)->key);
}

static enum status take_values(struct gguf_cursor *c, struct hub_gguf *g, uint64_t n) {
    if (n > KEYS_MAX || n > (uint64_t)(g->bytes - c->at) / KEY_BYTES)
        return TM_FAIL(TM_ERR_FORMAT, "%s: %llu keys do not fit into the file (at most %d are read)", g->path,
                       (unsigned long long)n, KEYS_MAX);
    TM_TRY(mem_alloc(&g->values, (size_t)n, sizeof *g->values));
    g->n_values = (size_t)n;
    for (size_t i = 0; i < g->n_values; i++) TM_TRY(take_value(c, &g->values[i]));
    if (n > 0) qsort(g->values, g->n_values, sizeof *g->values, by_key);
    for (size_t i = 1; i < g->n_values; i++)
        if (!by_key(&g->values[i - 1], &g->values[i]))
            return TM_FAIL(TM_ERR_FORMAT, "%s: key \"%s\" is there twice", g->path, g->values[i].key);
    return TM_OK;
}

const struct gguf_value *gguf_find_value(const struct hub_gguf *g, const char *key) {
    struct gguf_value wanted = {.key = (char *)(uintptr_t)key};
    return g->n_values ? bsearch(&wanted, g->values, g->n_values, sizeof wanted, by_key) : NULL;
}

/* --- tensors --------------------------------------------------------------------------------------------------------------- */

static enum status unknown_type(const struct hub_gguf *g, const char *name, uint32_t id) {
    struct str known = {0};
    for (int i = 0; i < TYPES; i++) TM_TRY(str_printf(&known, "%s%s", i ? ", " : "", types[i].name));
    enum status st = TM_FAIL(TM_ERR_UNSUPPORTED, "%s: tensor \"%s\" has type %u, which is not supported; supported: %s",
                             g->path, name, id, known.p);
    str_free(&known);
    return st;
}

static enum status take_shape(struct gguf_cursor *c, struct hub_gguf_tensor *t) {
    uint32_t rank;
    const char *path = c->g->path;
    TM_TRY(gguf_take(c, &rank, sizeof rank, t->name));
    if (rank < 1 || rank > HUB_GGUF_MAX_RANK)
        return TM_FAIL(TM_ERR_FORMAT, "%s: tensor \"%s\" has %u axes: expected 1 to %d", path, t->name, rank,
                       HUB_GGUF_MAX_RANK);
    t->rank = (int)rank;
    t->elems = 1;
    for (int i = t->rank - 1; i >= 0; i--) {
        TM_TRY(gguf_take(c, &t->shape[i], sizeof t->shape[i], t->name));
        if (t->shape[i] < 1)
            return TM_FAIL(TM_ERR_FORMAT, "%s: tensor \"%s\": axis %d has size %lld", path, t->name, i,
                           (long long)t->shape[i]);
        if (!size_mul_i64(t->elems, t->shape[i], &t->elems))
            return TM_FAIL(TM_ERR_FORMAT, "%s: tensor \"%s\": the product of its shape overflows", path, t->name);
    }
    return TM_OK;
}

static enum status take_tensor(struct gguf_cursor *c, struct hub_gguf_tensor *t) {
    const char *path = c->g->path;
    uint32_t id;
    char *name;
    TM_TRY(take_text(c, "the name of a tensor", NAME_MAX_BYTES, &name));
    t->name = name;
    TM_TRY(take_shape(c, t));
    TM_TRY(gguf_take(c, &id, sizeof id, t->name));
    TM_TRY(gguf_take(c, &t->offset, sizeof t->offset, t->name));
    for (t->type = 0; t->type < TYPES && types[t->type].id != (int64_t)id;) t->type++;
    if (t->type == TYPES) return unknown_type(c->g, t->name, id);
    int64_t row = t->shape[t->rank - 1], block = types[t->type].elems;
    if (row % block)
        return TM_FAIL(TM_ERR_FORMAT, "%s: tensor \"%s\": rows of %lld elements are no multiple of %s's block of %lld",
                       path, t->name, (long long)row, types[t->type].name, (long long)block);
    if (!size_mul_i64(t->elems / block, types[t->type].bytes, &t->bytes))
        return TM_FAIL(TM_ERR_FORMAT, "%s: tensor \"%s\": the product of its shape overflows", path, t->name);
    return TM_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct hub_gguf_tensor *)a)->name, ((const struct hub_gguf_tensor *)b)->name);
}
static int by_offset(const void *a, const void *b) {
    const struct hub_gguf_tensor *x = a, *y = b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Offsets are aligned, inside the file, and no two tensors share a byte. Turns them into file positions. */
static enum status place_tensors(struct hub_gguf *g, int64_t end_of_header) {
    int64_t align, data, end = 0;
    TM_TRY(hub_gguf_get_i64(g, "general.alignment", ALIGNMENT, &align));
    if (align < 1 || align > ALIGNMENT_MAX || (align & (align - 1)))
        return TM_FAIL(TM_ERR_FORMAT, "%s: general.alignment = %lld: expected a power of two up to %d", g->path,
                       (long long)align, ALIGNMENT_MAX);
    data = (int64_t)size_align((size_t)end_of_header, (size_t)align);
    if (g->n_tensors) qsort(g->tensors, g->n_tensors, sizeof *g->tensors, by_offset);
    for (size_t i = 0; i < g->n_tensors; i++) {
        struct hub_gguf_tensor *t = &g->tensors[i];
        if (t->offset < 0 || t->offset % align)
            return TM_FAIL(TM_ERR_FORMAT, "%s: tensor \"%s\" begins at byte %lld of the data: no multiple of %lld",
                           g->path, t->name, (long long)t->offset, (long long)align);
        if (t->offset < end)
            return TM_FAIL(TM_ERR_FORMAT, "%s: tensor \"%s\" begins at byte %lld of the data, before \"%s\" ends",
                           g->path, t->name, (long long)t->offset, g->tensors[i - 1].name);
        if (data > g->bytes || t->offset > g->bytes - data || t->bytes > g->bytes - data - t->offset)
            return TM_FAIL(TM_ERR_FORMAT,
                           "%s is truncated: tensor \"%s\" needs %lld bytes at byte %llu, the file has %lld", g->path,
                           t->name, (long long)t->bytes, (unsigned long long)t->offset + (uint64_t)data,
                           (long long)g->bytes);
        end = t->offset + t->bytes;
        t->offset += data;
    }
    return TM_OK;
}

static enum status take_tensors(struct gguf_cursor *c, struct hub_gguf *g, uint64_t n) {
    if (n > TENSORS_MAX || n > (uint64_t)(g->bytes - c->at) / TENSOR_BYTES)
        return TM_FAIL(TM_ERR_FORMAT, "%s: %llu tensors do not fit into the file (at most %d are read)", g->path,
                       (unsigned long long)n, TENSORS_MAX);
    TM_TRY(mem_alloc(&g->tensors, (size_t)n, sizeof *g->tensors));
    g->n_tensors = (size_t)n;
    for (size_t i = 0; i < g->n_tensors; i++) TM_TRY(take_tensor(c, &g->tensors[i]));
    TM_TRY(place_tensors(g, c->at));
    if (n > 0) qsort(g->tensors, g->n_tensors, sizeof *g->tensors, by_name);
    for (size_t i = 1; i < g->n_tensors; i++)
        if (!by_name(&g->tensors[i - 1], &g->tensors[i]))
            return TM_FAIL(TM_ERR_FORMAT, "%s: tensor \"%s\" is there twice", g->path, g->tensors[i].name);
    return TM_OK;
}

/* --- the file -------------------------------------------------------------------------------------------------------------- */

bool hub_is_gguf(const char *path) {
    char magic[4] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return false;
    bool is = pread(fd, magic, sizeof magic, 0) == sizeof magic && !memcmp(magic, "GGUF", sizeof magic);
    close(fd);
    return is;
}

static enum status open_file(const char *path, struct hub_gguf *g) {
    TM_TRY(file_open(path, &g->fd, &g->bytes));
    TM_TRY(mem_alloc(&g->path, strlen(path) + 1, 1));
    memcpy(g->path, path, strlen(path) + 1);
    return TM_OK;
}

static enum status check_version(const struct hub_gguf *g, uint32_t version) {
    if (version == 2 || version == 3) return TM_OK;
    if (version == 2u << 24 || version == 3u << 24)
        return TM_FAIL(TM_ERR_UNSUPPORTED, "%s is a big-endian GGUF: only little-endian ones are read", g->path);
    return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: GGUF version %u is not supported; supported: 2, 3", g->path, version);
}

static enum status load(struct hub_gguf *g, struct gguf_cursor *c) {
    char magic[4];
    uint32_t version;
    uint64_t tensors, keys;
    int64_t parts;
    TM_TRY(gguf_take(c, magic, sizeof magic, "a GGUF file"));
    if (memcmp(magic, "GGUF", sizeof magic)) return TM_FAIL(TM_ERR_FORMAT, "%s does not begin with \"GGUF\"", g->path);
    TM_TRY(gguf_take(c, &version, sizeof version, "the version"));
    TM_TRY(check_version(g, version));
    TM_TRY(gguf_take(c, &tensors, sizeof tensors, "the number of tensors"));
    TM_TRY(gguf_take(c, &keys, sizeof keys, "the number of keys"));
    TM_TRY(take_values(c, g, keys));
    TM_TRY(hub_gguf_get_i64(g, "split.count", 1, &parts));
    if (parts > 1)
        return TM_FAIL(TM_ERR_UNSUPPORTED, "%s is one of %lld files: merge them (llama-gguf-split --merge)", g->path,
                       (long long)parts);
    return take_tensors(c, g, tensors);
}

enum status hub_gguf_open(const char *path, struct hub_gguf **out) {
    struct gguf_cursor *c = NULL;
    TM_TRY(mem_alloc(out, 1, sizeof **out));
    enum status st = open_file(path, *out);
    if (st == TM_OK) st = mem_alloc(&c, 1, sizeof *c);
    if (st == TM_OK) {
        c->g = *out;
        st = load(*out, c);
    }
    mem_free(&c);
    if (st != TM_OK) hub_gguf_close(out);
    return st;
}

void hub_gguf_close(struct hub_gguf **out) {
    struct hub_gguf *g = *out;
    if (!g) return;
    if (g->fd >= 0) close(g->fd);
    for (size_t i = 0; i < g->n_values; i++) {
        mem_free(&g->values[i].key);
        mem_free(&g->values[i].text);
    }
    for (size_t i = 0; i < g->n_tensors; i++) mem_free(&g->tensors[i].name);
    mem_free(&g->values);
    mem_free(&g->tensors);
    mem_free(&g->path);
    mem_free(out);
}

const char *hub_gguf_path(const struct hub_gguf *g) { return g->path; }
int hub_gguf_count(const struct hub_gguf *g) { return (int)g->n_tensors; }
const struct hub_gguf_tensor *hub_gguf_tensor(const struct hub_gguf *g, int i) { return &g->tensors[i]; }
const char *hub_gguf_type(const struct hub_gguf_tensor *t) { return types[t->type].name; }

const struct hub_gguf_tensor *hub_gguf_find(const struct hub_gguf *g, const char *name) {
    struct hub_gguf_tensor wanted = {.name = name};
    return g->n_tensors ? bsearch(&wanted, g->tensors, g->n_tensors, sizeof wanted, by_name) : NULL;
}
