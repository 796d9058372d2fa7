/* Inside the tokenizer room: the stages that a text passes, and the handle. */
#pragma once

#include "base/json.h"
#include "tok/tok.h"

/* Text -> added tokens cut out -> normalizer -> pre-tokenizer steps -> model (a word of bytes to ids). Each stage of
 * tokenizer.json is one member below; another kind of model (SentencePiece BPE, Unigram, WordPiece) is another tok_model
 * with its own normalizer and decoder, and tok.c stays as it is. */

/* --- strings and pair tables (table.c) ---------------------------------------------------------------------------------*/

/* Byte strings to int32 values; the keys are copied into one pool. */
struct tok_map {
    struct tok_key {
        size_t offset, n;
        int32_t value;
    } * keys;
    size_t nkeys, cap_keys;
    uint32_t *slots; /* key number + 1, 0 = free; a power of two of them */
    size_t nslots;
    struct str pool;
};
/* The value of a key, or -1. */
int32_t tok_map_get(const struct tok_map *m, const char *key, size_t n);
/* Add a key that is not there yet. */
enum status tok_map_add(struct tok_map *m, const char *key, size_t n, int32_t value);
void tok_map_free(struct tok_map *m);

/* Ordered pairs of ids to a number >= 0. */
struct tok_pairs {
    uint64_t *keys;
    int32_t *values; /* -1 = free */
    size_t nslots, n;
};
int32_t tok_pairs_get(const struct tok_pairs *m, int32_t left, int32_t right);
enum status tok_pairs_add(struct tok_pairs *m, int32_t left, int32_t right, int32_t value);
void tok_pairs_free(struct tok_pairs *m);

/* --- bytes and characters (bytes.c) -------------------------------------------------------------------------------------*/

/* GPT-2's printable stand-in of a byte, a code point below 0x144; and back, -1 when the code point stands for no byte. */
uint32_t tok_byte_to_char(unsigned char byte);
int tok_char_to_byte(uint32_t c);
/* Decode the character at text[*i] of valid UTF-8 and step *i behind it; append a character. */
uint32_t tok_utf8_next(const char *text, size_t *i);
enum status tok_utf8_append(struct str *s, uint32_t c);
bool tok_is_white_space(uint32_t c); /* Unicode White_Space */
/* Spell bytes in stand-ins; turn a token's spelling into its bytes (all stand-ins -> bytes, else the spelling itself). */
enum status tok_spell(const char *bytes, size_t n, struct str *out);
enum status tok_unspell(const char *content, size_t n, struct str *out, bool *all_bytes);

/* --- normalizer (nfc.c) -------------------------------------------------------------------------------------------------*/

/* Append the NFC form of valid UTF-8 text. */
enum status tok_nfc(const char *text, size_t n, struct str *out);

/* --- pre-tokenizer (split.c) --------------------------------------------------------------------------------------------*/

enum tok_keep { TOK_KEEP_ALL, TOK_KEEP_GAPS, TOK_KEEP_MATCHES };

struct tok_step {
    void *code, *match; /* a compiled pattern and its match block; code NULL: this step only puts a space in front */
    enum tok_keep keep; /* which parts of the text become words */
    struct str front;   /* scratch of a step that puts a space in front */
};

struct tok_split {
    struct tok_step *steps;
    size_t n, cap;
};
extern const char tok_gpt2_pattern[];
enum status tok_split_read(const json_t *pre_tokenizer, const char *where, struct tok_split *out);
/* Add a step; `literal` takes the pattern as plain text. */
enum status tok_split_add(struct tok_split *s, const char *pattern, bool literal, enum tok_keep keep,
                          const char *where);
void tok_split_free(struct tok_split *s);
/* Cut text[0..n) (valid UTF-8) into words, in order, and hand each to word(). */
typedef enum status tok_word_fn(void *ctx, const char *word, size_t n);
enum status tok_split_run(struct tok_split *s, const char *text, size_t n, tok_word_fn *word, void *ctx);

/* --- model (bpe.c) ------------------------------------------------------------------------------------------------------*/

struct tok_bpe;
/* vocab maps spellings to ids. */
enum status tok_bpe_read(const json_t *model, const char *where, const struct tok_map *vocab,
                         struct tok_bpe **out); /* vocab outlives it */
void tok_bpe_free(struct tok_bpe **m);
enum status tok_bpe_word(struct tok_bpe *m, const char *word, size_t n, struct tok_ids *out);

/* --- added tokens (added.c) ---------------------------------------------------------------------------------------------*/

struct tok_added {
    char *content;
    size_t n;
    int32_t id;
    bool special, normalized, lstrip, rstrip;
};
struct tok_added_list {
    struct tok_added *p; /* by first byte, then longest first */
    size_t n, cap;
    uint32_t first[257]; /* p[first[b] .. first[b+1]) begin with byte b */
};
enum status tok_added_read(const json_t *added, const char *where, struct tok_added_list *out);
/* Order the list for tok_added_find, once the contents are final. */
void tok_added_index(struct tok_added_list *l);
void tok_added_free(struct tok_added_list *l);
/* The next added token in text[from..n) that is matched before (normalized false) or after normalization: leftmost, then
 * longest. [*begin, *end) is what it takes out of the text, stripped blanks included. NULL: none. */
const struct tok_added *tok_added_find(const struct tok_added_list *l, const char *text, size_t n, size_t from,
                                       bool normalized, size_t *begin, size_t *end);

enum status tok_ids_push(struct tok_ids *ids, int32_t id);
