/* Which tensor lies in which file at which offset: the layout of an export, and its headers and index. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/size.h"
#include "hub/pretty.h"
#include "hub/write.h"

enum { HEADER_MAX = 100000000 }; /* readers refuse longer ones */

/* Types in the order they lie in a file: falling alignment, as the reference implementation's list has them. */
static const unsigned char place[DTYPE_COUNT] = {
    [DTYPE_u64] = 0,   [DTYPE_i64] = 1,   [DTYPE_f64] = 2, [DTYPE_f32] = 3, [DTYPE_u32] = 4,
    [DTYPE_i32] = 5,   [DTYPE_bf16] = 6,  [DTYPE_f16] = 7, [DTYPE_u16] = 8, [DTYPE_i16] = 9,
    [DTYPE_e4m3] = 10, [DTYPE_e5m2] = 11, [DTYPE_i8] = 12, [DTYPE_u8] = 13, [DTYPE_bool] = 14};

static int by_name(const void *a, const void *b) {
    const struct hub_item *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static int by_place(const void *a, const void *b) {
    const struct hub_item *x = a, *y = b;
    if (x->file != y->file) return x->file < y->file ? -1 : 1;
    if (place[x->dtype] != place[y->dtype]) return place[x->dtype] < place[y->dtype] ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Copy the caller's list, with names of our own, sorted by name. */
static enum status copy_items(struct hub_plan *p, const struct hub_tensor *tensors, int n) {
    size_t bytes = 0;
    for (int i = 0; i < n; i++) bytes += (tensors[i].name ? strlen(tensors[i].name) : 0) + 1;
    TM_TRY(mem_alloc(&p->names, bytes, 1));
    TM_TRY(mem_alloc(&p->items, (size_t)n, sizeof *p->items));
    p->n = n;
    char *text = p->names;
    for (int i = 0; i < n; i++) {
        const struct hub_tensor *t = &tensors[i];
        struct hub_item *it = &p->items[i];
        if (!t->name || !*t->name || !strcmp(t->name, "__metadata__"))
            return TM_FAIL(TM_ERR_DATA, "tensor %d of %d: \"%s\" cannot be a tensor's name", i, n,
                           t->name ? t->name : "");
        *it = (struct hub_item){.name = text, .dtype = t->dtype, .rank = t->rank, .source = i};
        memcpy(text, t->name, strlen(t->name) + 1);
        text += strlen(t->name) + 1;
        bool fits = t->rank >= 0 && t->rank <= HUB_MAX_RANK;
        it->bytes = (int64_t)dtype_bytes(t->dtype);
        for (int k = 0; k < t->rank && fits; k++) {
            it->shape[k] = t->shape[k];
            fits = size_mul_i64(it->bytes, t->shape[k], &it->bytes);
        }
        if (!fits || __builtin_add_overflow(p->data_bytes, it->bytes, &p->data_bytes))
            return TM_FAIL(TM_ERR_SHAPE,
                           "tensor \"%s\": its shape has more than %d axes, a negative size, or too many bytes",
                           t->name, HUB_MAX_RANK);
    }
    if (n > 0) qsort(p->items, (size_t)n, sizeof *p->items, by_name);
    for (int i = 1; i < n; i++)
        if (!strcmp(p->items[i - 1].name, p->items[i].name))
            return TM_FAIL(TM_ERR_DATA, "two tensors are called \"%s\"", p->items[i].name);
    return TM_OK;
}

/* Close a file: the items of [first, end) that have none yet are its own. */
static void close_file(struct hub_plan *p, int first, int end) {
    for (int i = first; i < end; i++)
        if (p->items[i].file < 0) p->items[i].file = p->files_n;
    p->files_n++;
}

/* Deal the items, in the order of their names, over files, which are numbered as they are closed; at least one file. */
static void deal(struct hub_plan *p, int64_t shard_size) {
    int first = 0, held = 0; /* the open file: its first item, how many it holds */
    int64_t filled = 0;
    for (int i = 0; i < p->n; i++) {
        struct hub_item *it = &p->items[i];
        if (it->bytes > shard_size) {
            it->file = p->files_n++;
            continue;
        }
        if (held && filled + it->bytes > shard_size) {
            close_file(p, first, i);
            first = i;
            held = 0;
            filled = 0;
        }
        it->file = -1;
        filled += it->bytes;
        held++;
    }
    if (held || p->files_n == 0) close_file(p, first, p->n);
}

static enum status print_metadata(json_t *metadata, struct str *s) {
    const char *key, *sep = "{";
    json_t *value;
    if (!metadata) return str_printf(s, "\"__metadata__\":{\"format\":\"pt\"}");
    if (json_object_size(metadata) == 0) return TM_OK;
    TM_TRY(str_printf(s, "\"__metadata__\":"));
    json_object_foreach(metadata, key, value) {
        if (!json_is_string(value))
            return TM_FAIL(TM_ERR_DATA, "metadata of a safetensors file: \"%s\" is not a text", key);
        TM_TRY(str_printf(s, "%s", sep));
        TM_TRY(hub_json_string(key, false, s));
        TM_TRY(str_printf(s, ":"));
        TM_TRY(hub_json_string(json_string_value(value), false, s));
        sep = ",";
    }
    return str_printf(s, "}");
}

static enum status print_item(const struct hub_item *it, struct str *s) {
    TM_TRY(hub_json_string(it->name, false, s));
    TM_TRY(str_printf(s, ":{\"dtype\":\"%s\",\"shape\":[", dtype_safetensors(it->dtype)));
    for (int k = 0; k < it->rank; k++) TM_TRY(str_printf(s, k ? ",%lld" : "%lld", (long long)it->shape[k]));
    return str_printf(s, "],\"data_offsets\":[%lld,%lld]}", (long long)it->offset, (long long)(it->offset + it->bytes));
}

/* Eight bytes of length, then JSON padded with blanks to a multiple of eight. `s` is the caller's to free. */
static enum status print_header(struct hub_plan *p, struct hub_plan_file *f, json_t *metadata, struct str *s) {
    uint64_t length = 0;
    TM_TRY(str_append(s, &length, 8));
    TM_TRY(str_append(s, "{", 1));
    TM_TRY(print_metadata(metadata, s));
    for (int i = f->first; i < f->first + f->count; i++) {
        if (s->len > 9) TM_TRY(str_append(s, ",", 1));
        TM_TRY(print_item(&p->items[i], s));
    }
    TM_TRY(str_append(s, "}", 1));
    while (s->len % 8) TM_TRY(str_append(s, " ", 1));
    length = s->len - 8;
    if (length > HEADER_MAX)
        return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: a header of %llu bytes, at most %d are allowed: lower shard_size",
                       f->name, (unsigned long long)length, HEADER_MAX);
    memcpy(s->p, &length, 8);
    return TM_OK;
}

static enum status lay_file(struct hub_plan *p, struct hub_plan_file *f, json_t *metadata) {
    struct str s = {0};
    int64_t at = 0;
    for (int i = f->first; i < f->first + f->count; i++) {
        p->items[i].offset = at;
        at += p->items[i].bytes;
    }
    enum status st = print_header(p, f, metadata, &s);
    if (st == TM_OK) st = mem_alloc(&f->header, s.len, 1);
    if (st == TM_OK) {
        memcpy(f->header, s.p, s.len);
        f->header_bytes = (int64_t)s.len;
        f->bytes = f->header_bytes + at;
        for (int i = f->first; i < f->first + f->count; i++) p->items[i].offset += f->header_bytes;
    }
    str_free(&s);
    return st;
}

static enum status lay_out(struct hub_plan *p, const struct hub_tensor *tensors, int n, int64_t shard_size,
                           json_t *metadata) {
    if (shard_size <= 0)
        return TM_FAIL(TM_ERR_DECK, "shard_size = %lld: expected bytes, more than 0", (long long)shard_size);
    TM_TRY(copy_items(p, tensors, n));
    deal(p, shard_size);
    if (n > 0) qsort(p->items, (size_t)n, sizeof *p->items, by_place);
    TM_TRY(mem_alloc(&p->files, (size_t)p->files_n, sizeof *p->files));
    for (int f = 0, at = 0; f < p->files_n; f++) {
        struct hub_plan_file *file = &p->files[f];
        if (p->files_n == 1)
            snprintf(file->name, sizeof file->name, "model.safetensors");
        else
            snprintf(file->name, sizeof file->name, "model-%05d-of-%05d.safetensors", f + 1, p->files_n);
        file->first = at;
        while (at < n && p->items[at].file == f) at++;
        file->count = at - file->first;
        TM_TRY(lay_file(p, file, metadata));
    }
    return TM_OK;
}

enum status hub_plan_create(const struct hub_tensor *tensors, int n, int64_t shard_size, json_t *metadata,
                            struct hub_plan **out) {
    TM_TRY(mem_alloc(out, 1, sizeof **out));
    enum status st = lay_out(*out, tensors, n, shard_size, metadata);
    if (st != TM_OK) hub_plan_destroy(out);
    return st;
}

void hub_plan_destroy(struct hub_plan **plan) {
    struct hub_plan *p = *plan;
    if (!p) return;
    for (int f = 0; p->files && f < p->files_n; f++) mem_free(&p->files[f].header);
    mem_free(&p->files);
    mem_free(&p->items);
    mem_free(&p->names);
    mem_free(plan);
}

enum status hub_plan_index(const struct hub_plan *plan, json_t **out) {
    struct hub_item *sorted;
    json_t *map = json_object();
    *out = NULL;
    enum status st = mem_alloc(&sorted, (size_t)plan->n, sizeof *sorted);
    if (st == TM_OK && plan->n > 0) {
        memcpy(sorted, plan->items, (size_t)plan->n * sizeof *sorted);
        qsort(sorted, (size_t)plan->n, sizeof *sorted, by_name);
    }
    for (int i = 0; i < plan->n && st == TM_OK; i++)
        if (json_object_set_new(map, sorted[i].name, json_string(plan->files[sorted[i].file].name)) != 0)
            st = TM_FAIL(TM_ERR_MEMORY, "out of memory: index of %d tensors", plan->n);
    if (st == TM_OK) {
        *out = json_pack("{s:{s:I},s:O}", "metadata", "total_size", (json_int_t)plan->data_bytes, "weight_map", map);
        if (!*out) st = TM_FAIL(TM_ERR_MEMORY, "out of memory: index of %d tensors", plan->n);
    }
    json_decref(map);
    mem_free(&sorted);
    return st;
}
