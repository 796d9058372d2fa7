/* Byte pair encoding: a word's symbols are merged pair by pair, lowest rank first, leftmost first. The symbols are bytes (byte-level) or
 * characters; merges are listed pairs (tokenizer.json) or any pair that spells a piece (SentencePiece). */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "tok/tok_impl.h"

enum { CACHE_SLOTS = 1 << 16, CACHE_BYTES = 30, CACHE_IDS = 8, MAX_WORD = 1 << 30 };

/* One 64-byte line of the word cache; direct-mapped, so that it needs no upkeep. */
struct tok_cached {
    uint8_t n, nids;
    char word[CACHE_BYTES];
    int32_t ids[CACHE_IDS];
};

struct tok_symbol {
    int32_t id, begin, n, prev, next; /* id -1: a text without a token; n 0: merged away; prev, next: -1 at the ends */
};

/* A merge that was possible when it was put into the heap. Symbols only grow, so it still is when both are n bytes together. */
struct tok_candidate {
    int32_t rank, at, n, id;
};

struct tok_bpe {
    int32_t byte_id[256], unk; /* -1: none; byte_id: of a byte's stand-in, or of its "<0x0A>" form */
    bool fuse_unk, ignore_merges, byte_fallback;
    bool apart; /* no token has a blank (U+2581) behind another character: texts are cut in front of blanks */
    char *prefix, *suffix;  /* of the spelling of later symbols, of the last symbol; or NULL */
    struct tok_pairs ranks; /* (left, right) -> rank */
    int32_t *merged;        /* rank -> id of the pair put together */
    size_t nmerges;
    int32_t *piece_rank; /* SentencePiece: id -> rank; NULL otherwise */
};

/* --- merging one word ---------------------------------------------------------------------------------------------------*/

static bool before(struct tok_candidate a, struct tok_candidate b) {
    return a.rank < b.rank || (a.rank == b.rank && a.at < b.at);
}

static enum status heap_push(struct tok_work *w, struct tok_candidate c) {
    if (w->nheap == w->cap_heap) TM_TRY(mem_grow(&w->heap, &w->cap_heap, w->nheap + 1, sizeof *w->heap));
    size_t i = w->nheap++;
    for (; i > 0 && before(c, w->heap[(i - 1) / 2]); i = (i - 1) / 2) w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = c;
    return TM_OK;
}

static struct tok_candidate heap_pop(struct tok_work *w) {
    struct tok_candidate top = w->heap[0], last = w->heap[--w->nheap];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < w->nheap; i = child) {
        child += child + 1 < w->nheap && before(w->heap[child + 1], w->heap[child]);
        if (!before(w->heap[child], last)) break;
        w->heap[i] = w->heap[child];
    }
    w->heap[i] = last;
    return top;
}

/* Put the pair that begins at symbol `at` into the heap if it can be merged. */
static enum status offer(const struct tok_tables *t, struct tok_work *w, const char *word, int32_t at) {
    const struct tok_bpe *m = t->bpe;
    if (at < 0 || w->symbols[at].next < 0) return TM_OK;
    const struct tok_symbol *left = &w->symbols[at], *right = &w->symbols[left->next];
    struct tok_candidate c = {.at = at, .n = left->n + right->n};
    if (!m->piece_rank) {
        c.rank = tok_pairs_get(&m->ranks, left->id, right->id);
        if (c.rank < 0) return TM_OK;
        c.id = m->merged[c.rank];
        return heap_push(w, c);
    }
    bool frozen = (left->id >= 0 && t->pieces.type[left->id] == TOK_USER_DEFINED) ||
                  (right->id >= 0 && t->pieces.type[right->id] == TOK_USER_DEFINED);
    c.id = frozen ? -1 : tok_map_get(&t->vocab, word + left->begin, (size_t)c.n);
    if (c.id < 0 || m->piece_rank[c.id] < 0) return TM_OK;
    c.rank = m->piece_rank[c.id];
    return heap_push(w, c);
}

