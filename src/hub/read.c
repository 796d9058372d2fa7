/* Reading boxes of tensors: the contiguous runs of a box by pread, converted through a bounded buffer. */
#include <math.h>
#include <string.h>

#include "base/clones.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/size.h"
#include "hub/model.h"
#include "numfmt/e4m3.h"
#include "numfmt/f16.h"

enum { BUFFER_BYTES = 1 << 20 };

/* Convert n stored elements; false when a value does not fit. */
typedef bool (*convert_fn)(const void *in, void *out, size_t n);

static bool f64_to_f32(const void *in, void *out, size_t n) {
    const double *x = in;
    for (size_t i = 0; i < n; i++) ((float *)out)[i] = (float)x[i];
    return true;
}
CLONES static bool half_to_f32(const void *in, void *out, size_t n) {
    const uint16_t *x = in;
    float *y = out;
    SIMD for (size_t i = 0; i < n; i++) y[i] = f16_to_f32(x[i]);
    return true;
}
CLONES static bool bf16_to_f32s(const void *in, void *out, size_t n) {
    const uint16_t *x = in;
    uint32_t *y = out;
    SIMD for (size_t i = 0; i < n; i++) y[i] = (uint32_t)x[i] << 16;
    return true;
}

static bool e4m3_to_f32s(const void *in, void *out, size_t n) {
    const uint8_t *x = in;
    for (size_t i = 0; i < n; i++) ((float *)out)[i] = e4m3_decode(x[i]);
    return true;
}

/* NULL: not a type that is read as fp32 (F32 itself needs no conversion). */
static const convert_fn to_f32[DTYPE_COUNT] = {
    [DTYPE_f64] = f64_to_f32, [DTYPE_f16] = half_to_f32, [DTYPE_bf16] = bf16_to_f32s, [DTYPE_e4m3] = e4m3_to_f32s};

#define WIDEN(name, type)                                                   \
    static bool name##_to_i64(const void *in, void *out, size_t n) {        \
        const type *x = in;                                                 \
        for (size_t i = 0; i < n; i++) ((int64_t *)out)[i] = (int64_t)x[i]; \
        return true;                                                        \
    }
WIDEN(i32, int32_t)
WIDEN(i16, int16_t)
WIDEN(i8, int8_t)
WIDEN(u32, uint32_t)
WIDEN(u16, uint16_t)
WIDEN(u8, uint8_t)
static bool u64_to_i64(const void *in, void *out, size_t n) {
    const uint64_t *x = in;
    uint64_t all = 0;
    for (size_t i = 0; i < n; i++) all |= x[i];
    memcpy(out, in, n * sizeof *x);
    return all <= INT64_MAX;
}
static bool bool_to_i64(const void *in, void *out, size_t n) {
    const uint8_t *x = in;
    for (size_t i = 0; i < n; i++) ((int64_t *)out)[i] = x[i] != 0;
    return true;
}

static const convert_fn to_i64[DTYPE_COUNT] = {
    [DTYPE_i32] = i32_to_i64, [DTYPE_i16] = i16_to_i64, [DTYPE_i8] = i8_to_i64, [DTYPE_u64] = u64_to_i64,
    [DTYPE_u32] = u32_to_i64, [DTYPE_u16] = u16_to_i64, [DTYPE_u8] = u8_to_i64, [DTYPE_bool] = bool_to_i64};

/* The runs of a box: stretches of `length` elements that lie together both in the file and in the result. */
struct runs {
    const struct hub_entry *e;
    int64_t lo[HUB_MAX_RANK], hi[HUB_MAX_RANK], at[HUB_MAX_RANK];
    int axis; /* a run covers [lo, hi) of this axis and all of the later ones; -1: a scalar */
    int64_t length, count;
};

static enum status runs_start(const struct hub_model *m, const struct hub_entry *e, const struct tensor_box *box,
                              struct runs *r) {
    *r = (struct runs){.e = e, .axis = e->rank - 1, .length = 1, .count = 1};
    if (box && box->rank != e->rank)
        return TM_FAIL(TM_ERR_SHAPE, "%s: tensor \"%s\" has %d axes, a box of %d is wanted", hub_path(m, e), e->name,
                       e->rank, box->rank);
    for (int i = 0; i < e->rank; i++) {
        r->lo[i] = box ? box->lo[i] : 0;
        r->hi[i] = box ? box->hi[i] : e->shape[i];
        if (r->lo[i] >= r->hi[i]) r->count = 0;
    }
    if (r->count == 0) return TM_OK;
    for (int i = 0; i < e->rank; i++) {
        if (r->lo[i] < 0 || r->hi[i] > e->shape[i])
            return TM_FAIL(TM_ERR_SHAPE, "%s: tensor \"%s\": [%lld, %lld) of axis %d is wanted, which has %lld",
                           hub_path(m, e), e->name, (long long)r->lo[i], (long long)r->hi[i], i,
                           (long long)e->shape[i]);
        r->at[i] = r->lo[i];
    }
    while (r->axis > 0 && r->hi[r->axis] - r->lo[r->axis] == e->shape[r->axis]) r->length *= e->shape[r->axis--];
    if (r->axis >= 0) r->length *= r->hi[r->axis] - r->lo[r->axis];
    for (int i = 0; i < r->axis; i++) r->count *= r->hi[i] - r->lo[i];
    return TM_OK;
}

