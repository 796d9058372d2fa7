/* TEST ranks=1 tier=1 */
/* tok/: damaged SentencePiece models and hostile tokenizer.json, long texts in linear time, handles shared by threads. */
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "tap.h"
#include "tok/tok.h"

static char folder[] = "/tmp/temper-test-XXXXXX", file[128];

static void write_file(const char *name, const void *bytes, size_t n) {
    snprintf(file, sizeof file, "%s/%s", folder, name);
    FILE *f = fopen(file, "wb");
    ok(f && fwrite(bytes, 1, n, f) == n && fclose(f) == 0, "%s written", name);
}

static void refused(const char *name, const void *bytes, size_t n, enum status want, const char *part) {
    struct tok *t = NULL;
    write_file(name, bytes, n);
    enum status st = tok_open(file, &t);
    ok(st == want && strstr(status_message(), part) && !t, "refused: %s", status_message());
    tok_close(&t);
}

/* --- SentencePiece ---------------------------------------------------------------------------------------------------------*/

/* A field of bytes; a piece { text, score, type }. */
static size_t field(char *out, int number, const char *bytes, size_t n) {
    out[0] = (char)(number << 3 | 2);
    out[1] = (char)n;
    memcpy(out + 2, bytes, n);
    return n + 2;
}
static size_t add_piece(char *out, const char *text, float score, int type) {
    char m[64];
    size_t n = field(m, 1, text, strlen(text));
    m[n++] = 2 << 3 | 5;
    memcpy(m + n, &score, 4);
    n += 4;
    m[n++] = 3 << 3;
    m[n++] = (char)type;
    return field(out, 1, m, n);
}

/* <unk> <s> </s>, a user-defined <x>, and pieces in which "abc" is best cut as ab + c by scores, a + bc by merges. */
static size_t small_model(char *out, int kind) {
    size_t n = 0;
    n += add_piece(out + n, "<unk>", 0, 2);
    n += add_piece(out + n, "<s>", 0, 3);
    n += add_piece(out + n, "</s>", 0, 3);
    n += add_piece(out + n, "<x>", 0, 4);
    n += add_piece(out + n, "\xe2\x96\x81", -1, 1);
    n += add_piece(out + n, "a", -5, 1);
    n += add_piece(out + n, "c", -6, 1);
    n += add_piece(out + n, "ab", -4, 1);
    n += add_piece(out + n, "bc", -3, 1);
    n += add_piece(out + n, "<s", -3.5F, 1);
    char trainer[] = {3 << 3, (char)kind};
    return n + field(out + n, 2, trainer, sizeof trainer);
}

static void is_encoded(struct tok *t, const char *text, unsigned flags, const char *want) {
    struct tok_ids ids = {0};
    struct str got = {0};
    enum status st = tok_encode(t, text, strlen(text), flags, &ids);
    if (st != TM_OK) str_printf(&got, "%s", status_message());
    for (size_t i = 0; i < ids.n; i++) str_printf(&got, "%s%d", i ? " " : "", (int)ids.p[i]);
    ok(!strcmp(got.p ? got.p : "", want), "\"%s\" is %s (got %s)", text, want, got.p ? got.p : "");
    tok_ids_free(&ids);
    str_free(&got);
}

