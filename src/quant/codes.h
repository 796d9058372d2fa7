/* Runs of weights into the codes of the formats, vectorised: the same codes as the encoders of numfmt/, one by one.
 * bf16: elements are rounded to bf16 first. All Local; nothing can fail. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Whether all are finite in the exported type (bf16 overflows half a unit above its largest number). */
bool codes_finite(const float *x, int64_t n, bool bf16);
/* The largest magnitude; the elements are finite. 0 when n = 0. */
float codes_largest(const float *x, int64_t n, bool bf16);
void codes_bf16(const float *x, int64_t n, void *out); /* of any alignment */
/* e4m3 of x / scale; of a bf16 weight the quotient is rounded to bf16 too (scale_divide_fp8). */
void codes_fp8(const float *x, int64_t n, float scale, bool bf16, uint8_t *out);
void codes_int8(const float *x, int64_t n, float scale, bool bf16, uint8_t *out);
/* A row of NVFP4 blocks of 16 or 32 elements (n a multiple): e2m1 codes, two a byte, the even column in the low nibble; e4m3 block scales.
 * scale_2: of the tensor. Either output may be NULL. */
void codes_nvfp4(const float *x, int64_t n, int block, float scale_2, bool bf16, uint8_t *codes, uint8_t *scales);
