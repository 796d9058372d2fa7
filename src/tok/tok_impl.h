/* Inside the tokenizer room: the stages that a text passes, their tables, and a handle's working memory. */
#pragma once

#include "base/json.h"
#include "tok/tok.h"

/* Text -> added tokens cut out -> normalizer steps -> added tokens that are matched in normalized text cut out -> pre-tokenizer
 * steps -> model (a word to ids) -> post-processor. kinds.def lists what tokenizer.json may name in each stage, with the function
 * that reads it into struct tok_tables. The tables are read-only once open; what changes while a text runs is struct tok_work. */

struct tok_tables;
struct tok_work;

/* --- strings, pairs and prefixes (table.c) ------------------------------------------------------------------------------*/

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

/* A prefix tree over bytes: node 0 is the root; values[node] is the value of the key that ends there, or -1. */
struct tok_trie {
    struct tok_pairs next; /* (node, byte) -> node */
    int32_t *values;
    size_t n, cap;
};
enum status tok_trie_add(struct tok_trie *t, const char *key, size_t n,
                         int32_t value); /* the last value of a key holds */
/* The node behind `byte`, or -1. */
static inline int32_t tok_trie_next(const struct tok_trie *t, int32_t node, char byte) {
    return tok_pairs_get(&t->next, node, (unsigned char)byte);
}
/* The length of the longest key that text[0..n) begins with, and its value; 0: none. */
size_t tok_trie_longest(const struct tok_trie *t, const char *text, size_t n, int32_t *value);
void tok_trie_free(struct tok_trie *t);

enum status tok_ids_push(struct tok_ids *ids, int32_t id);
enum status tok_spans_push(struct tok_spans *spans, size_t begin, size_t end);

/* --- bytes and characters (bytes.c, unicode.c) ---------------------------------------------------------------------------*/

/* U+2581, what SentencePiece writes for a blank. */
#define TOK_BLANK "\xe2\x96\x81"
enum { TOK_BLANK_BYTES = 3 };

/* GPT-2's printable stand-in of a byte, a code point below 0x144; and back, -1 when the code point stands for no byte. */
uint32_t tok_byte_to_char(unsigned char byte);
int tok_char_to_byte(uint32_t c);
/* The byte that "<0x0A>" spells, or -1. */
int tok_hex_byte(const char *token, size_t n);
/* Decode the character at text[*i] of valid UTF-8 and step *i behind it; append a character; bytes of the one that begins with b. */
uint32_t tok_utf8_next(const char *text, size_t *i);
enum status tok_utf8_append(struct str *s, uint32_t c);
static inline size_t tok_utf8_bytes(char b) {
    unsigned char c = (unsigned char)b;
    return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}
size_t tok_utf8_count(const char *text, size_t n); /* characters of valid UTF-8 */
bool tok_is_white_space(uint32_t c);               /* Unicode White_Space */
/* Spell bytes in stand-ins; turn a token's spelling into its bytes (all stand-ins -> bytes, else the spelling itself). */
enum status tok_spell(const char *bytes, size_t n, struct str *out);
enum status tok_unspell(const char *content, size_t n, struct str *out, bool *all_bytes);

enum tok_category { UNI_NONE, UNI_MN, UNI_MC_ME, UNI_OTHER };
enum tok_category tok_category_of(uint32_t c); /* marks, and control, format and private use; else UNI_NONE */
uint32_t tok_lower(uint32_t c);                /* simple lower case */

/* --- a text and where it came from (edit.c) ------------------------------------------------------------------------------*/

/* n bytes of UTF-8 and, for each, the part of the original text that it stands for; at NULL: byte i is that of base + i. */
struct tok_view {
    const char *p;
    size_t n;
    const struct tok_span *at;
    size_t base;
};
static inline struct tok_view tok_view_part(struct tok_view v, size_t begin, size_t end) {
    return (struct tok_view){v.p + begin, end - begin, v.at ? v.at + begin : NULL, v.base + begin};
}
/* The part of the original text that bytes [begin, end) stand for, whole characters. */
struct tok_span tok_view_span(struct tok_view v, size_t begin, size_t end);

struct tok_buf {
    struct str s;
    struct tok_span *at; /* [s.len] when aligned */
    size_t cap_at;
};
void tok_buf_free(struct tok_buf *b);

