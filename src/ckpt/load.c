/* Loading: by the manifest alone; every block that is touched is verified before a byte of it is used. */
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/size.h"
#include "base/stop.h"
#include "ckpt/open.h"
#include "ckpt/runs.h"
#include "numfmt/bf16.h"

static enum status open_text(const char *step_dir, const char *text, size_t n, struct ckpt **out) {
    struct ckpt *c;
    char where[4096];
    TM_TRY(str_path(where, sizeof where, step_dir, CKPT_MANIFEST));
    TM_TRY(mem_alloc(&c, 1, sizeof *c));
    c->fd = c->file = -1;
    c->cached_piece = -1;
    enum status st = str_copy(c->dir, sizeof c->dir, step_dir);
    if (st == TM_OK) st = mem_alloc(&c->block, 1, CKPT_BLOCK);
    if (st == TM_OK) st = ckpt_manifest_parse(text, n, where, &c->t, &c->root, &c->about);
    if (st != TM_OK) ckpt_close(&c);
    *out = c;
    return st;
}

enum status ckpt_open(const char *step_dir, struct ckpt **out) {
    char *text;
    size_t n;
    *out = NULL;
    TM_TRY(ckpt_manifest_read(step_dir, &text, &n));
    enum status st = open_text(step_dir, text, n, out);
    mem_free(&text);
    return st;
}

enum status ckpt_open_all(const char *step_dir, struct par_group *world, struct ckpt **out) {
    char *text = NULL;
    size_t n = 0;
    bool first = par_group_rank(world) == 0;
    *out = NULL;
    enum status st = par_agree_all(first ? ckpt_manifest_read(step_dir, &text, &n) : TM_OK);
    int64_t size = (int64_t)n;
    if (st == TM_OK) st = par_bcast(world, &size, sizeof size, 0);
    if (st == TM_OK) st = par_agree_all(first ? TM_OK : mem_alloc(&text, (size_t)size + 1, 1));
    if (st == TM_OK) st = par_bcast(world, text, size, 0);
    if (st == TM_OK) st = par_agree_all(open_text(step_dir, text, (size_t)size, out));
    mem_free(&text);
    if (st != TM_OK) ckpt_close(out);
    return st;
}

void ckpt_close(struct ckpt **pc) {
    struct ckpt *c = *pc;
    if (!c) return;
    ckpt_use_none(c);
    ckpt_table_free(&c->t);
    json_decref(c->root);
    mem_free(&c->block);
    mem_free(pc);
}

enum status ckpt_find_latest_all(const char *dir, struct par_group *world, char *out, size_t cap, int64_t *step) {
    memset(out, 0, cap); /* all of it is sent */
    *step = -1;
    TM_TRY(par_agree_all(par_group_rank(world) == 0 ? ckpt_find_latest(dir, out, cap, step) : TM_OK));
    TM_TRY(par_bcast(world, step, sizeof *step, 0));
    return par_bcast(world, out, (int64_t)cap, 0);
}

int64_t ckpt_step(const struct ckpt *c) { return c->about.step; }
const json_t *ckpt_meta(const struct ckpt *c) { return c->about.meta; }
const json_t *ckpt_grid(const struct ckpt *c) { return c->about.grid; }
const char *ckpt_deck_text(const struct ckpt *c) { return c->about.deck; }
const char *ckpt_code(const struct ckpt *c) { return c->about.code; }
const char *ckpt_path(const struct ckpt *c) { return c->dir; }
int ckpt_count(const struct ckpt *c) { return c->t.n; }
const struct tensor_desc *ckpt_tensor_at(const struct ckpt *c, int i) {
    return i >= 0 && i < c->t.n ? &c->t.tensors[i].desc : NULL;
}
const struct tensor_desc *ckpt_find(const struct ckpt *c, const char *name) {
    return ckpt_tensor_at(c, ckpt_table_find(&c->t, name));
}

/* --- blocks -------------------------------------------------------------------------------------------------------------------- */

void ckpt_use_none(struct ckpt *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = c->file = -1;
}

