/* Tensor maps, which only the driver can write; no library of the driver is linked. */
#include "hopper.h"

#include "base/status.h"

typedef CUresult encode_tiled(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                              const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave,
                              CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

int hopper_open(struct cuda_gpu *g) {
    cudaDriverEntryPointQueryResult found;
    int major = 0;
    GPU_TRY(gpu_check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, g->device),
                      "asking for a device's properties"));
    if (major != 9) return 0;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &g->encode, 12000, cudaEnableDefault, &found) !=
            cudaSuccess ||
        found != cudaDriverEntryPointSuccess) {
        (void)cudaGetLastError(); /* a driver without it */
        g->encode = nullptr;
    }
    return 0;
}
int hopper_map(const struct cuda_gpu *g, const uint16_t *x, int64_t cols, int64_t rows, int64_t matrices, int box_rows,
               CUtensorMap *map) {
    const cuuint64_t size[] = {(cuuint64_t)cols, (cuuint64_t)rows, (cuuint64_t)matrices},
                     stride[] = {(cuuint64_t)cols * 2, (cuuint64_t)(rows * cols) * 2};
    const cuuint32_t box[] = {HOPPER_ROW, (cuuint32_t)box_rows, 1}, step[] = {1, 1, 1};
    const CUresult r =
        ((encode_tiled *)g->encode)(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, (void *)(uintptr_t)x, size, stride, box,
                                    step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                    CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return r == CUDA_SUCCESS ? 0
                             : gpu_fail(TM_ERR_DEVICE, "a tensor map of %lld x %lld x %lld: driver error %d",
                                        (long long)matrices, (long long)rows, (long long)cols, (int)r);
}
