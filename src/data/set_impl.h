/* Inside a data set: its members and what they are laid out in. Shared by making (set_make.c) and use (set.c). */
#pragma once

#include "data/megatron.h"
#include "data/order.h"
#include "data/set.h"
#include "data/stream.h"

struct member {
    struct data_source *source;
    double weight;
    int64_t samples; /* of one epoch; in Megatron's order of all */
    /* The documents of one epoch end to end, kept until another is asked for. */
    struct data_stream stream;
    int64_t *begin;                /* the stream's marks; not of Megatron's order */
    int64_t epoch;                 /* -1: none yet */
    struct data_megatron megatron; /* Megatron's order */
};

struct data_set {
    struct data_opts opts;
    struct member *members;
    size_t n;
    bool weighted;
    struct data_blend blend;             /* weighted */
    struct data_megatron_blend megatron; /* Megatron's order of two or more members */
    int64_t samples;                     /* of one pass */
    int64_t *tokens;                     /* scratch, [T + 1] */
    int64_t *document;                   /* scratch, [T + 1]: where in the row each token's document begins */
};
