/* Tokenizers: tokenizer.json of Hugging Face and SentencePiece models to token ids and back; training of a byte-level BPE. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"

/* All functions are Local. A handle keeps scratch memory and a cache of words: one handle per thread, see tok_share. */
struct tok;

/* A growing array of ids: zero-initialise; tok_encode appends; free with tok_ids_free. */
struct tok_ids {
    int32_t *p;
    size_t n, cap;
};

struct tok_text {
    const char *p;
    size_t n;
};

/* Where tokens come from: bytes [begin, end) of the original text, always whole characters. A special token of the post-processor has
 * {0, 0}. Zero-initialise; free with tok_spans_free. */
struct tok_span {
    size_t begin, end;
};
struct tok_spans {
    struct tok_span *p;
    size_t n, cap;
};

enum tok_flag {
    TOK_ADD_SPECIAL = 1,  /* encode: put what the post-processor's template puts before and after the text (bos, eos) */
    TOK_SKIP_SPECIAL = 2, /* decode: leave special tokens out */
};

/* Open `path`: a tokenizer.json, a SentencePiece model (any name that ends in .model), or a directory that holds tokenizer.json or
 * else tokenizer.model. kinds.def lists the normalizers, pre-tokenizers, models, post-processors and decoders that tokenizer.json may
 * name, besides sequences of them. tokenizer_config.json beside it, if any, names the bos and eos tokens.
 * A tokenizer.json gives the ids of the Hugging Face tokenizers library; a SentencePiece model those of sentencepiece itself: its
 * control symbols never match in a text. The caller closes with tok_close.
 * Errors: IO; FORMAT (damaged, ids out of range, a merge of unknown tokens); UNSUPPORTED (another kind, named). */
enum status tok_open(const char *path, struct tok **out);
void tok_close(struct tok **t); /* NULL is fine; sets *t to NULL */
/* Another handle on the same tables, for another thread: about 4 MiB of scratch. Call it where `t` is not in use; close each handle once, in any
 * order, from one thread at a time. */
enum status tok_share(struct tok *t, struct tok **out);

/* Append the ids of text[0..n) (UTF-8; NUL bytes are text) to out. Text that spells an added token becomes that token, special
 * or not, as the format's own library does it. flags: TOK_ADD_SPECIAL.
 * Errors: DATA (invalid UTF-8 at a byte offset; a character without a token), MEMORY. The caller adds the file's name. */
enum status tok_encode(struct tok *t, const char *text, size_t n, unsigned flags, struct tok_ids *out);
/* The same, and the part of the text that each token stands for. */
enum status tok_encode_spans(struct tok *t, const char *text, size_t n, unsigned flags, struct tok_ids *out,
                             struct tok_spans *spans);
/* Two texts, joined as the post-processor does it, into out and types, which are emptied first; types gets the type id of every token (0 and 1 where nothing else is said). */
enum status tok_encode_pair(struct tok *t, struct tok_text a, struct tok_text b, unsigned flags, struct tok_ids *out,
                            struct tok_ids *types);
void tok_ids_free(struct tok_ids *ids);
void tok_spans_free(struct tok_spans *spans);

/* Append the text of ids[0..n) to out, always valid UTF-8: ill-formed parts become U+FFFD as the decoder does it (a token may hold
 * part of a character). flags: TOK_SKIP_SPECIAL. Errors: DATA (an id outside the vocabulary), MEMORY. */
enum status tok_decode(const struct tok *t, const int32_t *ids, size_t n, unsigned flags, struct str *out);

/* The bytes of one token, borrowed from t: of a byte-level token maybe part of a UTF-8 character, else its spelling. False when
 * the id is unused. */
bool tok_bytes(const struct tok *t, int32_t id, const char **bytes, size_t *n);

int32_t tok_vocab_size(const struct tok *t);                 /* largest id + 1, added tokens included */
int32_t tok_id_of(const struct tok *t, const char *content); /* the id of a token as tokenizer.json spells it, or -1 */
bool tok_is_special(const struct tok *t, int32_t id);
/* The end-of-text token: what tokenizer_config.json names, else the first of <|endoftext|>, <|end_of_text|>, </s>, <|im_end|>,
 * <eos> among the added tokens, else -1. It also ends a document in a token shard. */
int32_t tok_eos(const struct tok *t);
/* The begin-of-text token: what tokenizer_config.json names, else the template's first, else -1. */
int32_t tok_bos(const struct tok *t);

/* The offset of the first byte that is not well-formed UTF-8 (no surrogates, nothing overlong, at most U+10FFFF), or n. */
size_t tok_utf8_check(const char *text, size_t n);
/* Append bytes with each maximal ill-formed part replaced by U+FFFD: what encode then takes. */
enum status tok_utf8_repair(const char *bytes, size_t n, struct str *out);

/* Train a byte-level BPE with GPT-2's word pattern and write it to `path` as a tokenizer.json: ids are the special tokens in the
 * given order, the 256 bytes in the order of their printable stand-ins, then one token per merge, until vocab_size is reached or
 * no pair is left. Each step merges the most frequent pair, ties by the smaller pair of ids: the same texts give the same bytes.
 * Words never reach across two texts. The counts follow Hugging Face's BpeTrainer, so its merges are the same. Special tokens inside the texts are not cut out.
 * Errors: DATA (no text, invalid UTF-8 with text number and offset), DECK (vocab_size below 256 + nspecial), IO, MEMORY. */
enum status tok_train_bpe(const struct tok_text *texts, size_t ntexts, int32_t vocab_size, const char *const *special,
                          size_t nspecial, const char *path);
