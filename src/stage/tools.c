/* --list and --hash. */
#include "stage/tools.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "ckpt/ckpt.h"
#include "deck/deck.h"
#include "dev/dev.h"
#include "hub/safetensors.h"
#include "model/config.h"
#include "quant/policy.h"

static enum status list_status(struct str *out) {
#define ST(name, code, text) TM_TRY(str_printf(out, "%3d  %-16s %s\n", code, #name, text));
#include "base/status.def"
#undef ST
    return TM_OK;
}

/* A formula without what only the compiler wants: "2.0 * a->m * ops_gemm_k(a)" is 2 m k. */
static const char *plain(const char *formula, char *out, size_t size) {
    static const char *const drop[] = {"ops_gemm_", "(a)", "a->", ".0", "* "};
    size_t n = 0;
    while (*formula && n + 1 < size) {
        size_t skip = 0;
        for (size_t i = 0; i < sizeof drop / sizeof *drop && !skip; i++)
            if (!strncmp(formula, drop[i], strlen(drop[i]))) skip = strlen(drop[i]);
        if (!skip) out[n++] = *formula;
        formula += skip ? skip : 1;
    }
    out[n] = 0;
    return out;
}

static const char *bound_text(double bound, char out[16]) {
    snprintf(out, 16, "%.0e", bound);
    return bound < 0 ? "-" : bound > 0 ? out : "bits";
}

/* What a kernel takes at least on an H200, by its data sheet: bytes at 4.8 TB/s or FLOPs at 989 TFLOP/s (bf16, dense). */
static enum status list_ops(struct str *out) {
    const double bandwidth = 4.8e12, rate = 989e12;
    char flops[128], bytes[128], b[16], c[16];
    TM_TRY(str_printf(
        out, "NMSE of cuda against the host in fp32 and in bf16; FLOPs; bytes; an H200's least time for the shape of a "
             "layer of an 8B model\n"));
    for (int i = 0; i < dev_op_count(); i++) {
        const struct dev_op o = dev_op(i);
        TM_TRY(str_printf(out, "%-11s  %4s %5s  %-26s  %-34s  %7.1f us: %-38s  %s\n", o.name, bound_text(o.bound, b),
                          bound_text(o.bound_bf16, c), plain(o.flops, flops, sizeof flops),
                          plain(o.bytes, bytes, sizeof bytes),
                          1e6 * fmax(o.cost.bytes / bandwidth, o.cost.flops / rate), o.shape, o.doc));
    }
    return TM_OK;
}

enum status stage_list(const char *what, struct str *out) {
    if (!strcmp(what, "status")) return list_status(out);
    if (!strcmp(what, "formats")) {
        for (int i = 1; i < QUANT_FORMATS; i++) {
            const struct quant_format_info *f = quant_format((enum quant_format)i);
            const char *cache = !f->kv_algo ? "" : f->weight_kind ? "; also for the KV cache" : "; for the KV cache";
            TM_TRY(str_printf(out, "%-9s %d bits: %s%s\n", f->name, f->bits, f->doc, cache));
        }
        TM_TRY(str_printf(out, "presets:"));
        for (int i = 0; quant_preset_at(i); i++) TM_TRY(str_printf(out, " %s", quant_preset_at(i)));
        TM_TRY(str_printf(out, "\n"));
    } else if (!strcmp(what, "families")) {
        for (int i = 0; i < model_family_count(); i++) TM_TRY(str_printf(out, "%s\n", model_family_name(i)));
    } else if (!strcmp(what, "stages")) {
        for (int i = 0; i < DECK_KINDS; i++)
            TM_TRY(str_printf(out, "%-10s %s\n", deck_kind_name((enum deck_kind)i), deck_kind_doc((enum deck_kind)i)));
    } else if (!strcmp(what, "ops")) {
        TM_TRY(list_ops(out));
    } else {
        return TM_FAIL(TM_ERR_DECK, "--list %s: expected formats, families, stages, ops or status", what);
    }
    return TM_OK;
}

static enum status hash_entry(const struct hub_model *m, const struct hub_entry *e, uint64_t *sum) {
    struct tensor_desc d = {.dtype = e->dtype, .rank = e->rank};
    void *bytes;
    if (e->rank > TENSOR_MAX_RANK)
        return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: %s has %d axes, at most %d", hub_path(m, e), e->name, e->rank,
                       TENSOR_MAX_RANK);
    TM_TRY(str_copy(d.name, sizeof d.name, e->name));
    memcpy(d.shape, e->shape, sizeof d.shape);
    d.box = tensor_box_whole(d.rank, d.shape);
    TM_TRY(mem_alloc(&bytes, (size_t)e->bytes, 1));
    enum status st = hub_read_raw(m, e, NULL, bytes);
    if (st == TM_OK) *sum += ckpt_hash_head(&d) + ckpt_hash_box(&d, &d.box, bytes);
    mem_free(&bytes);
    return st;
}

static enum status hash_safetensors(const char *path, uint64_t *sum) {
    struct hub_model *m;
    TM_TRY(hub_open(path, &m));
    enum status st = TM_OK;
    for (int64_t i = 0; i < hub_count(m) && st == TM_OK; i++) st = hash_entry(m, hub_entry(m, i), sum);
    hub_close(&m);
    return st;
}

enum status stage_hash(const char *path, struct str *out) {
    char step_dir[4096], manifest[4096];
    struct ckpt *c;
    int64_t step = 0;
    uint64_t sum = 0;
    if (str_glob("*.h5", path) && !file_is_dir(path))
        return TM_FAIL(TM_ERR_DECK,
                       "--hash %s: a file of a checkpoint has no content of its own: give its folder (--inspect "
                       "verifies the file)",
                       path);
    TM_TRY(str_path(manifest, sizeof manifest, path, "MANIFEST.json"));
    TM_TRY(str_copy(step_dir, sizeof step_dir, path));
    if (file_is_dir(path) && !file_exists(manifest)) TM_TRY(ckpt_find_latest(path, step_dir, sizeof step_dir, &step));
    if (!file_is_dir(path) || step < 0) {
        TM_TRY(hash_safetensors(path, &sum));
    } else {
        TM_TRY(ckpt_open(step_dir, &c));
        enum status st = ckpt_hash(c, &sum);
        ckpt_close(&c);
        TM_TRY(st);
    }
    return str_printf(out, "%016llx\n", (unsigned long long)sum);
}
