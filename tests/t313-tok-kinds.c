/* TEST ranks=1 tier=1 */
/* tok/: every kind and option that tokenizer.json may name, on small texts, against Hugging Face tokenizers (tests/golden/tok/kinds.py). */
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "tap.h"
#include "tok/tok.h"

#include <unistd.h>

static char folder[] = "/tmp/temper-test-XXXXXX", file[64];

static enum status open_case(const json_t *c, const json_t *models, struct tok **t) {
    static const char *const keys[] = {"normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens"};
    json_t *root = json_object(), *model = json_object_get(models, json_string_value(json_object_get(c, "model")));
    json_object_set(root, "model", model);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (json_object_get(c, keys[i])) json_object_set(root, keys[i], json_object_get(c, keys[i]));
    bool written = json_dump_file(root, file, 0) == 0;
    json_decref(root);
    return written ? tok_open(file, t) : TM_ERR_IO;
}

static size_t characters(const char *text, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((unsigned char)text[i] & 0xc0) != 0x80;
    return count;
}

static bool equal_ids(const struct tok_ids *got, const json_t *want) {
    bool same = got->n == json_array_size(want);
    for (size_t i = 0; same && i < got->n; i++) same = got->p[i] == json_integer_value(json_array_get(want, i));
    return same;
}

static bool equal_spans(const struct tok_spans *got, const char *text, const json_t *want) {
    bool same = 2 * got->n == json_array_size(want);
    for (size_t i = 0; same && i < got->n; i++)
        same = characters(text, got->p[i].begin) == (size_t)json_integer_value(json_array_get(want, 2 * i)) &&
               characters(text, got->p[i].end) == (size_t)json_integer_value(json_array_get(want, 2 * i + 1));
    return same;
}

static bool one_text(struct tok *t, const char *name, const json_t *text, const json_t *ids, const json_t *off,
                     const json_t *dec) {
    struct tok_ids got = {0}, plain = {0};
    struct tok_spans spans = {0};
    struct str back = {0};
    const char *s = json_string_value(text);
    const size_t n = json_string_length(text);
    bool same = tok_encode_spans(t, s, n, TOK_ADD_SPECIAL, &got, &spans) == TM_OK && equal_ids(&got, ids);
    bool again =
        tok_encode(t, s, n, TOK_ADD_SPECIAL, &plain) == TM_OK && equal_ids(&plain, ids); /* not aligned, words cached */
    bool spanned = equal_spans(&spans, s, off);
    bool decoded = same && tok_decode(t, got.p, got.n, 0, &back) == TM_OK && !strcmp(back.p, json_string_value(dec));
    if (!same || !again || !spanned || !decoded) {
        printf("# %s, \"%s\": ids %d %d, spans %d, decoded %d:", name, s, same, again, spanned, decoded);
        for (size_t i = 0; i < got.n; i++) printf(" %d", (int)got.p[i]);
        for (size_t i = 0; i < spans.n; i++)
            printf(" %zu-%zu", characters(s, spans.p[i].begin), characters(s, spans.p[i].end));
        printf(" \"%s\" %s\n", back.p ? back.p : "", same ? "" : status_message());
    }
    tok_ids_free(&got);
    tok_ids_free(&plain);
    tok_spans_free(&spans);
    str_free(&back);
    return same && again && spanned && decoded;
}

static void one_case(const json_t *c, const json_t *texts, const json_t *models, size_t number) {
    struct tok *t = NULL;
    struct tok_ids ids = {0}, types = {0};
    const char *name = json_string_value(json_object_get(c, "name"));
    size_t good = 0, n = json_array_size(texts);
    if (!ok(open_case(c, models, &t) == TM_OK, "case %zu, %s, opens", number, name)) return;
    for (size_t i = 0; i < n; i++)
        good += one_text(t, name, json_array_get(texts, i), json_array_get(json_object_get(c, "ids"), i),
                         json_array_get(json_object_get(c, "off"), i), json_array_get(json_object_get(c, "dec"), i));
    const char *a = json_string_value(json_array_get(texts, 1)), *b = json_string_value(json_array_get(texts, 11));
    enum status st = tok_encode_pair(t, (struct tok_text){a, strlen(a)}, (struct tok_text){b, strlen(b)},
                                     TOK_ADD_SPECIAL, &ids, &types);
    bool pair =
        st == TM_OK && equal_ids(&ids, json_object_get(c, "pair")) && equal_ids(&types, json_object_get(c, "types"));
    ok(good == n && pair, "case %zu, %s: %zu of %zu texts, pair %s", number, name, good, n, pair ? "too" : "not");
    tok_ids_free(&ids);
    tok_ids_free(&types);
    tok_close(&t);
}

int main(void) {
    json_t *root = json_load_file("tests/golden/tok/kinds.json", 0, NULL);
    ok(root && mkdtemp(folder), "tests/golden/tok/kinds.json");
    snprintf(file, sizeof file, "%s/tokenizer.json", folder);
    const json_t *cases = json_object_get(root, "cases");
    for (size_t i = 0; i < json_array_size(cases); i++)
        one_case(json_array_get(cases, i), json_object_get(root, "texts"), json_object_get(root, "models"), i);
    json_decref(root);
    file_remove_tree(folder);
    is_int(mem_bytes(), 0, "all memory given back");
    return tap_done();
}
