/* Text into token shards, the ranks of a group together. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "data/text.h"
#include "par/par.h"
#include "tok/tok.h"

struct data_convert {
    const char *const *paths; /* [n], in order; *.jsonl is JSONL, anything else is cut at blank lines */
    size_t n;
    const char *text_key;
    enum data_utf8 utf8;
    struct tok *tok; /* this rank's own */
    int32_t eod;     /* behind each document; -1: none */
    const char *prefix;
    /* Called on every rank after each round of about 4 MiB a rank, with the bytes behind and in all; its error, which must be the same on all
     * ranks, ends the conversion. NULL: nobody. */
    enum status (*round)(void *ctx, int64_t done, int64_t all);
    void *ctx;
};

struct data_converted {
    int64_t bytes;             /* of the files */
    int64_t documents, tokens; /* written */
    int64_t damaged;           /* documents that were not UTF-8: mended or left out */
};

/* Tokenize the files into PREFIX.bin and PREFIX.idx: one sequence per document, empty ones left out; u16 when the vocabulary has less than
 * 65500 ids, else i32, as Megatron's own tool. The bytes of the files one behind the other are cut into equal ranges, one a rank, and a
 * document belongs to the range it begins in; so the same files give the same bytes whatever the number of ranks. Memory a rank: the longest
 * document, buffers of a few MiB, 12 bytes a document of its own. Collective over the group; the agreed status.
 * Errors: DECK (eod), DATA (no text), those of data_text_next, tok_encode and the writer. */
enum status data_convert_text(const struct data_convert *c, struct par_group *g, struct data_converted *out);
