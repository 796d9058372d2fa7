/* TEST ranks=1 tier=1 */
/* tok/: a hand-made vocabulary in every option of byte-level BPE, refusals, any bytes, UTF-8. */
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "tap.h"
#include "tok/tok.h"
#include "tok/tok_impl.h"

#include <unistd.h>

/* --- a hand-made vocabulary ------------------------------------------------------------------------------------------------*/

static char folder[] = "/tmp/temper-test-XXXXXX", file[64];

/* Stages and model of a small tokenizer.json; NULL keeps the usual one. */
struct recipe {
    const char *vocab, *merges, *model, *added, *normalizer, *pre, *post, *decoder;
};

static enum status open_recipe(struct recipe r, struct tok **t) {
    struct str s = {0};
    if (!r.vocab)
        r.vocab = "\"a\": 0, \"b\": 1, \"c\": 2, \"ab\": 3, \"bc\": 4, \"abc\": 5, \"\u0120\": 6, \"\u0120a\": 7";
    if (!r.merges) r.merges = "\"b c\", [\"a\", \"b\"], \"a bc\"";
    if (!r.pre) r.pre = "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": true}";
    str_printf(
        &s,
        "{\"added_tokens\": [%s], \"normalizer\": %s, \"pre_tokenizer\": %s, \"post_processor\": %s, \"decoder\": %s, "
        "\"model\": {\"type\": \"BPE\"%s, \"vocab\": {%s}, \"merges\": [%s]}}",
        r.added ? r.added : "", r.normalizer ? r.normalizer : "null", r.pre, r.post ? r.post : "null",
        r.decoder ? r.decoder : "{\"type\": \"ByteLevel\"}", r.model ? r.model : "", r.vocab, r.merges);
    enum status st = file_write(file, s.p, s.len);
    if (st == TM_OK) st = tok_open(file, t);
    str_free(&s);
    return st;
}

static void is_encoded(struct recipe r, const char *text, unsigned flags, const char *want) {
    struct tok *t = NULL;
    struct tok_ids ids = {0};
    struct str got = {0};
    must(open_recipe(r, &t));
    enum status st = tok_encode(t, text, strlen(text), flags, &ids);
    if (st != TM_OK) str_printf(&got, "%s", status_message());
    for (size_t i = 0; st == TM_OK && i < ids.n; i++) str_printf(&got, "%s%d", i ? " " : "", (int)ids.p[i]);
    ok(!strcmp(got.p ? got.p : "", want), "\"%s\" is %s (got %s)", text, want, got.p ? got.p : "");
    tok_ids_free(&ids);
    str_free(&got);
    tok_close(&t);
}

#define ADDED(content, more) "{\"id\": 9, \"content\": \"" content "\", \"special\": true" more "}"

static void by_hand(void) {
    struct recipe plain = {0};
    is_encoded(plain, "", 0, "");
    is_encoded(plain, "abc", 0, "5"); /* bc has the lowest rank, then a + bc; ab (rank 1) never comes up */
    is_encoded(plain, "abab", 0, "3 3");
    is_encoded(plain, "aabcc", 0, "0 5 2");
    is_encoded(plain, "abcbc", 0, "5 4");
    is_encoded(plain, "ab abc", 0, "3 6 5"); /* a blank is a byte too; no merge of it: ids as they are */
    is_encoded(plain, "abd", 0, "byte 0x64 has no token in the vocabulary");
    is_encoded((struct recipe){.model = ", \"unk_token\": \"c\""}, "addb", 0, "0 2 2 1");
    is_encoded((struct recipe){.model = ", \"unk_token\": \"c\", \"fuse_unk\": true"}, "addb", 0, "0 2 1");
    is_encoded((struct recipe){.model = ", \"ignore_merges\": true"}, " a", 0,
               "7"); /* whole word, though no merge makes it */
    is_encoded(plain, " a", 0, "6 0");
    is_encoded((struct recipe){.pre = "{\"type\": \"ByteLevel\", \"use_regex\": false}"}, "a", 0,
               "6 0"); /* prefix space */
    is_encoded(
        (struct recipe){
            .pre =
                "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"String\": \"b\"},"
                " \"behavior\": \"Removed\"}, {\"type\": \"ByteLevel\", \"add_prefix_space\": false}]}"},
        "abcba", 0, "0 2 0");
    is_encoded(
        (struct recipe){
            .pre =
                "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"Regex\": \"a|bc\"},"
                " \"behavior\": \"Removed\", \"invert\": true}, {\"type\": \"ByteLevel\", \"add_prefix_space\": "
                "false}]}"},
        "abcbbc", 0, "0 4 4");
    is_encoded((struct recipe){.added = ADDED("<x>", ", \"lstrip\": true, \"rstrip\": true")}, "a  <x> \u00a0b<x>", 0,
               "0 9 1 9");
    is_encoded((struct recipe){.added =
                                   ADDED("<x>", "") ", {\"id\": 8, \"content\": \"<x><x>\", \"normalized\": false}"},
               "<x><x><x>a", 0, "8 9 0");
    is_encoded(
        (struct recipe){
            .added = ADDED("<x>", ""),
            .post =
                "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"s\"}}, {\"Sequence\": "
                "{\"id\": \"A\"}}, {\"SpecialToken\": {\"id\": \"e\"}}], \"special_tokens\": {\"s\": {\"ids\": [9]}, "
                "\"e\": {\"ids\": [2, 1]}}}"},
        "a", TOK_ADD_SPECIAL, "9 0 2 1");
    /* U+00E9 is e + U+0301 composed: bytes c3 a9, spelled U+00C3 U+00A9 */
    is_encoded((struct recipe){.vocab = "\"\u00c3\": 0, \"\u00a9\": 1",
                               .merges = "",
                               .normalizer = "{\"type\": \"NFC\"}"},
               "e\u0301", 0, "0 1");

    struct tok *t = NULL;
    struct str text = {0};
    must(open_recipe((struct recipe){.vocab = "\"\u00c3\": 0, \"\u00a9\": 1, \"a\": 2, \"caf\u00e9 x\": 3",
                                     .merges = ""},
                     &t));
    must(tok_decode(t, (int32_t[]){0, 1, 2, 0, 2, 1, 3}, 7, 0, &text));
    is_str(text.p,
           "\u00e9"
           "a"
           "\ufffd"
           "a"
           "\ufffd"
           "caf\u00e9 x",
           "parts of characters become U+FFFD; other spellings stay");
    is_status(tok_decode(t, (int32_t[]){4}, 1, 0, &text), TM_ERR_DATA);
    str_free(&text);
    tok_close(&t);
}

