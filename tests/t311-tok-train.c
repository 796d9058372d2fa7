/* TEST ranks=1 tier=1 */
/* tok/: training of a byte-level BPE. The merges are those of Hugging Face's trainer; a tie and an overlap worked out by hand. */
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "tap.h"
#include "tok/tok.h"

#include <unistd.h>

static char dir[] = "/tmp/temper-test-XXXXXX", path[64];

static json_t *trained(const struct tok_text *texts, size_t n, int32_t size, const char *const *special,
                       size_t nspecial) {
    json_t *root = NULL;
    must(tok_train_bpe(texts, n, size, special, nspecial, path));
    must(json_read_file(path, 1 << 20, &root));
    return root;
}

static const char *merge(const json_t *root, size_t i) {
    const char *m = json_string_value(json_array_get(json_object_get(json_object_get(root, "model"), "merges"), i));
    return m ? m : "(none)";
}

/* "abab ab": words "abab" and " ab". Pairs: ab 3, ba 1, Ġa 1 -> ab. Then "AA", "ĠA" (A = ab), one each: the tie goes to the
 * smaller pair of ids; A is the newest id, Ġ an old one. */
static void by_hand(void) {
    json_t *root = trained(&(struct tok_text){.p = "abab ab", .n = 7}, 1, 300, NULL, 0);
    is_str(merge(root, 0), "a b", "the most frequent pair first");
    is_str(merge(root, 1), "\xc4\xa0 ab", "a tie goes to the smaller pair of ids");
    is_str(merge(root, 2), "ab ab", "then the other one");
    is_str(merge(root, 3), "(none)", "no pair is left");
    json_decref(root);
    /* "aaaaa": aa counts 4; after it A A a: the pair (A, A) first, being counted +1 at the second merge; then AA a. */
    root = trained(&(struct tok_text){.p = "aaaaa", .n = 5}, 1, 259, NULL, 0);
    is_str(merge(root, 0), "a a", "overlapping pairs merge from the left");
    is_int(json_object_size(json_object_get(json_object_get(root, "model"), "vocab")), 259, "the size asked for");
    json_decref(root);
}

static void golden(void) {
    json_t *gold = json_load_file("tests/golden/tok/train-bpe.json", 0, NULL);
    if (!ok(gold != NULL, "tests/golden/tok/train-bpe.json")) return;
    const json_t *list = json_object_get(gold, "merges"), *texts = json_object_get(gold, "texts");
    struct tok_text text[2];
    const char *special[2];
    for (size_t i = 0; i < 2; i++) {
        text[i].p = json_string_value(json_array_get(texts, i));
        text[i].n = json_string_length(json_array_get(texts, i));
        special[i] = json_string_value(json_array_get(json_object_get(gold, "special"), i));
    }
    json_t *root = trained(text, 2, 420, special, 2);
    size_t n = json_array_size(list), same = 0;
    for (size_t i = 0; i < n; i++) same += !strcmp(merge(root, i), json_string_value(json_array_get(list, i)));
    ok(n == 162 && same == n && !strcmp(merge(root, n), "(none)"), "%zu of %zu merges as the peer's", same, n);

    struct tok *t;
    struct tok_ids ids = {0};
    struct str back = {0};
    must(tok_open(path, &t));
    is_int(tok_vocab_size(t), json_integer_value(json_object_get(gold, "size")), "vocabulary size");
    is_int(tok_eos(t), 0, "<|endoftext|> ends a text");
    const json_t *probe = json_object_get(gold, "probe"), *want = json_object_get(gold, "probe_ids");
    must(tok_encode(t, json_string_value(probe), json_string_length(probe), 0, &ids));
    same = 0;
    for (size_t i = 0; i < ids.n; i++) same += ids.p[i] == json_integer_value(json_array_get(want, i));
    ok(ids.n == json_array_size(want) && same == ids.n, "ids of a text as the peer's (%zu of %zu)", same, ids.n);
    must(tok_decode(t, ids.p, ids.n, 0, &back));
    is_str(back.p, json_string_value(probe), "and back");
    str_clear(&back);
    must(tok_decode(t, ids.p, ids.n, TOK_SKIP_SPECIAL, &back));
    ok(!strstr(back.p, "<pad>") && !strstr(back.p, "endoftext"), "without special tokens");
    tok_ids_free(&ids);
    str_free(&back);
    tok_close(&t);

    char *first, *second; /* the same texts give the same bytes */
    size_t n1, n2;
    must(file_read(path, 1 << 20, &first, &n1));
    json_decref(root);
    root = trained(text, 2, 420, special, 2);
    must(file_read(path, 1 << 20, &second, &n2));
    ok(n1 == n2 && !memcmp(first, second, n1), "trained twice, equal bytes (%zu)", n1);
    mem_free(&first);
    mem_free(&second);
    json_decref(root);
    json_decref(gold);
}

static void refusals(void) {
    const char *const twice[] = {"<s>", "<s>"};
    struct tok_text good = {.p = "abc", .n = 3}, bad = {.p = "ab\xff", .n = 3};
    is_status(tok_train_bpe(&good, 1, 255, NULL, 0, path), TM_ERR_DECK);
    is_status(tok_train_bpe(&good, 1, 300, twice, 2, path), TM_ERR_DECK);
    is_status(tok_train_bpe(NULL, 0, 300, NULL, 0, path), TM_ERR_DATA);
    is_status(tok_train_bpe(&bad, 1, 300, NULL, 0, path), TM_ERR_DATA);
    ok(strstr(status_message(), "text 0: byte 2 (0xff)") != NULL, "the place is named: %s", status_message());
    is_status(tok_train_bpe(&good, 1, 300, NULL, 0, "/nonexistent/x.json"), TM_ERR_IO);
}

int main(void) {
    ok(mkdtemp(dir) != NULL, "temporary directory");
    snprintf(path, sizeof path, "%s/t.json", dir);
    by_hand();
    golden();
    refusals();
    file_remove_tree(dir);
    is_int(mem_bytes(), 0, "all memory given back");
    return tap_done();
}
