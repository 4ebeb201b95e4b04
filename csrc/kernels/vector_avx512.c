/* Vector kernels for x86-64 with AVX512. The system's headers come first: their functions keep the
 * plain target. */
#include <math.h>
#include <string.h>

#include "kernels.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#pragma GCC optimize("fp-contract=fast")
#endif
#define SP_TABLE sp_kernels_avx512
#include "vector_impl.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
