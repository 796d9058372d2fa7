/* Element types of tensors on disk and in memory. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

enum dtype {
#define DTYPE(name, st, bits, is_float) DTYPE_##name,
#include "tensor/dtype.def" // IWYU pragma: keep
#undef DTYPE
    DTYPE_COUNT
};

const char *dtype_name(enum dtype t);        /* "bf16" */
const char *dtype_safetensors(enum dtype t); /* "BF16" */
size_t dtype_bytes(enum dtype t);
bool dtype_is_float(enum dtype t);
/* From the safetensors name; false when unknown. */
bool dtype_from_safetensors(const char *name, enum dtype *out);
