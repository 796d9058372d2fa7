/* One writer's file: the HDF5 frame, then the data by pwrite with a hash per block. */
#include "ckpt/shard.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/size.h"
#include "ckpt/h5.h"
#include "numfmt/bf16.h"

/* --- where the bytes come from ------------------------------------------------------------------------------------------------- */

/* Only part of the box is this piece: bring the box to the host once and cut. */
static enum status gather_part(struct shard_source *s, const struct tensor_box *piece) {
    const struct tensor_desc *d = &s->tensor->desc;
    size_t elem = dtype_bytes(d->dtype), n = (size_t)tensor_box_elems(&d->box) * elem;
    char *box = NULL;
    enum status st = mem_alloc(&s->copy, (size_t)tensor_box_elems(piece), elem);
    if (st == TM_OK && !s->host) st = mem_alloc(&box, n, 1);
    if (st == TM_OK && !s->host) st = dev_download(s->dev, box, s->tensor->data, n);
    if (st == TM_OK) {
        tensor_copy_box(s->copy, piece, s->host ? s->host : box, &d->box, piece, elem);
        s->host = s->copy;
    }
    mem_free(&box);
    return st;
}

enum status ckpt_shard_source_open(struct shard_source *s, struct dev *dev, const struct ckpt_tensor *tensor,
                                   const struct tensor_box *piece) {
    *s = (struct shard_source){.dev = dev, .tensor = tensor, .host = tensor->host};
    if (!tensor_box_equal(piece, &tensor->desc.box)) TM_TRY(gather_part(s, piece));
    return tensor->as_bf16 && !s->host ? mem_alloc(&s->wide, 2, CKPT_BLOCK) : TM_OK;
}

/* dst[n] bf16 <- src[n] f32, any alignment. */
static void narrow(void *dst, const void *src, size_t n) {
    for (size_t i = 0; i < n; i++) {
        float x;
        memcpy(&x, (const char *)src + 4 * i, 4);
        uint16_t code = bf16_encode(x);
        memcpy((char *)dst + 2 * i, &code, 2);
    }
}

enum status ckpt_shard_source_read(struct shard_source *s, int64_t at, size_t n, void *out) {
    if (!s->tensor->as_bf16) {
        if (!s->host) return dev_download(s->dev, out, dptr_add(s->tensor->data, at), n);
        memcpy(out, s->host + at, n);
        return TM_OK;
    }
    if (!s->host) TM_TRY(dev_download(s->dev, s->wide, dptr_add(s->tensor->data, 2 * at), 2 * n));
    narrow(out, s->host ? s->host + 2 * at : s->wide, n / 2);
    return TM_OK;
}

void ckpt_shard_source_close(struct shard_source *s) {
    mem_free(&s->copy);
    mem_free(&s->wide);
}

/* --- writing ------------------------------------------------------------------------------------------------------------------- */

struct shard_out {
    int fd;
    const char *path;
    int64_t begun; /* of file_write_behind */
    char *buf;     /* of a block: frames are hashed through it; pieces use its first STEP bytes */
};
enum { STEP = 1 << 20 }; /* what is read, hashed and written while it is in a core's cache */

/* Block `b` of a piece. */
static enum status write_block(struct shard_out *o, struct shard_source *s, const struct ckpt_piece *p, int64_t b,
                               uint64_t *hash) {
    struct hash_stream h;
    int64_t end = size_min(p->bytes, (b + 1) * CKPT_BLOCK);
    hash_begin(&h, 0);
    for (int64_t at = b * CKPT_BLOCK, n; at < end; at += n) {
        n = size_min(end - at, STEP);
        TM_TRY(ckpt_shard_source_read(s, at, (size_t)n, o->buf));
        hash_add(&h, o->buf, (size_t)n);
        if (fault_here("ckpt", "flip")) o->buf[n / 2] ^= 1;
        TM_TRY(file_pwrite(o->fd, o->path, o->buf, (size_t)n, p->offset + at));
    }
    *hash = hash_end(&h);
    file_write_behind(o->fd, p->offset + end, &o->begun);
    return TM_OK;
}

static enum status write_piece(struct shard_out *o, struct shard_source *s, struct ckpt_table *t,
                               const struct ckpt_piece *p) {
    for (int64_t b = 0; b < ckpt_table_blocks(p->bytes); b++) {
        if (fault_here("ckpt", "write")) return TM_FAIL(TM_ERR_IO, "cannot write %s: %s", o->path, strerror(ENOSPC));
        if (fault_here("ckpt", "die-write")) raise(SIGKILL);
        TM_TRY(write_block(o, s, p, b, &t->hashes[p->hash + b]));
    }
    return TM_OK;
}

/* Open a file that has its frame, and hash the frame. */
static enum status open_frame(const char *path, struct ckpt_table *t, int file, void *buf, int *fd) {
    struct ckpt_file *f = &t->files[file];
    *fd = open(path, O_RDWR | O_CLOEXEC);
    if (*fd < 0) return TM_FAIL(TM_ERR_IO, "cannot open %s: %s", path, strerror(errno));
    f->bytes = file_size(path);
    if (f->bytes < 0) return TM_FAIL(TM_ERR_IO, "cannot stat %s: %s", path, strerror(errno));
    return ckpt_table_hash_rest(t, file, *fd, path, f->bytes, buf, &f->rest);
}

static enum status sync_close(const char *path, int fd, enum status st) {
    if (fd < 0) return st;
    if (st == TM_OK && file_sync(fd) != 0) st = TM_FAIL(TM_ERR_IO, "cannot sync %s: %s", path, strerror(errno));
    if (file_close(fd) != 0 && st == TM_OK) st = TM_FAIL(TM_ERR_IO, "cannot close %s: %s", path, strerror(errno));
    return st;
}

enum status ckpt_shard_write(const char *dir, struct dev *dev, const struct ckpt_tensor *tensors, struct ckpt_table *t,
                             int file) {
    char path[4096];
    struct shard_out o = {.fd = -1, .path = path};
    TM_TRY(str_path(path, sizeof path, dir, t->files[file].name));
    TM_TRY(mem_alloc(&o.buf, 1, CKPT_BLOCK));
    enum status st = ckpt_h5_create_shard(path, t, file);
    if (st == TM_OK) st = open_frame(path, t, file, o.buf, &o.fd);
    for (int64_t i = 0; st == TM_OK && i < t->n_pieces; i++) {
        const struct ckpt_piece *p = &t->pieces[i];
        struct shard_source s;
        if (p->file != file) continue;
        st = ckpt_shard_source_open(&s, dev, &tensors[p->tensor], &p->box);
        if (st == TM_OK) st = write_piece(&o, &s, t, p);
        ckpt_shard_source_close(&s);
    }
    st = sync_close(path, o.fd, st);
    mem_free(&o.buf);
    return st;
}

enum status ckpt_shard_write_index(const char *dir, struct ckpt_table *t) {
    char path[4096], *buf;
    int fd = -1, file = t->n_files - 1;
    TM_TRY(str_path(path, sizeof path, dir, t->files[file].name));
    TM_TRY(mem_alloc(&buf, 1, CKPT_BLOCK));
    enum status st = fault_here("ckpt", "index") ? TM_FAIL(TM_ERR_IO, "cannot write %s: %s", path, strerror(ENOSPC))
                                                 : ckpt_h5_create_index(path, t);
    if (st == TM_OK) st = open_frame(path, t, file, buf, &fd);
    st = sync_close(path, fd, st);
    mem_free(&buf);
    return st;
}
