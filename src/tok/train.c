/* Training of a byte-level BPE vocabulary: the most frequent pair of neighbours becomes a token, again and again. */
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/stop.h"
#include "tok/tok_impl.h"

/* A distinct word: its symbols lie in trainer.symbols[begin .. begin + n), n shrinks as pairs merge. */
struct word {
    size_t begin;
    int32_t n;
    int64_t count;
};

/* A pair of neighbours, and the words that may hold it (a word stays listed after the pair has gone from it). */
struct pair {
    int32_t left, right;
    bool merged; /* is in the list of merges */
    int64_t count;
    uint32_t *words;
    size_t nwords, cap_words;
};

/* What a pair counted when it was put into the heap; counts only ever differ from that by later merges. */
struct candidate {
    int64_t count;
    int32_t pair;
};

struct trainer {
    struct tok_map word_numbers; /* bytes -> number in words */
    struct word *words;
    size_t nwords, cap_words;
    int32_t *symbols;
    size_t nsymbols, cap_symbols;
    struct tok_map vocab; /* spelling -> id; key i has id i */
    int32_t byte_id[256];
    struct tok_pairs pair_numbers;
    struct pair *pairs;
    size_t npairs, cap_pairs;
    struct candidate *heap;
    size_t nheap, cap_heap;
    struct tok_ids merges; /* left, right, left, right, ... */
};

/* --- the words ----------------------------------------------------------------------------------------------------------*/

static enum status count_word(void *ctx, struct tok_view v) {
    struct trainer *t = ctx;
    const char *bytes = v.p;
    const size_t n = v.n;
    int32_t number = tok_map_get(&t->word_numbers, bytes, n);
    if (number >= 0) {
        t->words[number].count++;
        return TM_OK;
    }
    if (n > INT32_MAX / 2) return TM_FAIL(TM_ERR_DATA, "a word of %zu bytes", n);
    TM_TRY(tok_map_add(&t->word_numbers, bytes, n, (int32_t)t->nwords));
    TM_TRY(mem_grow(&t->words, &t->cap_words, t->nwords + 1, sizeof *t->words));
    TM_TRY(mem_grow(&t->symbols, &t->cap_symbols, t->nsymbols + n, sizeof *t->symbols));
    t->words[t->nwords++] = (struct word){.begin = t->nsymbols, .n = (int32_t)n, .count = 1};
    for (size_t i = 0; i < n; i++) t->symbols[t->nsymbols++] = t->byte_id[(unsigned char)bytes[i]];
    return TM_OK;
}

static enum status count_text(struct trainer *t, const struct tok_tables *split, struct tok_work *w,
                              const struct tok_text *x, size_t i) {
    size_t bad = tok_utf8_check(x->p, x->n);
    if (bad < x->n)
        return TM_FAIL(TM_ERR_DATA, "text %zu: byte %zu (0x%02x) is not valid UTF-8", i, bad,
                       (unsigned)(unsigned char)x->p[bad]);
    return tok_split_run(split, w, (struct tok_view){.p = x->p, .n = x->n}, count_word, t);
}

static enum status count_words(struct trainer *t, const struct tok_text *texts, size_t ntexts) {
    struct tok_tables *split;
    struct tok_work w = {0};
    TM_TRY(mem_alloc(&split, 1, sizeof *split));
    enum status st = tok_split_add(split, tok_gpt2_pattern, false, TOK_ISOLATED, false, "training");
    if (st == TM_OK) st = tok_work_init(&w);
    for (size_t i = 0; i < ntexts && st == TM_OK; i++) {
        st = stop_check("vocabulary");
        if (st == TM_OK) st = count_text(t, split, &w, &texts[i], i);
    }
    tok_work_free(&w);
    tok_tables_free(&split);
    if (st == TM_OK && t->nwords == 0)
        st = TM_FAIL(TM_ERR_DATA, "no text to train a vocabulary on (%zu texts)", ntexts);
    return st;
}

