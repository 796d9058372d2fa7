/* MANIFEST.json: printing a checkpoint's table, and the checked way back. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/size.h"
#include "ckpt/table.h"

/* The file starts with exactly HEAD, 16 hexadecimal digits and TAIL; the hash is that of all bytes after them. */
#define HEAD   "{\"xxh3\":\""
#define TAIL   "\",\n"
#define FORMAT "temper checkpoint"
enum { PREFIX = sizeof HEAD - 1 + 16 + sizeof TAIL - 1, TEXT_MAX = 1 << 30 };

static bool hex_parse(const char *s, uint64_t *out) {
    *out = 0;
    for (int i = 0; i < 16; i++) {
        static const char digits[] = "0123456789abcdef";
        const char *d = s[i] ? strchr(digits, s[i]) : NULL;
        if (!d) return false;
        *out = *out << 4 | (uint64_t)(d - digits);
    }
    return true;
}

static json_t *hex_json(uint64_t h) {
    char s[17];
    snprintf(s, sizeof s, "%016llx", (unsigned long long)h);
    return json_string(s);
}

static json_t *list_i64(const int64_t *x, int n) {
    json_t *a = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(a, json_integer(x[i]));
    return a;
}

/* Append `key`: value (a reference that is taken over), compactly, on one line. */
static enum status print_value(struct str *out, const char *before, json_t *value, const char *after) {
    char *text = value ? json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    json_decref(value);
    if (!text)
        return TM_FAIL(TM_ERR_DECK, "the manifest's part %s is not UTF-8 or has a number that is not finite", before);
    enum status st = str_printf(out, "%s%s%s", before, text, after);
    free(text);
    return st;
}

static json_t *tensor_json(const struct ckpt_table *t, const struct ckpt_entry *e) {
    json_t *pieces = json_array();
    for (int64_t i = e->piece; i < e->piece + e->pieces; i++) {
        const struct ckpt_piece *p = &t->pieces[i];
        json_t *hashes = json_array();
        for (int64_t b = 0; b < ckpt_table_blocks(p->bytes); b++)
            json_array_append_new(hashes, hex_json(t->hashes[p->hash + b]));
        json_array_append_new(pieces, json_pack("{s:i, s:o, s:o, s:I, s:I, s:o}", "file", p->file, "lo",
                                                list_i64(p->box.lo, p->box.rank), "hi",
                                                list_i64(p->box.hi, p->box.rank), "offset", (json_int_t)p->offset,
                                                "bytes", (json_int_t)p->bytes, "xxh3", hashes));
    }
    return json_pack("{s:s, s:s, s:o, s:s, s:o}", "name", e->desc.name, "dtype", dtype_name(e->desc.dtype), "shape",
                     list_i64(e->desc.shape, e->desc.rank), "units", e->units, "pieces", pieces);
}

enum status ckpt_manifest_print(const struct ckpt_table *t, const struct ckpt_about *about, struct str *out) {
    size_t start = out->len;
    TM_TRY(str_printf(out, HEAD "%016d" TAIL, 0));
    TM_TRY(str_printf(out, "\"format\":\"" FORMAT "\",\"version\":%d,\"block\":%d,\"step\":%lld,\"bytes\":%lld",
                      CKPT_VERSION, CKPT_BLOCK, (long long)about->step, (long long)t->bytes));
    TM_TRY(print_value(out, ",\n\"when\":", json_string(about->when), ""));
    TM_TRY(print_value(out, ",\n\"code\":", json_string(about->code), ""));
    TM_TRY(print_value(out, ",\n\"grid\":", json_deep_copy(about->grid), ""));
    TM_TRY(print_value(out, ",\n\"meta\":", json_deep_copy(about->meta), ""));
    TM_TRY(print_value(out, ",\n\"deck\":", json_string(about->deck), ",\n\"files\":["));
    for (int i = 0; i < t->n_files; i++) {
        const struct ckpt_file *f = &t->files[i];
        json_t *j =
            json_pack("{s:s, s:I, s:o}", "name", f->name, "bytes", (json_int_t)f->bytes, "rest", hex_json(f->rest));
        TM_TRY(print_value(out, i ? ",\n" : "\n", j, ""));
    }
    TM_TRY(str_printf(out, "],\n\"tensors\":["));
    for (int i = 0; i < t->n; i++) TM_TRY(print_value(out, i ? ",\n" : "\n", tensor_json(t, &t->tensors[i]), ""));
    TM_TRY(str_printf(out, "]}\n"));
    char hex[17];
    uint64_t h = hash_bytes(out->p + start + PREFIX, out->len - start - PREFIX, 0);
    snprintf(hex, sizeof hex, "%016llx", (unsigned long long)h);
    memcpy(out->p + start + sizeof HEAD - 1, hex, 16);
    return TM_OK;
}

