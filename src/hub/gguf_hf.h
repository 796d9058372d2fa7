/* A GGUF model as a Hugging Face directory: its tensors under hub names and in hub order, its configuration, its tokenizer.
 * All functions are Local. */
#pragma once

#include "hub/gguf.h"
#include "hub/write.h"

struct gguf_source; /* where a tensor comes from */

struct hub_gguf_hf {
    const struct hub_gguf *g; /* borrowed */
    int arch;                 /* row of gguf_arch.def */
    int64_t layers, hidden, heads, kv_heads, head_dim, ffn, vocab, context;
    bool tied, attention_bias, mlp_bias;
    struct hub_tensor *tensors; /* [n], for hub_plan_create */
    struct gguf_source *source; /* [n] */
    int n;
    char *names;
    float *rows; /* scratch */
    size_t rows_cap;
};

/* dtype: what the tensors become, F32 or BF16 (rounded once, to nearest even). `g` outlives it; free with hub_gguf_hf_destroy.
 * Errors: UNSUPPORTED (an architecture or a tensor that no row of gguf_arch.def, gguf_names.def describes, with the list of those there
 * are), FORMAT (a tensor or key is missing), SHAPE, MEMORY. */
enum status hub_gguf_hf_create(const struct hub_gguf *g, enum dtype dtype, struct hub_gguf_hf **out);
void hub_gguf_hf_destroy(struct hub_gguf_hf **m);
/* What the file holds: F32 when its embedding is, else BF16. Errors: FORMAT (it has no embedding). */
enum status hub_gguf_dtype(const struct hub_gguf *g, enum dtype *out);

/* Rows [row0, row0 + rows) of tensor `tensor`, row-major, in the tensor's type; a vector has rows of one element. q and k come in
 * Hugging Face's order of rows. Errors: NUMERIC (NaN or Inf), IO, FORMAT, MEMORY. */
enum status hub_gguf_hf_rows(struct hub_gguf_hf *m, int tensor, int64_t row0, int64_t rows, void *out);

/* config.json and generation_config.json; the caller frees with json_decref. Errors: FORMAT, UNSUPPORTED (a rope scaling that a
 * config.json cannot say), MEMORY. */
enum status hub_gguf_config(const struct hub_gguf_hf *m, json_t **out);
enum status hub_gguf_generation_config(const struct hub_gguf_hf *m, json_t **out);

/* Write tokenizer.json, tokenizer_config.json (with the chat template) and special_tokens_map.json into `dir`. Read: byte-level BPE
 * ("gpt2") with a pre-tokenizer of gguf_pre.def, and SentencePiece BPE ("llama"). Errors: UNSUPPORTED (another tokenizer or pre-tokenizer,
 * named), FORMAT (tokens twice, a broken merge, an id outside the vocabulary, text that is not UTF-8), IO, MEMORY. */
enum status hub_gguf_write_tokenizer(const struct hub_gguf_hf *m, const char *dir);
