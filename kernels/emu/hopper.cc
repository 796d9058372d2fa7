/* What Hopper's copies need of the machine: mbarriers, tensor maps, and bulk copies that arrive as late as they may.
 *
 * Sources: PTX ISA 8.8, 9.7.13.15 (mbarrier: counts, tx-count, phase, parity), 9.7.9.25 and 5.5 (cp.async.bulk.tensor, tiled mode, swizzle);
 * CUDA driver API, cuTensorMapEncodeTiled (what it refuses). */
#include <cstring>

#include <cuda.h>

#include "fibers.h"
#include "tsan.h"

namespace cuemu {
/* --- mbarriers ---------------------------------------------------------------------------------------------------------- */
/* The opaque 64 bits. A phase ends when no arrival is pending and as many bytes have come as were expected. */
struct Mbarrier {
    int64_t bytes : 22;
    uint64_t pending : 20, expected : 20, phase : 1;
};
static_assert(sizeof(Mbarrier) == 8, "an mbarrier is 64 bits");
enum { COUNT_MAX = (1 << 20) - 1 };

static Mbarrier *mbarrier(uint64_t *b) {
    for (uint64_t *known : running->mbarriers)
        if (known == b) return reinterpret_cast<Mbarrier *>(b);
    die("an mbarrier that this block has not initialised");
}
static void end_phase(Mbarrier *m) {
    if (m->pending || m->bytes) return;
    m->phase ^= 1;
    m->pending = m->expected;
}
void mbarrier_init(uint64_t *b, int count) {
    if (count < 1 || count > COUNT_MAX) die("mbarrier.init: a count of %d", count);
    if ((uintptr_t)b & 7) die("mbarrier.init: address %p is not 8-byte aligned", (void *)b);
    running->mbarriers.push_back(b);
    Mbarrier *m = mbarrier(b);
    m->bytes = 0;
    m->phase = 0;
    m->pending = m->expected = (unsigned)count;
}
void mbarrier_arrive(uint64_t *b, int bytes) {
    Mbarrier *m = mbarrier(b);
    if (!m->pending) die("mbarrier: more arrivals in a phase than its count of %d", (int)m->expected);
    if (bytes < 0 || m->bytes + bytes > COUNT_MAX) die("mbarrier: %d bytes more than it can count", bytes);
    m->bytes += bytes;
    m->pending -= 1;
    TSAN(__tsan_release(b));
    end_phase(m);
}

/* --- tensor maps ---------------------------------------------------------------------------------------------------------- */
/* What the emulation keeps in the 128 opaque bytes. Only what kernels here use can be described: bf16, the 128-byte swizzle. */
struct TensorMap {
    const char *x;
    uint64_t size[3], stride[2]; /* strides in bytes */
    uint32_t box[3];
};
static_assert(sizeof(TensorMap) <= sizeof(CUtensorMap), "a tensor map is 128 bytes");
enum { ELEMENT = 2, ATOM = 128 /* bytes of a swizzled row */ };

static CUresult encode_tiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *x,
                             const cuuint64_t *size, const cuuint64_t *stride, const cuuint32_t *box,
                             const cuuint32_t *step, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                             CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill) {
    TensorMap t = {(const char *)x, {1, 1, 1}, {0, 0}, {1, 1, 1}};
    if ((uintptr_t)map & 63 || (uintptr_t)x & 15 || !x || rank < 1 || rank > 3 ||
        type != CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 || interleave != CU_TENSOR_MAP_INTERLEAVE_NONE ||
        swizzle != CU_TENSOR_MAP_SWIZZLE_128B || fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
        return CUDA_ERROR_INVALID_VALUE;
    for (cuuint32_t i = 0; i < rank; i++) {
        if (size[i] < 1 || size[i] > (uint64_t)1 << 32 || box[i] < 1 || box[i] > 256 || step[i] != 1)
            return CUDA_ERROR_INVALID_VALUE;
        t.size[i] = size[i];
        t.box[i] = box[i];
        if (i + 1 == rank) continue;
        if (stride[i] % 16 || stride[i] >= (uint64_t)1 << 40 || stride[i] < (i ? stride[i - 1] : size[0] * ELEMENT))
            return CUDA_ERROR_INVALID_VALUE;
        t.stride[i] = stride[i];
    }
    if (box[0] * ELEMENT != ATOM) return CUDA_ERROR_INVALID_VALUE; /* less is allowed, and of no use here */
    memset((void *)map, 0, sizeof *map);
    memcpy((void *)map, &t, sizeof t);
    return CUDA_SUCCESS;
}
static const TensorMap *tensor_map(const void *map) { return static_cast<const TensorMap *>(map); }

/* --- bulk copies ------------------------------------------------------------------------------------------------------------ */
uint32_t shared_address(const void *p) {
    const int64_t at = (const unsigned char *)p - running->dyn;
    if (at < 0 || at >= 228 << 10) die("%p is not in dynamic shared memory", p);
    return (uint32_t)(at + SHARED_BASE);
}
int bulk_bytes(const void *map) {
    const TensorMap *t = tensor_map(map);
    return (int)(t->box[0] * t->box[1] * t->box[2] * ELEMENT);
}
/* One row of a box; elements beyond the tensor on either side are zeros. */
static void copy_row(const TensorMap *t, uint32_t to, int64_t x, int64_t y, int64_t z) {
    const bool row = y >= 0 && y < (int64_t)t->size[1] && z >= 0 && z < (int64_t)t->size[2];
    for (int64_t i = 0; i < t->box[0]; i++) {
        const bool in = row && x + i >= 0 && x + i < (int64_t)t->size[0];
        char *at = shared_pointer(swizzled(to + (uint32_t)i * ELEMENT));
        if (in)
            memcpy(at, t->x + z * (int64_t)t->stride[1] + y * (int64_t)t->stride[0] + (x + i) * ELEMENT, ELEMENT);
        else
            memset(at, 0, ELEMENT);
    }
}
static void arrive(const BulkCopy &c, Mbarrier *m) {
    const TensorMap *t = tensor_map(c.map);
    for (uint32_t z = 0; z < t->box[2]; z++)
        for (uint32_t y = 0; y < t->box[1]; y++)
            copy_row(t, c.to + (z * t->box[1] + y) * ATOM, c.at[0], (int64_t)c.at[1] + y, (int64_t)c.at[2] + z);
    m->bytes -= bulk_bytes(c.map);
}
/* Queued when the bytes are poisoned already; they come when all that is left of the phase is to wait for them. */
void bulk_load(uint32_t to, const void *map, int x, int y, int z, uint64_t *b) {
    if (to & 127) die("cp.async.bulk.tensor: shared address %x is not 128-byte aligned", to);
    if ((uintptr_t)map & 63) die("cp.async.bulk.tensor: the tensor map at %p is not 64-byte aligned", map);
    (void)mbarrier(b);
    running->bulk.push_back({to, map, {x, y, z}, b});
    TSAN(__tsan_release(b));
}
static bool phase_over(const Fiber *f) {
    Mbarrier *m = mbarrier(f->mbarrier);
    std::vector<BulkCopy> &bulk = running->bulk;
    if (m->phase == (unsigned)f->parity && !m->pending) {
        size_t kept = 0;
        for (size_t i = 0; i < bulk.size(); i++)
            if (bulk[i].mbarrier == f->mbarrier)
                arrive(bulk[i], m);
            else
                bulk[kept++] = bulk[i];
        bulk.resize(kept);
        end_phase(m);
    }
    return m->phase != (unsigned)f->parity;
}
/* The phase of this parity is over where the running one has the other. */
void mbarrier_wait(uint64_t *b, int parity) {
    Fiber *f = cur();
    f->mbarrier = b;
    f->parity = parity & 1;
    wait_until(phase_over);
    TSAN(__tsan_acquire(b));
}
} // namespace cuemu

/* --- the driver ----------------------------------------------------------------------------------------------------------- */
extern "C" cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **out, unsigned, unsigned long long,
                                                        cudaDriverEntryPointQueryResult *found) {
    const bool here = !strcmp(name, "cuTensorMapEncodeTiled");
    *out = here ? (void *)cuemu::encode_tiled : nullptr;
    *found = here ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}
