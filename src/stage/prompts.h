/* What a generate stage continues: prompts of the deck, of a text file or of a token file, as token ids. */
#pragma once

#include "gen/greedy.h"
#include "stage/run.h"

struct stage_prompts {
    struct tok *tok; /* NULL: the prompts are tokens and the model has no tokenizer that we read */
    struct stage_prompt {
        char *text; /* as given; NULL: a row of a token file */
        int32_t *ids;
        int64_t n;
    } * v;
    size_t n, cap;
    int64_t longest; /* tokens */
};

/* Read s->prompt, then s->prompts; every prompt has a token (an empty text: the tokenizer's bos, else eos), all below vocab. The caller frees,
 * also after an error. Local. Errors: DATA (no prompt, an id out of range, an empty text without such a token), IO, FORMAT, those of the
 * tokenizer. */
enum status stage_prompts_open(const struct deck_stage *s, int64_t vocab, struct stage_prompts *out);
void stage_prompts_free(struct stage_prompts *p);
