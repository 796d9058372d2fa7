/* CLONES before a static function (clang's cannot be linked from another file) compiles it once per instruction set, chosen when the program is loaded: for loops whose bits do not depend on
 * the vector width. SIMD before a loop vectorises it, in-place rows too. */
#pragma once

/* ThreadSanitizer is not up yet when the choice is made. */
#if defined(__SANITIZE_THREAD__)
#define CLONES
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CLONES
#endif
#endif
#if !defined(CLONES) && defined(__x86_64__) && defined(__linux__)
#define CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#elif !defined(CLONES)
#define CLONES
#endif

/* gcc needs to be told that in-place rows are fine; clang finds out alone, and its sanitizer builds refuse the promise. */
#ifdef __clang__
#define SIMD
#else
#define SIMD _Pragma("omp simd")
#endif
