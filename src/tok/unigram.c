/* Unigram: the cut of a word into pieces with the largest sum of scores (Kudo 2018), by Viterbi from left to right. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "tok/tok_impl.h"

/* How much worse than the worst piece an unknown character is (kUnkPenalty of sentencepiece). */
static const double unknown_penalty = 10;

/* The best way to a place in the word. */
struct tok_node {
    double score;
    size_t from; /* SIZE_MAX: none yet */
    int32_t id;
};

struct tok_unigram {
    struct tok_trie trie;      /* -> id */
    double *score;             /* by id */
    double unknown;            /* the score of an unknown character */
    size_t longest;            /* bytes of a piece, at least of a character */
    int32_t unk, byte_id[256]; /* -1: none */
    bool byte_fallback;
    bool single; /* sums are rounded to fp32 as sentencepiece's are; tokenizer.json's are fp64 */
};

/* --- one word ---------------------------------------------------------------------------------------------------------------*/

static void relax(const struct tok_unigram *m, struct tok_node *to, size_t from, int32_t id, double score) {
    if (to->from != SIZE_MAX && score <= to->score) return;
    *to = (struct tok_node){.score = m->single ? (float)score : score, .from = from, .id = id};
}

/* All pieces that begin at `at`; *furthest: the last place that any piece so far reaches. */
static enum status reach(const struct tok_unigram *m, struct tok_node *nodes, const char *word, size_t n, size_t at,
                         size_t *furthest) {
    const double here = nodes[at].score;
    size_t bytes = tok_utf8_bytes(word[at]);
    bool whole = false; /* the character itself is a piece */
    int32_t node = 0;
    for (size_t i = at; m->trie.n && i < n && (node = tok_trie_next(&m->trie, node, word[i])) >= 0; i++) {
        int32_t id = m->trie.values[node];
        if (id < 0) continue;
        relax(m, &nodes[i + 1], at, id, m->score[id] + here);
        whole = whole || i + 1 - at == bytes;
        if (i + 1 > *furthest) *furthest = i + 1;
    }
    if (whole) return TM_OK;
    if (m->unk < 0 && !m->byte_fallback)
        return TM_FAIL(TM_ERR_DATA, "\"%.*s\" has no token in the vocabulary", (int)bytes, word + at);
    relax(m, &nodes[at + bytes], at, m->unk, m->single ? (float)m->unknown + (float)here : m->unknown + here);
    if (at + bytes > *furthest) *furthest = at + bytes;
    return TM_OK;
}

/* A run of unknown characters: their bytes, or one <unk>. */
static enum status push_unknown(const struct tok_unigram *m, struct tok_ids *ids, struct tok_spans *spans,
                                const char *word, size_t begin, size_t end) {
    bool bytes = m->byte_fallback;
    for (size_t i = begin; i < end; i++) bytes = bytes && m->byte_id[(unsigned char)word[i]] >= 0;
    if (!bytes && m->unk < 0)
        return TM_FAIL(TM_ERR_DATA, "\"%.*s\" has no token in the vocabulary", (int)(end - begin), word + begin);
    for (size_t i = begin; i < (bytes ? end : begin + 1); i++) {
        TM_TRY(tok_ids_push(ids, bytes ? m->byte_id[(unsigned char)word[i]] : m->unk));
        if (spans) TM_TRY(tok_spans_push(spans, begin, end));
    }
    return TM_OK;
}

/* What is being cut: nodes[i] is byte base + i of the word. */
struct cut {
    const struct tok_unigram *m;
    struct tok_node *nodes;
    const char *word;
    size_t base, unknown; /* where a run of unknown characters began, SIZE_MAX: none */
    struct tok_ids *ids;
    struct tok_spans *spans;
};

static enum status flush_unknown(struct cut *c, size_t end) {
    if (c->unknown == SIZE_MAX) return TM_OK;
    size_t begin = c->unknown;
    c->unknown = SIZE_MAX;
    return push_unknown(c->m, c->ids, c->spans, c->word, begin, end);
}

/* Push the best pieces up to node `end`: walk back along the links, turning them round, and then forth. */
static enum status collect(struct cut *c, size_t end) {
    for (size_t at = end, behind = end, from; at > 0;
         at = from) { /* nodes[i].from becomes where the piece that begins at i ends */
        from = c->nodes[at].from;
        c->nodes[at].from = behind;
        behind = at;
        if (from == 0) c->nodes[0].from = at;
    }
    for (size_t at = 0, next; at < end; at = next) {
        next = c->nodes[at].from;
        int32_t id = c->nodes[next].id;
        if (id < 0 || id == c->m->unk) {
            if (c->unknown == SIZE_MAX) c->unknown = c->base + at;
            continue;
        }
        TM_TRY(flush_unknown(c, c->base + at));
        TM_TRY(tok_ids_push(c->ids, id));
        if (c->spans) TM_TRY(tok_spans_push(c->spans, c->base + at, c->base + next));
    }
    return TM_OK;
}

