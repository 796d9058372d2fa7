/* Byte-level BPE: a word's bytes are merged pair by pair, lowest rank first, leftmost first. */
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "tok/tok_impl.h"

enum { CACHE_SLOTS = 1 << 14, CACHE_BYTES = 30, CACHE_IDS = 8, MAX_WORD = 1 << 30 };

/* One 64-byte line of the word cache; direct-mapped, so that it needs no upkeep. */
struct cached {
    uint8_t n, nids;
    char word[CACHE_BYTES];
    int32_t ids[CACHE_IDS];
};

struct symbol {
    int32_t id, prev, next; /* id -1: merged away; prev, next: -1 at the ends */
};

/* A merge that was possible when it was put into the heap. */
struct candidate {
    int32_t rank, at;
};

struct tok_bpe {
    const struct tok_map *vocab;
    int32_t byte_id[256], unk; /* -1: none */
    bool fuse_unk, ignore_merges;
    struct tok_pairs ranks; /* (left, right) -> rank */
    int32_t *merged;        /* rank -> id of the pair put together */
    size_t nmerges;
    struct symbol *symbols;
    struct candidate *heap;
    size_t cap_symbols, nheap, cap_heap;
    struct str spelled;
    struct cached *cache;
};

/* --- merging one word ---------------------------------------------------------------------------------------------------*/

static bool before(struct candidate a, struct candidate b) {
    return a.rank < b.rank || (a.rank == b.rank && a.at < b.at);
}

static enum status heap_push(struct tok_bpe *m, struct candidate c) {
    TM_TRY(mem_grow(&m->heap, &m->cap_heap, m->nheap + 1, sizeof *m->heap));
    size_t i = m->nheap++;
    for (; i > 0 && before(c, m->heap[(i - 1) / 2]); i = (i - 1) / 2) m->heap[i] = m->heap[(i - 1) / 2];
    m->heap[i] = c;
    return TM_OK;
}

static struct candidate heap_pop(struct tok_bpe *m) {
    struct candidate top = m->heap[0], last = m->heap[--m->nheap];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < m->nheap; i = child) {
        child += child + 1 < m->nheap && before(m->heap[child + 1], m->heap[child]);
        if (!before(m->heap[child], last)) break;
        m->heap[i] = m->heap[child];
    }
    m->heap[i] = last;
    return top;
}

/* Put the pair that begins at symbol `at` into the heap if it can be merged. */
static enum status offer(struct tok_bpe *m, int32_t at) {
    if (at < 0 || m->symbols[at].next < 0) return TM_OK;
    int32_t rank = tok_pairs_get(&m->ranks, m->symbols[at].id, m->symbols[m->symbols[at].next].id);
    return rank < 0 ? TM_OK : heap_push(m, (struct candidate){.rank = rank, .at = at});
}

static enum status merge_pairs(struct tok_bpe *m, int32_t n) {
    m->nheap = 0;
    for (int32_t i = 0; i < n; i++) TM_TRY(offer(m, i));
    while (m->nheap) {
        struct candidate c = heap_pop(m);
        struct symbol *left = &m->symbols[c.at];
        if (left->id < 0 || left->next < 0) continue;
        struct symbol *right = &m->symbols[left->next];
        if (tok_pairs_get(&m->ranks, left->id, right->id) != c.rank) continue; /* either side has changed since */
        left->id = m->merged[c.rank];
        left->next = right->next;
        right->id = -1;
        if (left->next >= 0) m->symbols[left->next].prev = c.at;
        TM_TRY(offer(m, left->prev));
        TM_TRY(offer(m, c.at));
    }
    return TM_OK;
}