/* --- the heap of pairs: the largest count, then the smallest ids ---------------------------------------------------------*/

static bool before(const struct trainer *t, struct candidate a, struct candidate b) {
    const struct pair *p = &t->pairs[a.pair], *q = &t->pairs[b.pair];
    if (a.count != b.count) return a.count > b.count;
    return p->left != q->left ? p->left < q->left : p->right < q->right;
}

static enum status heap_push(struct trainer *t, int32_t pair) {
    struct candidate c = {.count = t->pairs[pair].count, .pair = pair};
    if (c.count < 1) return TM_OK;
    TM_TRY(mem_grow(&t->heap, &t->cap_heap, t->nheap + 1, sizeof *t->heap));
    size_t i = t->nheap++;
    for (; i > 0 && before(t, c, t->heap[(i - 1) / 2]); i = (i - 1) / 2) t->heap[i] = t->heap[(i - 1) / 2];
    t->heap[i] = c;
    return TM_OK;
}

static struct candidate heap_pop(struct trainer *t) {
    struct candidate top = t->heap[0], last = t->heap[--t->nheap];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < t->nheap; i = child) {
        child += child + 1 < t->nheap && before(t, t->heap[child + 1], t->heap[child]);
        if (!before(t, t->heap[child], last)) break;
        t->heap[i] = t->heap[child];
    }
    t->heap[i] = last;
    return top;
}

/* --- merging ------------------------------------------------------------------------------------------------------------*/

/* Change a pair's count; a word that gains the pair is listed under it. */
static enum status change(struct trainer *t, int32_t left, int32_t right, int64_t by, uint32_t word) {
    int32_t k = tok_pairs_get(&t->pair_numbers, left, right);
    if (k < 0) {
        k = (int32_t)t->npairs;
        TM_TRY(mem_grow(&t->pairs, &t->cap_pairs, t->npairs + 1, sizeof *t->pairs));
        TM_TRY(tok_pairs_add(&t->pair_numbers, left, right, k));
        t->pairs[t->npairs++] = (struct pair){.left = left, .right = right};
    }
    struct pair *p = &t->pairs[k];
    p->count += by;
    if (by < 0 || (p->nwords && p->words[p->nwords - 1] == word)) return TM_OK;
    TM_TRY(mem_grow(&p->words, &p->cap_words, p->nwords + 1, sizeof *p->words));
    p->words[p->nwords++] = word;
    return TM_OK;
}

/* Replace left right by id from left to right, and count what that does to the neighbours. */
static enum status merge_in_word(struct trainer *t, uint32_t number, int32_t left, int32_t right, int32_t id) {
    struct word *w = &t->words[number];
    int32_t *s = t->symbols + w->begin, kept = 0;
    for (int32_t i = 0; i < w->n; i++) {
        if (i + 1 == w->n || s[i] != left || s[i + 1] != right) {
            s[kept++] = s[i];
            continue;
        }
        if (kept > 0) {
            TM_TRY(change(t, s[kept - 1], left, -w->count, number));
            TM_TRY(change(t, s[kept - 1], id, w->count, number));
        }
        if (i + 2 < w->n) {
            TM_TRY(change(t, right, s[i + 2], -w->count, number));
            TM_TRY(change(t, id, s[i + 2], w->count, number));
        }
        s[kept++] = id;
        i++;
    }
    w->n = kept;
    return TM_OK;
}

/* The id of two tokens put together: *fresh, or that of another pair with the same spelling. */
static enum status joined_id(struct trainer *t, int32_t left, int32_t right, int32_t *id, bool *fresh) {
    struct str both = {0};
    const struct tok_key *a = &t->vocab.keys[left], *b = &t->vocab.keys[right];
    enum status st = str_append(&both, t->vocab.pool.p + a->offset, a->n);
    if (st == TM_OK) st = str_append(&both, t->vocab.pool.p + b->offset, b->n);
    if (st == TM_OK) {
        *id = tok_map_get(&t->vocab, both.p, both.len);
        *fresh = *id < 0;
        if (*fresh) {
            *id = (int32_t)t->vocab.nkeys;
            st = tok_map_add(&t->vocab, both.p, both.len, *id);
        }
    }
    str_free(&both);
    return st;
}

