/* SentencePiece BPE out of a GGUF file: merges from scores, and the stages around the model. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "hub/gguf_impl.h"

#define BLANK "\xe2\x96\x81" /* U+2581 stands for a blank */

enum { PIECE_MAX = 1024 }; /* bytes; a longer token is never made of two */

struct merge {
    double score; /* of the token that the two make */
    int64_t token;
    int at; /* bytes of the left one */
    int left_chars, right_chars;
};

/* The best score first; of one score the longer left part, then the longer right part, then the earlier token: as Hugging Face's converter
 * orders them. */
static int by_rank(const void *a, const void *b) {
    const struct merge *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    if (x->left_chars != y->left_chars) return y->left_chars - x->left_chars;
    if (x->right_chars != y->right_chars) return y->right_chars - x->right_chars;
    return x->token < y->token ? -1 : x->token > y->token;
}

static int count_chars(const char *p, const char *end) {
    int n = 0;
    for (; p < end; p++) n += (*p & 0xc0) != 0x80;
    return n;
}

/* Text makes normal tokens only: "<s>" must not come out of "<" and "s>". */
static bool is_normal(const struct gguf_vocabulary *v, const json_t *vocab, const char *token) {
    const json_t *id = json_object_get(vocab, token);
    return id && gguf_token_type(v, json_integer_value(id)) == GGUF_NORMAL;
}

struct merges {
    struct merge *p;
    size_t n, cap;
};

/* All cuts of a token into two. */
static enum status cut(const struct gguf_vocabulary *v, const json_t *vocab, int64_t token, double score,
                       struct merges *out) {
    const char *text = v->tokens.at[token];
    char left[PIECE_MAX];
    int n = (int)strnlen(text, PIECE_MAX);
    if (n == PIECE_MAX || gguf_token_type(v, token) != GGUF_NORMAL) return TM_OK;
    for (int at = 1; at < n; at++) {
        if ((text[at] & 0xc0) == 0x80) continue; /* inside a character */
        memcpy(left, text, (size_t)at);
        left[at] = 0;
        if (!is_normal(v, vocab, left) || !is_normal(v, vocab, text + at)) continue;
        TM_TRY(mem_grow(&out->p, &out->cap, out->n + 1, sizeof *out->p));
        out->p[out->n++] =
            (struct merge){score, token, at, count_chars(text, text + at), count_chars(text + at, text + n)};
    }
    return TM_OK;
}

enum status gguf_spm_merges(const struct gguf_vocabulary *v, const json_t *vocab, json_t **out) {
    struct merges m = {0};
    double *scores;
    int64_t n;
    *out = json_array();
    TM_TRY(hub_gguf_get_numbers(v->m->g, "tokenizer.ggml.scores", &scores, &n));
    enum status st = n == v->tokens.n
                         ? TM_OK
                         : TM_FAIL(TM_ERR_FORMAT, "%s: tokenizer.ggml.scores has %lld entries for %lld tokens", v->path,
                                   (long long)n, (long long)v->tokens.n);
    for (int64_t i = 0; i < n && st == TM_OK; i++)
        st = isfinite(scores[i])
                 ? cut(v, vocab, i, scores[i], &m)
                 : TM_FAIL(TM_ERR_FORMAT, "%s: tokenizer.ggml.scores[%lld] is NaN or Inf", v->path, (long long)i);
    if (m.n) qsort(m.p, m.n, sizeof *m.p, by_rank);
    for (size_t i = 0; i < m.n && st == TM_OK; i++) {
        const char *text = v->tokens.at[m.p[i].token];
        if (json_array_append_new(*out, json_pack("[s%, s]", text, (size_t)m.p[i].at, text + m.p[i].at)))
            st = TM_FAIL(TM_ERR_MEMORY, "out of memory");
    }
    mem_free(&m.p);
    mem_free(&scores);
    return st;
}

json_t *gguf_spm_normalizer(bool prefix) {
    json_t *replace = json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String", " ", "content", BLANK);
    return prefix ? json_pack("{s:s, s:[{s:s, s:s}, o]}", "type", "Sequence", "normalizers", "type", "Prepend",
                              "prepend", BLANK, replace)
                  : replace;
}

json_t *gguf_spm_decoder(bool prefix) {
    json_t *list = json_pack("[{s:s, s:{s:s}, s:s}, {s:s}, {s:s}]", "type", "Replace", "pattern", "String", BLANK,
                             "content", " ", "type", "ByteFallback", "type", "Fuse");
    if (prefix && json_array_append_new(list, json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content", " ",
                                                        "start", 1, "stop", 0))) {
        json_decref(list);
        return NULL;
    }
    return json_pack("{s:s, s:o}", "type", "Sequence", "decoders", list);
}
