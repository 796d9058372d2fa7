/* TEST ranks=1 tier=1 */
/* hub/: the safetensors reader on files by others: equal tensors from one file and from shards, boxes against a naive slice. */
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "hub/safetensors.h"
#include "numfmt/f16.h"
#include "tap.h"

static char shared[512];

static bool find_shared(void) {
    const char *dirs[] = {getenv("TEMPER_SHARED"), "../shared", "../../shared"};
    for (int i = 0; i < 3; i++) {
        snprintf(shared, sizeof shared, "%s/golden", dirs[i] ? dirs[i] : "/nowhere");
        if (access(shared, R_OK) == 0) return true;
    }
    return false;
}

static enum status open_shared(const char *path, struct hub_model **m) {
    char full[1024];
    snprintf(full, sizeof full, "%s/%s", shared, path);
    return hub_open(full, m);
}

/* Half precision against its definition: sign, exponent, fraction by ldexp; rounding by midpoints of neighbours. */
static void halves(void) {
    bool exact = true, back = true, ties = true, near = true;
    for (uint32_t c = 0; c < 0x7c00; c++) {
        int e = (int)(c >> 10);
        float want = (float)(e ? ldexp(1024 + (c & 1023), e - 25) : ldexp(c, -24)), x = f16_to_f32((uint16_t)c);
        exact = exact && x == want && f16_to_f32((uint16_t)(c | 0x8000)) == -want;
        back = back && f16_from_f32(x) == c && f16_from_f32(-x) == (c | 0x8000);
        float next = c == 0x7bff ? 65536.0f : f16_to_f32((uint16_t)(c + 1)), mid = x + (next - x) / 2;
        ties = ties && f16_from_f32(mid) == c + (c & 1);
        near = near && f16_from_f32(nextafterf(mid, 0)) == c && f16_from_f32(nextafterf(mid, 1e9f)) == c + 1;
    }
    ok(exact, "f16: every finite code has its value");
    ok(back, "f16: every finite value has its code");
    ok(ties, "f16: midpoints go to the even code");
    ok(near, "f16: one fp32 step beside a midpoint goes to the nearer code");
    ok(isinf(f16_to_f32(0x7c00)) && f16_to_f32(0xfc00) < 0 && isnan(f16_to_f32(0x7e01)), "f16: Inf and NaN");
    ok(f16_from_f32(INFINITY) == 0x7c00 && f16_from_f32(-1e30f) == 0xfc00 && isnan(f16_to_f32(f16_from_f32(NAN))),
       "f16: Inf, overflow and NaN");
}

/* formats/hf and formats/hf_sharded hold the same model, written by transformers in one and in four files. */
static void shards(void) {
    struct hub_model *one, *four;
    must(open_shared("megatron/formats/hf", &one));
    must(open_shared("megatron/formats/hf_sharded", &four));
    is_int(hub_count(one), 21, "tensors of the whole");
    is_int(hub_count(four), 21, "tensors of the shards");
    int same = 0, files = 0;
    for (int64_t i = 0; i < hub_count(one); i++) {
        const struct hub_entry *a = hub_entry(one, i), *b = hub_find(four, a->name);
        if (!b || a->elems != b->elems) continue;
        float *x, *y;
        must(mem_alloc(&x, (size_t)a->elems, sizeof *x));
        must(mem_alloc(&y, (size_t)a->elems, sizeof *y));
        must(hub_read_box(one, a, NULL, x));
        must(hub_read_box(four, b, NULL, y));
        same += !memcmp(x, y, (size_t)a->bytes) && hub_count_nonfinite(x, a->elems) == 0 && x[0] != 0;
        if (b->file + 1 > files) files = b->file + 1;
        mem_free(&x);
        mem_free(&y);
    }
    is_int(same, 21, "tensors equal in both");
    is_int(files, 4, "shards");
    hub_close(&one);
    hub_close(&four);
}

int main(void) {
    halves();
    if (find_shared())
        shards();
    else
        ok(true, "shared goldens are absent # SKIP");
    return tap_done();
}
