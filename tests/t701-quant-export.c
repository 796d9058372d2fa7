/* TEST ranks=1 tier=1 */
/* Exports of a tiny llama, made from ModelOpt's source weights and calibrated maxima: every tensor's name, type, shape and bytes and both
 * JSON files are ModelOpt's (golden/modelopt/export/llama); decoded, they are our fake-quantized weights; degenerate weights. */
#include "dev/host.h"
#include "golden.h"
#include "numfmt/scale.h"
#include "quant/config.h"
#include "quant/policy.h"
#include "quant/summary.h"
#include "sha256.h"

enum { LINEARS = 16, LAYERS = 2, PARAMS = 21 };

static char base[600]; /* .../golden/modelopt/export/llama */
static struct golden source;
static char names[LINEARS][64];
static struct quant_param params[PARAMS];
static float *values[PARAMS]; /* fp32, by parameter */
static size_t param_count;

static const struct recipe {
    const char *dir, *preset, *kv;
    bool f32;
    struct quant_rule rules[1];
    size_t nrules;
} recipes[] = {
    {.dir = "fp8", .preset = "fp8"},
    {.dir = "nvfp4", .preset = "nvfp4"},
    {.dir = "int8_default", .preset = "int8"},
    {.dir = "fp8_kv_fp8", .preset = "fp8", .kv = "fp8"},
    {.dir = "nvfp4_kv_fp8", .preset = "nvfp4", .kv = "fp8"},
    {.dir = "nvfp4_kv_nvfp4", .preset = "nvfp4", .kv = "nvfp4"},
    {.dir = "int8_wo", .preset = "int8_weight_only"},
    {.dir = "w4a16_nvfp4", .preset = "w4a16_nvfp4"},
    {.dir = "nvfp4_mlp_only", .preset = "nvfp4_mlp_only"},
    {.dir = "mixed_fp8attn_nvfp4mlp", .preset = "fp8", .rules = {{"*mlp*", NULL, "nvfp4", -1, NULL}}, .nrules = 1},
    {.dir = "mxfp8", .preset = "mxfp8"},
    {.dir = "mxfp4", .preset = "mxfp4"},
    {.dir = "mxfp4_mlp_weight_only", .preset = "mxfp4_mlp_weight_only"},
    {.dir = "w4a8_mxfp4_fp8", .preset = "w4a8_mxfp4_fp8"},
    {.dir = "fp8_pc_pt", .preset = "fp8_per_channel_per_token"},
    {.dir = "fp8_2d_blockwise_wo", .preset = "fp8_2d_blockwise_weight_only"},
    {.dir = "int4_blockwise_wo", .preset = "int4_blockwise_weight_only"},
    {.dir = "w4a8_nvfp4_fp8", .preset = "w4a8_nvfp4_fp8"},
    {.dir = "nvfp4_omlp_only", .preset = "nvfp4_omlp_only"},
    {.dir = "nvfp4_mlp_weight_only", .preset = "nvfp4_mlp_weight_only"},
    {.dir = "fp8_kv_nvfp4", .preset = "fp8", .kv = "nvfp4"},
    {.dir = "fp8_kv_fp8_cast", .preset = "fp8", .kv = "fp8_cast"},
    {.dir = "fp8_f32", .preset = "fp8", .f32 = true},
    {.dir = "nvfp4_f32", .preset = "nvfp4", .f32 = true},
};

