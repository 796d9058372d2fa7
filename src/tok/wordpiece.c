/* WordPiece: the longest token that a word begins with, then the longest of the rest, and so on; else the whole word is unknown. */
#include <string.h>

#include "base/mem.h"
#include "tok/tok_impl.h"

struct tok_wordpiece {
    struct tok_trie begin, later; /* tokens at the beginning of a word; later ones, without their prefix */
    int32_t unk;
    int64_t max_chars;
};

static enum status run(const struct tok_tables *t, struct tok_work *w, const char *word, size_t n, struct tok_ids *ids,
                       struct tok_spans *spans) {
    const struct tok_wordpiece *m = t->wordpiece;
    (void)w;
    const size_t nids = ids->n, nspans = spans ? spans->n : 0;
    bool known = (int64_t)tok_utf8_count(word, n) <= m->max_chars;
    for (size_t at = 0, length; known && at < n; at += length) {
        int32_t id;
        length = tok_trie_longest(at ? &m->later : &m->begin, word + at, n - at, &id);
        known = length > 0;
        if (!known) break;
        TM_TRY(tok_ids_push(ids, id));
        if (spans) TM_TRY(tok_spans_push(spans, at, at + length));
    }
    if (known) return TM_OK;
    ids->n = nids;
    if (spans) spans->n = nspans;
    TM_TRY(tok_ids_push(ids, m->unk));
    return spans ? tok_spans_push(spans, 0, n) : TM_OK;
}

enum status tok_read_wordpiece(const json_t *model, const char *where, struct tok_tables *t) {
    struct tok_wordpiece *m;
    const char *unk, *prefix;
    TM_TRY(tok_read_vocab_object(model, where, t));
    TM_TRY(mem_alloc(&m, 1, sizeof *m));
    t->wordpiece = m;
    t->model = run;
    TM_TRY(json_get_str(model, "unk_token", where, "[UNK]", &unk));
    TM_TRY(json_get_str(model, "continuing_subword_prefix", where, "##", &prefix));
    TM_TRY(json_get_i64(model, "max_input_chars_per_word", where, 100, &m->max_chars));
    m->unk = tok_map_get(&t->vocab, unk, strlen(unk));
    if (m->unk < 0) return TM_FAIL(TM_ERR_FORMAT, "%s: model.unk_token = \"%s\" is not in the vocabulary", where, unk);
    const size_t nprefix = strlen(prefix);
    for (size_t i = 0; i < t->vocab.nkeys; i++) {
        const struct tok_key *k = &t->vocab.keys[i];
        const char *spelling = t->vocab.pool.p + k->offset;
        if (k->n) TM_TRY(tok_trie_add(&m->begin, spelling, k->n, k->value));
        if (k->n > nprefix && !memcmp(spelling, prefix, nprefix))
            TM_TRY(tok_trie_add(&m->later, spelling + nprefix, k->n - nprefix, k->value));
    }
    return TM_OK;
}

void tok_wordpiece_free(struct tok_wordpiece **m) {
    if (!*m) return;
    tok_trie_free(&(*m)->begin);
    tok_trie_free(&(*m)->later);
    mem_free(m);
}
