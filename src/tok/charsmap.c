/* SentencePiece's compiled normalization rules (precompiled_charsmap): a double-array trie of texts, and what takes their place. */
#include <string.h>

#include "base/mem.h"
#include "tok/tok_impl.h"

/* The blob: bytes of the trie (u32, little endian), the trie's units (u32 each), the texts, each ended by a NUL.
 * A unit of the trie (Darts-clone 0.32): label in the low 8 bits (bit 31 too: a leaf), bit 8: a value hangs below, bits 10.. the
 * offset to the children, times 256 when bit 9 is set; a leaf holds its value in the low 31 bits. */
static uint32_t read_u32(const char *p) {
    const unsigned char *b = (const unsigned char *)p;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

enum status tok_charsmap_read(const char *blob, size_t n, const char *where, struct tok_charsmap *out) {
    size_t bytes = n < 4 ? 0 : read_u32(blob);
    if (bytes == 0 || bytes % 4 || bytes > n - 4)
        return TM_FAIL(TM_ERR_FORMAT, "%s: precompiled_charsmap of %zu bytes says that its trie has %zu", where, n,
                       bytes);
    out->nunits = bytes / 4;
    out->ntexts = n - 4 - bytes;
    TM_TRY(mem_alloc(&out->units, out->nunits, sizeof *out->units));
    TM_TRY(mem_alloc(&out->texts, out->ntexts + 1, 1)); /* ended by a NUL whatever the file says */
    for (size_t i = 0; i < out->nunits; i++) out->units[i] = read_u32(blob + 4 + 4 * i);
    memcpy(out->texts, blob + 4 + bytes, out->ntexts);
    size_t good = tok_utf8_check(out->texts, out->ntexts);
    if (good < out->ntexts)
        return TM_FAIL(TM_ERR_FORMAT, "%s: precompiled_charsmap has texts that are not UTF-8, at byte %zu", where,
                       4 + bytes + good);
    return TM_OK;
}

void tok_charsmap_free(struct tok_charsmap *m) {
    mem_free(&m->units);
    mem_free(&m->texts);
}

/* Rules begin and end, and their texts begin, between characters: others have no effect. */
static bool is_inside(char c) { return ((unsigned char)c & 0xc0) == 0x80; }

static size_t children(uint32_t unit) { return (size_t)(unit >> 10) << ((unit & 0x200) >> 6); }

const char *tok_charsmap_find(const struct tok_charsmap *m, const char *text, size_t n, bool longest, size_t *covered) {
    const char *found = NULL;
    if (!m->nunits) return NULL;
    size_t node = children(m->units[0]);
    for (size_t i = 0; i < n; i++) {
        node ^= (unsigned char)text[i];
        if (node >= m->nunits || (m->units[node] & 0x800000ffu) != (unsigned char)text[i]) break;
        uint32_t unit = m->units[node];
        node ^= children(unit);
        if (!(unit & 0x100) || node >= m->nunits) continue;
        size_t at = m->units[node] & 0x7fffffffu;
        if (at > m->ntexts || is_inside(m->texts[at]) || (i + 1 < n && is_inside(text[i + 1]))) continue;
        found = m->texts + at;
        *covered = i + 1;
        if (!longest) break;
    }
    return found;
}

/* --- the normalizer of tokenizer.json --------------------------------------------------------------------------------------*/

static enum status replace(struct tok_edit *e, size_t covered, const char *text) {
    size_t old = tok_utf8_count(e->in.p + e->i, covered), new = tok_utf8_count(text, strlen(text)), k = 0;
    if (!new) tok_edit_skip(e, covered);
    for (size_t i = 0; text[i]; k++) {
        int change = k >= old ? 1 : k + 1 == new &&old > new ? -(int)(old - new) : 0;
        uint32_t c = tok_utf8_next(text, &i);
        TM_TRY(tok_edit_put(e, c, change));
    }
    return TM_OK;
}

/* A grapheme of less than 6 bytes is replaced whole by the shortest rule it begins with, else each character by its own rule. */
static enum status run(const struct tok_norm *step, struct tok_work *w, struct tok_edit *e) {
    const char *p = e->in.p, *text;
    const size_t n = e->in.n;
    while (e->i < n) {
        size_t i = e->i, end = i + tok_utf8_bytes(p[i]), covered;
        if (i + 1 < n &&
            ((unsigned char)p[i] >= 0x80 || (unsigned char)p[i + 1] >= 0x80 || p[i] == '\r')) { /* else it is one */
            struct tok_scan scan = {.pattern = &step->pattern, .text = p, .n = n, .from = i};
            TM_TRY(tok_scan_next(&scan, w));
            if (scan.found) end = scan.end;
        }
        if (end - e->i < 6 && (text = tok_charsmap_find(&step->map, p + e->i, end - e->i, false, &covered))) {
            TM_TRY(replace(e, end - e->i, text));
            continue;
        }
        while (e->i < end) {
            size_t bytes = tok_utf8_bytes(p[e->i]);
            text = tok_charsmap_find(&step->map, p + e->i, bytes, false, &covered);
            TM_TRY(text ? replace(e, bytes, text) : tok_edit_copy(e, bytes));
        }
    }
    return TM_OK;
}

static int base64_digit(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

enum status tok_read_precompiled(const json_t *node, const char *where, struct tok_tables *t) {
    const char *text;
    struct tok_norm *step;
    struct str blob = {0};
    enum status st = TM_OK;
    uint32_t bits = 0;
    int nbits = 0;
    TM_TRY(json_get_str(node, "precompiled_charsmap", where, "", &text));
    TM_TRY(tok_norm_add(t, where, &step));
    step->run = run;
    TM_TRY(tok_pattern_compile("\\X", false, where, &step->pattern));
    for (size_t i = 0; text[i] && text[i] != '=' && st == TM_OK; i++) {
        int digit = base64_digit(text[i]);
        if (digit < 0) st = TM_FAIL(TM_ERR_FORMAT, "%s: precompiled_charsmap is not base64 at character %zu", where, i);
        bits = bits << 6 | (uint32_t)digit;
        nbits += 6;
        if (st != TM_OK || nbits < 8) continue;
        nbits -= 8;
        st = str_append(&blob, &(char){(char)(bits >> nbits)}, 1);
    }
    if (st == TM_OK) st = tok_charsmap_read(blob.p ? blob.p : "", blob.len, where, &step->map);
    str_free(&blob);
    return st;
}
