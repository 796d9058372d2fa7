/* TEST ranks=1 tier=1 */
/* tok/: ten tokenizers on 193 texts against Hugging Face tokenizers 0.22.2 and sentencepiece 0.2.3: ids, offsets, pairs, decoded texts. */
#include "base/json.h"
#include "base/mem.h"
#include "tap.h"
#include "tok/tok.h"

static const char *folder(void) {
    static char dir[256];
    const char *env = getenv("TEMPER_SHARED"), *roots[] = {env ? env : "../shared", "../../shared"};
    for (size_t i = 0; i < 2; i++) {
        char path[300];
        snprintf(dir, sizeof dir, "%s/golden/data/tokenizers", roots[i]);
        snprintf(path, sizeof path, "%s/texts.json", dir);
        FILE *f = fopen(path, "r");
        if (!f) continue;
        fclose(f);
        return dir;
    }
    return NULL;
}

static json_t *load(const char *dir, const char *name, const char *end) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s%s", dir, name, end);
    return json_load_file(path, JSON_ALLOW_NUL, NULL); /* the texts hold NUL characters on purpose */
}

static struct tok_text text_of(const json_t *s) {
    return (struct tok_text){json_string_value(s), json_string_length(s)};
}

static bool equal_ids(const struct tok_ids *got, const json_t *want) {
    if (got->n != json_array_size(want)) return false;
    for (size_t i = 0; i < got->n; i++)
        if (got->p[i] != json_integer_value(json_array_get(want, i))) return false;
    return true;
}

static size_t characters(const char *text, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((unsigned char)text[i] & 0xc0) != 0x80;
    return count;
}

/* The peer's offsets count characters. */
static bool equal_spans(const struct tok_spans *got, const char *text, const json_t *want) {
    if (got->n != json_array_size(want)) return false;
    for (size_t i = 0; i < got->n; i++) {
        const json_t *w = json_array_get(want, i);
        if (characters(text, got->p[i].begin) != (size_t)json_integer_value(json_array_get(w, 0)) ||
            characters(text, got->p[i].end) != (size_t)json_integer_value(json_array_get(w, 1)))
            return false;
    }
    return true;
}

enum what { IDS, SPECIAL, OFFSETS, DECODED, SKIPPED, N_WHAT };
static const char *const whats[] = {"ids", "ids with special tokens", "offsets", "decoded",
                                    "decoded without special tokens"};

/* The peer's offsets are wrong where Precompiled removes the text's first characters: the next ones get their places. Here U+0001 U+0002
 * U+001F U+007F vanish and U+0080, character 4, stays. */
static bool is_removed_front(const char *name, struct tok_text in, const struct tok_spans *spans) {
    static const char text[] = "\x01\x02\x1f\x7f\xc2\x80\xc2\x9f";
    return !strcmp(name, "t5_unigram") && in.n == sizeof text - 1 && !memcmp(in.p, text, in.n) && spans->n == 2 &&
           spans->p[0].begin == 4 && spans->p[0].end == 6 && spans->p[1].begin == 4 && spans->p[1].end == 6;
}

static void one_row(struct tok *t, const char *name, const json_t *row, struct tok_text in, int good[N_WHAT]) {
    struct tok_ids ids = {0}, more = {0};
    struct tok_spans spans = {0};
    const json_t *want = json_object_get(row, "ids"), *special = json_object_get(row, "ids_special"),
                 *off = json_object_get(row, "off");
    bool same[N_WHAT] = {false};
    same[IDS] = tok_encode(t, in.p, in.n, 0, &ids) == TM_OK && equal_ids(&ids, want);
    same[OFFSETS] = !off || (tok_encode_spans(t, in.p, in.n, 0, &more, &spans) == TM_OK && equal_ids(&more, want) &&
                             (equal_spans(&spans, in.p, off) || is_removed_front(name, in, &spans)));
    more.n = 0;
    same[SPECIAL] =
        tok_encode(t, in.p, in.n, TOK_ADD_SPECIAL, &more) == TM_OK && equal_ids(&more, special ? special : want);
    for (int skip = 0; skip < 2; skip++) {
        const json_t *dec = json_object_get(row, skip ? "dec_skip" : "dec");
        struct str out = {0};
        same[DECODED + skip] =
            !dec || (tok_decode(t, ids.p, ids.n, skip ? TOK_SKIP_SPECIAL : 0, &out) == TM_OK &&
                     out.len == json_string_length(dec) && !memcmp(out.p, json_string_value(dec), out.len));
        if (!same[DECODED + skip]) printf("# got \"%s\", want \"%s\"\n", out.p ? out.p : "", json_string_value(dec));
        str_free(&out);
    }
    for (int i = 0; i < N_WHAT; i++) {
        good[i] += same[i];
        if (!same[i]) printf("# %s: %s differ: \"%s\"\n", name, whats[i], in.p);
    }
    tok_ids_free(&ids);
    tok_ids_free(&more);
    tok_spans_free(&spans);
}

