/* What a race checker is told: kernels are built with -fsanitize=thread, the files of this folder without it but with CUEMU_TSAN. A CUDA
 * thread is a fiber of TSan's; only barriers, warp operations, atomics, and the start and end of a block order them. */
#pragma once

#if defined(CUEMU_TSAN)
extern "C" {
void *__tsan_get_current_fiber(void);
void *__tsan_create_fiber(unsigned);
void __tsan_switch_to_fiber(void *, unsigned);
void __tsan_acquire(void *);
void __tsan_release(void *);
}
#define TSAN(x) x
#else
#define TSAN(x) (void)0
#endif