static enum status first_symbols(struct tok_bpe *m, const char *word, size_t n, int32_t *count) {
    int32_t k = 0;
    TM_TRY(mem_grow(&m->symbols, &m->cap_symbols, n, sizeof *m->symbols));
    for (size_t i = 0; i < n; i++) {
        int32_t id = m->byte_id[(unsigned char)word[i]];
        if (id < 0 && m->unk < 0)
            return TM_FAIL(TM_ERR_DATA, "byte 0x%02x has no token in the vocabulary", (unsigned)(unsigned char)word[i]);
        if (id < 0 && m->fuse_unk && k > 0 && m->symbols[k - 1].id == m->unk) continue;
        m->symbols[k] = (struct symbol){.id = id < 0 ? m->unk : id, .prev = k - 1, .next = k + 1};
        k++;
    }
    m->symbols[k - 1].next = -1;
    *count = k;
    return TM_OK;
}

static enum status encode(struct tok_bpe *m, const char *word, size_t n, struct tok_ids *out) {
    int32_t count = 0;
    if (n > MAX_WORD) return TM_FAIL(TM_ERR_DATA, "a word of %zu bytes: at most %d are supported", n, MAX_WORD);
    if (m->ignore_merges) {
        str_clear(&m->spelled);
        TM_TRY(tok_spell(word, n, &m->spelled));
        int32_t id = tok_map_get(m->vocab, m->spelled.p, m->spelled.len);
        if (id >= 0) return tok_ids_push(out, id);
    }
    TM_TRY(first_symbols(m, word, n, &count));
    TM_TRY(merge_pairs(m, count));
    for (int32_t i = 0; i >= 0; i = m->symbols[i].next) TM_TRY(tok_ids_push(out, m->symbols[i].id));
    return TM_OK;
}

enum status tok_bpe_word(struct tok_bpe *m, const char *word, size_t n, struct tok_ids *out) {
    if (n == 0) return TM_OK;
    if (n > CACHE_BYTES) return encode(m, word, n, out);
    struct cached *c = &m->cache[hash_bytes(word, n, 0) & (CACHE_SLOTS - 1)];
    if (c->n == n && memcmp(c->word, word, n) == 0) {
        for (size_t i = 0; i < c->nids; i++) TM_TRY(tok_ids_push(out, c->ids[i]));
        return TM_OK;
    }
    size_t start = out->n;
    TM_TRY(encode(m, word, n, out));
    if (out->n - start > CACHE_IDS) return TM_OK;
    c->n = (uint8_t)n;
    c->nids = (uint8_t)(out->n - start);
    memcpy(c->word, word, n);
    memcpy(c->ids, out->p + start, c->nids * sizeof *c->ids);
    return TM_OK;
}

/* --- reading ------------------------------------------------------------------------------------------------------------*/

/* One merge, "left right" or ["left", "right"]: its rank is its place in the list; a repeated pair keeps its last place. */
static enum status read_merge(struct tok_bpe *m, const json_t *node, size_t rank, const char *where) {
    const char *left = json_string_value(json_array_get(node, 0)), *right = json_string_value(json_array_get(node, 1));
    const char *line = json_string_value(node), *space = line ? strchr(line, ' ') : NULL;
    size_t nleft = left ? strlen(left) : 0;
    if (space && !strchr(space + 1, ' ')) {
        left = line;
        nleft = (size_t)(space - line);
        right = space + 1;
    }
    if (!left || !right || (json_is_array(node) && json_array_size(node) != 2))
        return TM_FAIL(TM_ERR_FORMAT, "%s: model.merges[%zu] is not a pair of tokens", where, rank);
    str_clear(&m->spelled);
    TM_TRY(str_append(&m->spelled, left, nleft));
    TM_TRY(str_append(&m->spelled, right, strlen(right)));
    int32_t a = tok_map_get(m->vocab, left, nleft), b = tok_map_get(m->vocab, right, strlen(right));
    int32_t both = tok_map_get(m->vocab, m->spelled.p, m->spelled.len);
    if (a < 0 || b < 0 || both < 0)
        return TM_FAIL(TM_ERR_FORMAT, "%s: model.merges[%zu]: \"%.*s\" + \"%s\": %s is not in the vocabulary", where,
                       rank, (int)nleft, left, right,
                       a < 0   ? "the left part"
                       : b < 0 ? "the right part"
                               : "the result");
    m->merged[rank] = both;
    return tok_pairs_add(&m->ranks, a, b, (int32_t)rank);
}

