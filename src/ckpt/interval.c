/* How long to work between two saves. */
#include <math.h>

#include "ckpt/ckpt.h"

double ckpt_interval(double cost, double mtbf) {
    double x = cost / (2 * mtbf);
    if (x >= 1) return mtbf; /* the estimate ends where a save costs as much as two failures are apart */
    return sqrt(2 * cost * mtbf) * (1 + sqrt(x) / 3 + x / 9) - cost;
}
