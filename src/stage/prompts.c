/* Prompts from the deck, a text file with one a line, or the rows of a token file. */
#include "stage/prompts.h"

#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/size.h"
#include "stage/inputs.h"

enum { MAX_PROMPT_FILE = 1 << 30 };

static enum status add(struct stage_prompts *p, struct stage_prompt **out) {
    TM_TRY(mem_grow(&p->v, &p->cap, p->n + 1, sizeof *p->v));
    *out = &p->v[p->n++];
    return TM_OK;
}

static enum status check(struct stage_prompts *p, const struct stage_prompt *x, int64_t vocab) {
    for (int64_t i = 0; i < x->n; i++)
        if (x->ids[i] < 0 || x->ids[i] >= vocab)
            return TM_FAIL(TM_ERR_DATA, "prompt %zu: token %d at %lld: the model's vocabulary has %lld", p->n - 1,
                           (int)x->ids[i], (long long)i, (long long)vocab);
    p->longest = size_max(p->longest, x->n);
    return TM_OK;
}

static enum status add_text(struct stage_prompts *p, const char *text, size_t n, int64_t vocab) {
    struct stage_prompt *x;
    struct tok_ids ids = {0};
    TM_TRY(add(p, &x));
    TM_TRY(mem_alloc(&x->text, n + 1, 1));
    memcpy(x->text, text, n);
    enum status st = tok_encode(p->tok, text, n, TOK_ADD_SPECIAL, &ids);
    int32_t begin = tok_bos(p->tok) >= 0 ? tok_bos(p->tok) : tok_eos(p->tok);
    if (st == TM_OK && ids.n == 0 && begin < 0)
        st = TM_FAIL(TM_ERR_DATA, "the text is empty and the tokenizer has no token to begin with");
    if (st == TM_OK && ids.n == 0) {
        st = mem_grow(&ids.p, &ids.cap, 1, sizeof *ids.p);
        if (st == TM_OK) ids.p[ids.n++] = begin;
    }
    x->ids = ids.p;
    x->n = (int64_t)ids.n;
    if (st != TM_OK) return status_context(st, "prompt %zu: ", p->n - 1);
    return check(p, x, vocab);
}

static enum status add_lines(struct stage_prompts *p, const char *path, int64_t vocab) {
    char *text;
    size_t n;
    TM_TRY(file_read(path, MAX_PROMPT_FILE, &text, &n));
    enum status st = TM_OK;
    for (size_t at = 0, end; at < n && st == TM_OK; at = end + 1) {
        const char *nl = memchr(text + at, '\n', n - at);
        end = nl ? (size_t)(nl - text) : n;
        size_t length = end - at;
        if (length && text[at + length - 1] == '\r') length--;
        if (length) st = add_text(p, text + at, length, vocab);
    }
    mem_free(&text);
    return st == TM_OK ? TM_OK : status_context(st, "%s: ", path);
}

static enum status add_row(struct stage_prompts *p, const struct data_source *rows, int64_t row, int64_t vocab) {
    struct stage_prompt *x;
    int64_t begin, end, *ids;
    data_source_row(rows, row, &begin, &end);
    if (end <= begin) return TM_FAIL(TM_ERR_DATA, "row %lld is all padding", (long long)row);
    TM_TRY(add(p, &x));
    x->n = end - begin;
    TM_TRY(mem_alloc(&x->ids, (size_t)x->n, sizeof *x->ids));
    TM_TRY(mem_alloc(&ids, (size_t)x->n, sizeof *ids));
    enum status st = data_source_read(rows, row, begin, x->n, ids);
    for (int64_t i = 0; st == TM_OK && i < x->n; i++) x->ids[i] = (int32_t)size_max(-1, size_min(ids[i], INT32_MAX));
    mem_free(&ids);
    return st == TM_OK ? check(p, x, vocab) : st;
}

static enum status add_rows(struct stage_prompts *p, const char *path, int64_t vocab) {
    struct data_source *rows;
    TM_TRY(stage_open_token_file(path, &rows));
    enum status st = TM_OK;
    for (int64_t i = 0; i < data_source_documents(rows) && st == TM_OK; i++) st = add_row(p, rows, i, vocab);
    data_source_free(&rows);
    return st == TM_OK ? TM_OK : status_context(st, "%s: ", path);
}

/* Tokens can be continued without a tokenizer; then there is no text. */
static enum status open_tokenizer(const struct deck_stage *s, bool needed, struct tok **out) {
    enum status st = stage_open_tokenizer(s, out);
    if (st == TM_OK || needed || *s->model.tokenizer) return st;
    if (par_rank() == 0) log_warn("tokens without text: %s", status_message());
    *out = NULL;
    return TM_OK;
}

enum status stage_prompts_open(const struct deck_stage *s, int64_t vocab, struct stage_prompts *out) {
    enum data_kind kind = DATA_TEXT;
    *out = (struct stage_prompts){0};
    if (*s->prompts) TM_TRY(data_kind_of(s->prompts, "auto", &kind));
    TM_TRY(open_tokenizer(s, kind != DATA_ROWS || s->prompt.n, &out->tok));
    for (int i = 0; i < s->prompt.n; i++) TM_TRY(add_text(out, s->prompt.v[i], strlen(s->prompt.v[i]), vocab));
    if (*s->prompts) TM_TRY(kind == DATA_ROWS ? add_rows(out, s->prompts, vocab) : add_lines(out, s->prompts, vocab));
    return out->n ? TM_OK : TM_FAIL(TM_ERR_DATA, "stage %s: %s holds no prompt", s->name, s->prompts);
}

void stage_prompts_free(struct stage_prompts *p) {
    for (size_t i = 0; i < p->n; i++) {
        mem_free(&p->v[i].text);
        mem_free(&p->v[i].ids);
    }
    mem_free(&p->v);
    tok_close(&p->tok);
}