enum status ckpt_manifest_read(const char *step_dir, char **text, size_t *n) {
    char path[4096];
    *text = NULL;
    TM_TRY(str_path(path, sizeof path, step_dir, CKPT_MANIFEST));
    return file_read(path, TEXT_MAX, text, n);
}

/* --- parsing: everything below reads a file that anybody may have written ------------------------------------------------ */

static enum status need_str(const json_t *obj, const char *key, const char *where, const char **out) {
    TM_TRY(json_get_str(obj, key, where, NULL, out));
    return *out ? TM_OK : TM_FAIL(TM_ERR_FORMAT, "%s: \"%s\" is missing", where, key);
}

static enum status need_array(const json_t *obj, const char *key, const char *where, const json_t **out) {
    *out = json_object_get(obj, key);
    return json_is_array(*out) ? TM_OK : TM_FAIL(TM_ERR_FORMAT, "%s: \"%s\" is not an array", where, key);
}

static enum status need_hash(const json_t *v, const char *where, uint64_t *out) {
    if (json_is_string(v) && json_string_length(v) == 16 && hex_parse(json_string_value(v), out)) return TM_OK;
    return TM_FAIL(TM_ERR_FORMAT, "%s: a hash is not 16 hexadecimal digits", where);
}

/* An array of exactly *rank (or, with *rank = -1, at most TENSOR_MAX_RANK) integers >= 0. */
static enum status need_indices(const json_t *obj, const char *key, const char *where, int *rank, int64_t *out) {
    const json_t *a;
    TM_TRY(need_array(obj, key, where, &a));
    size_t n = json_array_size(a);
    if (*rank < 0 ? n > TENSOR_MAX_RANK : n != (size_t)*rank)
        return TM_FAIL(TM_ERR_FORMAT, "%s: \"%s\" has %zu entries", where, key, n);
    *rank = (int)n;
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(a, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0)
            return TM_FAIL(TM_ERR_FORMAT, "%s: \"%s\" has an entry that is not an integer >= 0", where, key);
        out[i] = json_integer_value(v);
    }
    return TM_OK;
}

static enum status parse_dtype(const char *name, const char *where, enum dtype *out) {
    for (int i = 0; i < DTYPE_COUNT; i++)
        if (!strcmp(name, dtype_name((enum dtype)i))) {
            *out = (enum dtype)i;
            return TM_OK;
        }
    return TM_FAIL(TM_ERR_FORMAT, "%s: unknown dtype \"%s\"", where, name);
}

static enum status parse_files(const json_t *list, const char *where, struct ckpt_table *t) {
    if (json_array_size(list) > INT32_MAX) return TM_FAIL(TM_ERR_FORMAT, "%s: too many files", where);
    TM_TRY(mem_alloc(&t->files, json_array_size(list), sizeof *t->files));
    for (; t->n_files < (int)json_array_size(list); t->n_files++) {
        const json_t *j = json_array_get(list, (size_t)t->n_files);
        struct ckpt_file *f = &t->files[t->n_files];
        const char *name;
        TM_TRY(need_str(j, "name", where, &name));
        /* a plain name in this folder: nothing can lead out of it */
        if (!name[0] || name[0] == '.' || strchr(name, '/') || strlen(name) >= sizeof f->name)
            return TM_FAIL(TM_ERR_FORMAT, "%s: bad file name \"%.80s\"", where, name);
        memcpy(f->name, name, strlen(name) + 1);
        TM_TRY(json_need_i64(j, "bytes", where, &f->bytes));
        if (f->bytes < 0) return TM_FAIL(TM_ERR_FORMAT, "%s: %s has %lld bytes", where, name, (long long)f->bytes);
        TM_TRY(need_hash(json_object_get(j, "rest"), where, &f->rest));
    }
    return TM_OK;
}

