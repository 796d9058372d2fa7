/* Stage convert: text into token shards, all ranks together; the training of a tokenizer, by rank 0 alone; or a GGUF model into a Hugging
 * Face directory (convert_gguf.c). */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/size.h"
#include "data/convert.h"
#include "hub/pretty.h"
#include "stage/convert_gguf.h"
#include "stage/inputs.h"
#include "stage/progress.h"

static const char END_OF_TEXT[] = "<|endoftext|>";

/* --- a tokenizer ---------------------------------------------------------------------------------------------------------- */
/* All documents of the inputs in one buffer; places first, since the buffer moves as it grows. */
struct corpus {
    struct str text;
    struct {
        size_t at, n;
    } * place;
    size_t n, cap;
};

static enum status add_document(void *context, const char *text, size_t n) {
    struct corpus *c = context;
    TM_TRY(mem_grow(&c->place, &c->cap, c->n + 1, sizeof *c->place));
    c->place[c->n].at = c->text.len;
    c->place[c->n++].n = n;
    return str_append(&c->text, text, n);
}

static enum data_utf8 utf8_policy(const struct deck_stage *s) {
    return !strcmp(s->utf8, "replace") ? DATA_UTF8_REPLACE
           : !strcmp(s->utf8, "drop")  ? DATA_UTF8_DROP
                                       : DATA_UTF8_STRICT;
}

static enum status train(const struct corpus *c, int64_t vocab, const char *path) {
    struct tok_text *texts;
    TM_TRY(mem_alloc(&texts, c->n, sizeof *texts));
    for (size_t i = 0; i < c->n; i++) texts[i] = (struct tok_text){c->text.p + c->place[i].at, c->place[i].n};
    enum status st = tok_train_bpe(texts, c->n, (int32_t)vocab, (const char *const[]){END_OF_TEXT}, 1, path);
    mem_free(&texts);
    return st;
}

/* What transformers' PreTrainedTokenizerFast needs beside tokenizer.json. */
static enum status write_tokenizer_config(const char *dir) {
    char path[4096];
    TM_TRY(str_path(path, sizeof path, dir, "tokenizer_config.json"));
    json_t *j = json_pack("{s:s, s:s, s:b, s:s}", "bos_token", END_OF_TEXT, "eos_token", END_OF_TEXT,
                          "clean_up_tokenization_spaces", 0, "tokenizer_class", "PreTrainedTokenizerFast");
    if (!j) return TM_FAIL(TM_ERR_MEMORY, "out of memory");
    enum status st = hub_write_json(path, j, 2);
    json_decref(j);
    return st;
}

static enum status make_tokenizer(struct stage_run *r, const struct deck_stage *s) {
    struct corpus c = {0};
    struct tok *t = NULL;
    char path[4096];
    enum status st = str_path(path, sizeof path, s->output, "tokenizer.json");
    for (int i = 0; i < s->input.n && st == TM_OK; i++)
        st = data_text_each(s->input.v[i],
                            &(struct data_text_opts){data_text_split(s->input.v[i], "auto"), utf8_policy(s),
                                                     s->text_key},
                            add_document, &c);
    if (st == TM_OK) st = file_make_dirs(s->output);
    if (st == TM_OK) st = train(&c, s->vocab_size, path);
    if (st == TM_OK) st = write_tokenizer_config(s->output);
    if (st == TM_OK) st = tok_open(s->output, &t); /* what we wrote, we can read */
    if (st == TM_OK && tok_vocab_size(t) < s->vocab_size)
        log_warn("vocab_size = %lld: the text has no pair left to merge after %d tokens", (long long)s->vocab_size,
                 (int)tok_vocab_size(t));
    if (st == TM_OK) st = stage_result(r, s, "documents", (double)c.n, "documents");
    if (st == TM_OK) st = stage_result(r, s, "bytes", (double)c.text.len, "bytes of text");
    if (st == TM_OK) st = stage_result(r, s, "vocabulary", tok_vocab_size(t), "tokens");
    tok_close(&t);
    mem_free(&c.place);
    str_free(&c.text);
    return st;
}

