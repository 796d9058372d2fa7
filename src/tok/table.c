/* Open-addressing tables of the tokenizers: byte strings to ids, pairs of ids to merges, prefix trees; arrays of ids and spans. */
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "tok/tok_impl.h"

static size_t find_slot(const struct tok_map *m, const char *key, size_t n) {
    size_t i = hash_bytes(key, n, 0) & (m->nslots - 1);
    for (; m->slots[i]; i = (i + 1) & (m->nslots - 1)) {
        const struct tok_key *k = &m->keys[m->slots[i] - 1];
        if (k->n == n && memcmp(m->pool.p + k->offset, key, n) == 0) break;
    }
    return i;
}

int32_t tok_map_get(const struct tok_map *m, const char *key, size_t n) {
    if (!m->nslots) return -1;
    size_t i = find_slot(m, key, n);
    return m->slots[i] ? m->keys[m->slots[i] - 1].value : -1;
}

/* Keep at most half of the slots full: twice as many slots, every key put in again. */
static enum status map_widen(struct tok_map *m) {
    size_t n = m->nslots ? 2 * m->nslots : 64;
    uint32_t *slots;
    TM_TRY(mem_alloc(&slots, n, sizeof *slots));
    mem_free(&m->slots);
    m->slots = slots;
    m->nslots = n;
    for (size_t i = 0; i < m->nkeys; i++)
        m->slots[find_slot(m, m->pool.p + m->keys[i].offset, m->keys[i].n)] = (uint32_t)i + 1;
    return TM_OK;
}

enum status tok_map_add(struct tok_map *m, const char *key, size_t n, int32_t value) {
    if (m->nkeys >= UINT32_MAX / 4) return TM_FAIL(TM_ERR_MEMORY, "more than %u strings in one table", UINT32_MAX / 4);
    if (2 * (m->nkeys + 1) > m->nslots) TM_TRY(map_widen(m));
    TM_TRY(mem_grow(&m->keys, &m->cap_keys, m->nkeys + 1, sizeof *m->keys));
    size_t slot = find_slot(m, key, n), offset = m->pool.len;
    TM_TRY(str_append(&m->pool, key, n));
    m->keys[m->nkeys++] = (struct tok_key){.offset = offset, .n = n, .value = value};
    m->slots[slot] = (uint32_t)m->nkeys;
    return TM_OK;
}

void tok_map_free(struct tok_map *m) {
    mem_free(&m->keys);
    mem_free(&m->slots);
    str_free(&m->pool);
    *m = (struct tok_map){0};
}

static uint64_t pair_key(int32_t left, int32_t right) { return (uint64_t)(uint32_t)left << 32 | (uint32_t)right; }

static size_t pair_slot(const struct tok_pairs *m, uint64_t key) {
    size_t i = (size_t)((key ^ key >> 29) * 0x9E3779B97F4A7C15u >> 20) & (m->nslots - 1);
    while (m->values[i] >= 0 && m->keys[i] != key) i = (i + 1) & (m->nslots - 1);
    return i;
}

int32_t tok_pairs_get(const struct tok_pairs *m, int32_t left, int32_t right) {
    return m->nslots ? m->values[pair_slot(m, pair_key(left, right))] : -1;
}

enum status tok_pairs_add(struct tok_pairs *m, int32_t left, int32_t right, int32_t value) {
    if (2 * (m->n + 1) > m->nslots) {
        struct tok_pairs wide = {.nslots = m->nslots ? 2 * m->nslots : 64, .n = m->n};
        TM_TRY(mem_alloc(&wide.keys, wide.nslots, sizeof *wide.keys));
        enum status st = mem_alloc(&wide.values, wide.nslots, sizeof *wide.values);
        if (st != TM_OK) {
            mem_free(&wide.keys);
            return st;
        }
        memset(wide.values, 0xff, wide.nslots * sizeof *wide.values);
        for (size_t i = 0; i < m->nslots; i++) {
            if (m->values[i] < 0) continue;
            size_t s = pair_slot(&wide, m->keys[i]);
            wide.keys[s] = m->keys[i];
            wide.values[s] = m->values[i];
        }
        tok_pairs_free(m);
        *m = wide;
    }
    size_t s = pair_slot(m, pair_key(left, right));
    m->n += m->values[s] < 0;
    m->keys[s] = pair_key(left, right);
    m->values[s] = value;
    return TM_OK;
}

void tok_pairs_free(struct tok_pairs *m) {
    mem_free(&m->keys);
    mem_free(&m->values);
    *m = (struct tok_pairs){0};
}

/* --- prefix trees ---------------------------------------------------------------------------------------------------------*/

static enum status trie_node(struct tok_trie *t, int32_t *node) {
    if (t->n >= INT32_MAX) return TM_FAIL(TM_ERR_MEMORY, "a prefix tree of more than %d nodes", INT32_MAX);
    TM_TRY(mem_grow(&t->values, &t->cap, t->n + 1, sizeof *t->values));
    *node = (int32_t)t->n++;
    t->values[*node] = -1;
    return TM_OK;
}

enum status tok_trie_add(struct tok_trie *t, const char *key, size_t n, int32_t value) {
    int32_t node = 0;
    if (!t->n) TM_TRY(trie_node(t, &node));
    for (size_t i = 0; i < n; i++) {
        int32_t next = tok_trie_next(t, node, key[i]);
        if (next < 0) {
            TM_TRY(trie_node(t, &next));
            TM_TRY(tok_pairs_add(&t->next, node, (unsigned char)key[i], next));
        }
        node = next;
    }
    t->values[node] = value;
    return TM_OK;
}

size_t tok_trie_longest(const struct tok_trie *t, const char *text, size_t n, int32_t *value) {
    size_t longest = 0;
    int32_t node = 0;
    for (size_t i = 0; t->n && i < n && (node = tok_trie_next(t, node, text[i])) >= 0; i++) {
        if (t->values[node] < 0) continue;
        longest = i + 1;
        *value = t->values[node];
    }
    return longest;
}

void tok_trie_free(struct tok_trie *t) {
    tok_pairs_free(&t->next);
    mem_free(&t->values);
    *t = (struct tok_trie){0};
}

/* --- ids and spans --------------------------------------------------------------------------------------------------------*/

enum status tok_spans_push(struct tok_spans *spans, size_t begin, size_t end) {
    if (spans->n == spans->cap) TM_TRY(mem_grow(&spans->p, &spans->cap, spans->n + 1, sizeof *spans->p));
    spans->p[spans->n++] = (struct tok_span){begin, end};
    return TM_OK;
}

void tok_spans_free(struct tok_spans *spans) {
    mem_free(&spans->p);
    spans->n = spans->cap = 0;
}

enum status tok_ids_push(struct tok_ids *ids, int32_t id) {
    if (ids->n == ids->cap) TM_TRY(mem_grow(&ids->p, &ids->cap, ids->n + 1, sizeof *ids->p));
    ids->p[ids->n++] = id;
    return TM_OK;
}

void tok_ids_free(struct tok_ids *ids) {
    mem_free(&ids->p);
    ids->n = ids->cap = 0;
}
