/* Fuzz: Megatron's .idx beside a .bin: one byte, the length of .bin in units of 8, then .idx. Every sequence that the index admits is read. */
#include "data/index.h"
#include "data/source.h"
#include "fuzz.h"

static void run(struct fuzz_input in) {
    static const char bin[256 * 8];
    struct data_index *x;
    struct data_source *s;
    int64_t out[sizeof bin], tokens = 0, last = 0;
    fuzz_put("x.bin", bin, 8 * (size_t)fuzz_take_byte(&in));
    fuzz_put("x.idx", in.p, in.n);
    if (data_index_open(fuzz_path("x"), &x) != TM_OK) return;
    for (int64_t i = 0; i < x->sequences; i++) {
        int64_t n = data_index_length(x, i);
        fuzz_must(data_index_read(x, i, 0, n, out));
        if (n) fuzz_must(data_index_read(x, i, n - 1, 1, out));
        tokens += n;
    }
    fuzz_check(tokens == x->tokens, "the tokens are those of the sequences");
    for (int64_t d = 0; d <= x->documents; d++) {
        fuzz_check(data_index_document(x, d) >= last, "documents rise");
        last = data_index_document(x, d);
    }
    data_index_close(&x);
    if (data_source_index(fuzz_path("x.idx"), &s) != TM_OK) return;
    (void)data_source_keep(s, 0.25, 0.75);
    data_source_free(&s);
}

static void set_up(void) {}

/* Sequences of 3, 0 and 2 tokens of `size` bytes in two documents. */
static void seed(const char *name, int code, int size, bool modes) {
    struct str s = {0};
    const uint64_t version = 1, sequences = 3, bounds = 3;
    const int32_t lengths[] = {3, 0, 2};
    const int64_t offsets[] = {0, 3 * size, 3 * size}, documents[] = {0, 2, 3};
    fuzz_must(str_append(&s, (char[]){8}, 1));
    fuzz_must(str_append(&s, "MMIDIDX\0", 9));
    fuzz_must(str_append(&s, &version, 8));
    fuzz_must(str_append(&s, &(char){(char)code}, 1));
    fuzz_must(str_append(&s, &sequences, 8));
    fuzz_must(str_append(&s, &bounds, 8));
    fuzz_must(str_append(&s, lengths, sizeof lengths));
    fuzz_must(str_append(&s, offsets, sizeof offsets));
    fuzz_must(str_append(&s, documents, sizeof documents));
    if (modes) fuzz_must(str_append(&s, "\0\1\0", 3));
    fuzz_seed(name, s.p, s.len);
    str_free(&s);
}

static void seeds(void) {
    seed("u16", DATA_U16, 2, false);
    seed("i32-modes", DATA_I32, 4, true);
    seed("i64", DATA_I64, 8, false);
    seed("u8", DATA_U8, 1, true);
}

FUZZ_TARGET(set_up, run, seeds)
