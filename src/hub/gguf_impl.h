/* What the files that turn a GGUF model into a Hugging Face directory share. */
#pragma once

#include "hub/gguf_hf.h"

/* Factors of the rotary frequencies, one per pair: how a GGUF says llama3's rope scaling. */
#define GGUF_ROPE_FACTORS "rope_freqs.weight"

enum { GGUF_KEY_BYTES = 128 };

struct gguf_arch {
    const char *name, *type, *class;
    bool pairs;
};
extern const struct gguf_arch gguf_archs[];

/* The value of "<architecture>.<key>". */
enum status gguf_arch_i64(const struct hub_gguf_hf *m, const char *key, int64_t absent, int64_t *out);
enum status gguf_arch_f64(const struct hub_gguf_hf *m, const char *key, double absent, double *out);
enum status gguf_arch_text(const struct hub_gguf_hf *m, const char *key, const char *absent, const char **out);

/* The id under "tokenizer.ggml.<what>_token_id", or -1. Errors: FORMAT (outside of the vocabulary). */
enum status gguf_token_id(const struct hub_gguf_hf *m, const char *what, int64_t *out);