/* A new text made from an old one, from front to back. */
struct tok_edit {
    struct tok_view in;
    size_t i; /* the next byte of `in` that has not been dealt with */
    struct tok_buf *out;
    bool align;  /* keep out->at */
    size_t most; /* bytes that the new text may have; DATA beyond */
};
/* A rule may make a text longer, but rules behind each other must not make a bomb of it. NFKD makes 11 bytes of one at most. */
static inline size_t tok_most_bytes(size_t n) { return n > SIZE_MAX / 64 - 65536 ? SIZE_MAX : 64 * n + 65536; }
struct tok_edit tok_edit_begin(struct tok_view in, struct tok_buf *out, bool align);
struct tok_view tok_edit_view(const struct tok_edit *e); /* what has been made, borrowed from out */
/* Put one character: change 0 takes the place of the next old one, -k also of the k behind it (it keeps the place of the first),
 * 1 is new and shares the place of the one before. As NormalizedString::transform of Hugging Face tokenizers, whose offsets these are. */
enum status tok_edit_put(struct tok_edit *e, uint32_t c, int change);
enum status tok_edit_insert(struct tok_edit *e, const char *text, size_t n); /* new characters */
/* Text in the place of the next `bytes` old bytes, all of it for all of them. */
enum status tok_edit_replace(struct tok_edit *e, size_t bytes, const char *text, size_t n);
enum status tok_edit_copy(struct tok_edit *e, size_t n); /* the next n bytes as they are */
void tok_edit_skip(struct tok_edit *e, size_t n);        /* leave the next n bytes out */
/* Insert text in front of the next character and copy that; the text takes its place. Nothing at the end of the old text. */
enum status tok_edit_prepend(struct tok_edit *e, const char *text, size_t n);

/* Put the rest of the text in NFC, NFD, NFKC or NFKD. (unicode.c) */
enum status tok_normal_form(struct tok_edit *e, bool compatible, bool composed);

/* --- patterns (pattern.c) ------------------------------------------------------------------------------------------------*/

struct tok_pattern {
    void *code; /* compiled */
    bool jit;
};
/* Compile; `literal` takes the pattern as plain text. Patterns are matched as Unicode text. */
enum status tok_pattern_compile(const char *pattern, bool literal, const char *where, struct tok_pattern *out);
/* {"Regex": ...} or {"String": ...}. */
enum status tok_pattern_read(const json_t *node, const char *where, struct tok_pattern *out);
void tok_pattern_free(struct tok_pattern *p);
/* All matches in a text, from front to back: zero-initialise but for the first members. */
struct tok_scan {
    const struct tok_pattern *pattern;
    const char *text;
    size_t n;
    size_t from, begin, end; /* where to look next; the match */
    bool found, any;         /* there is a match; there was one */
};
/* Look for the next match; `found` says whether there is one. An empty match right behind another one is none. */
enum status tok_scan_next(struct tok_scan *s, struct tok_work *w);

/* --- normalizers (normalize.c, charsmap.c) -------------------------------------------------------------------------------*/

/* SentencePiece's compiled normalization rules: a double-array trie and the texts it leads to. */
struct tok_charsmap {
    uint32_t *units;
    size_t nunits;
    char *texts;
    size_t ntexts;
};
enum status tok_charsmap_read(const char *blob, size_t n, const char *where, struct tok_charsmap *out);
void tok_charsmap_free(struct tok_charsmap *m);
/* The text for the shortest (or longest) rule that text[0..n) begins with, and the bytes that the rule covers; NULL: no rule. */
const char *tok_charsmap_find(const struct tok_charsmap *m, const char *text, size_t n, bool longest, size_t *covered);

struct tok_norm {
    enum status (*run)(const struct tok_norm *step, struct tok_work *w, struct tok_edit *e);
    bool a, b;  /* two switches: compatible, composed; left, right; dummy prefix, no extra blanks */
    bool c;     /* one more: escape blanks */
    char *text; /* what Prepend and Replace put in */
    size_t n;   /* bytes of text */
    struct tok_pattern pattern;
    struct tok_charsmap map;
    const struct tok_trie *keep; /* texts that SentencePiece's normalizer leaves alone, borrowed */
};
enum status tok_norm_add(struct tok_tables *t, const char *where, struct tok_norm **out);
void tok_norm_free(struct tok_norm *n);
/* Run all steps; *out is borrowed from w (or is `in`). */
enum status tok_normalize(const struct tok_tables *t, struct tok_work *w, struct tok_view in, bool align,
                          struct tok_view *out);
