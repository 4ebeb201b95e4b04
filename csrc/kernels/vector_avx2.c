/* Vector kernels for x86-64 with AVX2. The system's headers come first: their functions keep the
 * plain target. */
#include <math.h>
#include <string.h>

#include "kernels.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#pragma GCC optimize("fp-contract=fast")
#endif
#define SP_TABLE sp_kernels_avx2
#include "vector_impl.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