static enum status merge_pairs(const struct tok_tables *t, struct tok_work *w, const char *word, int32_t n) {
    w->nheap = 0;
    for (int32_t i = 0; i < n; i++) TM_TRY(offer(t, w, word, i));
    while (w->nheap) {
        struct tok_candidate c = heap_pop(w);
        struct tok_symbol *left = &w->symbols[c.at];
        if (left->n == 0 || left->next < 0) continue;
        struct tok_symbol *right = &w->symbols[left->next];
        if (left->n + right->n != c.n) continue; /* either side has grown since */
        left->id = c.id;
        left->n = c.n;
        left->next = right->next;
        right->n = 0;
        if (left->next >= 0) w->symbols[left->next].prev = c.at;
        TM_TRY(offer(t, w, word, left->prev));
        TM_TRY(offer(t, w, word, c.at));
    }
    return TM_OK;
}

/* --- the first symbols --------------------------------------------------------------------------------------------------*/

static enum status missing(const struct tok_tables *t, const char *word, size_t begin, size_t n) {
    if (t->byte_level)
        return TM_FAIL(TM_ERR_DATA, "byte 0x%02x has no token in the vocabulary", (unsigned)(unsigned char)word[begin]);
    return TM_FAIL(TM_ERR_DATA, "\"%.*s\" has no token in the vocabulary", (int)n, word + begin);
}

static void symbol(struct tok_work *w, int32_t *k, int32_t id, size_t begin, size_t n) {
    w->symbols[*k] =
        (struct tok_symbol){.id = id, .begin = (int32_t)begin, .n = (int32_t)n, .prev = *k - 1, .next = *k + 1};
    ++*k;
}

static enum status unknown(const struct tok_tables *t, struct tok_work *w, int32_t *k, const char *word, size_t begin,
                           size_t n) {
    const struct tok_bpe *m = t->bpe;
    if (m->unk < 0) return missing(t, word, begin, n);
    if (m->fuse_unk && *k > 0 && w->symbols[*k - 1].id == m->unk)
        w->symbols[*k - 1].n += (int32_t)n;
    else
        symbol(w, k, m->unk, begin, n);
    return TM_OK;
}

/* The id of a character, spelled with the prefix of later ones and the suffix of the last one. */
static enum status char_id(const struct tok_tables *t, struct tok_work *w, const char *word, size_t n, size_t begin,
                           size_t end, int32_t *id) {
    const struct tok_bpe *m = t->bpe;
    if ((!m->prefix || begin == 0) && (!m->suffix || end < n)) {
        *id = tok_map_get(&t->vocab, word + begin, end - begin);
        return TM_OK;
    }
    str_clear(&w->spelled);
    if (m->prefix && begin) TM_TRY(str_append(&w->spelled, m->prefix, strlen(m->prefix)));
    TM_TRY(str_append(&w->spelled, word + begin, end - begin));
    if (m->suffix && end == n) TM_TRY(str_append(&w->spelled, m->suffix, strlen(m->suffix)));
    *id = tok_map_get(&t->vocab, w->spelled.p, w->spelled.len);
    return TM_OK;
}

/* A character without a token becomes its bytes when all of them have tokens. */
static bool falls_back(const struct tok_bpe *m, const char *word, size_t begin, size_t end) {
    bool all = m->byte_fallback;
    for (size_t i = begin; i < end; i++) all = all && m->byte_id[(unsigned char)word[i]] >= 0;
    return all;
}

static enum status first_symbols(const struct tok_tables *t, struct tok_work *w, const char *word, size_t n,
                                 int32_t *count) {
    const struct tok_bpe *m = t->bpe;
    int32_t k = 0;
    if (w->cap_symbols < n) TM_TRY(mem_grow(&w->symbols, &w->cap_symbols, n, sizeof *w->symbols));
    for (size_t i = 0, end; i < n; i = end) {
        int32_t id;
        end = i + 1;
        if (t->byte_level) {
            id = m->byte_id[(unsigned char)word[i]];
        } else if (m->piece_rank) { /* SentencePiece: what has no token may yet be part of one */
            size_t user = tok_trie_longest(&t->pieces.user, word + i, n - i, &id);
            end = i + (user ? user : tok_utf8_bytes(word[i]));
            if (end > n) end = n;
            symbol(w, &k, user ? id : tok_map_get(&t->vocab, word + i, end - i), i, end - i);
            continue;
        } else {
            end = i + tok_utf8_bytes(word[i]);
            TM_TRY(char_id(t, w, word, n, i, end, &id));
        }
        if (id >= 0)
            symbol(w, &k, id, i, end - i);
        else if (falls_back(m, word, i, end))
            for (size_t b = i; b < end; b++) symbol(w, &k, m->byte_id[(unsigned char)word[b]], b, 1);
        else
            TM_TRY(unknown(t, w, &k, word, i, end - i));
    }
    w->symbols[k - 1].next = -1;
    *count = k;
    return TM_OK;
}

