/* TEST ranks=1 tier=1 */
/* hub/fp8.c: scales beside FP8 weights, of tensors, rows and tiles, under the names of ModelOpt and of DeepSeek; and what is refused. */
#include "hub/fp8.h"
#include "hub_files.h"

#define T(name, dtype, shape, begin, end) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" begin "," end "]}"
/* A weight of 130 x 3 codes, all 0x38 (1.0), behind its scales of n bytes. */
#define WEIGHT(begin, end) T("m.weight", "F8_E4M3", "130,3", begin, end)
enum { CODES = 390 };

static void put(const char *header, const float *scales, size_t n) {
    unsigned char data[1024];
    memcpy(data, scales, n);
    memset(data + n, 0x38, CODES);
    put_file("x.safetensors", header, strlen(header), data, n + CODES);
}

/* The weight as values, rows [127, 129) of columns [1, 3). */
static enum status decode(float x[4]) {
    struct hub_model *m;
    struct hub_fp8 f;
    struct tensor_box box = {2, {127, 1}, {129, 3}};
    must(hub_open(in_scratch("x.safetensors"), &m));
    const struct hub_entry *e = hub_find(m, "m.weight");
    enum status st = hub_fp8_read(m, e, &f);
    if (st == TM_OK) {
        must(hub_read_box(m, e, &box, x));
        hub_fp8_apply(&f, 127, 2, 1, 2, x);
        hub_fp8_free(&f);
    }
    hub_close(&m);
    return st;
}

static void read_all(void) {
    float x[4], scale[130];
    for (int i = 0; i < 130; i++) scale[i] = (float)(i + 1);
    put("{" T("m.weight_scale", "F32", "", "0", "4") "," WEIGHT("4", "394") "}", scale + 2, 4);
    ok(decode(x) == TM_OK && x[0] == 3 && x[3] == 3, "a scalar");
    put("{" T("m.weight_scale", "F32", "1", "0", "4") "," WEIGHT("4", "394") "}", scale + 2, 4);
    ok(decode(x) == TM_OK && x[0] == 3 && x[3] == 3, "an array of one");
    put("{" T("m.weight_scale", "F32", "130", "0", "520") "," WEIGHT("520", "910") "}", scale, 520);
    ok(decode(x) == TM_OK && x[0] == 128 && x[1] == 128 && x[2] == 129, "rows");
    put("{" T("m.weight_scale", "F32", "130,1", "0", "520") "," WEIGHT("520", "910") "}", scale, 520);
    ok(decode(x) == TM_OK && x[0] == 128 && x[2] == 129, "rows, with an axis of one");
    put("{" T("m.weight_scale_inv", "F32", "2,1", "0", "8") "," WEIGHT("8", "398") "}", scale, 8);
    ok(decode(x) == TM_OK && x[0] == 1 && x[2] == 2, "tiles: row 128 is in the second");
    put("{" T("m.weight_scale", "F32", "2,1,1,1", "0", "8") "," WEIGHT("8", "398") "}", scale, 8);
    ok(decode(x) == TM_OK && x[0] == 1 && x[2] == 2, "tiles with four axes");
}

static void refused(enum status want, const char *part) {
    float x[4];
    is_status(decode(x), want);
    ok(strstr(status_message(), part) && strstr(status_message(), "x.safetensors"), "  \"%s\" says \"%s\"",
       status_message(), part);
}
static void refuse_all(void) {
    const float bad[] = {0, -1, NAN, INFINITY}, good[3] = {1, 1, 1};
    put("{" WEIGHT("0", "390") "}", good, 0);
    refused(TM_ERR_FORMAT, "there is no \"m.weight_scale\"");
    put("{" T("m.weight_scale", "F32", "3", "0", "12") "," WEIGHT("12", "402") "}", good, 12);
    refused(TM_ERR_SHAPE, "3 scales for a weight of 130 x 3: expected 1, 130 (rows) or 2 x 1");
    put("{" T("m.weight_scale", "I32", "1", "0", "4") "," WEIGHT("4", "394") "}", good, 4);
    refused(TM_ERR_UNSUPPORTED, "I32");
    for (int i = 0; i < 4; i++) {
        put("{" T("m.weight_scale", "F32", "1", "0", "4") "," WEIGHT("4", "394") "}", bad + i, 4);
        refused(TM_ERR_NUMERIC, "expected finite numbers above 0");
    }
}

int main(void) {
    scratch_open();
    read_all();
    refuse_all();
    scratch_close();
    return tap_done();
}
