/* TEST ranks=1 tier=1 */
/* hub/: GGUF files that lie. Each is refused with the right status and one message that names file and key or tensor; then every
 * truncation of a good file, and a good file with each byte of its header changed: no crash, whatever is said. */
#include <sys/stat.h>

#include "gguf_make.h"
#include "hub/gguf.h"

static void refused(const char *path, enum status want, const char *part) {
    struct hub_gguf *g;
    enum status st = hub_gguf_open(path, &g);
    ok(st == want && g == NULL, "%s: want %s, got %s", part, status_name(want), status_name(st));
    ok(strstr(status_message(), part) && strstr(status_message(), path), "says \"%s\"", status_message());
}
static void made_refused(enum status want, const char *part) { refused(gguf_put("x.gguf"), want, part); }

static void heads(void) {
    str_clear(&made);
    gguf_raw("GGML", 4);
    gguf_raw((char[20]){0}, 20);
    made_refused(TM_ERR_FORMAT, "does not begin with \"GGUF\"");
    ok(!hub_is_gguf(in_scratch("x.gguf")) && !hub_is_gguf(in_scratch("absent")) && !hub_is_gguf(scratch), "no GGUF");
    str_clear(&made);
    gguf_raw("GG", 2);
    made_refused(TM_ERR_FORMAT, "is truncated: a GGUF file needs 4 bytes at byte 0, the file has 2");
    gguf_head(1, 0, 0);
    made_refused(TM_ERR_UNSUPPORTED, "GGUF version 1 is not supported; supported: 2, 3");
    gguf_head(4, 0, 0);
    made_refused(TM_ERR_UNSUPPORTED, "GGUF version 4");
    gguf_head(3u << 24, 0, 0);
    made_refused(TM_ERR_UNSUPPORTED, "is a big-endian GGUF");
    gguf_head(3, UINT64_MAX, 0);
    made_refused(TM_ERR_FORMAT, "18446744073709551615 tensors do not fit into the file");
    gguf_head(3, 0, UINT64_MAX / 13);
    made_refused(TM_ERR_FORMAT, "1418980313362273201 keys do not fit into the file");
    gguf_head(3, 1, 0);
    made_refused(TM_ERR_FORMAT, "1 tensors do not fit into the file");
    ok(mkfifo(in_scratch("pipe"), 0600) == 0, "a pipe");
    refused(in_scratch("pipe"), TM_ERR_IO, "is not a regular file");
    refused(in_scratch("absent.gguf"), TM_ERR_IO, "No such file");
    refused(scratch, TM_ERR_IO, "is not a regular file");
}

static void keys(void) {
    gguf_head(3, 0, 1);
    gguf_u64(UINT64_MAX);
    gguf_raw((char[64]){0}, 64);
    made_refused(TM_ERR_FORMAT, "the name of a key is a text of 18446744073709551615 bytes, 64 are left in the file");
    gguf_head(3, 0, 1);
    gguf_u64(70000);
    gguf_raw((char[70000]){0}, 70000);
    made_refused(TM_ERR_FORMAT, "the name of a key is a text of 70000 bytes, at most 65535");
    gguf_head(3, 0, 1);
    gguf_key("kind", 13);
    gguf_u64(0);
    made_refused(TM_ERR_FORMAT, "key \"kind\" has value type 13, at most 12");
    gguf_head(3, 0, 1);
    gguf_u64(3);
    gguf_raw("a\0b", 3);
    gguf_u32(MAKE_U32);
    gguf_u32(1);
    made_refused(TM_ERR_FORMAT, "the name of a key is a text with a NUL byte");
    gguf_head(3, 0, 2);
    gguf_key_u32("twice", 1);
    gguf_key_u32("twice", 2);
    made_refused(TM_ERR_FORMAT, "key \"twice\" is there twice");
    gguf_head(3, 0, 1);
    gguf_key("big", MAKE_U64);
    gguf_u64(UINT64_MAX);
    made_refused(TM_ERR_FORMAT, "key \"big\" holds an integer that is out of range");
    gguf_head(3, 0, 1);
    gguf_key("bool", MAKE_BOOL);
    gguf_raw("\2", 1);
    made_refused(TM_ERR_FORMAT, "key \"bool\"");
    gguf_head(3, 0, 1);
    gguf_key("text", MAKE_TEXT);
    gguf_u64(9);
    gguf_raw("12345678", 8);
    made_refused(TM_ERR_FORMAT, "text is a text of 9 bytes, 8 are left");
    gguf_head(3, 0, 1);
    gguf_key_u32("split.count", 4);
    made_refused(TM_ERR_UNSUPPORTED, "is one of 4 files");
}

