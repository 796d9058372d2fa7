/* Fuzz: generation prompts: one byte says whether a text file with a prompt a line or a token file follows. */
#include "stage/prompts.h"
#include "fuzz.h"

static void run(struct fuzz_input in) {
    enum { VOCAB = 8 };
    struct stage_prompts p;
    const char *name = fuzz_take_byte(&in) & 1 ? "p.safetensors" : "p.txt", *one = "ab a";
    char path[2][256];
    fuzz_put(name, in.p, in.n);
    snprintf(path[0], sizeof path[0], "%s", fuzz_path(name));
    snprintf(path[1], sizeof path[1], "%s", fuzz_path("tokenizer.json"));
    struct deck_stage s = {.name = "generate", .verb = "generate", .kind = DECK_KIND_generate, .prompts = path[0]};
    s.model.path = "";
    s.model.tokenizer = path[1];
    s.prompt.v = &one;
    s.prompt.n = 1;
    if (stage_prompts_open(&s, VOCAB, &p) == TM_OK)
        for (size_t i = 0; i < p.n; i++) {
            fuzz_check(p.v[i].n >= 1 && p.v[i].n <= p.longest, "a prompt has a token");
            for (int64_t k = 0; k < p.v[i].n; k++)
                fuzz_check(p.v[i].ids[k] >= 0 && p.v[i].ids[k] < VOCAB, "ids of the vocabulary");
        }
    stage_prompts_free(&p);
}

static void set_up(void) {
    fuzz_put_text(
        "tokenizer.json",
        "{\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\",\"vocab\":{\"?\":0,\"a\":1,\"b\":2,\"ab\":3,\" \":4},"
        "\"merges\":[\"a b\"]},\"added_tokens\":[{\"id\":9,\"content\":\"<x>\",\"single_word\":false,"
        "\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true}]}");
}

static void seeds(void) {
    static const char rows[] = "\1\x43\0\0\0\0\0\0\0{\"input_ids\":{\"dtype\":\"I32\",\"shape\":[1,2],\"data_offsets\":"
                               "[0,8]}}  \1\0\0\0\2\0\0\0";
    fuzz_seed_text("lines", "2ab\r\n\nb a\nno such letters");
    fuzz_seed_text("added", "0a<x>b\n");
    fuzz_seed("rows", rows, sizeof rows - 1);
}

FUZZ_TARGET(set_up, run, seeds)