enum status tok_norm_sentencepiece(const struct tok_norm *step, struct tok_work *w, struct tok_edit *e);

/* --- pre-tokenizer (split.c) ---------------------------------------------------------------------------------------------*/

enum { TOK_MAX_STEPS = 16 };
enum tok_behavior { TOK_ISOLATED, TOK_REMOVED, TOK_MERGED_WITH_PREVIOUS, TOK_MERGED_WITH_NEXT, TOK_CONTIGUOUS };

struct tok_step {
    struct tok_pattern pattern; /* cuts the text; without one the step changes its front */
    enum tok_behavior behavior;
    bool invert;
    char front[8];     /* put in front of a text that does not begin with it */
    bool exchange;     /* blanks become `front` */
    bool first, never; /* put it in front only at the beginning of the original text; nowhere */
};

extern const char tok_gpt2_pattern[];
enum status tok_step_add(struct tok_tables *t, const char *where, struct tok_step **out);
enum status tok_split_add(struct tok_tables *t, const char *pattern, bool literal, enum tok_behavior behavior,
                          bool invert, const char *where);
/* The characters of words, \w of Unicode TR18: what single_word looks at. */
#define TOK_WORD_CLASS                                                                                                 \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{200c}\\x{200d}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}" \
    "\\x{1f170}-\\x{1f189}"

/* Cut a text (valid UTF-8) into words, in order, and hand each to word(); none is empty. */
typedef enum status tok_word_fn(void *ctx, struct tok_view word);
enum status tok_split_run(const struct tok_tables *t, struct tok_work *w, struct tok_view text, tok_word_fn *word,
                          void *ctx);

/* --- models (bpe.c, unigram.c, wordpiece.c) -------------------------------------------------------------------------------*/

/* Ids of one word; spans (NULL: not wanted) gets the bytes of the word that each stands for. */
typedef enum status tok_model_fn(const struct tok_tables *t, struct tok_work *w, const char *word, size_t n,
                                 struct tok_ids *ids, struct tok_spans *spans);
/* Far above any vocabulary in use (262 k); bounds what a hostile id can make us allocate. */
enum { TOK_MAX_ID = 1 << 22 };
/* A token of the model; FORMAT when its spelling is there already. (read.c) */
enum status tok_vocab_add(struct tok_tables *t, const char *where, const char *spelling, size_t n, int32_t id);
/* {"piece": id, ...} of a model into t->vocab. (read.c) */
enum status tok_read_vocab_object(const json_t *model, const char *where, struct tok_tables *t);
struct tok_bpe;
struct tok_unigram;
struct tok_wordpiece;
void tok_bpe_free(struct tok_bpe **m);
void tok_unigram_free(struct tok_unigram **m);
void tok_wordpiece_free(struct tok_wordpiece **m);

enum tok_piece_type { TOK_NORMAL = 1, TOK_UNKNOWN, TOK_CONTROL, TOK_USER_DEFINED, TOK_UNUSED, TOK_BYTE };
/* A SentencePiece model's vocabulary: score and type by id, what its models are made from. */
struct tok_pieces {
    float *score;
    uint8_t *type; /* enum tok_piece_type */
    int32_t n, unk;
    bool byte_fallback, dummy_prefix, strip_blanks;
    char *unk_surface;    /* what <unk> is decoded to */
    struct tok_trie user; /* user-defined symbols */
};
enum status tok_bpe_from_pieces(struct tok_tables *t, const char *where);
enum status tok_unigram_from_pieces(struct tok_tables *t, const char *where);

/* --- post-processor (post.c) ----------------------------------------------------------------------------------------------*/

struct tok_part {
    int32_t id; /* a token, or -1 - k: text k of the pair */
    int32_t type;
};
struct tok_template {
    struct tok_part *p;
    size_t n, cap;
};

/* --- decoder (decode.c) ---------------------------------------------------------------------------------------------------*/

/* Strings that a decoder step reads or makes. */
struct tok_chain {
    struct str text;
    size_t *ends, n, cap, most; /* most: bytes that its text may have */
};
struct tok_decoder {
    enum status (*run)(const struct tok_decoder *step, const struct tok_chain *in, struct tok_chain *out);
    bool flag; /* Metaspace: a blank in front is left out; WordPiece: cleanup */
    int64_t start, stop;
    char *text;
    struct tok_pattern pattern;
};
void tok_decoder_free(struct tok_decoder *d);
enum status tok_decode_chain(const struct tok_tables *t, const int32_t *ids, size_t n, unsigned flags, struct str *out);
/* As sentencepiece's own Decode. (spm.c) */
enum status tok_decode_pieces(const struct tok_tables *t, const int32_t *ids, size_t n, unsigned flags,
                              struct str *out);

