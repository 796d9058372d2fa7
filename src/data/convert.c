/* Text into token shards: each rank reads its range of bytes and writes its share. */
#include "data/convert.h"

#include "base/file.h"
#include "base/mem.h"
#include "base/size.h"
#include "data/writer.h"

enum { ROUND = 4 << 20 };

/* What a rank is at. */
struct work {
    const struct data_convert *c;
    struct data_writer *w;
    struct data_text *text; /* of file - 1; NULL: open the next */
    size_t file;
    int64_t begin;       /* of the next file, in all files' bytes */
    int64_t all, lo, hi; /* bytes of all files; this rank's range of them */
    struct tok_ids ids;
    struct data_converted sum; /* of this rank */
};

static enum status convert_document(struct work *x, const char *text, size_t n) {
    struct tok_ids *ids = &x->ids;
    ids->n = 0;
    TM_TRY(tok_encode(x->c->tok, text, n, 0, ids));
    if (ids->n == 0) return TM_OK;
    if (x->c->eod >= 0) {
        TM_TRY(mem_grow(&ids->p, &ids->cap, ids->n + 1, sizeof *ids->p));
        ids->p[ids->n++] = x->c->eod;
    }
    x->sum.documents++;
    x->sum.tokens += (int64_t)ids->n;
    TM_TRY(data_writer_add(x->w, ids->p, ids->n));
    return data_writer_end_document(x->w);
}

/* The part of the next file that is this rank's, if any. */
static enum status open_next(struct work *x) {
    const char *path = x->c->paths[x->file++];
    struct data_text_opts o = {data_text_split(path, "auto"), x->c->utf8, x->c->text_key};
    int64_t size = file_size(path), begin = x->begin;
    if (size < 0) return TM_FAIL(TM_ERR_IO, "cannot open %s", path);
    x->begin += size;
    int64_t from = size_max(x->lo - begin, 0), to = size_min(x->hi - begin, size);
    return from < to ? data_text_open(path, &o, from, to, &x->text) : TM_OK;
}

static void close_text(struct work *x) {
    if (x->text) x->sum.damaged += data_text_damaged(x->text);
    data_text_close(&x->text);
}

/* About 4 MiB of text; *left = is there more? */
static enum status do_round(struct work *x, bool *left) {
    int64_t done = 0;
    while (done < ROUND && (x->text || x->file < x->c->n)) {
        const char *text = NULL;
        size_t n;
        if (!x->text) {
            TM_TRY(open_next(x));
            if (!x->text) continue;
        }
        int64_t before = data_text_read(x->text);
        TM_TRY(data_text_next(x->text, &text, &n));
        if (text) {
            enum status st = convert_document(x, text, n);
            if (st != TM_OK) return data_text_context(x->text, st);
        }
        done += data_text_read(x->text) - before;
        if (!text) close_text(x);
    }
    x->sum.bytes += done;
    *left = x->text || x->file < x->c->n;
    return TM_OK;
}

static enum status set_up(struct work *x, int rank, int size) {
    const struct data_convert *c = x->c;
    if (c->eod >= tok_vocab_size(c->tok))
        return TM_FAIL(TM_ERR_DECK, "end-of-document id %d: the vocabulary has %d ids", (int)c->eod,
                       (int)tok_vocab_size(c->tok));
    for (size_t i = 0; i < c->n; i++) {
        int64_t n = file_size(c->paths[i]);
        if (n < 0) return TM_FAIL(TM_ERR_IO, "cannot open %s", c->paths[i]);
        x->all += n;
    }
    int64_t each = x->all / size, rest = x->all % size;
    x->lo = each * rank + rest * rank / size;
    x->hi = each * (rank + 1) + rest * (rank + 1) / size;
    return TM_OK;
}

/* All ranks go through the same number of rounds, so that one that fails ends it for all. */
static enum status rounds(struct work *x, struct par_group *g, int64_t sums[5]) {
    for (bool left = true; left;) {
        bool more = false;
        TM_TRY(par_agree(g, do_round(x, &more)));
        int64_t now[] = {x->sum.bytes, x->sum.documents, x->sum.tokens, x->sum.damaged, more};
        for (int i = 0; i < 5; i++) sums[i] = now[i];
        TM_TRY(par_reduce_i64(g, sums, 5, PAR_SUM));
        left = sums[4] > 0;
        if (x->c->round) TM_TRY(x->c->round(x->c->ctx, size_min(sums[0], x->all), x->all));
    }
    return TM_OK;
}

enum status data_convert_text(const struct data_convert *c, struct par_group *g, struct data_converted *out) {
    struct work x = {.c = c};
    int64_t sums[5] = {0};
    *out = (struct data_converted){0};
    enum data_dtype dtype = tok_vocab_size(c->tok) < 65500 ? DATA_U16 : DATA_I32;
    enum status st = set_up(&x, par_group_rank(g), par_group_size(g));
    if (st == TM_OK) st = data_writer_open(c->prefix, dtype, g, &x.w);
    st = par_agree(g, st);
    if (st == TM_OK) st = rounds(&x, g, sums);
    if (st == TM_OK && sums[2] == 0) st = TM_FAIL(TM_ERR_DATA, "no text in %zu files for %s", c->n, c->prefix);
    if (st == TM_OK)
        st = data_writer_finish(&x.w);
    else
        data_writer_cancel(&x.w);
    close_text(&x);
    tok_ids_free(&x.ids);
    *out = (struct data_converted){x.all, sums[1], sums[2], sums[3]};
    return st;
}
