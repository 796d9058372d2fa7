/* What the files that turn a GGUF model into a Hugging Face directory share. */
#pragma once

#include "hub/gguf_hf.h"

/* Factors of the rotary frequencies, one per pair: how a GGUF says llama3's rope scaling. */
#define GGUF_ROPE_FACTORS "rope_freqs.weight"

enum { GGUF_KEY_BYTES = 128 };

enum gguf_biases { ALL, QKV };
struct gguf_arch {
    const char *name, *type, *class;
    bool pairs;
    enum gguf_biases biases;
    bool qk_norm;
};
extern const struct gguf_arch gguf_archs[];

/* The value of "<architecture>.<key>". */
enum status gguf_arch_i64(const struct hub_gguf_hf *m, const char *key, int64_t absent, int64_t *out);
enum status gguf_arch_f64(const struct hub_gguf_hf *m, const char *key, double absent, double *out);
enum status gguf_arch_text(const struct hub_gguf_hf *m, const char *key, const char *absent, const char **out);

/* The vocabulary of a file, while its tokenizer is written. */
struct gguf_vocabulary {
    const struct hub_gguf_hf *m;
    const char *path;
    struct hub_gguf_texts tokens;
    double *types;              /* [tokens.n]; NULL: all are normal */
    const struct gguf_pre *pre; /* of byte-level BPE; NULL: SentencePiece BPE */
};
enum gguf_token_type { GGUF_NORMAL = 1, GGUF_UNKNOWN, GGUF_CONTROL, GGUF_USER_DEFINED, GGUF_UNUSED, GGUF_BYTE };
static inline int gguf_token_type(const struct gguf_vocabulary *v, int64_t id) {
    return v->types ? (int)v->types[id] : GGUF_NORMAL;
}

/* SentencePiece BPE has a score for each token instead of merges: [["a", "b"], ...] in the order in which its tokens win. `vocab`: {token: id}.
 * Errors: FORMAT (no scores), MEMORY. */
enum status gguf_spm_merges(const struct gguf_vocabulary *v, const json_t *vocab, json_t **out);
/* What stands for blanks, and back; prefix: a blank goes in front of a text. NULL: out of memory. */
json_t *gguf_spm_normalizer(bool prefix);
json_t *gguf_spm_decoder(bool prefix);

/* The id under "tokenizer.ggml.<what>_token_id", or -1. Errors: FORMAT (outside of the vocabulary). */
enum status gguf_token_id(const struct hub_gguf_hf *m, const char *what, int64_t *out);
