/* The host backend: one function host_<op> for each operation, on memory that the caller made accessible. It defines the numbers. */
#pragma once

#include "dev/device.h"
#include "dev/leaf.h"

#define OP(name, ...) enum status host_##name(struct dev *d, const struct name##_args *a);
#include "dev/ops.def" // IWYU pragma: keep
#undef OP

/* Device addresses of host and guard are host addresses. */
static inline float *host_f32(dptr p) { return (float *)(uintptr_t)p.a; }
static inline int32_t *host_i32(dptr p) { return (int32_t *)(uintptr_t)p.a; }
static inline double *host_f64(dptr p) { return (double *)(uintptr_t)p.a; }

/* Work space: `shared` bytes at *base, then `each` bytes for each thread from *base + *first on, *stride bytes apart. It grows and is
 * kept. Undefined contents. */
enum status host_scratch(struct dev *d, size_t shared, size_t each, char **base, size_t *first, size_t *stride);

/* Element-wise loops are cut into pieces of HOST_CHUNK elements; work below HOST_SERIAL elements stays on one thread. */
enum { HOST_CHUNK = 8192, HOST_SERIAL = 32768, HOST_COLUMNS = 256 };

/* Boundary i of the OPS_ROW_SEGMENTS segments of n rows. */
static inline int64_t host_row_segment(int64_t n, int i) { return (n * i + OPS_ROW_SEGMENTS - 1) / OPS_ROW_SEGMENTS; }
