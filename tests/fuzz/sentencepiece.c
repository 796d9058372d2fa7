/* Fuzz: SentencePiece models. */
#include "toks.h"

static void run(struct fuzz_input in) {
    fuzz_put("x.model", in.p, in.n);
    toks_run(fuzz_path("x.model"), "ab <x> c", 8);
}

static void set_up(void) {}

/* --- protobuf by hand --- */
static void field(struct str *out, int number, const void *bytes, size_t n) {
    fuzz_must(str_append(out, (char[]){(char)(number << 3 | 2), (char)n}, 2));
    fuzz_must(str_append(out, bytes, n));
}
static void piece(struct str *out, const char *text, float score, int type) {
    struct str m = {0};
    field(&m, 1, text, strlen(text));
    fuzz_must(str_append(&m, "\x15", 1));
    fuzz_must(str_append(&m, &score, 4));
    fuzz_must(str_append(&m, (char[]){3 << 3, (char)type}, 2));
    field(out, 1, m.p, m.len);
    str_free(&m);
}

static void seeds(void) {
    static const char bytes[] = "<0x41>";
    /* a trie of 4 units, and the texts it leads to */
    static const char charsmap[] = "\x10\0\0\0\x61\0\0\0\0\0\0\x80\0\x04\0\0\0\0\0\0b\0";
    for (int kind = 1; kind <= 2; kind++) {
        struct str s = {0};
        piece(&s, "<unk>", 0, 2);
        piece(&s, "<s>", 0, 3);
        piece(&s, "</s>", 0, 3);
        piece(&s, "<x>", 0, 4);
        piece(&s, "\xe2\x96\x81", -1, 1);
        piece(&s, "a", -5, 1);
        piece(&s, "c", -6, 1);
        piece(&s, "ab", -4, 1);
        piece(&s, "bc", -3, 1);
        piece(&s, bytes, 0, 6);
        field(&s, 2, (char[]){3 << 3, (char)kind, (char)0x98, 2, 1}, 5);
        field(&s, 3, kind == 1 ? "\x18\x01\x20\x01\x28\x01" : "\x18\0\x20\0\x28\0", 6);
        fuzz_seed(kind == 1 ? "unigram" : "bpe", s.p, s.len);
        struct str m = {0};
        field(&m, 2, charsmap, sizeof charsmap - 1);
        field(&s, 3, m.p, m.len);
        fuzz_seed(kind == 1 ? "unigram-map" : "bpe-map", s.p, s.len);
        str_free(&m);
        str_free(&s);
    }
}

FUZZ_TARGET(set_up, run, seeds)