static void arrays(void) {
    static const uint32_t of[] = {MAKE_U8, MAKE_F64, MAKE_TEXT};
    for (int i = 0; i < 3; i++) {
        gguf_head(3, 0, 1);
        gguf_key_array("long", of[i], UINT64_MAX / 8 + 1); /* times 8 it is 0 */
        gguf_raw((char[64]){0}, 64);
        made_refused(TM_ERR_FORMAT, "key \"long\" is an array of 2305843009213693952 values");
    }
    gguf_head(3, 0, 1);
    gguf_key_array("texts", MAKE_TEXT, 2);
    gguf_text("one");
    gguf_u64(1u << 20);
    made_refused(TM_ERR_FORMAT, "texts is a text of 1048576 bytes, 0 are left");
    /* a bomb: 100,000 arrays, each in the one before */
    gguf_head(3, 0, 1);
    gguf_key("bomb", MAKE_ARRAY);
    for (int i = 0; i < 100000; i++) {
        gguf_u32(MAKE_ARRAY);
        gguf_u64(1);
    }
    made_refused(TM_ERR_UNSUPPORTED, "key \"bomb\" is an array of arrays");
    gguf_head(3, 0, 1);
    gguf_key_array("nul", MAKE_TEXT, 1);
    gguf_u64(3);
    gguf_raw("a\0b", 3);
    struct hub_gguf *g;
    struct hub_gguf_texts t;
    must(hub_gguf_open(gguf_put("x.gguf"), &g));
    is_status(hub_gguf_get_texts(g, "nul", &t), TM_ERR_FORMAT);
    ok(strstr(status_message(), "\"nul\"[0] is a text with a NUL byte") != NULL, "says \"%s\"", status_message());
    hub_gguf_close(&g);
}

/* One tensor "t" and 256 bytes of data. */
static void tensor(int rank, const int64_t *shape, uint32_t type, uint64_t offset, enum status want, const char *part) {
    gguf_head(3, 1, 0);
    gguf_tensor("t", rank, shape, type, offset);
    gguf_align(32);
    gguf_raw((char[256]){0}, 256);
    made_refused(want, part);
}
static void two(const char *a, uint64_t at, const char *b, uint64_t bt, enum status want, const char *part) {
    gguf_head(3, 2, 0);
    gguf_tensor(a, 1, (int64_t[]){16}, 0, at);
    gguf_tensor(b, 1, (int64_t[]){16}, 0, bt);
    gguf_align(32);
    gguf_raw((char[256]){0}, 256);
    made_refused(want, part);
}
#define SHAPE(...) \
    (const int64_t[]) { __VA_ARGS__ }