static void sentencepiece(void) {
    char model[512];
    struct tok *t;
    size_t n = small_model(model, 2);
    write_file("tokenizer.model", model, n);
    must(tok_open(folder, &t));                /* a directory with tokenizer.model alone */
    is_encoded(t, "abc", 0, "4 5 8");          /* bc merges first */
    is_encoded(t, " a  c ", 0, "4 5 4 6");     /* blanks at the ends and double ones go */
    is_encoded(t, "a<x>c", 0, "4 5 3 6");      /* user-defined: never cut */
    is_encoded(t, "<s>", 0, "4 9 0");          /* control symbols do not match text; ">" is unknown */
    is_encoded(t, "zz\xe4\xbd\xa0", 0, "4 0"); /* one <unk> for a run */
    is_int(tok_bos(t), 1, "bos");
    is_int(tok_eos(t), 2, "eos");
    is_encoded(t, "a", TOK_ADD_SPECIAL, "4 5"); /* sentencepiece adds nothing by itself */
    struct str out = {0};
    must(tok_decode(t, (int32_t[]){1, 4, 5, 4, 6, 0, 2}, 7, 0, &out));
    is_str(out.p, "a c \xe2\x81\x87 ", "decoded: no blank in front, the surface of <unk>");
    str_free(&out);
    tok_close(&t);
    static const char config[] =
        "{\"tokenizer_class\": \"LlamaTokenizer\", \"eos_token\": {\"content\": \"</s>\"}, \"add_eos_token\": true}";
    write_file("tokenizer_config.json", config, sizeof config - 1);
    must(tok_open(folder, &t));
    is_encoded(t, "a", TOK_ADD_SPECIAL, "1 4 5 2"); /* what tokenizer_config.json says */
    tok_close(&t);
    write_file("tokenizer.model", model, small_model(model, 1));
    must(tok_open(folder, &t));
    is_encoded(t, "abc", 0, "4 5 8"); /* a + bc = -8 beats ab + c = -10 */
    tok_close(&t);

    refused("w.model", model, small_model(model, 3), TM_ERR_UNSUPPORTED, "model_type 3");
    refused("w.model", "", 0, TM_ERR_FORMAT, "vocabulary is empty");
    refused("w.model", "\x12\x02\x18\x02", 4, TM_ERR_FORMAT, "vocabulary is empty"); /* bpe */
    refused("w.model", "\x0a\x7f", 2, TM_ERR_FORMAT, "damaged");
    refused("w.model", "\x0a\x03\x0a\x01\xff", 5, TM_ERR_FORMAT, "piece 0");
    n = add_piece(model, "a", 0, 1);
    n += add_piece(model + n, "a", 0, 1);
    refused("w.model", model, n, TM_ERR_FORMAT, "tokens 0 and 1 are both \"a\"");
    n = small_model(model, 2);
    n += field(model + n, 3, "\x12\x08\x40\x00\x00\x00zzzz", 10);
    refused("w.model", model, n, TM_ERR_FORMAT, "precompiled_charsmap of 8 bytes");
    size_t before = mem_bytes();
    int opened = 0;
    for (uint64_t i = 0; i < 500; i++) { /* one byte wrong, or cut short: any status, nothing leaked */
        n = small_model(model, 1 + (int)(i % 2));
        model[rng_below(7, 0, i, n)] = (char)rng_below(7, 1, i, 256);
        snprintf(file, sizeof file, "%s/w.model", folder);
        FILE *f = fopen(file, "wb");
        fwrite(model, 1, i % 4 ? n : n / 2, f);
        fclose(f);
        struct tok_ids ids = {0};
        if (tok_open(file, &t) == TM_OK) {
            opened++;
            tok_encode(t, "abc <x> zz", 10, TOK_ADD_SPECIAL, &ids);
        }
        tok_ids_free(&ids);
        tok_close(&t);
    }
    ok(opened > 0 && opened < 500, "%d of 500 damaged models still open", opened);
    is_int(mem_bytes(), before, "damaged models leak nothing");
}

/* --- tokenizer.json --------------------------------------------------------------------------------------------------------*/

#define MODEL ", \"model\": {\"type\": \"Unigram\", \"unk_id\": 0, \"vocab\": [[\"<unk>\", 0], [\"a\", -1]]}}"