/* --- added tokens (added.c) -----------------------------------------------------------------------------------------------*/

struct tok_added {
    char *content; /* as it is looked for in the text */
    size_t n;
    int32_t id;
    bool special, normalized, lstrip, rstrip, single_word;
};
struct tok_added_list {
    struct tok_added *p; /* by first byte, then longest first */
    size_t n, cap;
    uint32_t first[257]; /* p[first[b] .. first[b+1]) begin with byte b */
    bool any[2];         /* is there one that is not normalized, one that is */
    struct tok_pattern word;
};
enum status tok_added_read(const json_t *added, const char *where, struct tok_added_list *out);
/* Order the list for tok_added_find, once the contents are final. */
enum status tok_added_index(struct tok_added_list *l);
void tok_added_free(struct tok_added_list *l);
/* The next added token in text[from..n) that is matched before (normalized false) or after normalization: leftmost, then
 * longest. [*begin, *end) is what it takes out of the text, stripped blanks included. *out NULL: none. */
enum status tok_added_find(const struct tok_added_list *l, struct tok_work *w, const char *text, size_t n, size_t from,
                           bool normalized, const struct tok_added **out, size_t *begin, size_t *end);

/* --- the whole -------------------------------------------------------------------------------------------------------------*/

struct tok_token {
    size_t offset, bytes_offset; /* in tables.spelling and tables.bytes */
    uint32_t n, nbytes;
    bool used, special;
};

struct tok_tables {
    int users;                /* handles */
    struct tok_map vocab;     /* spelling -> id of the model's tokens */
    struct tok_token *tokens; /* [size], by id */
    int32_t size;
    struct str spelling, bytes; /* the tokens' texts, one after the other */
    bool byte_level;            /* the pre-tokenizer spells bytes in stand-ins */
    struct tok_added_list added;
    struct tok_norm *norms;
    size_t nnorms, cap_norms;
    struct tok_step *steps;
    size_t nsteps, cap_steps;
    tok_model_fn *model;
    struct tok_bpe *bpe;
    struct tok_unigram *unigram;
    struct tok_wordpiece *wordpiece;
    struct tok_pieces pieces; /* of a SentencePiece model, n 0 otherwise */
    struct tok_template single, pair;
    bool trim, trim_front; /* spans without their blanks; but for one blank in front of the text */
    struct tok_decoder *decoders;
    size_t ndecoders, cap_decoders;
    int32_t bos, eos;
};
void tok_tables_free(struct tok_tables **t);
int32_t tok_tables_id_of(const struct tok_tables *t, const char *content, size_t n);
/* Make tables.tokens from the vocabulary and the added tokens. (read.c) */
enum status tok_tables_fill(struct tok_tables *t, const char *where);
/* Read a tokenizer.json, a SentencePiece .model (spm.c), or what the directory holds. */
enum status tok_tables_read(const char *path, struct tok_tables **out);
enum status tok_spm_read(struct tok_tables *t, const char *path);

enum tok_stage { TOK_NORMALIZER, TOK_PRE_TOKENIZER, TOK_MODEL, TOK_POST_PROCESSOR, TOK_DECODER };
/* Reads one node of a stage into the tables; `where` names the file. */
typedef enum status tok_read_fn(const json_t *node, const char *where, struct tok_tables *t);
#define KIND(stage, type, read) tok_read_fn read;
#include "tok/kinds.def"
#undef KIND

struct tok_symbol;
struct tok_candidate;
struct tok_cached;
struct tok_node;
struct tok_work {
    void *match; /* of the patterns */
    bool align;  /* spans are wanted */
    struct tok_buf normal[2], front[TOK_MAX_STEPS];
    struct tok_symbol *symbols; /* BPE */
    struct tok_candidate *heap;
    size_t cap_symbols, nheap, cap_heap;
    struct tok_cached *cache;
    struct str spelled;
    struct tok_node *nodes; /* Unigram */
    size_t cap_nodes;
};
enum status tok_work_init(struct tok_work *w);
void tok_work_free(struct tok_work *w);
