/* Opening safetensors files and sharded directories: every bound of the format is checked here. */
#include "hub/safetensors.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/size.h"
#include "base/str.h"
#include "hub/model.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "safetensors data is used as it lies in the file");

enum { HEADER_MAX = 100000000, PATH_BYTES = 4096 }; /* the header bound of the reference implementation */

/* Pickles run code when they are read: they are known by name, and never opened. */
static enum status refuse_pickle(const char *path) {
    static const char *const endings[] = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"};
    size_t n = strlen(path);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t k = strlen(endings[i]);
        if (n > k && !strcmp(path + n - k, endings[i]))
            return TM_FAIL(TM_ERR_UNSUPPORTED,
                           "%s: %s files of PyTorch are pickles, which run code when they are read: expected "
                           "safetensors",
                           path, endings[i]);
    }
    return TM_OK;
}

/* --- one file ----------------------------------------------------------------------------------------------------------- */

static enum status open_file(const char *path, struct hub_file *f) {
    TM_TRY(file_open(path, &f->fd, &f->bytes));
    TM_TRY(mem_alloc(&f->path, strlen(path) + 1, 1));
    memcpy(f->path, path, strlen(path) + 1);
    return TM_OK;
}

/* Read and parse the header; *data is where the tensors' bytes begin. */
static enum status read_header(const struct hub_file *f, json_t **header, int64_t *data) {
    uint64_t n;
    *header = NULL;
    if (f->bytes < 8)
        return TM_FAIL(TM_ERR_FORMAT, "%s has %lld bytes: no safetensors file", f->path, (long long)f->bytes);
    TM_TRY(file_pread(f->fd, f->path, &n, 8, 0));
    if (n > HEADER_MAX)
        return TM_FAIL(TM_ERR_FORMAT, "%s: header of %llu bytes, at most %d expected: no safetensors file?", f->path,
                       (unsigned long long)n, HEADER_MAX);
    if ((int64_t)n > f->bytes - 8)
        return TM_FAIL(TM_ERR_FORMAT, "%s is truncated: its header needs %llu bytes, the file has %lld", f->path,
                       (unsigned long long)n + 8, (long long)f->bytes);
    char *text, name[PATH_BYTES];
    TM_TRY(mem_alloc(&text, (size_t)n + 1, 1));
    snprintf(name, sizeof name, "%s (header)", f->path);
    enum status st = file_pread(f->fd, f->path, text, (size_t)n, 8);
    if (st == TM_OK && text[0] != '{')
        st = TM_FAIL(TM_ERR_FORMAT, "%s: the header does not start with '{': no safetensors file?", f->path);
    if (st == TM_OK) st = json_read_buffer(text, (size_t)n, name, header);
    mem_free(&text);
    *data = 8 + (int64_t)n;
    return st;
}

static enum status bad(const char *path, const char *name, const char *what) {
    return TM_FAIL(TM_ERR_FORMAT, "%s: tensor \"%s\": %s", path, name, what);
}

