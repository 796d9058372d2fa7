/* Fuzz: text and JSONL. Two bytes, how to read and where to cut, then the file: what the two ranges give is what the whole file gives. */
#include "data/text.h"
#include "base/hash.h"
#include "fuzz.h"
#include "tok/tok.h"

struct seen {
    int64_t documents;
    uint64_t hash;
};

/* Documents of [from, to), added to *seen. */
static enum status read_range(const char *path, const struct data_text_opts *o, int64_t from, int64_t to,
                              struct seen *seen) {
    struct data_text *t;
    const char *text;
    size_t n;
    enum status st = data_text_open(path, o, from, to, &t);
    while (st == TM_OK) {
        st = data_text_next(t, &text, &n);
        if (st != TM_OK || !text) break;
        fuzz_check(tok_utf8_check(text, n) == n, "a document is UTF-8");
        seen->hash = hash_bytes(text, n, seen->hash);
        seen->documents++;
    }
    fuzz_check(st == TM_OK || st == TM_ERR_DATA, "good or bad data");
    data_text_close(&t);
    return st;
}

static void run(struct fuzz_input in) {
    unsigned how = fuzz_take_byte(&in);
    int64_t cut = (int64_t)fuzz_take_byte(&in), n = (int64_t)in.n;
    struct data_text_opts o = {.split = (enum data_split)(how % 3),
                               .utf8 = (enum data_utf8)(how / 3 % 3),
                               .text_key = "text"};
    struct seen whole = {0}, parts = {0};
    if (cut > n) cut = n;
    fuzz_put("x", in.p, in.n);
    if (read_range(fuzz_path("x"), &o, 0, INT64_MAX, &whole) != TM_OK) return;
    fuzz_must(read_range(fuzz_path("x"), &o, 0, cut, &parts));
    if (cut < n) fuzz_must(read_range(fuzz_path("x"), &o, cut, n, &parts));
    fuzz_check(whole.documents == parts.documents && whole.hash == parts.hash, "ranges together are the file");
}

static void set_up(void) {}

static void seeds(void) {
    static const char lines[] =
        "{\"text\": \"one\"}\n\n  \n{\"id\": 2, \"text\": \"tw\\u00f6 \\ud83d\\ude00\"}\r\n{\"text\": \"\"}";
    static const char plain[] = "one\ntwo\n\n\nthree \xc3\xa9\n \t\nfour\n";
    char bytes[256];
    for (int how = 0; how < 9; how++) {
        const char *text = how % 3 == 2 ? lines : plain;
        size_t n = strlen(text);
        bytes[0] = (char)how;
        bytes[1] = (char)(n / 2);
        memcpy(bytes + 2, text, n);
        if (how > 2) bytes[2 + n++] = (char)0xc3;
        fuzz_seed((char[]){(char)('a' + how), 0}, bytes, n + 2);
    }
}

FUZZ_TARGET(set_up, run, seeds)
