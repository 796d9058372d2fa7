/* What holds for every tokenizer that opens, whatever its file says, and every text. */
#pragma once

#include "fuzz.h"
#include "tok/tok.h"

static inline void toks_check_spans(const struct tok *t, const struct tok_ids *ids, const struct tok_spans *spans,
                                    size_t n) {
    fuzz_check(ids->n == spans->n, "a span for each token");
    for (size_t i = 0; i < ids->n; i++) {
        const char *bytes;
        size_t length;
        fuzz_check(ids->p[i] >= 0 && ids->p[i] < tok_vocab_size(t), "ids of the vocabulary");
        fuzz_check(tok_bytes(t, ids->p[i], &bytes, &length), "ids in use");
        fuzz_check(spans->p[i].begin <= spans->p[i].end && spans->p[i].end <= n, "spans inside the text");
    }
}

static inline void toks_round_trip(struct tok *t, const char *text, size_t n, unsigned flags) {
    struct tok_ids ids = {0}, again = {0}, types = {0};
    struct tok_spans spans = {0};
    struct str out = {0};
    enum status st = tok_encode_spans(t, text, n, flags, &ids, &spans);
    if (st == TM_OK) {
        toks_check_spans(t, &ids, &spans, n);
        fuzz_must(tok_encode(t, text, n, flags, &again));
        fuzz_check(again.n == ids.n && (!ids.n || !memcmp(ids.p, again.p, ids.n * sizeof *ids.p)),
                   "the same ids again");
        fuzz_must(tok_decode(t, ids.p, ids.n, flags ? TOK_SKIP_SPECIAL : 0, &out));
        fuzz_check(tok_utf8_check(out.p, out.len) == out.len, "decoded text is UTF-8");
    } else {
        fuzz_check(st == TM_ERR_DATA, "a text that cannot be encoded");
    }
    st = tok_encode_pair(t, (struct tok_text){text, n / 2}, (struct tok_text){text, n}, flags, &again, &types);
    fuzz_check(st != TM_OK || again.n == types.n, "a type for each token");
    tok_ids_free(&ids);
    tok_ids_free(&again);
    tok_ids_free(&types);
    tok_spans_free(&spans);
    str_free(&out);
}

/* Open `path` and take it through texts of our own and one of the input's. */
static inline void toks_run(const char *path, const char *text, size_t n) {
    static const char *const texts[] = {"", "Hello, world! abc  aab 123\n\t don't",
                                        " <s>ab</s>\xe2\x96\x81 \xc3\xa9 e\xcc\x81 \xe4\xbd\xa0\xf0\x9f\x98\x80\r\n",
                                        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    struct tok *t;
    enum status st = tok_open(path, &t);
    fuzz_check((st == TM_OK) == (t != NULL), "a handle, or an error");
    if (st != TM_OK) return;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        toks_round_trip(t, texts[i], strlen(texts[i]), i & 1 ? TOK_ADD_SPECIAL : 0);
    toks_round_trip(t, text, n, TOK_ADD_SPECIAL);
    toks_round_trip(t, text, n, 0);
    fuzz_check(tok_eos(t) < tok_vocab_size(t) && tok_bos(t) < tok_vocab_size(t), "ends of the vocabulary");
    tok_close(&t);
}