/* One "name": {...} of the header. */
static enum status parse_entry(const char *path, const char *name, const json_t *info, struct hub_entry *e) {
    const json_t *shape = json_object_get(info, "shape"), *range = json_object_get(info, "data_offsets");
    const char *dtype = json_string_value(json_object_get(info, "dtype"));
    if (!dtype || !json_is_array(shape) || !json_is_array(range) || json_array_size(range) != 2)
        return bad(path, name, "expected {\"dtype\": text, \"shape\": [..], \"data_offsets\": [begin, end]}");
    if (!dtype_from_safetensors(dtype, &e->dtype))
        return TM_FAIL(TM_ERR_FORMAT, "%s: tensor \"%s\": unknown dtype \"%s\"", path, name, dtype);
    if (json_array_size(shape) > HUB_MAX_RANK)
        return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: tensor \"%s\" has %zu axes, at most %d are supported", path, name,
                       json_array_size(shape), HUB_MAX_RANK);
    e->rank = (int)json_array_size(shape);
    e->elems = 1;
    for (int i = 0; i < e->rank; i++) {
        const json_t *d = json_array_get(shape, (size_t)i);
        e->shape[i] = json_integer_value(d);
        if (!json_is_integer(d) || e->shape[i] < 0) return bad(path, name, "the shape is not a list of sizes");
        if (!size_mul_i64(e->elems, e->shape[i], &e->elems))
            return bad(path, name, "the product of its shape overflows");
    }
    if (!size_mul_i64(e->elems, (int64_t)dtype_bytes(e->dtype), &e->bytes))
        return bad(path, name, "the product of its shape overflows");
    const json_t *b = json_array_get(range, 0), *end = json_array_get(range, 1);
    if (!json_is_integer(b) || !json_is_integer(end) || json_integer_value(b) < 0 ||
        json_integer_value(end) < json_integer_value(b))
        return bad(path, name, "data_offsets is not [begin, end] with 0 <= begin <= end");
    e->offset = json_integer_value(b);
    if (json_integer_value(end) - e->offset != e->bytes)
        return TM_FAIL(TM_ERR_FORMAT, "%s: tensor \"%s\": data_offsets span %lld bytes, shape and dtype need %lld",
                       path, name, (long long)(json_integer_value(end) - e->offset), (long long)e->bytes);
    return TM_OK;
}

static enum status check_metadata(const char *path, json_t *metadata) {
    const char *key;
    json_t *value;
    if (!json_is_object(metadata)) return TM_FAIL(TM_ERR_FORMAT, "%s: \"__metadata__\" is not an object", path);
    json_object_foreach(metadata, key,
                        value) if (!json_is_string(value)) return TM_FAIL(TM_ERR_FORMAT,
                                                                          "%s: \"__metadata__\": \"%s\" is not a text",
                                                                          path, key);
    return TM_OK;
}

static int compare(int64_t a, int64_t b) { return a < b ? -1 : a > b; }

static int by_offset(const void *a, const void *b) {
    const struct hub_entry *x = a, *y = b;
    int c = compare(x->offset, y->offset);
    return c ? c : compare(x->bytes, y->bytes);
}

/* Bytewise by name, then by file. */
static int by_name(const void *a, const void *b) {
    const struct hub_entry *x = a, *y = b;
    int c = strcmp(x->name, y->name);
    return c ? c : compare(x->file, y->file);
}

/* The tensors of one file tile its data: no hole, no overlap, nothing behind. Turns offsets into file positions. */
static enum status check_tiling(const struct hub_file *f, struct hub_entry *e, size_t n, int64_t data) {
    int64_t end = 0, have = f->bytes - data;
    if (n > 0) qsort(e, n, sizeof *e, by_offset);
    for (size_t i = 0; i < n; i++) {
        if (e[i].offset != end)
            return TM_FAIL(TM_ERR_FORMAT, "%s: tensor \"%s\" begins at byte %lld, expected %lld: %s %s", f->path,
                           e[i].name, (long long)e[i].offset, (long long)end,
                           e[i].offset < end ? "it overlaps" : "a hole behind", i ? e[i - 1].name : "the header");
        end += e[i].bytes; /* is the second of data_offsets, so it fits */
    }
    if (end > have)
        return TM_FAIL(TM_ERR_FORMAT, "%s is truncated: tensors up to \"%s\" need %llu bytes, the file has %lld",
                       f->path, e[n - 1].name, (unsigned long long)end + (unsigned long long)data, (long long)f->bytes);
    if (end < have)
        return TM_FAIL(TM_ERR_FORMAT, "%s has %lld bytes, its header describes %lld", f->path, (long long)f->bytes,
                       (long long)(data + end));
    for (size_t i = 0; i < n; i++) e[i].offset += data;
    return TM_OK;
}