static enum status merge_best(struct trainer *t, int32_t k) {
    int32_t left = t->pairs[k].left, right = t->pairs[k].right, id = 0;
    uint32_t *words = t->pairs[k].words;
    size_t nwords = t->pairs[k].nwords, known = t->npairs;
    bool fresh = true, merged = t->pairs[k].merged;
    t->pairs[k].words = NULL;
    t->pairs[k].nwords = t->pairs[k].cap_words = 0;
    t->pairs[k].merged = true;
    enum status st = joined_id(t, left, right, &id, &fresh);
    if (st == TM_OK && !merged) st = tok_ids_push(&t->merges, left);
    if (st == TM_OK && !merged) st = tok_ids_push(&t->merges, right);
    for (size_t i = 0; i < nwords && st == TM_OK; i++) st = merge_in_word(t, words[i], left, right, id);
    mem_free(&words);
    t->pairs[k].count = 0;
    /* Only pairs with the joined id have gained: new ones, unless another pair spells the same. */
    for (size_t i = fresh ? known : 0; i < t->npairs && st == TM_OK; i++) st = heap_push(t, (int32_t)i);
    return st;
}

static enum status train(struct trainer *t, int32_t vocab_size) {
    for (uint32_t i = 0; i < t->nwords; i++) {
        const int32_t *s = t->symbols + t->words[i].begin;
        for (int32_t k = 0; k + 1 < t->words[i].n; k++) TM_TRY(change(t, s[k], s[k + 1], t->words[i].count, i));
    }
    for (size_t i = 0; i < t->npairs; i++) TM_TRY(heap_push(t, (int32_t)i));
    while (t->vocab.nkeys < (size_t)vocab_size && t->nheap) {
        TM_TRY(stop_check("vocabulary"));
        struct candidate c = heap_pop(t);
        if (c.count == t->pairs[c.pair].count)
            TM_TRY(merge_best(t, c.pair));
        else
            TM_TRY(heap_push(t, c.pair)); /* it has lost some since */
    }
    return TM_OK;
}

/* --- the alphabet and the file ------------------------------------------------------------------------------------------*/

static enum status add_alphabet(struct trainer *t, const char *const *special, size_t nspecial) {
    for (size_t i = 0; i < nspecial; i++) {
        size_t n = strlen(special[i]);
        if (n == 0 || tok_utf8_check(special[i], n) < n || tok_map_get(&t->vocab, special[i], n) >= 0)
            return TM_FAIL(TM_ERR_DECK, "special token %zu, \"%s\": expected distinct texts", i, special[i]);
        TM_TRY(tok_map_add(&t->vocab, special[i], n, (int32_t)i));
    }
    for (uint32_t c = 0; c < 0x144; c++) {
        int byte = tok_char_to_byte(c);
        if (byte < 0) continue;
        struct str spelled = {0};
        TM_TRY(tok_utf8_append(&spelled, c));
        t->byte_id[byte] = tok_map_get(&t->vocab, spelled.p, spelled.len);
        enum status st = TM_OK;
        if (t->byte_id[byte] < 0) {
            t->byte_id[byte] = (int32_t)t->vocab.nkeys;
            st = tok_map_add(&t->vocab, spelled.p, spelled.len, t->byte_id[byte]);
        }
        str_free(&spelled);
        TM_TRY(st);
    }
    return TM_OK;
}