/* First element of the present run in the tensor; then step to the next. */
static int64_t runs_next(struct runs *r) {
    int64_t first = 0;
    for (int i = 0; i < r->e->rank; i++) first = first * r->e->shape[i] + r->at[i];
    for (int i = r->axis - 1; i >= 0 && ++r->at[i] == r->hi[i]; i--) r->at[i] = r->lo[i];
    return first;
}

/* Read a box; each element becomes out_bytes bytes by `convert` (NULL: as stored). */
static enum status read_box(const struct hub_model *m, const struct hub_entry *e, const struct tensor_box *box,
                            void *out, size_t out_bytes, convert_fn convert) {
    struct runs r;
    size_t in_bytes = dtype_bytes(e->dtype);
    const struct hub_file *f = &m->files[e->file];
    char *buffer = NULL, *put = out;
    TM_TRY(runs_start(m, e, box, &r));
    int64_t step = convert ? size_min(r.length, BUFFER_BYTES / (int64_t)in_bytes) : r.length;
    if (convert && r.count) TM_TRY(mem_alloc(&buffer, (size_t)step, in_bytes));
    enum status st = TM_OK;
    for (int64_t k = 0; k < r.count && st == TM_OK; k++) {
        int64_t at = runs_next(&r);
        for (int64_t done = 0; done < r.length && st == TM_OK; done += step) {
            size_t n = (size_t)size_min(step, r.length - done);
            st = file_pread(f->fd, f->path, convert ? buffer : put, n * in_bytes,
                            e->offset + (at + done) * (int64_t)in_bytes);
            if (st == TM_OK && convert && !convert(buffer, put, n))
                st = TM_FAIL(TM_ERR_DATA, "%s: tensor \"%s\" holds a value above 2^63 - 1", f->path, e->name);
            put += n * out_bytes;
        }
    }
    mem_free(&buffer);
    return st;
}

enum status hub_read_box(const struct hub_model *m, const struct hub_entry *e, const struct tensor_box *box,
                         float *out) {
    if (e->dtype != DTYPE_f32 && !to_f32[e->dtype])
        return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: tensor \"%s\" is %s: expected F64, F32, F16, BF16 or F8_E4M3",
                       hub_path(m, e), e->name, dtype_safetensors(e->dtype));
    return read_box(m, e, box, out, sizeof *out, to_f32[e->dtype]);
}

enum status hub_read_raw(const struct hub_model *m, const struct hub_entry *e, const struct tensor_box *box,
                         void *out) {
    return read_box(m, e, box, out, dtype_bytes(e->dtype), NULL);
}

enum status hub_read_i64(const struct hub_model *m, const struct hub_entry *e, const struct tensor_box *box,
                         int64_t *out) {
    if (e->dtype != DTYPE_i64 && !to_i64[e->dtype])
        return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: tensor \"%s\" is %s: expected an integer type", hub_path(m, e), e->name,
                       dtype_safetensors(e->dtype));
    return read_box(m, e, box, out, sizeof *out, to_i64[e->dtype]);
}

enum status hub_read_i32(const struct hub_model *m, const struct hub_entry *e, const struct tensor_box *box,
                         int32_t *out) {
    int64_t n = box ? tensor_box_elems(box) : e->elems, *wide;
    if (n > e->elems) n = e->elems; /* such a box is refused below */
    TM_TRY(mem_alloc(&wide, (size_t)n, sizeof *wide));
    enum status st = hub_read_i64(m, e, box, wide);
    for (int64_t i = 0; i < n && st == TM_OK; i++) {
        out[i] = (int32_t)wide[i];
        if (out[i] != wide[i])
            st = TM_FAIL(TM_ERR_DATA, "%s: tensor \"%s\" holds %lld, which needs more than 32 bits", hub_path(m, e),
                         e->name, (long long)wide[i]);
    }
    mem_free(&wide);
    return st;
}

CLONES static int64_t count_nonfinite(const float *x, int64_t n) {
    const uint32_t infinite = 0x7f800000; /* the exponent of infinities and NaN */
    int64_t count = 0;
#pragma omp simd reduction(+ : count)
    for (int64_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, x + i, sizeof u);
        count += (u & infinite) == infinite;
    }
    return count;
}
int64_t hub_count_nonfinite(const float *x, int64_t n) { return count_nonfinite(x, n); }

enum status hub_need_finite(const struct hub_model *m, const struct hub_entry *e, const float *x, int64_t n) {
    int64_t count = hub_count_nonfinite(x, n), i = 0;
    if (count == 0) return TM_OK;
    while (isfinite(x[i])) i++;
    return TM_FAIL(TM_ERR_NUMERIC, "%s: tensor \"%s\" holds %lld values that are NaN or Inf (the first: %g)",
                   hub_path(m, e), e->name, (long long)count, (double)x[i]);
}
