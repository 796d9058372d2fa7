/* --verify-export. */
#include "stage/verify.h"

#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "hub/safetensors.h"
#include "numfmt/bf16.h"
#include "numfmt/e4m3.h"
#include "numfmt/e8m0.h"

struct counts {
    int64_t tensors, scales, packed, bytes;
};

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), k = strlen(end);
    return n >= k && !strcmp(text + n - k, end);
}

static bool is_scale(const char *name) {
    static const char *const ends[] = {"weight_scale", "weight_scale_2", "input_scale", "k_scale", "v_scale"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (ends_with(name, ends[i])) return true;
    return false;
}

/* Element i of raw bytes as a number; false for types that hold codes. A scale of bytes is E8M0. */
static bool value_at(enum dtype type, bool scale, const void *bytes, int64_t i, float *out) {
    uint16_t half;
    switch (type) {
    case DTYPE_f32: memcpy(out, (const float *)bytes + i, sizeof *out); return true;
    case DTYPE_bf16:
        memcpy(&half, (const uint16_t *)bytes + i, sizeof half);
        *out = bf16_decode(half);
        return true;
    case DTYPE_e4m3: *out = e4m3_decode(((const uint8_t *)bytes)[i]); return true;
    case DTYPE_u8:
        if (scale) *out = e8m0_decode(((const uint8_t *)bytes)[i]);
        return scale;
    default: return false;
    }
}

static enum status check_tensor(const struct hub_model *m, const struct hub_entry *e, struct counts *c) {
    void *bytes;
    float x;
    bool scale = is_scale(e->name);
    TM_TRY(mem_alloc(&bytes, (size_t)e->bytes, 1));
    enum status st = hub_read_raw(m, e, NULL, bytes);
    for (int64_t i = 0; st == TM_OK && i < e->elems && value_at(e->dtype, scale, bytes, i, &x); i++)
        if (!isfinite(x) || (scale && !(x > 0)))
            st = TM_FAIL(TM_ERR_NUMERIC, "%s: element %lld of %s is %g: expected a finite%s number", hub_path(m, e),
                         (long long)i, e->name, (double)x, scale ? ", positive" : "");
    mem_free(&bytes);
    c->tensors++;
    c->scales += scale;
    c->packed += !scale && (e->dtype == DTYPE_u8 || e->dtype == DTYPE_e4m3 || e->dtype == DTYPE_i8);
    c->bytes += e->bytes;
    return st;
}

/* Both files of a quantized export name one algorithm; a plain export has neither. */
static enum status check_configs(const char *dir, struct str *out) {
    char path[4096];
    json_t *config, *quant = NULL;
    TM_TRY(str_path(path, sizeof path, dir, "config.json"));
    TM_TRY(json_read_file(path, 64 << 20, &config));
    TM_TRY(str_path(path, sizeof path, dir, "hf_quant_config.json"));
    enum status st = file_exists(path) ? json_read_file(path, 64 << 20, &quant) : TM_OK;
    const char *a = json_string_value(json_object_get(json_object_get(config, "quantization_config"), "quant_algo"));
    const char *b = json_string_value(json_object_get(json_object_get(quant, "quantization"), "quant_algo"));
    if (st == TM_OK && ((a == NULL) != (b == NULL) || (a && strcmp(a, b))))
        st = TM_FAIL(TM_ERR_FORMAT, "%s: config.json says quant_algo %s, hf_quant_config.json %s", dir, a ? a : "none",
                     b ? b : "none");
    if (st == TM_OK) st = str_printf(out, "quant_algo %s\n", a ? a : "none");
    json_decref(config);
    json_decref(quant);
    return st;
}

enum status stage_verify_export(const char *dir, struct str *out) {
    struct hub_model *m;
    struct counts c = {0};
    TM_TRY(check_configs(dir, out));
    TM_TRY(hub_open(dir, &m));
    enum status st = TM_OK;
    for (int64_t i = 0; st == TM_OK && i < hub_count(m); i++) st = check_tensor(m, hub_entry(m, i), &c);
    hub_close(&m);
    TM_TRY(st);
    return str_printf(out, "%s is sound: %lld tensors (%lld scales, %lld quantized), %lld bytes\n", dir,
                      (long long)c.tensors, (long long)c.scales, (long long)(c.packed), (long long)c.bytes);
}
