/* A checkpoint without MPI, for the targets that damage one: two tensors in one shard, an index, a manifest. */
#pragma once

#include "ckpt/ckpt.h"
#include "ckpt/plan.h"
#include "ckpt/shard.h"
#include "ckpt/table.h"
#include "fuzz.h"

/* Write it to the folder `step` of the scratch folder; *manifest is its text, which the caller frees. */
static inline void ckpt_make(struct str *manifest) {
    static float weight[6] = {1, 2, 3, 4, 5, 6};
    static double lr = 7;
    static struct ckpt_tensor list[2] = {{.desc = {.name = "a.weight", .dtype = DTYPE_f32, .rank = 2, .shape = {2, 3}},
                                          .host = weight},
                                         {.desc = {.name = "lr", .dtype = DTYPE_f64}, .host = &lr}};
    struct held_box held[2] = {{.hi = {2, 3}}, {.tensor = 1}};
    struct ckpt_table t;
    json_t *meta = json_pack("{s:i}", "done", 3), *grid = json_pack("{s:i}", "world", 1);
    struct ckpt_about about = {
        .step = 3, .code = "v", .deck = "version = 1;\n", .when = "2026", .meta = meta, .grid = grid};
    const char *dir = fuzz_path("step");
    int mine;
    list[0].desc.box = tensor_box_whole(2, list[0].desc.shape);
    fuzz_must(file_make_dirs(dir));
    fuzz_must(ckpt_plan_make(list, 2, held, 2, 1, &t));
    fuzz_must(ckpt_plan_name_files(&t, 1, 0, &mine));
    fuzz_must(ckpt_shard_write(dir, NULL, list, &t, mine));
    fuzz_must(ckpt_shard_write_index(dir, &t));
    fuzz_must(ckpt_manifest_print(&t, &about, manifest));
    fuzz_put("step/" CKPT_MANIFEST, manifest->p, manifest->len);
    ckpt_table_free(&t);
    json_decref(meta);
    json_decref(grid);
}