static void tensors(void) {
    tensor(0, NULL, 0, 0, TM_ERR_FORMAT, "tensor \"t\" has 0 axes: expected 1 to 4");
    tensor(5, SHAPE(1, 1, 1, 1, 1), 0, 0, TM_ERR_FORMAT, "tensor \"t\" has 5 axes");
    tensor(2, SHAPE(0, 8), 0, 0, TM_ERR_FORMAT, "tensor \"t\": axis 0 has size 0");
    tensor(2, SHAPE(8, -1), 0, 0, TM_ERR_FORMAT, "tensor \"t\": axis 1 has size -1");
    tensor(2, SHAPE(1LL << 32, 1LL << 32), 0, 0, TM_ERR_FORMAT, "tensor \"t\": the product of its shape overflows");
    tensor(1, SHAPE(1LL << 62), 0, 0, TM_ERR_FORMAT, "tensor \"t\": the product of its shape overflows");
    tensor(1, SHAPE(8), 4, 0, TM_ERR_UNSUPPORTED,
           "tensor \"t\" has type 4, which is not supported; supported: F32, F16");
    tensor(1, SHAPE(8), UINT32_MAX, 0, TM_ERR_UNSUPPORTED, "tensor \"t\" has type 4294967295");
    tensor(2, SHAPE(64, 40), 2, 0, TM_ERR_FORMAT, "rows of 40 elements are no multiple of Q4_0's block of 32");
    tensor(1, SHAPE(128), 12, 0, TM_ERR_FORMAT, "rows of 128 elements are no multiple of Q4_K's block of 256");
    tensor(1, SHAPE(65), 0, 0, TM_ERR_FORMAT,
           "is truncated: tensor \"t\" needs 260 bytes at byte 64, the file has 320");
    tensor(1, SHAPE(8), 0, 256, TM_ERR_FORMAT, "is truncated: tensor \"t\" needs 32 bytes at byte 320");
    tensor(1, SHAPE(8), 0, 4, TM_ERR_FORMAT, "tensor \"t\" begins at byte 4 of the data: no multiple of 32");
    tensor(1, SHAPE(8), 0, UINT64_MAX - 31, TM_ERR_FORMAT, "tensor \"t\" begins at byte -32 of the data");
    tensor(1, SHAPE(8), 0, INT64_MAX - 31, TM_ERR_FORMAT, "is truncated: tensor \"t\" needs 32 bytes");
    two("a", 0, "b", 32, TM_ERR_FORMAT, "tensor \"b\" begins at byte 32 of the data, before \"a\" ends");
    two("a", 0, "a", 64, TM_ERR_FORMAT, "tensor \"a\" is there twice");
    for (int i = 0; i < 3; i++) {
        gguf_head(3, 0, 1);
        gguf_key_u32("general.alignment", (uint32_t[]){0, 48, 1u << 31}[i]);
        made_refused(TM_ERR_FORMAT, "expected a power of two up to 1048576");
    }
    gguf_head(3, 0, 1);
    gguf_key_text("general.alignment", "32");
    made_refused(TM_ERR_FORMAT, "\"general.alignment\" is a text: expected an integer");
}

/* A small file with everything in it. */
static void good(void) {
    gguf_head(3, 2, 4);
    gguf_key_u32("n", 7);
    gguf_key_text("text", "word");
    gguf_key_array("texts", MAKE_TEXT, 2);
    gguf_text("one");
    gguf_text("two");
    gguf_key_array("ints", MAKE_I32, 2);
    gguf_u64(3);
    gguf_tensor("a", 2, SHAPE(2, 32), 8, 0);
    gguf_tensor("b", 1, SHAPE(4), 0, 96);
    gguf_align(32);
}

static void use(void) {
    struct hub_gguf *g;
    struct hub_gguf_texts t;
    double *x;
    int64_t n;
    float y[64];
    if (hub_gguf_open(gguf_put("y.gguf"), &g) != TM_OK) return;
    if (hub_gguf_get_texts(g, "texts", &t) == TM_OK) hub_gguf_texts_free(&t);
    if (hub_gguf_get_numbers(g, "ints", &x, &n) == TM_OK) mem_free(&x);
    for (int i = 0; i < hub_gguf_count(g); i++)
        if (hub_gguf_tensor(g, i)->elems <= 64)
            (void)hub_gguf_read(g, hub_gguf_tensor(g, i), 0, hub_gguf_tensor(g, i)->elems, y);
    hub_gguf_close(&g);
}

static void damage(void) {
    good();
    size_t header = made.len, refusals = 0;
    gguf_raw((char[112]){0}, 112);
    size_t whole = made.len;
    for (size_t n = 0; n < whole; n++) {
        struct hub_gguf *g;
        must(file_write(in_scratch("y.gguf"), made.p, n) /* durable, so not too many */);
        refusals += hub_gguf_open(in_scratch("y.gguf"), &g) != TM_OK;
        hub_gguf_close(&g);
    }
    is_int(refusals, whole, "truncations that are refused");
    for (size_t i = 0; i < header; i++)
        for (int k = 0; k < 3; k++) {
            char was = made.p[i];
            made.p[i] = (char)(k == 0 ? 0xff : k == 1 ? was ^ 1 : was ^ 0x80);
            use();
            made.p[i] = was;
        }
    struct hub_gguf *g;
    must(hub_gguf_open(gguf_put("y.gguf"), &g));
    is_int(hub_gguf_count(g), 2, "tensors of the undamaged file");
    hub_gguf_close(&g);
}

int main(void) {
    scratch_open();
    heads();
    keys();
    arrays();
    tensors();
    damage();
    scratch_close();
    str_free(&made);
    is_int(mem_bytes(), 0, "all memory is given back");
    return tap_done();
}
