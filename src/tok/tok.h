/* Tokenizers: tokenizer.json of Hugging Face to token ids and back, and the training of a byte-level BPE vocabulary. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"

/* All functions are Local. A handle keeps scratch memory and a cache of words: one handle per thread. */
struct tok;

/* A growing array of ids: zero-initialise; tok_encode appends; free with tok_ids_free. */
struct tok_ids {
    int32_t *p;
    size_t n, cap;
};

enum tok_flag {
    TOK_ADD_SPECIAL = 1,  /* encode: put what the post-processor's template puts before and after the text (bos, eos) */
    TOK_SKIP_SPECIAL = 2, /* decode: leave special tokens out */
};

/* Open `path`, a tokenizer.json or the directory that holds one. Read: model BPE over bytes (merges as "a b" or ["a", "b"],
 * ignore_merges), normalizer null or NFC, pre-tokenizers Split, Digits, ByteLevel and sequences of them (ByteLevel last),
 * added tokens, post-processors ByteLevel and TemplateProcessing, decoder ByteLevel. tokenizer_config.json beside it, if any,
 * names the bos and eos tokens. The caller closes with tok_close.
 * Errors: IO; FORMAT (damaged, ids out of range, a merge of unknown tokens); UNSUPPORTED (another kind, named). */
enum status tok_open(const char *path, struct tok **out);
void tok_close(struct tok **t); /* NULL is fine; sets *t to NULL */

/* Append the ids of text[0..n) (UTF-8; NUL bytes are text) to out. Text that spells an added token becomes that token, special
 * or not, as the format's own library does it. flags: TOK_ADD_SPECIAL.
 * Errors: DATA (invalid UTF-8 at a byte offset; a byte without a token), MEMORY. The caller adds the file's name. */
enum status tok_encode(struct tok *t, const char *text, size_t n, unsigned flags, struct tok_ids *out);
void tok_ids_free(struct tok_ids *ids);

/* Append the text of ids[0..n) to out, always valid UTF-8: each maximal ill-formed part becomes U+FFFD (a token may hold part
 * of a character). flags: TOK_SKIP_SPECIAL. Errors: DATA (an id outside the vocabulary), MEMORY. */
enum status tok_decode(const struct tok *t, const int32_t *ids, size_t n, unsigned flags, struct str *out);

/* The bytes of one token, borrowed from t, maybe part of a UTF-8 character. False when the id is unused. */
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
/* Append bytes with each maximal ill-formed part replaced by U+FFFD. */
enum status tok_append_lossy(struct str *out, const char *bytes, size_t n);

/* One text of the training set; words never reach across two texts. */
struct tok_text {
    const char *p;
    size_t n;
};

/* Train a byte-level BPE with GPT-2's word pattern and write it to `path` as a tokenizer.json: ids are the special tokens in the
 * given order, the 256 bytes in the order of their printable stand-ins, then one token per merge, until vocab_size is reached or
 * no pair is left. Each step merges the most frequent pair, ties by the smaller pair of ids: the same texts give the same bytes.
 * The counts follow Hugging Face's BpeTrainer, so its merges are the same. Special tokens inside the texts are not cut out.
 * Errors: DATA (no text, invalid UTF-8 with text number and offset), DECK (vocab_size below 256 + nspecial), IO, MEMORY. */
enum status tok_train_bpe(const struct tok_text *texts, size_t ntexts, int32_t vocab_size, const char *const *special,
                          size_t nspecial, const char *path);
