/* TEST ranks=1 tier=1 */
/* tok/: byte-level BPE against Hugging Face's own ids and decodings, a hand-made vocabulary, bad input. */
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "tap.h"
#include "tok/tok.h"

static json_t *load(const char *path) {
    json_t *j = json_load_file(path, JSON_ALLOW_NUL, NULL); /* the texts hold NUL characters on purpose */
    return j;
}

static bool equal_ids(const struct tok_ids *got, const json_t *want) {
    if (got->n != json_array_size(want)) return false;
    for (size_t i = 0; i < got->n; i++)
        if (got->p[i] != json_integer_value(json_array_get(want, i))) return false;
    return true;
}

static bool equal_text(const struct str *got, const json_t *want) {
    return got->len == json_string_length(want) && (!got->len || !memcmp(got->p, json_string_value(want), got->len));
}

/* Every row of NAME.enc.json: made by tokenizers 0.22.2 from the same tokenizer.json. */
static void family(const char *dir, const json_t *texts, const char *name) {
    char path[512];
    struct tok *t;
    snprintf(path, sizeof path, "%s/%s.tokenizer.json", dir, name);
    must(tok_open(path, &t));
    snprintf(path, sizeof path, "%s/%s.enc.json", dir, name);
    json_t *enc = load(path), *rows = json_object_get(enc, "rows");
    is_int(tok_vocab_size(t), json_integer_value(json_object_get(enc, "vocab_size")), "vocabulary size");
    size_t n = json_array_size(rows), good = 0, good_special = 0, good_dec = 0, good_skip = 0;
    struct tok_ids ids = {0};
    struct str text = {0};
    for (size_t r = 0; r < n; r++) {
        const json_t *row = json_array_get(rows, r), *want = json_object_get(row, "ids"), *special;
        const json_t *in = json_array_get(texts, (size_t)json_integer_value(json_object_get(row, "i")));
        special = json_object_get(row, "ids_special");
        ids.n = 0;
        enum status st = tok_encode(t, json_string_value(in), json_string_length(in), 0, &ids);
        bool same = st == TM_OK && equal_ids(&ids, want);
        good += same;
        if (!same)
            printf("# %s: text %zu differs: %s\n", name, r, st == TM_OK ? json_string_value(in) : status_message());
        str_clear(&text);
        st = tok_decode(t, ids.p, ids.n, 0, &text);
        good_dec += st == TM_OK && equal_text(&text, json_object_get(row, "dec"));
        str_clear(&text);
        st = tok_decode(t, ids.p, ids.n, TOK_SKIP_SPECIAL, &text);
        good_skip += st == TM_OK && equal_text(&text, json_object_get(row, "dec_skip"));
        ids.n = 0;
        st = tok_encode(t, json_string_value(in), json_string_length(in), TOK_ADD_SPECIAL, &ids);
        good_special += st == TM_OK && equal_ids(&ids, special ? special : want);
    }
    ok(n > 150 && good == n, "%s: ids of %zu of %zu texts", name, good, n);
    ok(good_special == n, "%s: ids with special tokens of %zu of %zu texts", name, good_special, n);
    ok(good_dec == n, "%s: decoded text of %zu of %zu", name, good_dec, n);
    ok(good_skip == n, "%s: decoded without special tokens, %zu of %zu", name, good_skip, n);
    tok_ids_free(&ids);
    str_free(&text);
    json_decref(enc);
    tok_close(&t);
}

static void goldens(void) {
    static const char *const names[] = {"gpt2_bpe", "gpt2_bpe_prefix_space", "llama3_bpe", "qwen2_bpe"};
    char dir[256], path[300];
    const char *env = getenv("TEMPER_SHARED"), *roots[] = {env ? env : "../shared", "../../shared"};
    json_t *texts = NULL;
    for (size_t i = 0; i < 2 && !texts; i++) {
        snprintf(dir, sizeof dir, "%s/golden/data/tokenizers", roots[i]);
        snprintf(path, sizeof path, "%s/texts.json", dir);
        texts = load(path);
    }
    if (!texts) {
        ok(true, "goldens # SKIP no golden/data/tokenizers under TEMPER_SHARED");
        return;
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) family(dir, json_object_get(texts, "texts"), names[i]);
    json_decref(texts);
}

int main(void) {
    goldens();
    return tap_done();
}
