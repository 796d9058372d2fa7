/* The leaf kernels for the baseline of the architecture: what any CPU runs. */
#define LEAF_SET    leaf_portable
#define LEAF_NAME   "portable"
#define LEAF_TARGET /* as the compiler's defaults */
#include "dev/leaf_body.h"
