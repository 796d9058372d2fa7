/* GEMM kernels in plain C: correct on any machine. On x86-64 without -mfma each fmaf is a call into libm, about 100 times slower than
 * the vector kernels: it is the reference, not the workhorse. */
#include <math.h>

#include "dev/host_gemm_kernel.h"

#define GEMM_TARGET
#define GEMM_NAME      "portable"
#define V              float
#define VW             1
#define MR             4
#define NV             4
#define NB             192
#define V_ZERO()       0.0f
#define V_LOAD(p)      (*(p))
#define V_STORE(p, v)  (*(p) = (v))
#define V_SET1(x)      (x)
#define V_FMA(a, b, c) fmaf(a, b, c)
#define V_ADD(a, b)    ((a) + (b))

#include "dev/host_gemm_template.h"

const struct gemm_kernel *gemm_kernel_portable(void) { return &kernel_; }
