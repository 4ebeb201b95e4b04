/* The BLAS library behind our own prototypes. Single-threaded: the engine's team calls it. */
#ifndef SP_BASE_BLAS_H
#define SP_BASE_BLAS_H

#include "../softprompt.h"

/* Row-major products; `accumulate` adds to c instead of overwriting it. All sizes >= 0.
 *   nt: c[m, n] = alpha * a[m, k] b[n, k]^T      nn: c[m, n] = alpha * a[m, k] b[k, n]
 *   tn: c[m, n] = alpha * a[k, m]^T b[k, n]
 * lda, ldb, ldc: floats from one stored row to the next. */
void sp_gemm_nt(int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb,
                int accumulate, float *c, int ldc);
void sp_gemm_nn(int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb,
                int accumulate, float *c, int ldc);
void sp_gemm_tn(int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb,
                int accumulate, float *c, int ldc);

/* Sets one thread and multiplies a few odd shapes against a plain loop. */
sp_status sp_blas_initialize(sp_error *error);

#endif
