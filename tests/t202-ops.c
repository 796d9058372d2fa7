/* TEST ranks=1 backends=host,guard tier=1 */
/* Every operation against fp64 references and finite differences, over shapes of one, primes and tile edges, between canaries. */
#include "ops_cases.h"

int main(void) {
    struct dev *d = ops_open(NULL, 2);
    printf("# %s\n", dev_describe(d));
    for (int c = 0; c < OPS_CASES; c++) {
        double worst = 0;
        int at = 0;
        bool clean = true;
        for (int s = 0; s < OPS_SHAPES; s++) {
            struct ops_run r = {.d = d, .seed = (uint64_t)(100 * c + s)};
            ops_cases[c].run(&r, ops_shape[s][0], ops_shape[s][1]);
            clean &= ops_canaries(&r);
            if (r.worst > worst) worst = r.worst, at = s;
            ops_end(&r);
        }
        ok(worst <= ops_cases[c].bound, "%s: NMSE %.2g at %lld x %lld, at most %.2g", ops_cases[c].name, worst,
           (long long)ops_shape[at][0], (long long)ops_shape[at][1], ops_cases[c].bound);
        ok(clean, "%s: canaries hold", ops_cases[c].name);
    }
    dev_close(&d);
    return tap_done();
}