/* --- one word -------------------------------------------------------------------------------------------------------------*/

static enum status push(struct tok_ids *ids, struct tok_spans *spans, int32_t id, size_t begin, size_t end) {
    if (spans) TM_TRY(tok_spans_push(spans, begin, end));
    return tok_ids_push(ids, id);
}

/* A SentencePiece symbol that is no piece: its bytes, or one <unk> for a run of them. */
static enum status push_unknown(const struct tok_tables *t, struct tok_ids *ids, struct tok_spans *spans,
                                const char *word, size_t begin, size_t end, bool run) {
    const struct tok_bpe *m = t->bpe;
    if (falls_back(m, word, begin, end)) {
        for (size_t i = begin; i < end; i++) TM_TRY(push(ids, spans, m->byte_id[(unsigned char)word[i]], begin, end));
        return TM_OK;
    }
    if (m->unk < 0) return missing(t, word, begin, end - begin);
    if (!run) return push(ids, spans, m->unk, begin, end);
    if (spans) spans->p[spans->n - 1].end = end;
    return TM_OK;
}

static enum status encode(const struct tok_tables *t, struct tok_work *w, const char *word, size_t n, size_t base,
                          struct tok_ids *ids, struct tok_spans *spans) {
    const struct tok_bpe *m = t->bpe;
    int32_t count = 0;
    if (n > MAX_WORD) return TM_FAIL(TM_ERR_DATA, "a word of %zu bytes: at most %d are supported", n, MAX_WORD);
    if (m->ignore_merges) {
        str_clear(&w->spelled);
        TM_TRY(t->byte_level ? tok_spell(word, n, &w->spelled) : str_append(&w->spelled, word, n));
        int32_t id = tok_map_get(&t->vocab, w->spelled.p, w->spelled.len);
        if (id >= 0) return push(ids, spans, id, base, base + n);
    }
    TM_TRY(first_symbols(t, w, word, n, &count));
    TM_TRY(merge_pairs(t, w, word, count));
    bool run = false;
    for (int32_t i = 0; i >= 0; i = w->symbols[i].next) {
        const struct tok_symbol *s = &w->symbols[i];
        size_t begin = base + (size_t)s->begin, end = begin + (size_t)s->n;
        TM_TRY(s->id >= 0 ? push(ids, spans, s->id, begin, end)
                          : push_unknown(t, ids, spans, word - base, begin, end, run));
        run = s->id < 0;
    }
    return TM_OK;
}

/* A word that lies at byte `base` of the text that spans count in. */
static enum status one_word(const struct tok_tables *t, struct tok_work *w, const char *word, size_t n, size_t base,
                            struct tok_ids *ids, struct tok_spans *spans) {
    if (n > CACHE_BYTES || spans) return encode(t, w, word, n, base, ids, spans);
    if (!w->cache) TM_TRY(mem_alloc(&w->cache, CACHE_SLOTS, sizeof *w->cache));
    struct tok_cached *c = &w->cache[hash_bytes(word, n, 0) & (CACHE_SLOTS - 1)];
    if (c->n == n && memcmp(c->word, word, n) == 0) {
        if (ids->cap - ids->n < CACHE_IDS) TM_TRY(mem_grow(&ids->p, &ids->cap, ids->n + CACHE_IDS, sizeof *ids->p));
        memcpy(ids->p + ids->n, c->ids, sizeof c->ids); /* all of them: a copy of fixed size is the fastest */
        ids->n += c->nids;
        return TM_OK;
    }
    size_t start = ids->n;
    TM_TRY(encode(t, w, word, n, base, ids, spans));
    if (ids->n - start > CACHE_IDS) return TM_OK;
    c->n = (uint8_t)n;
    c->nids = (uint8_t)(ids->n - start);
    memcpy(c->word, word, n);
    memcpy(c->ids, ids->p + start, c->nids * sizeof *c->ids);
    return TM_OK;
}

static bool is_blank(const char *p, size_t n) { return n >= TOK_BLANK_BYTES && !memcmp(p, TOK_BLANK, TOK_BLANK_BYTES); }