static enum status append_escaped(const struct trainer *t, struct str *s, int32_t id) {
    const struct tok_key *k = &t->vocab.keys[id];
    for (size_t i = 0; i < k->n; i++) {
        unsigned char c = (unsigned char)t->vocab.pool.p[k->offset + i];
        if (c == '"' || c == '\\')
            TM_TRY(str_printf(s, "\\%c", c));
        else if (c < 0x20)
            TM_TRY(str_printf(s, "\\u%04x", c));
        else
            TM_TRY(str_append(s, &(char){(char)c}, 1));
    }
    return TM_OK;
}

static enum status append_token(const struct trainer *t, struct str *s, int32_t id) {
    TM_TRY(str_append(s, "\"", 1));
    TM_TRY(append_escaped(t, s, id));
    return str_append(s, "\"", 1);
}

static enum status format_file(const struct trainer *t, size_t nspecial, struct str *s) {
    static const char byte_level[] =
        "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true}";
    TM_TRY(
        str_printf(s,
                   "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": ["));
    for (size_t i = 0; i < nspecial; i++) {
        TM_TRY(str_printf(s, "%s\n    {\"id\": %zu, \"content\": ", i ? "," : "", i));
        TM_TRY(append_token(t, s, (int32_t)i));
        TM_TRY(str_printf(s, ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, "
                             "\"special\": true}"));
    }
    TM_TRY(str_printf(
        s, "\n  ],\n  \"normalizer\": null,\n  \"pre_tokenizer\": %s,\n  \"post_processor\": %s,\n  \"decoder\": %s,\n",
        byte_level, byte_level, byte_level));
    TM_TRY(str_printf(
        s, "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
           "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n    \"fuse_unk\": false,\n"
           "    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n    \"vocab\": {"));
    for (size_t i = 0; i < t->vocab.nkeys; i++) {
        TM_TRY(str_printf(s, "%s\n      ", i ? "," : ""));
        TM_TRY(append_token(t, s, (int32_t)i));
        TM_TRY(str_printf(s, ": %zu", i));
    }
    TM_TRY(str_printf(s, "\n    },\n    \"merges\": ["));
    for (size_t i = 0; i + 1 < t->merges.n; i += 2) {
        TM_TRY(str_printf(s, "%s\n      \"", i ? "," : ""));
        TM_TRY(append_escaped(t, s, t->merges.p[i]));
        TM_TRY(str_append(s, " ", 1));
        TM_TRY(append_escaped(t, s, t->merges.p[i + 1]));
        TM_TRY(str_append(s, "\"", 1));
    }
    return str_printf(s, "\n    ]\n  }\n}\n");
}

static void trainer_free(struct trainer *t) {
    for (size_t i = 0; i < t->npairs; i++) mem_free(&t->pairs[i].words);
    tok_map_free(&t->word_numbers);
    tok_map_free(&t->vocab);
    tok_pairs_free(&t->pair_numbers);
    tok_ids_free(&t->merges);
    mem_free(&t->words);
    mem_free(&t->symbols);
    mem_free(&t->pairs);
    mem_free(&t->heap);
}

enum status tok_train_bpe(const struct tok_text *texts, size_t ntexts, int32_t vocab_size, const char *const *special,
                          size_t nspecial, const char *path) {
    struct trainer t = {0};
    struct str file = {0};
    if (vocab_size < 256 || (size_t)vocab_size - 256 < nspecial)
        return TM_FAIL(TM_ERR_DECK, "a vocabulary of %d tokens: expected at least 256 bytes + %zu special tokens",
                       (int)vocab_size, nspecial);
    enum status st = add_alphabet(&t, special, nspecial);
    if (st == TM_OK) st = count_words(&t, texts, ntexts);
    if (st == TM_OK) st = train(&t, vocab_size);
    if (st == TM_OK) st = format_file(&t, nspecial, &file);
    if (st == TM_OK) st = file_write(path, file.p, file.len);
    str_free(&file);
    trainer_free(&t);
    return st;
}