/* The linears and embeddings of the model, in its order; formats not set. */
static void describe_model(struct quant_linear *l) {
    static const char *const parts[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                        "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
    static const int group[] = {0, 0, 0, -1, 1, 1, -1};
    for (int i = 0; i < LINEARS; i++) {
        int layer = (i - 1) / 7, part = (i - 1) % 7;
        char key[1100];
        if (i == 0 || i == LINEARS - 1)
            snprintf(names[i], sizeof names[i], "%s", i ? "lm_head" : "model.embed_tokens");
        else
            snprintf(names[i], sizeof names[i], "model.layers.%d.%s", layer, parts[part]);
        snprintf(key, sizeof key, "%s.weight", names[i]);
        struct golden_tensor t = golden_need(&source, key);
        bool inner = i > 0 && i < LINEARS - 1 && group[part] >= 0;
        l[i] = (struct quant_linear){.name = names[i], .out = t.shape[0], .in = t.shape[1]};
        l[i].group = inner ? 2 * layer + group[part] : -1;
    }
}

static void read_source(void) {
    const char *key;
    json_t *v;
    json_object_foreach(source.header, key, v) {
        if (!strcmp(key, "__metadata__")) continue;
        struct golden_tensor t = golden_need(&source, key);
        struct quant_param *p = &params[param_count];
        *p = (struct quant_param){.name = key, .rank = t.rank};
        for (int i = 0; i < t.rank; i++) p->shape[i] = t.shape[i];
        must(mem_alloc(&values[param_count], (size_t)t.elems, sizeof(float)));
        for (int64_t i = 0; i < t.elems; i++) values[param_count][i] = bf16_decode(((const uint16_t *)t.data)[i]);
        param_count++;
    }
}

/* --- what ModelOpt wrote ------------------------------------------------------------------------------------------------- */

struct expected {
    const char *dtype; /* safetensors name, or torch's when only the hash is known */
    int rank;
    int64_t shape[8];
    const void *data; /* NULL: only the hash is known */
    size_t bytes;
    const char *sha256;
};

struct folder {
    char dir[64];
    struct golden tensors;
    json_t *left_out;
};
static struct folder folders[48];
static int folder_count;

static struct folder *open_folder(const char *dir) {
    for (int i = 0; i < folder_count; i++)
        if (!strcmp(folders[i].dir, dir)) return &folders[i];
    struct folder *f = &folders[folder_count++];
    char path[800];
    snprintf(f->dir, sizeof f->dir, "%s", dir);
    snprintf(path, sizeof path, "%s/%s/model.safetensors", base, dir);
    if (!golden_open(&f->tensors, path)) ok(false, "open %s", path);
    snprintf(path, sizeof path, "%s/%s/left_out.json", base, dir);
    if (file_exists(path)) must(json_read_file(path, 1 << 20, &f->left_out));
    return f;
}

/* A tensor of a folder: there, in the sibling it is equal to, or known by its hash. *keep holds fp32 copies made here. */
static bool expect(const char *dir, const char *name, struct expected *e, float **keep) {
    struct folder *f = open_folder(dir);
    struct golden_tensor t;
    *e = (struct expected){0};
    const json_t *hash = json_object_get(json_object_get(f->left_out, "sha256_only"), name);
    const char *same = json_string_value(json_object_get(json_object_get(f->left_out, "same_as"), name));
    if (golden_find(&f->tensors, name, &t)) {
        e->dtype = t.dtype;
        e->rank = t.rank;
        memcpy(e->shape, t.shape, sizeof e->shape);
        e->data = t.data;
        e->bytes = t.bytes;
        return true;
    }
    if (hash) {
        const json_t *shape = json_object_get(hash, "shape");
        e->dtype = json_string_value(json_object_get(hash, "dtype"));
        e->sha256 = json_string_value(json_object_get(hash, "sha256"));
        e->rank = (int)json_array_size(shape);
        for (int i = 0; i < e->rank; i++) e->shape[i] = json_integer_value(json_array_get(shape, (size_t)i));
        return true;
    }
    if (!same || strncmp(same, "source", 6)) return same && expect(same, name, e, keep);
    if (!expect("source", name, e, keep) || !strstr(same, "fp32")) return e->dtype != NULL;
    must(mem_alloc(keep, e->bytes / 2, sizeof **keep));
    for (size_t i = 0; i < e->bytes / 2; i++) (*keep)[i] = bf16_decode(((const uint16_t *)e->data)[i]);
    e->dtype = "F32";
    e->data = *keep;
    e->bytes *= 2;
    return true;
}

static size_t expected_count(const char *dir) {
    struct folder *f = open_folder(dir);
    const json_t *hashes = json_object_get(f->left_out, "sha256_only");
    return json_object_size(f->tensors.header) - (json_object_get(f->tensors.header, "__metadata__") ? 1 : 0) +
           json_object_size(json_object_get(f->left_out, "same_as")) + json_object_size(hashes) -
           (json_object_get(hashes, "quantizers_before_export") ? 1 : 0);
}

static bool same_dtype(enum dtype t, const char *name) {
    static const struct {
        enum dtype t;
        const char *torch;
    } torch[] = {{DTYPE_f32, "float32"},
                 {DTYPE_bf16, "bfloat16"},
                 {DTYPE_i8, "int8"},
                 {DTYPE_u8, "uint8"},
                 {DTYPE_e4m3, "float8_e4m3fn"}};
    for (size_t i = 0; i < sizeof torch / sizeof *torch; i++)
        if (torch[i].t == t && !strcmp(torch[i].torch, name)) return true;
    return !strcmp(dtype_safetensors(t), name);
}

/* --- our side ------------------------------------------------------------------------------------------------------------ */

/* A calibrated maximum of the peer's quantizer; *row: the maxima of rows as new memory. False: there is none. */
static bool read_amax(const struct golden *q, const char *module, const char *quantizer, float *amax, float **row) {
    char key[160];
    struct golden_tensor t;
    snprintf(key, sizeof key, "%s.%s._amax", module, quantizer);
    if (!golden_find(q, key, &t)) return false;
    bool bf16 = !strcmp(t.dtype, "BF16");
    float *out = amax;
    if (t.rank) {
        must(mem_alloc(row, (size_t)t.elems, sizeof **row));
        out = *row;
    }
    for (int64_t i = 0; i < t.elems; i++)
        out[i] = bf16 ? bf16_decode(((const uint16_t *)t.data)[i]) : ((const float *)t.data)[i];
    return true;
}

/* The peer's settings say which quantizers are on, in how many bits and blocks: our policy must say the same. */
static bool policy_agrees(const json_t *info, const char *module, const char *quantizer, enum quant_format f) {
    static const struct {
        const char *bits, *blocks;
    } said[QUANT_FORMATS] = {[QUANT_fp8] = {"(4, 3)", "None"},
                             [QUANT_fp8_row] = {"(4, 3)", "None"},
                             [QUANT_fp8_tile] = {"(4, 3)", "{-1: 128, -2: 128}"},
                             [QUANT_fp8_cast] = {"(4, 3)", "None"},
                             [QUANT_int8] = {"8", "None"},
                             [QUANT_int4] = {"4", "{-1: 128, 'type': 'static'}"},
                             [QUANT_nvfp4] = {"(2, 1)", "{-1: 16, 'type': 'dynamic', 'scale_bits': (4, 3)}"},
                             [QUANT_nvfp4_b32] = {"(2, 1)", "{-1: 32, 'type': 'dynamic', 'scale_bits': (4, 3)}"},
                             [QUANT_nvfp4_a8] = {"(2, 1)", "{-1: 32, 'type': 'dynamic', 'scale_bits': (4, 3)}"},
                             [QUANT_mxfp4] = {"(2, 1)", "{-1: 32, 'type': 'dynamic', 'scale_bits': (8, 0)}"},
                             [QUANT_mxfp8] = {"(4, 3)", "{-1: 32, 'type': 'dynamic', 'scale_bits': (8, 0)}"}};
    char key[160];
    snprintf(key, sizeof key, "%s.%s", module, quantizer);
    const json_t *q = json_object_get(info, key);
    bool on = q && json_is_true(json_object_get(q, "enabled"));
    if (on != (f != QUANT_NONE)) return false;
    return !on || (!strcmp(json_string_value(json_object_get(q, "num_bits")), said[f].bits) &&
                   !strcmp(json_string_value(json_object_get(q, "block_sizes")), said[f].blocks));
}

struct job {
    struct quant_linear linears[LINEARS];
    struct quant_kv kv[LAYERS];
    float *rows[LINEARS];
};

static void set_up(const struct recipe *r, struct job *j) {
    char path[800];
    static char attn[LAYERS][64];
    struct golden q;
    json_t *info;
    struct quant_policy policy;
    int disagree = 0;
    memset(j, 0, sizeof *j);
    describe_model(j->linears);
    snprintf(path, sizeof path, "%s/%s/quantizers_before_export.safetensors", base, r->dir);
    if (!ok(golden_open(&q, path), "open %s", path)) exit(tap_done());
    snprintf(path, sizeof path, "%s/%s/quantizers_before_export.json", base, r->dir);
    must(json_read_file(path, 1 << 20, &info));
    must(quant_policy_build(&policy, r->preset, r->kv, r->rules, r->nrules));
    for (int i = 1; i < LINEARS; i++) { /* 0 is the embedding: no linear, no sites */
        struct quant_linear *l = &j->linears[i];
        must(quant_resolve(&policy, l->name, QUANT_WEIGHT, &l->weight));
        must(quant_resolve(&policy, l->name, QUANT_INPUT, &l->input));
        disagree += !policy_agrees(info, l->name, "weight_quantizer", l->weight);
        disagree += !policy_agrees(info, l->name, "input_quantizer", l->input);
        read_amax(&q, l->name, "weight_quantizer", &l->weight_amax, &j->rows[i]);
        read_amax(&q, l->name, "input_quantizer", &l->input_amax, NULL);
        l->maxima = j->rows[i];
    }
    for (int i = 0; i < LAYERS; i++) {
        struct quant_kv *kv = &j->kv[i];
        snprintf(attn[i], sizeof attn[i], "model.layers.%d.self_attn", i);
        kv->name = attn[i];
        must(quant_resolve(&policy, kv->name, QUANT_K, &kv->k));
        must(quant_resolve(&policy, kv->name, QUANT_V, &kv->v));
        disagree += !policy_agrees(info, kv->name, "k_bmm_quantizer", kv->k);
        disagree += !policy_agrees(info, kv->name, "v_bmm_quantizer", kv->v);
        read_amax(&q, kv->name, "k_bmm_quantizer", &kv->k_amax, NULL);
        read_amax(&q, kv->name, "v_bmm_quantizer", &kv->v_amax, NULL);
    }
    is_int(disagree, 0, "the policy turns on the quantizers that the peer's preset does");
    quant_policy_free(&policy);
    json_decref(info);
    golden_close(&q);
}

static void tear_down(struct job *j) {
    for (int i = 0; i < LINEARS; i++) mem_free(&j->rows[i]);
}

/* All bytes of a tensor, packed in blocks of 7 rows. */
static char *pack_whole(const struct quant_pack *p, size_t i) {
    const struct quant_tensor *t = &p->tensors[i];
    char *out;
    must(mem_alloc(&out, (size_t)t->rows, (size_t)t->row_bytes));
    for (int64_t r = 0; r < t->rows; r += 7) {
        int64_t n = t->rows - r < 7 ? t->rows - r : 7;
        const float *rows = t->param < 0 ? NULL : values[t->param] + r * t->row_elems;
        enum status st = quant_pack_rows(p, i, r, n, rows, out + r * t->row_bytes);
        if (st != TM_OK) is_status(st, TM_OK);
    }
    return out;
}

static bool equal_to_peer(const struct quant_tensor *t, const char *bytes, const struct expected *e) {
    size_t n = (size_t)(t->rows * t->row_bytes);
    bool same = same_dtype(t->dtype, e->dtype) && t->rank == e->rank;
    for (int i = 0; same && i < t->rank; i++) same = t->shape[i] == e->shape[i];
    if (!same) return false;
    if (e->data) return n == e->bytes && !memcmp(bytes, e->data, n);
    char hex[65];
    sha256_hex(bytes, n, hex);
    return !strcmp(hex, e->sha256);
}

/* The number that code k of a row-major weight stands for, its scale apart. */
static float code_value(const struct quant_linear *l, const char *codes, int64_t k) {
    const struct quant_format_info *f = quant_format(l->weight);
    int64_t row = k / l->in, col = k % l->in;
    uint8_t byte = (uint8_t)codes[f->per_byte == QUANT_COLUMNS ? k / 2
                                  : f->per_byte == QUANT_ROWS  ? row / 2 * l->in + col
                                                               : k];
    uint8_t four = (f->per_byte == QUANT_ROWS ? row : col) & 1 ? byte >> 4 : byte & 15;
    if (f->dtype == DTYPE_i8) return (float)(int8_t)byte;
    if (f->dtype == DTYPE_e4m3) return e4m3_decode(byte);
    return f->per_byte == QUANT_ROWS ? (float)(four > 7 ? four - 16 : four) : e2m1_decode(four);
}

/* What it is multiplied by: weight_scale (and weight_scale_2) at its place. */
static float scale_value(const struct quant_linear *l, const char *scale, float second, int64_t k) {
    const struct quant_format_info *f = quant_format(l->weight);
    int64_t row = k / l->in, col = k % l->in, across = f->block ? (l->in + f->block - 1) / f->block : 1;
    int64_t i = f->axis == QUANT_ROW     ? row
                : f->axis == QUANT_BLOCK ? row * across + col / f->block
                : f->axis == QUANT_TILE  ? row / f->block * across + col / f->block
                                         : 0;
    float v;
    if (f->scale_dtype == DTYPE_e4m3) return e4m3_decode((uint8_t)scale[i]) * second;
    if (f->scale_dtype == DTYPE_u8) return e8m0_decode((uint8_t)scale[i]);
    memcpy(&v, scale + 4 * i, 4);
    return v;
}

/* Decode an exported weight from its tensors' bytes; the fake-quantized master must have the same bits. */
static int decode_differs(const struct quant_pack *p, size_t i, const char *codes) {
    const struct quant_tensor *t = &p->tensors[i];
    const struct quant_linear *l = &p->linears[t->linear];
    const struct quant_format_info *f = quant_format(l->weight);
    int64_t out = l->out, in = l->in, n = quant_maxima(l->weight, out, in);
    char *scale = pack_whole(p, i + 1);
    float *y, *maxima, s2 = f->levels > 1 ? p->tensors[i + 2].value : 1.0f;
    struct block_grid g = {0};
    quant_block_shape(l->weight, out, in, &g.rows, &g.cols);
    g.ld = (in + g.cols - 1) / g.cols;
    must(mem_alloc(&y, (size_t)(out * in), sizeof *y));
    must(mem_alloc(&maxima, (size_t)n, sizeof *maxima));
    struct dev d = {.threads = 1, .leaf = &leaf_portable};
    dptr x = {(uint64_t)(uintptr_t)values[t->param]}, top = {n ? (uint64_t)(uintptr_t)maxima : 0};
    if (n) must(host_amax_blocks(&d, &(struct amax_blocks_args){x, top, out, in, in, g}));
    if (n == 1) maxima[0] = l->weight_amax; /* a single tile shares its maximum */
    struct fake_quant_args a = {x,
                                {(uint64_t)(uintptr_t)y},
                                {(uint64_t)(uintptr_t)&l->weight_amax},
                                out,
                                in,
                                in,
                                in,
                                f->weight_kind,
                                p->round_bf16,
                                top,
                                .grid = g};
    must(host_fake_quant(&d, &a));
    int differ = 0;
    for (int64_t k = 0; k < out * in; k++)
        differ += bits_of(code_value(l, codes, k) * scale_value(l, scale, s2, k)) != bits_of(y[k]);
    mem_free(&y);
    mem_free(&maxima);
    mem_free(&scale);
    return differ;
}

/* Same values and the same order of keys, at every depth. */
static bool same_json(json_t *a, json_t *b) {
    if (!json_is_object(a) || !json_is_object(b)) return json_equal(a, b);
    void *i = json_object_iter(a), *k = json_object_iter(b);
    for (; i && k; i = json_object_iter_next(a, i), k = json_object_iter_next(b, k))
        if (strcmp(json_object_iter_key(i), json_object_iter_key(k)) ||
            !same_json(json_object_iter_value(i), json_object_iter_value(k)))
            return false;
    return !i && !k;
}

static void check_json(const struct recipe *r, const struct job *j) {
    char path[800];
    json_t *want, *config, *got, *hf;
    snprintf(path, sizeof path, "%s/%s/hf_quant_config.json", base, r->dir);
    must(json_read_file(path, 1 << 20, &want));
    snprintf(path, sizeof path, "%s/%s/config.json", base, r->dir);
    must(json_read_file(path, 1 << 20, &config));
    must(quant_config(j->linears, LINEARS, j->kv, LAYERS, "modelopt", "0.47.0", &got));
    ok(same_json(got, want), "%s: hf_quant_config.json, key by key", r->dir);
    must(quant_config_hf(got, &hf));
    ok(same_json(hf, json_object_get(config, "quantization_config")), "%s: quantization_config, key by key", r->dir);
    json_decref(want);
    json_decref(config);
    json_decref(got);
    json_decref(hf);
}

static void check_recipe(const struct recipe *r) {
    struct job j;
    struct quant_pack *p;
    int unequal = 0, hashed = 0, decoded = 0, differ = 0;
    set_up(r, &j);
    must(quant_pack_create(params, param_count, j.linears, LINEARS, j.kv, LAYERS, r->f32 ? DTYPE_f32 : DTYPE_bf16, &p));
    for (size_t i = 0; i < p->n; i++) {
        struct expected e;
        float *keep = NULL;
        char *bytes = pack_whole(p, i);
        bool known = expect(r->dir, p->tensors[i].name, &e, &keep);
        if (!known || !equal_to_peer(&p->tensors[i], bytes, &e)) {
            if (unequal++ < 4)
                fprintf(stderr, "#   %s %s: %s\n", r->dir, p->tensors[i].name, known ? "differs" : "is not theirs");
        }
        hashed += known && !e.data;
        if (p->tensors[i].kind == PACK_WEIGHT &&
            (quant_format(p->linears[p->tensors[i].linear].weight)->axis != QUANT_ROW || !r->f32)) {
            differ += decode_differs(p, i, bytes);
            decoded++;
        }
        mem_free(&keep);
        mem_free(&bytes);
    }
    is_int(unequal, 0, "tensors that are not the peer's, in name, type, shape or bytes");
    is_int(p->n, expected_count(r->dir), "as many tensors as the peer's");
    ok(!differ, "%s: %zu tensors (%d by hash); %d weights decode to the fake-quantized ones", r->dir, p->n, hashed,
       decoded);
    check_json(r, &j);
    if (!strcmp(r->dir, "nvfp4_kv_fp8")) {
        struct str s = {0};
        must(quant_summary(p->linears, LINEARS, j.kv, LAYERS, &s));
        int lines = 0;
        for (size_t i = 0; i < s.len; i++) lines += s.p[i] == '\n';
        is_int(lines, 1 + 2 * 14 + 2 * LAYERS + 1, "summary: a line per quantized site");
        ok(strstr(s.p, "shared") && strstr(s.p, "measured"), "summary: says where maxima come from");
        fprintf(stderr, "%s", getenv("TEMPER_SHOW") ? s.p : "");
        str_free(&s);
    }
    quant_pack_destroy(&p);
    tear_down(&j);
}

/* --- degenerate weights (golden/modelopt/export_edges) --------------------------------------------------------------------- */

static const json_t *edge(const json_t *edges, const char *recipe, const char *module, const char *tensor) {
    return json_object_get(json_object_get(json_object_get(edges, recipe), module), tensor);
}
static double edge_number(const json_t *edges, const char *recipe, const char *module, const char *tensor,
                          const char *what) {
    const char *text = json_string_value(json_object_get(edge(edges, recipe, module, tensor), what));
    return text ? strtod(text, NULL) : -1;
}

static size_t tensor_index(const struct quant_pack *p, const char *name) {
    for (size_t i = 0; i < p->n; i++)
        if (!strcmp(p->tensors[i].name, name)) return i;
    ok(false, "no tensor %s", name);
    exit(tap_done());
}

/* Smallest and largest number of a tensor of scales or codes. */
static void range(const struct quant_pack *p, size_t i, double *low, double *high) {
    const struct quant_tensor *t = &p->tensors[i];
    char *bytes = pack_whole(p, i);
    *low = INFINITY;
    *high = -INFINITY;
    for (int64_t k = 0; k < t->rows * t->row_bytes / (int64_t)dtype_bytes(t->dtype); k++) {
        float f;
        memcpy(&f, bytes + (t->dtype == DTYPE_f32 ? 4 * k : 0), 4);
        double v = t->dtype == DTYPE_f32    ? (double)f
                   : t->dtype == DTYPE_e4m3 ? (double)e4m3_decode((uint8_t)bytes[k])
                   : t->dtype == DTYPE_u8   ? (double)(uint8_t)bytes[k]
                                            : (double)(int8_t)bytes[k];
        *low = fmin(*low, v);
        *high = fmax(*high, v);
    }
    mem_free(&bytes);
}

static float *weight_of(const char *module, int64_t *n) {
    char key[96];
    snprintf(key, sizeof key, "%s.weight", module);
    for (size_t i = 0; i < param_count; i++)
        if (!strcmp(params[i].name, key)) {
            *n = params[i].shape[0] * params[i].shape[1];
            return values[i];
        }
    return NULL;
}

static void check_edges(const json_t *edges, const char *recipe, const char *preset) {
    static const char *const modules[] = {"model.layers.0.self_attn.o_proj", "model.layers.0.mlp.down_proj",
                                          "model.layers.1.mlp.down_proj", "model.layers.1.self_attn.o_proj"};
    static const char *const tensors[] = {"weight", "weight_scale", "weight_scale_2"};
    struct quant_linear l[LINEARS];
    struct quant_policy policy;
    struct quant_pack *p;
    describe_model(l);
    must(quant_policy_build(&policy, preset, NULL, NULL, 0));
    for (int i = 1; i < LINEARS; i++) {
        int64_t n;
        const float *w = weight_of(l[i].name, &n);
        must(quant_resolve(&policy, l[i].name, QUANT_WEIGHT, &l[i].weight));
        must(quant_resolve(&policy, l[i].name, QUANT_INPUT, &l[i].input));
        for (int64_t k = 0; k < n; k++) l[i].weight_amax = fmaxf(l[i].weight_amax, fabsf(w[k]));
    }
    must(quant_pack_create(params, param_count, l, LINEARS, NULL, 0, DTYPE_bf16, &p));
    for (int m = 0; m < 4; m++)
        for (int k = 0; k < 3; k++) {
            char name[128];
            double low, high, want_low, want_high;
            if (!edge(edges, recipe, modules[m] + strlen("model."), tensors[k])) continue;
            snprintf(name, sizeof name, "%s.%s", modules[m], tensors[k]);
            range(p, tensor_index(p, name), &low, &high);
            want_low = edge_number(edges, recipe, modules[m] + strlen("model."), tensors[k], "min");
            want_high = edge_number(edges, recipe, modules[m] + strlen("model."), tensors[k], "max");
            if (m == 0 && quant_format(l[4].weight)->scale_dtype != DTYPE_u8) /* 2^-127 of the MX formats is sound */
                want_low = want_high = k ? 1.0 : 0.0; /* all zero: the peer writes scale 0 and NaN, or 1; ours is 1 */
            ok(low == want_low && high == want_high, "%s %s: from %g to %g (theirs %g to %g)", recipe, name, low, high,
               want_low, want_high);
        }
    ok(p->linears[4].weight_from == QUANT_DEFAULT, "%s: the maximum of an all-zero weight is a default", recipe);
    quant_pack_destroy(&p);
    quant_policy_free(&policy);
}

static void degenerate(void) {
    char path[700];
    json_t *edges;
    int64_t n;
    snprintf(path, sizeof path, "%s/../../export_edges/edges.json", base);
    must(json_read_file(path, 1 << 22, &edges));
    float *w = weight_of("model.layers.0.self_attn.o_proj", &n);
    memset(w, 0, (size_t)n * sizeof *w);
    w = weight_of("model.layers.0.mlp.down_proj", &n);
    memset(w, 0, (size_t)n * sizeof *w);
    w[3 * 256 + 5] = 1e-30f;
    w = weight_of("model.layers.1.mlp.down_proj", &n);
    for (int64_t i = 0; i < n; i++) w[i] = bf16_round(w[i] * 1e-20f);
    w = weight_of("model.layers.1.self_attn.o_proj", &n);
    for (int i = 0; i < 128; i++) w[7 * 128 + i] = 0;
    check_edges(edges, "fp8", "fp8");
    check_edges(edges, "nvfp4", "nvfp4");
    check_edges(edges, "int8_default", "int8");
    check_edges(edges, "mxfp8", "mxfp8");
    check_edges(edges, "mxfp4", "mxfp4");
    check_edges(edges, "fp8_pc_pt", "fp8_per_channel_per_token");
    check_edges(edges, "int4_blockwise_wo", "int4_blockwise_weight_only");
    json_decref(edges);
}

int main(void) {
    char hex[65];
    sha256_hex("abc", 3, hex); /* FIPS 180-4's example */
    is_str(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "SHA-256 of abc");
    const char *root = golden_root();
    if (!root) return tap_done();
    snprintf(base, sizeof base, "%s/golden/modelopt/export/llama", root);
    char path[700];
    snprintf(path, sizeof path, "%s/source/model.safetensors", base);
    if (!ok(golden_open(&source, path), "open %s", path)) return tap_done();
    read_source();
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) check_recipe(&recipes[i]);
    degenerate();
    for (int i = 0; i < folder_count; i++) {
        golden_close(&folders[i].tensors);
        json_decref(folders[i].left_out);
    }
    for (size_t i = 0; i < param_count; i++) mem_free(&values[i]);
    golden_close(&source);
    is_int(mem_bytes(), 0, "all memory is given back");
    return tap_done();
}