static enum status run(const struct tok_tables *t, struct tok_work *w, const char *word, size_t n, struct tok_ids *ids,
                       struct tok_spans *spans) {
    if (!t->bpe->apart) return one_word(t, w, word, n, 0, ids, spans);
    for (size_t begin = 0, end; begin < n; begin = end) { /* blanks, then what is not blank */
        for (end = begin; is_blank(word + end, n - end);) end += TOK_BLANK_BYTES;
        while (end < n && !is_blank(word + end, n - end)) end++;
        TM_TRY(one_word(t, w, word + begin, end - begin, begin, ids, spans));
    }
    return TM_OK;
}

/* --- reading ------------------------------------------------------------------------------------------------------------*/

/* One merge, "left right" or ["left", "right"]: its rank is its place in the list; a repeated pair keeps its last place. */
static enum status read_merge(const struct tok_map *vocab, struct tok_bpe *m, const json_t *node, size_t rank,
                              const char *where) {
    const char *left = json_string_value(json_array_get(node, 0)), *right = json_string_value(json_array_get(node, 1));
    const char *line = json_string_value(node), *space = line ? strchr(line, ' ') : NULL;
    size_t nleft = left ? strlen(left) : 0, nprefix = m->prefix ? strlen(m->prefix) : 0;
    if (space && !strchr(space + 1, ' ')) {
        left = line;
        nleft = (size_t)(space - line);
        right = space + 1;
    }
    if (!left || !right || (json_is_array(node) && json_array_size(node) != 2))
        return TM_FAIL(TM_ERR_FORMAT, "%s: model.merges[%zu] is not a pair of tokens", where, rank);
    struct str joined = {0};
    size_t skip = nprefix && !strncmp(right, m->prefix, nprefix) ? nprefix : 0; /* later symbols lose their prefix */
    enum status st = str_append(&joined, left, nleft);
    if (st == TM_OK) st = str_append(&joined, right + skip, strlen(right) - skip);
    int32_t a = tok_map_get(vocab, left, nleft), b = tok_map_get(vocab, right, strlen(right));
    int32_t both = st == TM_OK ? tok_map_get(vocab, joined.p, joined.len) : -1;
    str_free(&joined);
    TM_TRY(st);
    if (a < 0 || b < 0 || both < 0)
        return TM_FAIL(TM_ERR_FORMAT, "%s: model.merges[%zu]: \"%.*s\" + \"%s\": %s is not in the vocabulary", where,
                       rank, (int)nleft, left, right,
                       a < 0   ? "the left part"
                       : b < 0 ? "the right part"
                               : "the result");
    m->merged[rank] = both;
    return tok_pairs_add(&m->ranks, a, b, (int32_t)rank);
}

static enum status keep_text(const json_t *model, const char *key, const char *where, char **out) {
    const char *text;
    TM_TRY(json_get_str(model, key, where, "", &text));
    if (!*text) return TM_OK;
    TM_TRY(mem_alloc(out, strlen(text) + 1, 1));
    memcpy(*out, text, strlen(text));
    return TM_OK;
}

static enum status read_options(const struct tok_map *vocab, struct tok_bpe *m, const json_t *model,
                                const char *where) {
    const char *unk;
    double dropout;
    TM_TRY(json_get_str(model, "unk_token", where, NULL, &unk));
    TM_TRY(json_get_bool(model, "fuse_unk", where, false, &m->fuse_unk));
    TM_TRY(json_get_bool(model, "ignore_merges", where, false, &m->ignore_merges));
    TM_TRY(json_get_bool(model, "byte_fallback", where, false, &m->byte_fallback));
    TM_TRY(json_get_f64(model, "dropout", where, 0, &dropout));
    TM_TRY(keep_text(model, "continuing_subword_prefix", where, &m->prefix));
    TM_TRY(keep_text(model, "end_of_word_suffix", where, &m->suffix));
    if (dropout != 0) return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: model.dropout = %g: expected none", where, dropout);
    m->unk = unk ? tok_map_get(vocab, unk, strlen(unk)) : -1;
    if (unk && m->unk < 0)
        return TM_FAIL(TM_ERR_FORMAT, "%s: model.unk_token = \"%s\" is not in the vocabulary", where, unk);
    return TM_OK;
}

