/* The rows of ops.def for those who print and test them: formulas, bounds, shapes. */
#include <stdio.h>

#include "dev/device.h"

struct dim {
    const char *name;
    double value;
};

/* "m=2048 n=14336 k=4096" */
static void print_shape(const struct dim *d, size_t n, char *out, size_t size) {
    size_t at = 0;
    out[0] = 0;
    for (size_t i = 0; i < n && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%s=%.0f", i ? " " : "", d[i].name, d[i].value);
}

#define D(field, value)      {#field, (double)a->field},
#define E(label, value, ...) {#label, (double)(value)},
#define OP(name, dims, ...)                                              \
    static void shape_##name(const void *args, char *out, size_t size) { \
        const struct name##_args *a = args;                              \
        const struct dim d[] = {dims};                                   \
        print_shape(d, sizeof d / sizeof *d, out, size);                 \
    }
#include "dev/ops.def" // IWYU pragma: keep
#undef OP
#undef D
#undef E

/* The row with the shape that its example gives. */
#define D(field, value)      .field = value,
#define E(label, value, ...) __VA_ARGS__,
#define OP(op, dims, flops_, bytes_, work_, bound_, bf16_, doc_)          \
    static struct dev_op row_##op(void) {                                 \
        const struct op##_args x = {dims}, *a = &x;                       \
        struct dev_op row = {.name = #op,                                 \
                             .flops = #flops_,                            \
                             .bytes = #bytes_,                            \
                             .doc = doc_,                                 \
                             .bound = bound_,                             \
                             .bound_bf16 = bf16_,                         \
                             .cost = {flops_, bytes_, (int64_t)(work_)}}; \
        shape_##op(a, row.shape, sizeof row.shape);                       \
        return row;                                                       \
    }
#include "dev/ops.def" // IWYU pragma: keep
#undef OP
#undef D
#undef E

static const struct {
    const char *name;
    void (*shape)(const void *args, char *out, size_t size);
    struct dev_op (*row)(void);
} ops[OP_COUNT] = {
#define OP(name, ...) {#name, shape_##name, row_##name},
#include "dev/ops.def" // IWYU pragma: keep
#undef OP
};

int dev_op_count(void) { return OP_COUNT; }
const char *dev_op_name(int op) { return op >= 0 && op < OP_COUNT ? ops[op].name : "?"; }
struct dev_op dev_op(int op) {
    return op >= 0 && op < OP_COUNT ? ops[op].row() : (struct dev_op){.name = "?"};
}
void dev_op_shape(int op, const void *args, char *out, size_t size) { ops[op].shape(args, out, size); }
