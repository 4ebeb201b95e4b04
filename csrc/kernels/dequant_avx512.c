/* Conversions of stored numbers for x86-64 with AVX512. The system's headers come first: their
 * functions keep the plain target. Without fused multiply-add, whose bits are others. */
#include <string.h>

#include "dequant.h"

#if defined(__x86_64__)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC target("avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif
#define SP_LANES 16
#define SP_CONVERSIONS sp_conversions_avx512
#include "dequant_impl.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
