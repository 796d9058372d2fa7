/* The quantization summary. */
#include "quant/summary.h"

#include <string.h>

#include "numfmt/scale.h"
#include "quant/policy.h"

static const char *const origins[] = {
    [QUANT_MEASURED] = "measured", [QUANT_SHARED] = "shared", [QUANT_DEFAULT] = "default"};

static enum status line(struct str *out, int width, const char *module, enum quant_site site, enum quant_format f,
                        float amax, float scale, const char *from) {
    return str_printf(out, "%-*s  %-6s  %-9s  %12.6g  %12.6g  %s\n", width, module, quant_site_name(site),
                      quant_format(f)->name, (double)amax, (double)scale, from);
}

static enum status weight_lines(struct str *out, int width, const struct quant_linear *l) {
    const struct quant_format_info *f = quant_format(l->weight);
    int64_t n = quant_maxima(l->weight, l->out, l->in);
    if (f->axis == QUANT_TENSOR || f->levels > 1 || (f->axis == QUANT_TILE && n == 1))
        return line(out, width, l->name, QUANT_WEIGHT, l->weight, l->weight_amax,
                    quant_scale(l->weight, l->weight_amax), origins[l->weight_from]);
    const char *per = f->axis == QUANT_BLOCK ? "per block" : f->axis == QUANT_TILE ? "per tile" : "per row";
    if (!n || !l->maxima)
        return str_printf(out, "%-*s  %-6s  %-9s  %12s  %12s  measured\n", width, l->name, "weight", f->name, per, per);
    float low = l->maxima[0], high = low;
    for (int64_t i = 0; i < n; i++) {
        low = l->maxima[i] < low ? l->maxima[i] : low;
        high = l->maxima[i] > high ? l->maxima[i] : high;
    }
    bool tile = f->axis == QUANT_TILE;
    TM_TRY(line(out, width, l->name, QUANT_WEIGHT, l->weight, low, quant_scale(l->weight, low),
                tile ? "smallest tile" : "smallest row"));
    return line(out, width, l->name, QUANT_WEIGHT, l->weight, high, quant_scale(l->weight, high),
                tile ? "largest tile" : "largest row");
}

enum status quant_summary(const struct quant_linear *l, size_t n, const struct quant_kv *kv, size_t nkv,
                          struct str *out) {
    size_t width = strlen("module");
    double weights = 0, quantized = 0, bits = 0;
    for (size_t i = 0; i < n; i++) width = strlen(l[i].name) > width ? strlen(l[i].name) : width;
    TM_TRY(str_printf(out, "%-*s  %-6s  %-9s  %12s  %12s  %s\n", (int)width, "module", "site", "format", "amax",
                      "scale", "maximum"));
    for (size_t i = 0; i < n; i++) {
        double elems = (double)l[i].out * (double)l[i].in;
        weights += elems;
        bits += elems * quant_bits_per_weight(l[i].weight, l[i].out, l[i].in);
        if (l[i].weight == QUANT_NONE) continue;
        quantized += elems;
        TM_TRY(weight_lines(out, (int)width, &l[i]));
        if (l[i].input != QUANT_NONE && !quant_measures_input(l[i].input))
            TM_TRY(str_printf(out, "%-*s  %-6s  %-9s  %12s  %12s  dynamic\n", (int)width, l[i].name, "input",
                              quant_format(l[i].input)->name, "-", "-"));
        else if (l[i].input != QUANT_NONE)
            TM_TRY(line(out, (int)width, l[i].name, QUANT_INPUT, l[i].input, l[i].input_amax,
                        quant_scale(l[i].input, l[i].input_amax), origins[l[i].input_from]));
    }
    for (size_t i = 0; i < nkv; i++) {
        if (!quant_measures_input(kv[i].k)) continue; /* both scales are amax / 448, in any format */
        TM_TRY(line(out, (int)width, kv[i].name, QUANT_K, kv[i].k, kv[i].k_amax, scale_fp8(kv[i].k_amax),
                    origins[kv[i].k_amax > 0 ? QUANT_MEASURED : QUANT_DEFAULT]));
        TM_TRY(line(out, (int)width, kv[i].name, QUANT_V, kv[i].v, kv[i].v_amax, scale_fp8(kv[i].v_amax),
                    origins[kv[i].v_amax > 0 ? QUANT_MEASURED : QUANT_DEFAULT]));
    }
    return str_printf(out, "%.1f %% of %.0f weights quantized, %.3f bits per weight\n",
                      weights > 0 ? 100 * quantized / weights : 0.0, weights, weights > 0 ? bits / weights : 0.0);
}