enum status ckpt_use_file(struct ckpt *c, int file) {
    const struct ckpt_file *f = &c->t.files[file];
    if (c->file == file) return TM_OK;
    ckpt_use_none(c);
    TM_TRY(str_path(c->path, sizeof c->path, c->dir, f->name));
    int64_t size;
    enum status st = file_open(c->path, &c->fd, &size);
    if (st != TM_OK) return status_context(st, "the checkpoint's file: ");
    if (size != f->bytes)
        return TM_FAIL(TM_ERR_FORMAT, "%s has %lld bytes, the manifest says %lld", c->path, (long long)size,
                       (long long)f->bytes);
    c->file = file;
    return TM_OK;
}

enum status ckpt_use_block(struct ckpt *c, int64_t piece, int64_t block) {
    const struct ckpt_piece *p = &c->t.pieces[piece];
    if (c->cached_piece == piece && c->cached_block == block) return TM_OK;
    c->cached_piece = -1;
    TM_TRY(ckpt_use_file(c, p->file));
    int64_t at = block * CKPT_BLOCK;
    size_t n = (size_t)size_min(p->bytes - at, CKPT_BLOCK);
    TM_TRY(file_pread(c->fd, c->path, c->block, n, p->offset + at));
    if (hash_bytes(c->block, n, 0) != c->t.hashes[p->hash + block])
        return TM_FAIL(TM_ERR_FORMAT, "%s is damaged: %s, block %lld (%zu bytes from byte %lld) differs from its hash",
                       c->path, c->t.tensors[p->tensor].desc.name, (long long)block, n, (long long)(p->offset + at));
    c->cached_piece = piece;
    c->cached_block = block;
    return TM_OK;
}

enum status ckpt_verify_file(struct ckpt *c, int file) {
    uint64_t rest;
    TM_TRY(ckpt_use_file(c, file));
    c->cached_piece = -1; /* what was read before is read again */
    for (int64_t i = 0; i < c->t.n_pieces; i++)
        for (int64_t b = 0; c->t.pieces[i].file == file && b < ckpt_table_blocks(c->t.pieces[i].bytes); b++)
            TM_TRY(ckpt_use_block(c, i, b));
    c->cached_piece = -1; /* the buffer serves the other bytes now */
    TM_TRY(ckpt_table_hash_rest(&c->t, file, c->fd, c->path, c->t.files[file].bytes, c->block, &rest));
    if (rest != c->t.files[file].rest)
        return TM_FAIL(TM_ERR_FORMAT, "%s is damaged: its bytes outside of the data differ from their hash", c->path);
    return TM_OK;
}

enum status ckpt_verify(struct ckpt *c) {
    for (int f = 0; f < c->t.n_files; f++) TM_TRY(ckpt_verify_file(c, f));
    return TM_OK;
}

/* --- boxes --------------------------------------------------------------------------------------------------------------------- */

/* dst[n] f32 <- src[n] bf16, any alignment. */
static void widen_bf16(void *dst, const void *src, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint16_t code;
        memcpy(&code, (const char *)src + 2 * i, 2);
        float x = bf16_decode(code);
        memcpy((char *)dst + 4 * i, &x, 4);
    }
}

/* Copy stored bytes [at, at + n) of a piece to out, widened from bf16 when asked. */
static enum status copy_out(struct ckpt *c, int64_t piece, int64_t at, int64_t n, bool widen, char *out) {
    while (n > 0) {
        int64_t in_block = at % CKPT_BLOCK, m = size_min(n, CKPT_BLOCK - in_block);
        TM_TRY(ckpt_use_block(c, piece, at / CKPT_BLOCK));
        if (widen)
            widen_bf16(out, c->block + in_block, (size_t)m / 2);
        else
            memcpy(out, c->block + in_block, (size_t)m);
        out += widen ? 2 * m : m;
        at += m;
        n -= m;
    }
    return TM_OK;
}