/* Append the tensors of an open file, whose header was parsed, to m->entries. */
static enum status add_entries(struct hub_model *m, struct hub_file *f, json_t *header, int64_t data) {
    size_t first = m->entries_n, n = 0, bytes = 0;
    const char *name;
    json_t *info;
    json_object_foreach(header, name, info) {
        n++;
        bytes += strlen(name) + 1;
    }
    TM_TRY(mem_alloc(&f->names, bytes, 1));
    TM_TRY(mem_grow(&m->entries, &m->entries_cap, first + n, sizeof *m->entries));
    char *text = f->names;
    json_object_foreach(header, name, info) {
        if (!strcmp(name, "__metadata__")) {
            TM_TRY(check_metadata(f->path, info));
            continue;
        }
        struct hub_entry *e = &m->entries[m->entries_n++];
        *e = (struct hub_entry){.name = text, .file = (int)(f - m->files)};
        memcpy(text, name, strlen(name) + 1);
        text += strlen(name) + 1;
        TM_TRY(parse_entry(f->path, name, info, e));
    }
    return check_tiling(f, m->entries + first, m->entries_n - first, data);
}

static enum status load_file(struct hub_model *m, const char *path) {
    json_t *header;
    int64_t data;
    TM_TRY(refuse_pickle(path));
    TM_TRY(mem_grow(&m->files, &m->files_cap, m->files_n + 1, sizeof *m->files));
    struct hub_file *f = &m->files[m->files_n++];
    TM_TRY(open_file(path, f));
    enum status st = read_header(f, &header, &data);
    if (st == TM_OK) st = add_entries(m, f, header, data);
    json_decref(header);
    return st;
}

/* --- a sharded set ------------------------------------------------------------------------------------------------------ */

/* The loaded file of this base name, or -1. */
static int file_named(const struct hub_model *m, const char *name) {
    for (size_t i = m->files_n; i-- > 0;) {
        const char *slash = strrchr(m->files[i].path, '/');
        if (!strcmp(slash ? slash + 1 : m->files[i].path, name)) return (int)i;
    }
    return -1;
}

/* Open every shard that the weight map names, at its first mention. */
static enum status load_shards(struct hub_model *m, const char *index, json_t *map) {
    char dir[PATH_BYTES], path[PATH_BYTES];
    const char *name, *slash = strrchr(index, '/');
    json_t *value;
    TM_TRY(str_copy(dir, sizeof dir, slash ? index : "."));
    if (slash) dir[slash == index ? 1 : slash - index] = 0;
    json_object_foreach(map, name, value) {
        const char *file = json_string_value(value);
        if (!file || !*file || strchr(file, '/') || !strcmp(file, ".") || !strcmp(file, ".."))
            return TM_FAIL(TM_ERR_FORMAT, "%s: weight_map: \"%s\" does not name a file of the same directory", index,
                           name);
        if (file_named(m, file) >= 0) continue;
        TM_TRY(str_path(path, sizeof path, dir, file));
        enum status st = load_file(m, path);
        if (st != TM_OK) return status_context(st, "%s: shard of tensor \"%s\": ", index, name);
    }
    return TM_OK;
}

/* Keep the tensors that the weight map lists, each from the file it is said to be in. Entries are sorted. */
static enum status keep_listed(struct hub_model *m, const char *index, json_t *map) {
    unsigned char *listed;
    enum status st = mem_alloc(&listed, m->entries_n, 1);
    const char *name;
    json_t *value;
    if (st != TM_OK) return st;
    json_object_foreach(map, name, value) {
        struct hub_entry key = {.name = name, .file = file_named(m, json_string_value(value))};
        struct hub_entry *e = m->entries_n ? bsearch(&key, m->entries, m->entries_n, sizeof key, by_name) : NULL;
        if (!e) {
            st = TM_FAIL(TM_ERR_FORMAT, "%s: tensor \"%s\" is not in %s", index, name, m->files[key.file].path);
            break;
        }
        listed[e - m->entries] = 1;
    }
    size_t kept = 0;
    for (size_t i = 0; st == TM_OK && i < m->entries_n; i++)
        if (listed[i]) m->entries[kept++] = m->entries[i];
    if (st == TM_OK) m->entries_n = kept;
    mem_free(&listed);
    return st;
}

static void sort_names(struct hub_model *m) {
    if (m->entries_n) qsort(m->entries, m->entries_n, sizeof *m->entries, by_name);
}