static enum status parse_piece(const json_t *j, const char *where, struct ckpt_table *t, const struct tensor_desc *d,
                               struct ckpt_piece *p) {
    int64_t file, end, bytes;
    const json_t *hashes;
    TM_TRY(json_need_i64(j, "file", where, &file));
    TM_TRY(json_need_i64(j, "offset", where, &p->offset));
    TM_TRY(json_need_i64(j, "bytes", where, &p->bytes));
    p->box.rank = d->rank;
    TM_TRY(need_indices(j, "lo", where, &p->box.rank, p->box.lo));
    TM_TRY(need_indices(j, "hi", where, &p->box.rank, p->box.hi));
    for (int i = 0; i < d->rank; i++)
        if (p->box.lo[i] >= p->box.hi[i] || p->box.hi[i] > d->shape[i])
            return TM_FAIL(TM_ERR_FORMAT, "%s: a piece is empty or outside the tensor", where);
    bytes = tensor_box_elems(&p->box) * (int64_t)dtype_bytes(d->dtype); /* bounded by the tensor's, which was checked */
    if (p->bytes != bytes)
        return TM_FAIL(TM_ERR_FORMAT, "%s: a piece has %lld bytes, its box %lld", where, (long long)p->bytes,
                       (long long)bytes);
    if (file < 0 || file >= t->n_files || p->offset < 0 || __builtin_add_overflow(p->offset, p->bytes, &end) ||
        end > t->files[file].bytes)
        return TM_FAIL(TM_ERR_FORMAT, "%s: a piece lies outside file %lld", where, (long long)file);
    p->file = (int)file;
    TM_TRY(need_array(j, "xxh3", where, &hashes));
    if ((int64_t)json_array_size(hashes) != ckpt_table_blocks(p->bytes))
        return TM_FAIL(TM_ERR_FORMAT, "%s: %zu hashes for %lld bytes", where, json_array_size(hashes),
                       (long long)p->bytes);
    p->hash = t->n_hashes;
    for (size_t b = 0; b < json_array_size(hashes); b++)
        TM_TRY(need_hash(json_array_get(hashes, b), where, &t->hashes[t->n_hashes++]));
    return TM_OK;
}

static enum status parse_tensor(const json_t *j, const char *where, struct ckpt_table *t, struct ckpt_entry *e) {
    struct tensor_desc *d = &e->desc;
    const char *name, *dtype, *units;
    const json_t *pieces;
    char at[512];
    TM_TRY(need_str(j, "name", where, &name));
    if (strlen(name) >= sizeof d->name || !ckpt_table_good_name(name))
        return TM_FAIL(TM_ERR_FORMAT, "%s: bad tensor name \"%.80s\"", where, name);
    memcpy(d->name, name, strlen(name) + 1);
    snprintf(at, sizeof at, "%.250s: %s", where, name);
    TM_TRY(need_str(j, "dtype", at, &dtype));
    TM_TRY(parse_dtype(dtype, at, &d->dtype));
    TM_TRY(json_get_str(j, "units", at, "1", &units));
    snprintf(e->units, sizeof e->units, "%s", units);
    d->rank = -1;
    TM_TRY(need_indices(j, "shape", at, &d->rank, d->shape));
    int64_t bytes = (int64_t)dtype_bytes(d->dtype), covered = 0;
    for (int i = 0; i < d->rank; i++)
        if (!size_mul_i64(bytes, d->shape[i], &bytes)) return TM_FAIL(TM_ERR_FORMAT, "%s: shape overflows", at);
    d->box = tensor_box_whole(d->rank, d->shape);
    TM_TRY(need_array(j, "pieces", at, &pieces));
    e->piece = t->n_pieces;
    e->pieces = (int64_t)json_array_size(pieces);
    for (int64_t i = 0; i < e->pieces; i++) {
        struct ckpt_piece *p = &t->pieces[t->n_pieces++];
        p->tensor = (int)(e - t->tensors);
        TM_TRY(parse_piece(json_array_get(pieces, (size_t)i), at, t, d, p));
        covered += p->bytes; /* cannot overflow: every 16 MiB has its hash in a text of at most 1 GiB */
    }
    if (covered != bytes)
        return TM_FAIL(TM_ERR_FORMAT, "%s: pieces of %lld bytes for a tensor of %lld", at, (long long)covered,
                       (long long)bytes);
    t->bytes += bytes;
    return TM_OK;
}

