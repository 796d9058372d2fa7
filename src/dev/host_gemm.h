/* The matrix product of the host: the numeric heart of "the same bytes on any grid".
 *
 * Definition. A leaf is, for each element of C, one chain acc = fma(a_k, b_k, acc), k rising, from +0 (from C when accumulating);
 * the chain goes on through the terms of one segment. The leaves of the segments are added as a binary tree by position, (0,1)(2,3)..,
 * then pairs of pairs; a segment that is empty in all terms contributes nothing: x + nothing = x. Then one add of the bias. So the
 * bits do not depend on m, n, blocking, threads or vector width. NaN payloads are not part of the promise.
 *
 * bf16 (gemm_args.bf16). Factors are rounded to bf16, to nearest even. The k of a leaf, through all its terms, go by in blocks of 32, the
 * last one filled with zeros: leaf = leaf + (even + odd), where even and odd are the chains from +0 over the even and the odd k of the
 * block. Denormal factors, and denormal results inside a leaf, are zero. That is what AMX's tdpbf16ps does, so AMX serves where the CPU
 * has it; elsewhere the fp32 kernels compute the same, a bit slower than fp32. Tree and bias are those of fp32. Hence the bits do not
 * depend on the instruction set either; a chain may be cut and go on by accumulation at multiples of 32.
 *
 * All functions are Local. Addresses in the arguments (dptr.a) are host pointer values. C must not overlap A, B or the bias. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "dev/ops.h"

struct host_gemm;

/* Open with a kernel: NULL = the best for this CPU, or "portable", "avx2", "avx512".
 * invariant: keep the definition above. Otherwise OpenBLAS serves where our kernel is not that of AVX-512, which is faster, and the build has
 * it (segments then are one long k; an OpenMP build of it only in a program of gcc, whose runtime it shares); bf16 products stay our own. A named
 * kernel also does bf16 in place of AMX. threads >= 1: OpenMP threads of a product; the workspaces (5.2 MiB a thread with AMX, else 4.2) are
 * allocated here, once.
 * *out is owned by the caller; one host_gemm runs one product at a time. Errors: UNSUPPORTED (the kernel is unknown or not for this
 * CPU; threads < 1), MEMORY. */
enum status host_gemm_open(const char *kernel, bool invariant, int threads, struct host_gemm **out);
void host_gemm_close(struct host_gemm **g); /* sets *g to NULL; NULL is fine */

/* One product as struct gemm_args says; m, n and any k may be 0. No allocation.
 * Errors: SHAPE (sizes, row distances, segment boundaries, null addresses), UNSUPPORTED (accumulate with more than one segment). */
enum status host_gemm_run(struct host_gemm *g, const struct gemm_args *a);

/* The same, fp32, by the calling thread alone with the workspace of thread `thread` (0 .. threads - 1); the arguments are valid, the definition is
 * kept whatever serves host_gemm_run. */
void host_gemm_alone(struct host_gemm *g, int thread, const struct gemm_args *a);

/* One line for the log: which kernel serves, its tile, threads. The string lives as long as g. */
const char *host_gemm_describe(const struct host_gemm *g);

/* The kernels that serve where the definitions are kept, for tiles that the caller packs itself (host_gemm_kernel.h). */
struct gemm_kernel;
const struct gemm_kernel *host_gemm_kernel(const struct host_gemm *g);
const struct gemm_kernel *host_gemm_kernel_bf16(const struct host_gemm *g);