static void bombs(void) {
    struct str s = {0};
    for (int i = 0; i < 100000; i++) str_append(&s, "[", 1);
    refused("x.json", s.p, s.len, TM_ERR_FORMAT, "maximum parsing depth");
    str_clear(&s);
    str_printf(&s, "{\"normalizer\": ");
    for (int i = 0; i < 500; i++) str_printf(&s, "{\"type\": \"Sequence\", \"normalizers\": [");
    for (int i = 0; i < 500; i++) str_printf(&s, "]}");
    str_printf(&s, MODEL);
    refused("x.json", s.p, s.len, TM_ERR_FORMAT, "inside each other");
    str_clear(&s);
    str_printf(&s, "{\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Punctuation\"}");
    for (int i = 0; i < 50; i++) str_printf(&s, ", {\"type\": \"Punctuation\"}");
    str_printf(&s, "]}" MODEL);
    refused("x.json", s.p, s.len, TM_ERR_UNSUPPORTED, "more than 16 steps");
    str_free(&s);
    static const char charsmap[] =
        "{\"normalizer\": {\"type\": \"Precompiled\", \"precompiled_charsmap\": \"QAAAAA==\"}" MODEL;
    refused("x.json", charsmap, strlen(charsmap), TM_ERR_FORMAT, "its trie has 64");
    static const char twice[] = "{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\", 0], [\"a\", -1]]}}";
    refused("x.json", twice, strlen(twice), TM_ERR_FORMAT, "tokens 0 and 1 are both \"a\"");
    static const char hole[] = "{\"model\": {\"type\": \"Unigram\", \"unk_id\": 3, \"vocab\": [[\"a\", 0]]}}";
    refused("x.json", hole, strlen(hole), TM_ERR_FORMAT, "unk_id is 3");
    static const char pair[] = "{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\"]]}}";
    refused("x.json", pair, strlen(pair), TM_ERR_FORMAT, "vocab[0] is not a pair");
    static const char word[] = "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}}}";
    refused("x.json", word, strlen(word), TM_ERR_UNSUPPORTED,
            "model WordLevel: expected one of BPE, Unigram, WordPiece");
}

/* Each rule makes 100 bytes of one: a few of them behind each other would fill any memory. */
static void growth(void) {
    static const char text[] = "aaaaaaaaaaaaaaaa";
    struct str s = {0}, out = {0};
    struct tok_ids ids = {0};
    struct tok *t;
    for (int decoder = 0; decoder < 2; decoder++) {
        str_clear(&s);
        str_printf(&s, decoder ? "{\"decoder\": {\"type\": \"Sequence\", \"decoders\": ["
                               : "{\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [");
        for (int i = 0; i < 8; i++)
            str_printf(&s, "%s{\"type\": \"Replace\", \"pattern\": {\"String\": \"a\"}, \"content\": \"%0100d\"}",
                       i ? ", " : "", 0);
        for (char *p = s.p; (p = strchr(p, '0'));) *p = 'a';
        str_printf(&s, "]}" MODEL);
        write_file("x.json", s.p, s.len);
        must(tok_open(file, &t));
        ids.n = 0;
        enum status st = tok_encode(t, text, sizeof text - 1, 0, &ids);
        if (decoder) st = tok_decode(t, ids.p, ids.n, 0, &out);
        ok(st == TM_ERR_DATA && strstr(status_message(), "more than 66560 bytes"), "a bomb: %s", status_message());
        tok_close(&t);
    }
    tok_ids_free(&ids);
    str_free(&out);
    str_free(&s);
    static const char far[] = "{\"added_tokens\": [{\"id\": 2147483647, \"content\": \"x\"}]" MODEL;
    refused("x.json", far, strlen(far), TM_ERR_FORMAT, "has id 2147483647: expected 0 to 4194304");
    /* rules: "a" becomes a text that is no UTF-8 */
    static const char bad[] =
        "{\"normalizer\": {\"type\": \"Precompiled\", \"precompiled_charsmap\": \"BAAAAAAAAADwAA==\"}" MODEL;
    refused("x.json", bad, strlen(bad), TM_ERR_FORMAT, "texts that are not UTF-8, at byte 8");
}

/* --- long texts --------------------------------------------------------------------------------------------------------------*/

