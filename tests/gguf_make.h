/* For tests: GGUF files made by hand, true ones and lying ones. Everything is appended to `made`; gguf_put writes it out. */
#pragma once

#include "base/str.h"
#include "hub_files.h"

static struct str made;
static uint64_t made_keys, made_tensors; /* since the last head */

static inline void gguf_raw(const void *bytes, size_t n) {
    if (str_append(&made, bytes, n) != TM_OK) exit(1); /* a line of TAP for each number would be too much */
}
static inline void gguf_u32(uint32_t x) { gguf_raw(&x, sizeof x); }
static inline void gguf_u64(uint64_t x) { gguf_raw(&x, sizeof x); }
static inline void gguf_text(const char *s) {
    gguf_u64(strlen(s));
    gguf_raw(s, strlen(s));
}
static inline void gguf_head(uint32_t version, uint64_t tensors, uint64_t keys) {
    str_clear(&made);
    made_keys = made_tensors = 0;
    gguf_raw("GGUF", 4);
    gguf_u32(version);
    gguf_u64(tensors);
    gguf_u64(keys);
}
/* Value types of the format. */
enum { MAKE_U8, MAKE_U32 = 4, MAKE_I32, MAKE_F32, MAKE_BOOL, MAKE_TEXT, MAKE_ARRAY, MAKE_U64, MAKE_F64 = 12 };
static inline void gguf_key(const char *key, uint32_t type) {
    made_keys++;
    gguf_text(key);
    gguf_u32(type);
}
static inline void gguf_key_u32(const char *key, uint32_t x) {
    gguf_key(key, MAKE_U32);
    gguf_u32(x);
}
static inline void gguf_key_f32(const char *key, float x) {
    gguf_key(key, MAKE_F32);
    gguf_raw(&x, sizeof x);
}
static inline void gguf_key_bool(const char *key, bool x) {
    gguf_key(key, MAKE_BOOL);
    gguf_raw(&(unsigned char){x}, 1);
}
static inline void gguf_key_text(const char *key, const char *x) {
    gguf_key(key, MAKE_TEXT);
    gguf_text(x);
}
static inline void gguf_key_array(const char *key, uint32_t of, uint64_t n) {
    gguf_key(key, MAKE_ARRAY);
    gguf_u32(of);
    gguf_u64(n);
}
/* shape: outermost first, as everywhere but in the file */
static inline void gguf_tensor(const char *name, int rank, const int64_t *shape, uint32_t type, uint64_t offset) {
    made_tensors++;
    gguf_text(name);
    gguf_u32((uint32_t)rank);
    for (int i = rank - 1; i >= 0; i--) gguf_u64((uint64_t)shape[i]);
    gguf_u32(type);
    gguf_u64(offset);
}
static inline void gguf_align(size_t align) {
    while (made.len % align) gguf_raw("", 1);
}
/* Write the true numbers of tensors and keys into the head. */
static inline void gguf_count(void) {
    memcpy(made.p + 8, &made_tensors, sizeof made_tensors);
    memcpy(made.p + 16, &made_keys, sizeof made_keys);
}
static inline const char *gguf_put(const char *name) {
    must(file_write(in_scratch(name), made.p, made.len));
    return in_scratch(name);
}