static void fill_bytes(const struct tok_tables *t, struct tok_bpe *m) {
    for (int i = 0; i < 256; i++) m->byte_id[i] = -1;
    for (size_t i = 0; i < t->vocab.nkeys; i++) {
        const struct tok_key *k = &t->vocab.keys[i];
        const char *spelling = t->vocab.pool.p + k->offset;
        size_t at = 0;
        int byte = -1;
        if (!t->byte_level)
            byte = tok_hex_byte(spelling, k->n);
        else if (k->n && k->n == tok_utf8_bytes(*spelling))
            byte = tok_char_to_byte(tok_utf8_next(spelling, &at));
        if (byte >= 0) m->byte_id[byte] = k->value;
    }
}

/* Whether a token has a blank behind another character. */
static bool joins_words(const struct tok_map *vocab) {
    for (size_t i = 0; i < vocab->nkeys; i++) {
        const char *p = vocab->pool.p + vocab->keys[i].offset;
        size_t n = vocab->keys[i].n, at = 0;
        while (is_blank(p + at, n - at)) at += TOK_BLANK_BYTES;
        for (; at < n; at++)
            if (is_blank(p + at, n - at)) return true;
    }
    return false;
}

enum status tok_read_bpe(const json_t *model, const char *where, struct tok_tables *t) {
    struct tok_bpe *m;
    const json_t *merges = json_object_get(model, "merges");
    if (!json_is_array(merges) || json_array_size(merges) >= INT32_MAX)
        return TM_FAIL(TM_ERR_FORMAT, "%s: model.merges is not a list", where);
    TM_TRY(tok_read_vocab_object(model, where, t));
    TM_TRY(mem_alloc(&m, 1, sizeof *m));
    t->bpe = m;
    t->model = run;
    m->nmerges = json_array_size(merges);
    TM_TRY(read_options(&t->vocab, m, model, where));
    TM_TRY(mem_alloc(&m->merged, m->nmerges, sizeof *m->merged));
    fill_bytes(t, m);
    for (size_t i = 0; i < m->nmerges; i++) TM_TRY(read_merge(&t->vocab, m, json_array_get(merges, i), i, where));
    bool blank = tok_map_get(&t->vocab, TOK_BLANK, TOK_BLANK_BYTES) >= 0;
    m->apart = !t->byte_level && blank && !m->prefix && !m->suffix && !m->ignore_merges && !joins_words(&t->vocab);
    return TM_OK;
}

/* --- a SentencePiece model -------------------------------------------------------------------------------------------------*/

struct scored {
    float score;
    int32_t id;
};

static int by_score(const void *va, const void *vb) {
    const struct scored *a = va, *b = vb;
    if (a->score != b->score) return a->score > b->score ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

/* Ranks by descending score; equal scores have equal ranks, so that the leftmost merge goes first. */
enum status tok_bpe_from_pieces(struct tok_tables *t, const char *where) {
    struct tok_bpe *m;
    struct scored *order;
    const struct tok_pieces *p = &t->pieces;
    TM_TRY(mem_alloc(&m, 1, sizeof *m));
    t->bpe = m;
    t->model = run;
    m->unk = p->unk;
    m->byte_fallback = p->byte_fallback;
    fill_bytes(t, m);
    for (int32_t i = 0; i < p->n; i++)
        if (p->type[i] == TOK_UNUSED)
            return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: piece %d of a BPE model is marked unused: expected normal pieces",
                           where, (int)i);
    TM_TRY(mem_alloc(&m->piece_rank, (size_t)p->n, sizeof *m->piece_rank));
    TM_TRY(mem_alloc(&order, (size_t)p->n, sizeof *order));
    for (int32_t i = 0; i < p->n; i++) order[i] = (struct scored){p->score[i], i};
    if (p->n) qsort(order, (size_t)p->n, sizeof *order, by_score);
    for (int32_t i = 0, rank = 0; i < p->n; i++) {
        rank += i > 0 && order[i].score != order[i - 1].score;
        m->piece_rank[order[i].id] = p->type[order[i].id] == TOK_NORMAL ? rank : -1;
    }
    mem_free(&order);
    m->apart = tok_map_get(&t->vocab, TOK_BLANK, TOK_BLANK_BYTES) >= 0 && !joins_words(&t->vocab);
    return TM_OK;
}

void tok_bpe_free(struct tok_bpe **m) {
    if (!*m) return;
    tok_pairs_free(&(*m)->ranks);
    mem_free(&(*m)->merged);
    mem_free(&(*m)->piece_rank);
    mem_free(&(*m)->prefix);
    mem_free(&(*m)->suffix);
    mem_free(m);
}