/* 400 kB in less than 5 s, a quadratic way would take minutes. */
static void linear(const char *what, const char *json, const char *unit) {
    struct tok *t;
    write_file("long.json", json, strlen(json));
    must(tok_open(file, &t));
    struct str s = {0};
    struct tok_ids ids = {0};
    for (size_t k = 0; k < 400000 / strlen(unit); k++) str_append(&s, unit, strlen(unit));
    const double t0 = clock_seconds();
    enum status st = tok_encode(t, s.p, s.len, 0, &ids);
    const double seconds = clock_seconds() - t0;
    ok(st == TM_OK && ids.n > 0 && seconds < 5, "%s: %.1f ms, %zu tokens", what, 1e3 * seconds, ids.n);
    tok_ids_free(&ids);
    str_free(&s);
    tok_close(&t);
}

#define BPE(more)                                                                                                    \
    "{\"pre_tokenizer\": " more ", \"model\": {\"type\": \"BPE\", \"unk_token\": \"<unk>\", \"vocab\": {\"<unk>\": " \
    "0, \"a\": 1, \"aa\": 2, \"aaaa\": 3}, \"merges\": [\"a a\", \"aa aa\"]}}"
#define UNIGRAM(more)        \
    "{\"normalizer\": " more \
    ", \"model\": {\"type\": \"Unigram\", \"unk_id\": 0, \"vocab\": [[\"<unk>\", 0], [\"a\", -1], [\"aaaa\", -2]]}}"
#define LLAMA3                                                                    \
    "{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": " \
    "\"(?i:'s|'t)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| "        \
    "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}}"

static void long_texts(void) {
    linear("one word", BPE("null"), "a");
    linear("unknown characters", BPE("null"), "\xe4\xbd\xa0");
    linear("blanks", BPE(LLAMA3), " x                     ");
    linear("lines of blanks", BPE(LLAMA3), "a\n\n  ");
    linear("one unigram word", UNIGRAM("null"), "a");
    linear("marks", UNIGRAM("{\"type\": \"NFKC\"}"), "\xcc\x81\xcc\xa3");
    linear("blanks replaced",
           UNIGRAM("{\"type\": \"Replace\", \"pattern\": {\"Regex\": \" {2,}\"}, \"content\": \" \"}"), "a  ");
}

/* --- threads ---------------------------------------------------------------------------------------------------------------*/

static void threads(void) {
    enum { THREADS = 4 };
    struct tok *t[THREADS];
    struct tok_ids ids[THREADS] = {{0}};
    static const char text[] = "the cat and the hat, the bat and the rat; THE \xe4\xbd\xa0\xe5\xa5\xbd 12345 ";
    snprintf(file, sizeof file, "%s/train.json", folder);
    must(tok_train_bpe(&(struct tok_text){text, sizeof text - 1}, 1, 280, NULL, 0, file));
    must(tok_open(file, &t[0]));
    for (int i = 1; i < THREADS; i++) must(tok_share(t[0], &t[i]));
    enum status st[THREADS];
#pragma omp parallel for num_threads(THREADS)
    for (int i = 0; i < THREADS; i++) {
        st[i] = TM_OK;
        for (int k = 0; k < 2000 && st[i] == TM_OK; k++) st[i] = tok_encode(t[i], text, sizeof text - 1, 0, &ids[i]);
    }
    int same = 0;
    for (int i = 0; i < THREADS; i++)
        same += st[i] == TM_OK && ids[i].n > 2000 && ids[i].n == ids[0].n &&
                !memcmp(ids[i].p, ids[0].p, ids[0].n * sizeof *ids[0].p);
    is_int(same, THREADS, "shared handles give the same ids in all threads");
    for (int i = 0; i < THREADS; i++) { /* the first handle goes first */
        tok_ids_free(&ids[i]);
        tok_close(&t[i]);
    }
}

int main(void) {
    ok(mkdtemp(folder) != NULL, "temporary directory");
    sentencepiece();
    bombs();
    growth();
    long_texts();
    threads();
    file_remove_tree(folder);
    is_int(mem_bytes(), 0, "all memory given back");
    return tap_done();
}
