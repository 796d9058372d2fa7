/* The leaf kernels for x86-64 with AVX2. */
#define LEAF_SET  leaf_avx2
#define LEAF_NAME "avx2"
#ifdef __x86_64__
#define LEAF_TARGET __attribute__((target("avx2")))
#else
#define LEAF_TARGET /* never chosen */
#endif
#include "dev/leaf_body.h"
