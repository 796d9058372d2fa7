/* The leaf kernels for x86-64 with AVX-512. */
#define LEAF_SET  leaf_avx512
#define LEAF_NAME "avx512"
#ifdef __x86_64__
#define LEAF_TARGET __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw")))
#else
#define LEAF_TARGET /* never chosen */
#endif
#include "dev/leaf_body.h"
