/* Element types: the names and sizes of dtype.def. */
#include "tensor/dtype.h"

#include <string.h>

static const struct {
    const char *name, *st;
    size_t bytes;
    bool is_float;
} table[] = {
#define DTYPE(name, st, bits, is_float) {#name, st, (bits) / 8, is_float},
#include "tensor/dtype.def"
#undef DTYPE
};

const char *dtype_name(enum dtype t) { return table[t].name; }
const char *dtype_safetensors(enum dtype t) { return table[t].st; }
size_t dtype_bytes(enum dtype t) { return table[t].bytes; }
bool dtype_is_float(enum dtype t) { return table[t].is_float; }

bool dtype_from_safetensors(const char *name, enum dtype *out) {
    for (int i = 0; i < DTYPE_COUNT; i++)
        if (!strcmp(table[i].st, name)) {
            *out = (enum dtype)i;
            return true;
        }
    return false;
}
