/* Stage convert: text into token shards, the training of a tokenizer, or a GGUF model into a Hugging Face directory (convert_gguf.c). Of
 * text, rank 0 does the work; the others wait in the agreement. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "data/text.h"
#include "hub/pretty.h"
#include "stage/convert_gguf.h"
#include "stage/inputs.h"

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
        st = data_text_each(s->input.v[i], DATA_SPLIT_BLANK, s->text_key, add_document, &c);
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

/* --- token shards --------------------------------------------------------------------------------------------------------- */
static enum status make_shards(struct stage_run *r, const struct deck_stage *s) {
    char bin[4096];
    int64_t documents = 0, tokens = 0;
    struct tok *t;
    TM_TRY(str_copy(bin, sizeof bin - 4, s->output));
    char *slash = strrchr(bin, '/');
    if (slash && slash != bin) {
        *slash = 0;
        TM_TRY(file_make_dirs(bin));
        *slash = '/';
    }
    TM_TRY(*s->tokenizer ? tok_open(s->tokenizer, &t) : stage_open_tokenizer(s, &t));
    enum status st = TM_OK;
    int32_t eos = s->eos ? tok_eos(t) : -1;
    if (s->eos && eos < 0)
        st = TM_FAIL(TM_ERR_DECK, "stage %s: the tokenizer names no end-of-text token: give eos = false", s->name);
    if (st == TM_OK)
        st = data_convert_text(s->input.v, (size_t)s->input.n, DATA_SPLIT_BLANK, s->text_key, t, eos, s->output,
                               &documents, &tokens);
    tok_close(&t);
    TM_TRY(st);
    strcat(bin, ".bin");
    TM_TRY(stage_result(r, s, "documents", (double)documents, "documents"));
    TM_TRY(stage_result(r, s, "tokens", (double)tokens, "tokens"));
    return stage_result(r, s, "bytes", (double)file_size(bin), "bytes");
}

/* A stage that is run again writes the same bytes again; every file appears whole, by a rename. */
enum status stage_convert_all(struct stage_run *r, const struct deck_stage *s) {
    bool is_gguf;
    TM_TRY(stage_input_is_gguf_all(r, s, &is_gguf));
    enum status st = TM_OK;
    par_watchdog_stop(); /* the others wait for as long as the text is long */
    if (is_gguf)
        st = stage_convert_gguf_all(r, s);
    else if (par_rank() == 0)
        st = s->vocab_size > 0 ? make_tokenizer(r, s) : make_shards(r, s);
    st = par_agree_all(st);
    enum status dog = par_agree_all(par_watchdog_start(r->deck->limits.deadline_s));
    return st == TM_OK ? dog : st;
}