static enum status read_pieces(struct ckpt *c, const struct ckpt_entry *e, const struct tensor_box *box, enum dtype as,
                               char *out) {
    int64_t elem = (int64_t)dtype_bytes(e->desc.dtype), wide = (int64_t)dtype_bytes(as), found = 0;
    for (int64_t i = e->piece; i < e->piece + e->pieces; i++) {
        const struct ckpt_piece *p = &c->t.pieces[i];
        struct tensor_box part;
        struct runs r;
        int64_t from, to;
        if (!tensor_box_intersect(&p->box, box, &part)) continue;
        ckpt_runs_start(&r, &part, &p->box, box);
        while (ckpt_runs_next(&r, &from, &to))
            TM_TRY(copy_out(c, i, from * elem, r.len * elem, as != e->desc.dtype, out + to * wide));
        found += tensor_box_elems(&part);
    }
    if (found != tensor_box_elems(box))
        return TM_FAIL(TM_ERR_SHAPE, "%s: %s has %lld of the %lld elements wanted", c->dir, e->desc.name,
                       (long long)found, (long long)tensor_box_elems(box));
    return TM_OK;
}

static enum status find_entry(const struct ckpt *c, const char *name, enum dtype as, const struct ckpt_entry **out) {
    int i = ckpt_table_find(&c->t, name);
    if (i < 0) return TM_FAIL(TM_ERR_FORMAT, "%s has no tensor %s", c->dir, name);
    *out = &c->t.tensors[i];
    enum dtype have = (*out)->desc.dtype;
    if (as != have && !(have == DTYPE_bf16 && as == DTYPE_f32))
        return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: %s is stored as %s, not %s", c->dir, name, dtype_name(have),
                       dtype_name(as));
    return TM_OK;
}

enum status ckpt_read_box(struct ckpt *c, const char *name, const struct tensor_box *box, enum dtype as, void *out) {
    const struct ckpt_entry *e = NULL;
    TM_TRY(find_entry(c, name, as, &e));
    if (box->rank != e->desc.rank)
        return TM_FAIL(TM_ERR_SHAPE, "%s: %s has rank %d, rank %d wanted", c->dir, name, e->desc.rank, box->rank);
    if (tensor_box_elems(box) == 0) return TM_OK;
    for (int i = 0; i < box->rank; i++)
        if (box->lo[i] < 0 || box->hi[i] > e->desc.shape[i])
            return TM_FAIL(TM_ERR_SHAPE, "%s: %s: [%lld, %lld) wanted on axis %d of extent %lld", c->dir, name,
                           (long long)box->lo[i], (long long)box->hi[i], i, (long long)e->desc.shape[i]);
    return read_pieces(c, e, box, as, out);
}

static enum status same_shape(const struct ckpt *c, const struct tensor_desc *want) {
    const struct tensor_desc *have = ckpt_find(c, want->name);
    if (!have) return TM_FAIL(TM_ERR_FORMAT, "%s has no tensor %s", c->dir, want->name);
    if (have->rank != want->rank)
        return TM_FAIL(TM_ERR_SHAPE, "%s: %s has rank %d, rank %d expected", c->dir, want->name, have->rank,
                       want->rank);
    for (int i = 0; i < want->rank; i++)
        if (have->shape[i] != want->shape[i])
            return TM_FAIL(TM_ERR_SHAPE, "%s: %s has extent %lld on axis %d, %lld expected", c->dir, want->name,
                           (long long)have->shape[i], i, (long long)want->shape[i]);
    return TM_OK;
}

static enum status load_tensor(struct ckpt *c, struct dev *dev, const struct ckpt_tensor *t) {
    const struct tensor_desc *d = &t->desc;
    TM_TRY(stop_check("load"));
    TM_TRY(same_shape(c, d));
    if (tensor_box_elems(&d->box) == 0 || (!t->host && !t->data.a)) return TM_OK;
    if (t->host) return ckpt_read_box(c, d->name, &d->box, d->dtype, t->host);
    size_t n = (size_t)tensor_box_elems(&d->box) * dtype_bytes(d->dtype);
    void *stage;
    TM_TRY(mem_alloc(&stage, n, 1));
    enum status st = ckpt_read_box(c, d->name, &d->box, d->dtype, stage);
    if (st == TM_OK) st = dev_upload(dev, t->data, stage, n);
    mem_free(&stage);
    return st;
}

enum status ckpt_load_all(struct ckpt *c, struct dev *dev, const struct ckpt_tensor *tensors, int n) {
    enum status st = TM_OK;
    par_note(log_stage(), ckpt_step(c), "checkpoint load");
    for (int i = 0; st == TM_OK && i < n; i++) st = load_tensor(c, dev, &tensors[i]);
    return par_agree_all(st);
}