/* Where no piece reaches over a place, every way passes it: what is before it is decided, and its nodes serve again. */
static enum status run(const struct tok_tables *t, struct tok_work *w, const char *word, size_t n, struct tok_ids *ids,
                       struct tok_spans *spans) {
    const struct tok_unigram *m = t->unigram;
    struct cut c = {.m = m, .word = word, .unknown = SIZE_MAX, .ids = ids, .spans = spans};
    double score = 0;
    while (c.base < n) {
        size_t at = 0, furthest = 0, known = 0, left = n - c.base;
        do {
            size_t need = at + m->longest + 1;
            TM_TRY(mem_grow(&w->nodes, &w->cap_nodes, need, sizeof *w->nodes));
            for (; known < need; known++)
                w->nodes[known] = (struct tok_node){.from = SIZE_MAX, .score = known ? 0 : score};
            TM_TRY(reach(m, w->nodes, word + c.base, left, at, &furthest));
            at += tok_utf8_bytes(word[c.base + at]);
        } while (at < furthest);
        c.nodes = w->nodes;
        score = c.nodes[at].score;
        TM_TRY(collect(&c, at));
        c.base += at;
    }
    return flush_unknown(&c, n);
}

/* --- reading ----------------------------------------------------------------------------------------------------------------*/

static enum status add_piece(struct tok_unigram *m, const char *piece, size_t n, int32_t id, double score) {
    if (n > m->longest) m->longest = n;
    m->score[id] = score;
    int byte = tok_hex_byte(piece, n);
    if (byte >= 0) m->byte_id[byte] = id;
    return n ? tok_trie_add(&m->trie, piece, n, id) : TM_OK;
}

static enum status create(struct tok_tables *t, size_t n, struct tok_unigram **out) {
    TM_TRY(mem_alloc(out, 1, sizeof **out));
    t->unigram = *out;
    t->model = run;
    (*out)->longest = 4; /* of a character */
    (*out)->unk = -1;
    for (int i = 0; i < 256; i++) (*out)->byte_id[i] = -1;
    return mem_alloc(&(*out)->score, n, sizeof *(*out)->score);
}

/* "vocab": [["piece", score], ...]: a piece's id is its place. */
enum status tok_read_unigram(const json_t *model, const char *where, struct tok_tables *t) {
    struct tok_unigram *m;
    int64_t unk;
    const json_t *vocab = json_object_get(model, "vocab");
    size_t n = json_array_size(vocab);
    TM_TRY(json_get_i64(model, "unk_id", where, -1, &unk));
    if (n == 0 || n > TOK_MAX_ID || unk < -1 || unk >= (int64_t)n)
        return TM_FAIL(TM_ERR_FORMAT, "%s: model.vocab has %zu pieces, unk_id is %lld: expected a list that holds it",
                       where, n, (long long)unk);
    TM_TRY(create(t, n, &m));
    TM_TRY(json_get_bool(model, "byte_fallback", where, false, &m->byte_fallback));
    m->unk = (int32_t)unk;
    for (size_t i = 0; i < n; i++) {
        const json_t *row = json_array_get(vocab, i), *piece = json_array_get(row, 0), *score = json_array_get(row, 1);
        if (!json_is_string(piece) || !json_is_number(score))
            return TM_FAIL(TM_ERR_FORMAT, "%s: model.vocab[%zu] is not a pair of a piece and its score", where, i);
        size_t length = json_string_length(piece);
        double value = json_number_value(score);
        TM_TRY(add_piece(m, json_string_value(piece), length, (int32_t)i, value));
        if (i == 0 || value < m->unknown) m->unknown = value;
        TM_TRY(tok_vocab_add(t, where, json_string_value(piece), length, (int32_t)i));
    }
    m->unknown -= unknown_penalty;
    return TM_OK;
}

enum status tok_unigram_from_pieces(struct tok_tables *t, const char *where) {
    struct tok_unigram *m;
    const struct tok_pieces *p = &t->pieces;
    float low = INFINITY, high = -INFINITY;
    (void)where;
    TM_TRY(create(t, (size_t)p->n, &m));
    m->single = true;
    m->byte_fallback = p->byte_fallback;
    m->unk = p->unk;
    for (int32_t i = 0; i < p->n; i++) {
        if (p->type[i] != TOK_NORMAL) continue;
        low = fminf(low, p->score[i]);
        high = fmaxf(high, p->score[i]);
    }
    m->unknown = low - (float)unknown_penalty;
    for (size_t i = 0; i < t->vocab.nkeys; i++) {
        const struct tok_key *k = &t->vocab.keys[i];
        const char *piece = t->vocab.pool.p + k->offset;
        enum tok_piece_type type = (enum tok_piece_type)p->type[k->value];
        double bonus = (float)k->n * high - 0.1; /* a user-defined symbol always wins */
        if (type == TOK_NORMAL || type == TOK_USER_DEFINED)
            TM_TRY(add_piece(m, piece, k->n, k->value, type == TOK_NORMAL ? (double)p->score[k->value] : bonus));
        int byte = type == TOK_BYTE ? tok_hex_byte(piece, k->n) : -1;
        if (byte >= 0) m->byte_id[byte] = k->value;
    }
    return TM_OK;
}

void tok_unigram_free(struct tok_unigram **m) {
    if (!*m) return;
    tok_trie_free(&(*m)->trie);
    mem_free(&(*m)->score);
    mem_free(m);
}