static void refused(struct recipe r, enum status want, const char *part) {
    struct tok *t = NULL;
    enum status st = open_recipe(r, &t);
    ok(st == want && strstr(status_message(), part) && !t, "refused: %s", status_message());
    tok_close(&t);
}

static void refusals(void) {
    refused((struct recipe){.model = ", \"dropout\": 0.1"}, TM_ERR_UNSUPPORTED, "dropout = 0.1");
    refused((struct recipe){.normalizer = "{\"type\": \"NFX\"}"}, TM_ERR_UNSUPPORTED,
            "normalizer NFX: expected one of NFC, NFD");
    refused((struct recipe){.decoder = "{\"type\": \"CTC\"}"}, TM_ERR_UNSUPPORTED,
            "decoder CTC: expected one of ByteLevel");
    refused((struct recipe){.pre = "{\"type\": \"UnicodeScripts\"}"}, TM_ERR_UNSUPPORTED,
            "pre_tokenizer UnicodeScripts");
    refused(
        (struct recipe){
            .pre = "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"ByteLevel\"}, {\"type\": \"Digits\"}]}"},
        TM_ERR_UNSUPPORTED, "Digits behind ByteLevel");
    refused((struct recipe){.pre =
                                "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"(\"}, \"behavior\": \"Isolated\"}"},
            TM_ERR_FORMAT, "pattern \"(\"");
    refused((struct recipe){.post = "{\"type\": \"BertProcessing\"}"}, TM_ERR_FORMAT, "cls is not a pair");
    refused((struct recipe){.merges = "\"a d\""}, TM_ERR_FORMAT, "merges[0]: \"a\" + \"d\": the right part");
    refused((struct recipe){.merges = "\"a b c\""}, TM_ERR_FORMAT, "merges[0] is not a pair");
    refused((struct recipe){.merges = "\"a b\", 7"}, TM_ERR_FORMAT, "merges[1] is not a pair");
    refused((struct recipe){.vocab = "\"a\": -1", .merges = ""}, TM_ERR_FORMAT, "vocab[\"a\"]");
    refused((struct recipe){.vocab = "\"a\": 0, \"b\": 0", .merges = ""}, TM_ERR_FORMAT, "two tokens have id 0");
    refused((struct recipe){.vocab = "\"a\": 99999999999", .merges = ""}, TM_ERR_FORMAT, "is not an id");
    refused((struct recipe){.added = ADDED("a", "")}, TM_ERR_FORMAT,
            "added token \"a\" has id 9: expected the vocabulary's own");
    struct tok *t;
    is_status(tok_open("/nonexistent", &t), TM_ERR_IO);
}

/* --- any bytes ------------------------------------------------------------------------------------------------------------*/

/* A vocabulary of all bytes encodes every valid text and gives it back; other texts are refused at the right byte. */
static void random_texts(void) {
    struct tok *t;
    struct tok_ids ids = {0};
    struct str back = {0};
    must(tok_train_bpe(&(struct tok_text){.p = "the the then 12 \u00e9\u00e9 \u4f60\u4f60", .n = 24}, 1, 270, NULL, 0,
                       file));
    must(tok_open(file, &t));
    int same = 0, refused_well = 0, texts = 0;
    for (uint64_t i = 0; i < 4000; i++) {
        char text[64];
        size_t n = rng_below(1, 0, i, sizeof text);
        for (size_t k = 0; k < n;
             k++) /* mostly characters of two or three bytes, blanks and digits, so that many are valid */
            text[k] = "\xc3\xa9\xe4\xbd\xa0 1\nath\xf0"[rng_below(2, i, k, i % 2 ? 12 : 5)];
        size_t good = i % 2 ? tok_utf8_check(text, n) : n - n % 5;
        for (size_t k = 0; !(i % 2) && k < good; k++) text[k] = "\xc3\xa9\xe4\xbd\xa0"[k % 5];
        if (i % 3 == 0) n = good;
        ids.n = 0;
        str_clear(&back);
        enum status st = tok_encode(t, text, n, 0, &ids);
        good = tok_utf8_check(text, n);
        if (good < n) {
            char place[32];
            snprintf(place, sizeof place, "byte %zu ", good);
            refused_well += st == TM_ERR_DATA && strstr(status_message(), place);
        } else {
            same += st == TM_OK && tok_decode(t, ids.p, ids.n, 0, &back) == TM_OK && back.len == n &&
                    (!n || !memcmp(back.p, text, n));
        }
        texts++;
    }
    is_int(same + refused_well, texts, "random texts come back or are refused at their first bad byte");
    ok(same > 500 && refused_well > 500, "%d came back, %d were refused", same, refused_well);
    tok_ids_free(&ids);
    str_free(&back);
    tok_close(&t);

    char *bytes; /* damaged files: any status, no crash, nothing leaked (the sanitizer build looks harder) */
    size_t n, before;
    must(file_read(file, 1 << 20, &bytes, &n));
    before = mem_bytes();
    int opened = 0;
    for (uint64_t i = 0; i < 400; i++) {
        size_t at = rng_below(3, 0, i, n);
        char old = bytes[at];
        bytes[at] = (char)rng_below(3, 1, i, 256);
        if (file_write(file, bytes, i % 4 ? n : at) != TM_OK) ok(false, "damaged file");
        opened += tok_open(file, &t) == TM_OK;
        tok_close(&t);
        bytes[at] = old;
    }
    ok(opened > 0 && opened < 400, "%d of 400 damaged files still open", opened);
    is_int(mem_bytes(), before, "damaged files leak nothing");
    mem_free(&bytes);
}

static void utf8(void) {
    is_int(tok_utf8_check("a\u00e9\u4f60\U0001f600", 10), 10, "well-formed");
    static const char *const bad[] = {"ab\x80",
                                      "ab\xc0\x80",
                                      "ab\xc1\xbf",
                                      "ab\xe0\x9f\x80",
                                      "ab\xed\xa0\x80",
                                      "ab\xf0\x8f\x80\x80",
                                      "ab\xf4\x90\x80\x80",
                                      "ab\xf5\x80\x80\x80",
                                      "ab\xe4\xbd",
                                      "ab\xff"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        is_int(tok_utf8_check(bad[i], strlen(bad[i])), 2, "ill-formed at byte 2");
    struct str s = {0}; /* the example of the Unicode Standard, section 3.9, table 3-8, and its neighbours */
    must(tok_utf8_repair("\x61\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64", 13, &s));
    is_str(s.p,
           "a\ufffd\ufffd\ufffd"
           "b\ufffd"
           "c\ufffd\ufffd"
           "d",
           "maximal subparts");
    str_clear(&s); /* Hangul, reordering of marks, a composition exclusion (U+0958), a singleton (U+212B) */
    const char *in = "\u1112\u1161\u11ab s\u0307\u0323 \u0958 \u212b e\u0327\u0301";
    struct tok_buf made = {0};
    struct tok_edit e = tok_edit_begin((struct tok_view){.p = in, .n = strlen(in)}, &made, false);
    must(tok_normal_form(&e, false, true));
    is_str(made.s.p, "\ud55c \u1e69 \u0915\u093c \u00c5 \u0229\u0301", "NFC");
    tok_buf_free(&made);
    str_free(&s);
}

int main(void) {
    ok(mkdtemp(folder) != NULL, "temporary directory");
    snprintf(file, sizeof file, "%s/tokenizer.json", folder);
    by_hand();
    refusals();
    random_texts();
    utf8();
    file_remove_tree(folder);
    is_int(mem_bytes(), 0, "all memory given back");
    return tap_done();
}