/* How many pieces and hashes there are: what the arrays are sized by. */
static void count(const json_t *tensors, size_t *pieces, size_t *hashes) {
    *pieces = *hashes = 0;
    for (size_t i = 0; i < json_array_size(tensors); i++) {
        const json_t *list = json_object_get(json_array_get(tensors, i), "pieces");
        *pieces += json_array_size(list);
        for (size_t p = 0; p < json_array_size(list); p++)
            *hashes += json_array_size(json_object_get(json_array_get(list, p), "xxh3"));
    }
}

static enum status parse_table(const json_t *root, const char *where, struct ckpt_table *t) {
    const json_t *files, *tensors;
    size_t pieces, hashes;
    TM_TRY(need_array(root, "files", where, &files));
    TM_TRY(need_array(root, "tensors", where, &tensors));
    TM_TRY(parse_files(files, where, t));
    if (json_array_size(tensors) > INT32_MAX) return TM_FAIL(TM_ERR_FORMAT, "%s: too many tensors", where);
    count(tensors, &pieces, &hashes);
    TM_TRY(mem_alloc(&t->tensors, json_array_size(tensors), sizeof *t->tensors));
    TM_TRY(mem_alloc(&t->pieces, pieces, sizeof *t->pieces));
    TM_TRY(mem_alloc(&t->hashes, hashes, sizeof *t->hashes));
    for (; t->n < (int)json_array_size(tensors); t->n++)
        TM_TRY(parse_tensor(json_array_get(tensors, (size_t)t->n), where, t, &t->tensors[t->n]));
    enum status st = ckpt_table_sort_names(t);
    return st == TM_OK ? st : status_context(st, "%s: ", where);
}

static enum status parse_about(const json_t *root, const char *where, struct ckpt_about *a) {
    const char *format;
    int64_t version, block;
    TM_TRY(need_str(root, "format", where, &format));
    TM_TRY(json_need_i64(root, "version", where, &version));
    TM_TRY(json_need_i64(root, "block", where, &block));
    if (strcmp(format, FORMAT) != 0 || version != CKPT_VERSION || block != CKPT_BLOCK)
        return TM_FAIL(TM_ERR_FORMAT, "%s: \"%s\" version %lld with blocks of %lld, expected \"%s\" version %d with %d",
                       where, format, (long long)version, (long long)block, FORMAT, CKPT_VERSION, CKPT_BLOCK);
    TM_TRY(json_need_i64(root, "step", where, &a->step));
    if (a->step < 0) return TM_FAIL(TM_ERR_FORMAT, "%s: step %lld", where, (long long)a->step);
    TM_TRY(need_str(root, "when", where, &a->when));
    TM_TRY(need_str(root, "code", where, &a->code));
    TM_TRY(need_str(root, "deck", where, &a->deck));
    a->meta = json_object_get(root, "meta");
    a->grid = json_object_get(root, "grid");
    return json_is_object(a->meta) && json_is_object(a->grid)
               ? TM_OK
               : TM_FAIL(TM_ERR_FORMAT, "%s: no \"meta\" or \"grid\"", where);
}

enum status ckpt_manifest_parse(const char *text, size_t n, const char *where, struct ckpt_table *t, json_t **root,
                                struct ckpt_about *about) {
    uint64_t want;
    *t = (struct ckpt_table){0};
    *root = NULL;
    if (n < PREFIX || memcmp(text, HEAD, sizeof HEAD - 1) != 0 ||
        memcmp(text + PREFIX - (sizeof TAIL - 1), TAIL, sizeof TAIL - 1) != 0 ||
        !hex_parse(text + sizeof HEAD - 1, &want))
        return TM_FAIL(TM_ERR_FORMAT, "%s: not a manifest of temper (%zu bytes)", where, n);
    if (hash_bytes(text + PREFIX, n - PREFIX, 0) != want)
        return TM_FAIL(TM_ERR_FORMAT, "%s: damaged: the hash of its %zu bytes differs from the one in it", where, n);
    TM_TRY(json_read_buffer(text, n, where, root));
    enum status st = parse_about(*root, where, about);
    if (st == TM_OK) st = parse_table(*root, where, t);
    if (st != TM_OK) {
        ckpt_table_free(t);
        json_decref(*root);
        *root = NULL;
    }
    return st;
}
