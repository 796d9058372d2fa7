/* Fuzz: a run's ledger.jsonl. Whatever stands in it, a line appended is read again as the last one. */
#include "base/json.h"
#include "ckpt/ckpt.h"
#include "fuzz.h"

static void run(struct fuzz_input in) {
    json_t *lines = NULL, *more = NULL, *line = json_pack("{s:i}", "step", 7);
    fuzz_put("ledger.jsonl", in.p, in.n);
    fuzz_must(ckpt_ledger_read(fuzz_dir, &lines));
    fuzz_must(ckpt_ledger_append(fuzz_dir, line));
    fuzz_must(ckpt_ledger_read(fuzz_dir, &more));
    fuzz_check(json_array_size(more) == json_array_size(lines) + 1, "a line more");
    json_t *last = json_array_get(more, json_array_size(lines)); /* it says when, too */
    fuzz_check(json_integer_value(json_object_get(last, "step")) == 7, "the line that was appended");
    json_decref(lines);
    json_decref(more);
    json_decref(line);
}

static void set_up(void) {}

static void seeds(void) {
    fuzz_seed_text("two", "{\"event\":\"start\",\"deck\":\"version = 1;\"}\n{\"event\":\"checkpoint\",\"step\":3}\n");
    fuzz_seed_text("torn", "{\"a\":[1,2.5,true,null]}\n\n{\"b\":");
}

FUZZ_TARGET(set_up, run, seeds)
