/* Fuzz: safetensors files. The tensors of one that opens are read whole, as boxes, as numbers, hashed, and taken for a token file. */
#include "hub/safetensors.h"
#include "data/source.h"
#include "fuzz.h"
#include "stage/inputs.h"
#include "stage/tools.h"

enum { ELEMS_MAX = 4096 };

static void read_tensor(const struct hub_model *m, const struct hub_entry *e) {
    static int64_t out[ELEMS_MAX]; /* eight bytes: room for every type */
    struct tensor_box last = {.rank = e->rank};
    fuzz_check(hub_find(m, e->name) == e, "a tensor is found by its name");
    if (e->elems > ELEMS_MAX) return;
    fuzz_must(hub_read_raw(m, e, NULL, out));
    enum status st = hub_read_box(m, e, NULL, (float *)out);
    fuzz_check(st == TM_OK || st == TM_ERR_UNSUPPORTED, "numbers, or none");
    st = hub_read_i64(m, e, NULL, out);
    fuzz_check(st == TM_OK || st == TM_ERR_UNSUPPORTED || st == TM_ERR_DATA, "integers, or none");
    (void)hub_read_i32(m, e, NULL, (int32_t *)out);
    if (e->rank > TENSOR_MAX_RANK) return;
    for (int i = 0; i < e->rank; i++) {
        last.hi[i] = e->shape[i];
        last.lo[i] = e->shape[i] / 2;
    }
    fuzz_must(hub_read_raw(m, e, &last, out));
}

static void run(struct fuzz_input in) {
    struct hub_model *m;
    struct data_source *rows;
    struct str hash = {0};
    fuzz_put("x.safetensors", in.p, in.n);
    if (hub_open(fuzz_path("x.safetensors"), &m) != TM_OK) return;
    for (int64_t i = 0; i < hub_count(m); i++) read_tensor(m, hub_entry(m, i));
    hub_close(&m);
    if (stage_open_token_file(fuzz_path("x.safetensors"), &rows) == TM_OK) data_source_free(&rows);
    (void)stage_hash(fuzz_path("x.safetensors"), &hash);
    str_free(&hash);
}

static void set_up(void) {}

static void seed(const char *name, const char *header, size_t data) {
    static const uint8_t zeros[512];
    uint64_t n = strlen(header);
    struct str s = {0};
    fuzz_must(str_append(&s, &n, sizeof n));
    fuzz_must(str_append(&s, header, (size_t)n));
    fuzz_must(str_append(&s, zeros, data));
    fuzz_seed(name, s.p, s.len);
    str_free(&s);
}

#define T(name, dtype, shape, begin, end) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" begin "," end "]}"

static void seeds(void) {
    seed("one", "{" T("a", "F32", "2,3", "0", "24") "}", 24);
    seed("odd",
         "{\"__metadata__\":{\"format\":\"pt\"}," T("b", "U8", "3", "5", "8") "," T("z", "BF16", "0,7", "5", "5") "," T(
             "s", "F32", "", "1", "5") "," T("y", "BOOL", "1", "0", "1") "}  ",
         8);
    seed("types",
         "{" T("a", "F64", "1", "0", "8") "," T("b", "F16", "2", "8", "12") "," T("c", "I64", "1", "12", "20") "," T(
             "d", "U64", "1", "20", "28") "," T("e", "I8", "4", "28", "32") "," T("f", "F8_E4M3", "2,2", "32",
                                                                                  "36") "}",
         36);
    seed("rows",
         "{" T("input_ids", "I32", "2,3", "0", "24") "," T("attention_mask", "U8", "2,3", "24",
                                                           "30") "," T("labels", "I16", "2,3", "30", "42") "}",
         42);
    seed("deep", "{" T("a.b.weight", "I32", "1,1,2,1,2", "0", "16") "}", 16);
}

FUZZ_TARGET(set_up, run, seeds)