/* The others wait for as long as the text is long. */
static enum status make_tokenizer_all(struct stage_run *r, const struct deck_stage *s) {
    par_watchdog_stop();
    enum status st = par_agree_all(par_rank() == 0 ? make_tokenizer(r, s) : TM_OK);
    enum status dog = par_agree_all(par_watchdog_start(r->deck->limits.deadline_s));
    return st == TM_OK ? dog : st;
}

/* --- token shards --------------------------------------------------------------------------------------------------------- */
/* Where a conversion is, for its rounds. */
struct rounds {
    struct stage_run *r;
    const struct deck_stage *s;
    struct stage_progress progress;
};

static enum status round_all(void *ctx, int64_t done, int64_t all) {
    struct rounds *x = ctx;
    bool save = false;
    stage_progress(&x->progress, size_ceil_div(done, 1 << 20), size_ceil_div(all, 1 << 20), 0, "MiB of text");
    enum status st = stage_poll_all(x->r, &save);
    return st != TM_STOPPED ? st
                            : TM_FAIL(TM_STOPPED, "stage %s stopped; the same command begins it again", x->s->name);
}

static enum status open_tokenizer(const struct deck_stage *s, struct tok **t, int32_t *eos) {
    char dir[4096];
    TM_TRY(str_copy(dir, sizeof dir, s->output));
    char *slash = strrchr(dir, '/');
    if (slash && slash != dir) {
        *slash = 0;
        TM_TRY(file_make_dirs(dir));
    }
    TM_TRY(*s->tokenizer ? tok_open(s->tokenizer, t) : stage_open_tokenizer(s, t));
    *eos = s->eos ? tok_eos(*t) : -1;
    return !s->eos || *eos >= 0
               ? TM_OK
               : TM_FAIL(TM_ERR_DECK, "stage %s: the tokenizer names no end-of-text token: give eos = false", s->name);
}

static enum status make_shards_all(struct stage_run *r, const struct deck_stage *s) {
    struct rounds rounds = {.r = r, .s = s};
    struct data_converted x = {0};
    struct tok *t = NULL;
    struct data_convert c = {.paths = s->input.v,
                             .n = (size_t)s->input.n,
                             .text_key = s->text_key,
                             .utf8 = utf8_policy(s),
                             .prefix = s->output,
                             .round = round_all,
                             .ctx = &rounds};
    double begin = clock_seconds();
    enum status st = par_agree_all(open_tokenizer(s, &t, &c.eod));
    c.tok = t;
    if (st == TM_OK) st = data_convert_text(&c, r->grid.world, &x);
    int width = t && tok_vocab_size(t) < 65500 ? 2 : 4;
    tok_close(&t);
    TM_TRY(st);
    if (x.damaged && par_rank() == 0)
        log_warn("%lld documents were not UTF-8: %s", (long long)x.damaged,
                 c.utf8 == DATA_UTF8_DROP ? "left out" : "mended");
    log_info("%.1f MB of text in %.2f s: %.1f MB/s on %d ranks", (double)x.bytes / 1e6, clock_seconds() - begin,
             (double)x.bytes / 1e6 / (clock_seconds() - begin), par_size());
    TM_TRY(stage_result(r, s, "documents", (double)x.documents, "documents"));
    TM_TRY(stage_result(r, s, "tokens", (double)x.tokens, "tokens"));
    return stage_result(r, s, "bytes", (double)(x.tokens * width), "bytes");
}

/* A stage that is run again writes the same bytes again; every file appears whole, by a rename. */
enum status stage_convert_all(struct stage_run *r, const struct deck_stage *s) {
    bool is_gguf;
    TM_TRY(stage_input_is_gguf_all(r, s, &is_gguf));
    if (!is_gguf) return s->vocab_size > 0 ? make_tokenizer_all(r, s) : make_shards_all(r, s);
    par_watchdog_stop(); /* a rank waits for as long as another one's files are long */
    enum status st = par_agree_all(stage_convert_gguf_all(r, s));
    enum status dog = par_agree_all(par_watchdog_start(r->deck->limits.deadline_s));
    return st == TM_OK ? dog : st;
}