static enum status refuse_text(const json_t *model, const char *key, const char *where) {
    const char *text;
    TM_TRY(json_get_str(model, key, where, "", &text));
    return *text ? TM_FAIL(TM_ERR_UNSUPPORTED, "%s: model.%s = \"%s\": byte-level BPE has none", where, key, text)
                 : TM_OK;
}

static enum status read_options(struct tok_bpe *m, const json_t *model, const char *where) {
    const char *unk;
    bool byte_fallback;
    double dropout;
    TM_TRY(json_get_str(model, "unk_token", where, NULL, &unk));
    TM_TRY(json_get_bool(model, "fuse_unk", where, false, &m->fuse_unk));
    TM_TRY(json_get_bool(model, "ignore_merges", where, false, &m->ignore_merges));
    TM_TRY(json_get_bool(model, "byte_fallback", where, false, &byte_fallback));
    TM_TRY(json_get_f64(model, "dropout", where, 0, &dropout));
    TM_TRY(refuse_text(model, "continuing_subword_prefix", where));
    TM_TRY(refuse_text(model, "end_of_word_suffix", where));
    if (byte_fallback)
        return TM_FAIL(TM_ERR_UNSUPPORTED,
                       "%s: model.byte_fallback (a SentencePiece BPE): only byte-level BPE is supported", where);
    if (dropout != 0) return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: model.dropout = %g: expected none", where, dropout);
    m->unk = unk ? tok_map_get(m->vocab, unk, strlen(unk)) : -1;
    if (unk && m->unk < 0)
        return TM_FAIL(TM_ERR_FORMAT, "%s: model.unk_token = \"%s\" is not in the vocabulary", where, unk);
    return TM_OK;
}

enum status tok_bpe_read(const json_t *model, const char *where, const struct tok_map *vocab, struct tok_bpe **out) {
    struct tok_bpe *m;
    const json_t *merges = json_object_get(model, "merges");
    *out = NULL;
    if (!json_is_array(merges) || json_array_size(merges) >= INT32_MAX)
        return TM_FAIL(TM_ERR_FORMAT, "%s: model.merges is not a list", where);
    TM_TRY(mem_alloc(&m, 1, sizeof *m));
    enum status st;
    m->vocab = vocab;
    m->nmerges = json_array_size(merges);
    TM_GOTO(st, fail, read_options(m, model, where));
    TM_GOTO(st, fail, mem_alloc(&m->cache, CACHE_SLOTS, sizeof *m->cache));
    TM_GOTO(st, fail, mem_alloc(&m->merged, m->nmerges, sizeof *m->merged));
    for (unsigned b = 0; b < 256; b++) {
        str_clear(&m->spelled);
        TM_GOTO(st, fail, tok_spell(&(char){(char)b}, 1, &m->spelled));
        m->byte_id[b] = tok_map_get(vocab, m->spelled.p, m->spelled.len);
    }
    for (size_t i = 0; i < m->nmerges; i++) TM_GOTO(st, fail, read_merge(m, json_array_get(merges, i), i, where));
    *out = m;
    return TM_OK;
fail:
    tok_bpe_free(&m);
    return st;
}

void tok_bpe_free(struct tok_bpe **m) {
    if (!*m) return;
    tok_pairs_free(&(*m)->ranks);
    mem_free(&(*m)->merged);
    mem_free(&(*m)->symbols);
    mem_free(&(*m)->heap);
    mem_free(&(*m)->cache);
    str_free(&(*m)->spelled);
    mem_free(m);
}