/* The tokenizer of `path` against NAME and gold_end. */
static void family(const char *dir, const json_t *texts, const char *name, const char *path, const char *gold_end) {
    struct tok *t = NULL;
    int good[N_WHAT] = {0}, n = 0;
    must(tok_open(path, &t));
    json_t *gold = load(dir, name, gold_end);
    const json_t *rows = json_object_get(gold, "rows"), *pairs = json_object_get(gold, "pairs"),
                 *size = json_object_get(gold, "vocab_size");
    if (size) is_int(tok_vocab_size(t), json_integer_value(size), "vocabulary size");
    for (; n < (int)json_array_size(rows); n++) {
        const json_t *row = json_array_get(rows, (size_t)n);
        one_row(t, name, row, text_of(json_array_get(texts, (size_t)json_integer_value(json_object_get(row, "i")))),
                good);
    }
    for (int i = 0; i < N_WHAT; i++)
        ok(n == 193 && good[i] == n, "%s: %s of %d of %d texts", name, whats[i], good[i], n);
    for (size_t i = 0; i < json_array_size(pairs); i++) {
        const json_t *pair = json_array_get(pairs, i);
        struct tok_ids ids = {0}, types = {0};
        enum status st =
            tok_encode_pair(t, text_of(json_array_get(texts, (size_t)json_integer_value(json_object_get(pair, "a")))),
                            text_of(json_array_get(texts, (size_t)json_integer_value(json_object_get(pair, "b")))),
                            TOK_ADD_SPECIAL, &ids, &types);
        ok(st == TM_OK && equal_ids(&ids, json_object_get(pair, "ids")) &&
               equal_ids(&types, json_object_get(pair, "type")),
           "%s: pair %zu, ids and types", name, i);
        tok_ids_free(&ids);
        tok_ids_free(&types);
    }
    json_decref(gold);
    tok_close(&t);
}

int main(void) {
    static const char *const names[] = {"gpt2_bpe",
                                        "gpt2_bpe_prefix_space",
                                        "llama3_bpe",
                                        "qwen2_bpe",
                                        "llama2_spm",
                                        "t5_unigram",
                                        "llama2_spm_metaspace",
                                        "unigram_nfkc",
                                        "bert_wordpiece_uncased",
                                        "bert_wordpiece_cased"};
    const char *dir = folder();
    char path[512];
    if (!dir) return tap_skip_all("no golden/data/tokenizers under TEMPER_SHARED");
    json_t *root = load(dir, "texts", ".json");
    const json_t *texts = json_object_get(root, "texts");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s.tokenizer.json", dir, names[i]);
        family(dir, texts, names[i], path, ".enc.json");
    }
    snprintf(path, sizeof path, "%s/llama2_spm.model", dir);
    family(dir, texts, "llama2_spm", path, ".native.enc.json");
    snprintf(path, sizeof path, "%s/t5_spm.model", dir);
    family(dir, texts, "t5_spm", path, ".enc.json");
    const char *smollm2 = getenv("TEMPER_SMOLLM2"); /* a directory with the tokenizer of SmolLM2-135M-Instruct */
    if (smollm2) family(dir, texts, "smollm2", smollm2, ".enc.json");
    json_decref(root);
    is_int(mem_bytes(), 0, "all memory given back");
    return tap_done();
}