static enum status load_index(struct hub_model *m, const char *index) {
    json_t *root;
    TM_TRY(json_read_file(index, HEADER_MAX, &root));
    json_t *map = json_object_get(root, "weight_map");
    enum status st = json_is_object(map) ? load_shards(m, index, map)
                                         : TM_FAIL(TM_ERR_FORMAT, "%s: \"weight_map\" is not an object", index);
    if (st == TM_OK) {
        sort_names(m);
        st = keep_listed(m, index, map);
    }
    json_decref(root);
    return st;
}

/* --- the model ---------------------------------------------------------------------------------------------------------- */

static enum status load_single(struct hub_model *m, const char *path) {
    TM_TRY(load_file(m, path));
    sort_names(m);
    return TM_OK;
}

static enum status load(struct hub_model *m, const char *path) {
    static const char ending[] = ".index.json";
    char file[PATH_BYTES];
    size_t n = strlen(path), k = sizeof ending - 1;
    if (!file_is_dir(path)) {
        if (n > k && !strcmp(path + n - k, ending)) return load_index(m, path);
        return load_single(m, path);
    }
    TM_TRY(str_path(file, sizeof file, path, "model.safetensors"));
    if (file_exists(file)) return load_single(m, file);
    TM_TRY(str_path(file, sizeof file, path, "model.safetensors.index.json"));
    if (file_exists(file)) return load_index(m, file);
    TM_TRY(str_path(file, sizeof file, path, "pytorch_model.bin"));
    if (file_exists(file)) return refuse_pickle(file);
    return TM_FAIL(TM_ERR_IO, "%s holds neither model.safetensors nor model.safetensors.index.json", path);
}

enum status hub_open(const char *path, struct hub_model **out) {
    TM_TRY(mem_alloc(out, 1, sizeof **out));
    enum status st = load(*out, path);
    if (st != TM_OK) hub_close(out);
    return st;
}

void hub_close(struct hub_model **m) {
    if (!*m) return;
    for (size_t i = 0; i < (*m)->files_n; i++) {
        struct hub_file *f = &(*m)->files[i];
        if (f->fd >= 0) close(f->fd);
        mem_free(&f->path);
        mem_free(&f->names);
    }
    mem_free(&(*m)->files);
    mem_free(&(*m)->entries);
    mem_free(m);
}

int64_t hub_count(const struct hub_model *m) { return (int64_t)m->entries_n; }
const struct hub_entry *hub_entry(const struct hub_model *m, int64_t i) { return &m->entries[i]; }
const char *hub_path(const struct hub_model *m, const struct hub_entry *e) { return m->files[e->file].path; }

const struct hub_entry *hub_find(const struct hub_model *m, const char *name) {
    size_t lo = 0, hi = m->entries_n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int c = strcmp(name, m->entries[mid].name);
        if (c == 0) return &m->entries[mid];
        if (c < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

static void print_shape(char *out, size_t cap, int rank, const int64_t *shape) {
    size_t n = (size_t)snprintf(out, cap, "[");
    for (int i = 0; i < rank && n < cap; i++)
        n += (size_t)snprintf(out + n, cap - n, "%s%lld", i ? ", " : "", (long long)shape[i]);
    if (n < cap) snprintf(out + n, cap - n, "]");
}

enum status hub_need(const struct hub_model *m, const char *name, int rank, const int64_t *shape,
                     const struct hub_entry **out) {
    const struct hub_entry *e = *out = hub_find(m, name);
    if (!e)
        return TM_FAIL(TM_ERR_FORMAT, "%s%s: no tensor \"%s\"", m->files_n ? m->files[0].path : "the model",
                       m->files_n > 1 ? " and its other shards" : "", name);
    bool same = rank < 0 || rank == e->rank;
    for (int i = 0; i < rank && same; i++) same = shape[i] == e->shape[i];
    if (same) return TM_OK;
    char is[256], want[256];
    print_shape(is, sizeof is, e->rank, e->shape);
    print_shape(want, sizeof want, rank, shape);
    return TM_FAIL(TM_ERR_SHAPE, "%s: tensor \"%s\" has shape %s, expected %s", hub_path(m, e), name, is, want);
}
