#define _POSIX_C_SOURCE 200809L
#include "blas.h"

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "status.h"

#ifndef SP_BLAS_PREFIX
#define SP_BLAS_PREFIX
#endif
#define SP_PASTE_(a, b) a##b
#define SP_PASTE(a, b) SP_PASTE_(a, b)
#define SP_BLAS(name) SP_PASTE(SP_BLAS_PREFIX, name)

/* Own prototypes (LP64 CBLAS), so that no header of one particular build is needed. */
enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };
void SP_BLAS(cblas_sgemm)(int order, int trans_a, int trans_b, int m, int n, int k, float alpha,
                          const float *a, int lda, const float *b, int ldb, float beta, float *c,
                          int ldc);
void SP_BLAS(openblas_set_num_threads)(int threads);
char *SP_BLAS(openblas_get_config)(void);
char *SP_BLAS(openblas_get_corename)(void);

/* OpenBLAS takes a process-wide lock for some nanoseconds of every product, to find a buffer. A
 * child forked in one of them would wait for ever: the thread that holds the lock is not there any
 * more. So a fork waits for the products in progress, and products that come meanwhile for it. */
static pthread_mutex_t fork_gate = PTHREAD_MUTEX_INITIALIZER; /* held while the process forks */
static atomic_int forking;
static atomic_int products; /* in progress */

static void
enter_product(void)
{
    atomic_fetch_add(&products, 1);
    while (atomic_load(&forking)) {
        atomic_fetch_sub(&products, 1);
        pthread_mutex_lock(&fork_gate);
        pthread_mutex_unlock(&fork_gate);
        atomic_fetch_add(&products, 1);
    }
}

static void
leave_product(void)
{
    atomic_fetch_sub(&products, 1);
}

static void
before_fork(void)
{
    pthread_mutex_lock(&fork_gate);
    atomic_store(&forking, 1);
    while (atomic_load(&products) > 0) {
        sched_yield();
    }
}

static void
after_fork(void) /* in the parent and in the child */
{
    atomic_store(&forking, 0);
    pthread_mutex_unlock(&fork_gate);
}

static void
gemm(int trans_a, int trans_b, int m, int n, int k, float alpha, const float *a, int lda,
     const float *b, int ldb, int accumulate, float *c, int ldc)
{
    if (m > 0 && n > 0) {
        enter_product();
        SP_BLAS(cblas_sgemm)(ROW_MAJOR, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb,
                             accumulate ? 1.0f : 0.0f, c, ldc);
        leave_product();
    }
}

void
sp_gemm_nt(int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb,
           int accumulate, float *c, int ldc)
{
    gemm(NO_TRANS, TRANS, m, n, k, alpha, a, lda, b, ldb, accumulate, c, ldc);
}

void
sp_gemm_nn(int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb,
           int accumulate, float *c, int ldc)
{
    gemm(NO_TRANS, NO_TRANS, m, n, k, alpha, a, lda, b, ldb, accumulate, c, ldc);
}

void
sp_gemm_tn(int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb,
           int accumulate, float *c, int ldc)
{
    gemm(TRANS, NO_TRANS, m, n, k, alpha, a, lda, b, ldb, accumulate, c, ldc);
}

const char *
sp_blas_config(void)
{
    return SP_BLAS(openblas_get_config)();
}

const char *
sp_blas_core(void)
{
    return SP_BLAS(openblas_get_corename)();
}

/* Sizes around the register blocks of the kernels that OpenBLAS has; wrong products on new CPUs
 * showed at such edges (numpy issue 24903, OpenBLAS issues 2168 and 2914). */
enum { MAX_M = 67, MAX_N = 49, MAX_K = 131 };

/* Small, exactly representable values that differ from place to place. */
static float
sample(int i, int j)
{
    return (float)((i * 37 + j * 101 + 11) % 61 - 30) / 32.0f;
}

static sp_status
check_product(int trans_a, int trans_b, int m, int n, int k, sp_error *error)
{
    static const char *const NAMES[] = {"nn", "nt", "tn", "tt"};
    float a[MAX_M * MAX_K], b[MAX_N * MAX_K], c[MAX_M * MAX_N];
    int lda = trans_a ? m : k, ldb = trans_b ? k : n;
    for (int i = 0; i < m; i++) {
        for (int p = 0; p < k; p++) {
            a[trans_a ? p * lda + i : i * lda + p] = sample(i, p);
        }
    }
    for (int p = 0; p < k; p++) {
        for (int j = 0; j < n; j++) {
            b[trans_b ? j * ldb + p : p * ldb + j] = sample(p + 5, j);
        }
    }
    for (int i = 0; i < m * n; i++) {
        c[i] = 1.0f;
    }
    gemm(trans_a ? TRANS : NO_TRANS, trans_b ? TRANS : NO_TRANS, m, n, k, 1.0f, a, lda, b, ldb, 1,
         c, n);
    for (int i = 0; i < m; i++) {
        for (int j = 0; j < n; j++) {
            double sum = 1.0;
            for (int p = 0; p < k; p++) {
                sum += (double)sample(i, p) * sample(p + 5, j);
            }
            /* Every product is a multiple of 2^-10 below 1, so that float32 sums are exact. */
            if (!(fabs(c[i * n + j] - sum) <= 1e-4)) {
                return sp_fail(error, SP_UNSUPPORTED,
                               "the BLAS library multiplies wrongly on this CPU (core %s): "
                               "%s product %dx%dx%d gave %g at [%d, %d], expected %g",
                               sp_blas_core(), NAMES[trans_a * 2 + trans_b], m, n, k,
                               (double)c[i * n + j], i, j, sum);
            }
        }
    }
    return SP_OK;
}

static int fork_handlers; /* pthread_atfork's answer */

static void
register_fork_handlers(void)
{
    fork_handlers = pthread_atfork(before_fork, after_fork, after_fork);
}

sp_status
sp_blas_initialize(sp_error *error)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    static const int SHAPES[][3] = {
        {1, 1, 1},    {1, 17, 64},  {3, 5, 7},    {5, 33, 31},
        {16, 16, 16}, {17, 48, 65}, {33, 7, 129}, {67, 49, 131},
    };
    if (pthread_once(&once, register_fork_handlers) != 0 || fork_handlers != 0) {
        return sp_fail(error, SP_NO_MEMORY, "no memory for the handlers of a fork");
    }
    SP_BLAS(openblas_set_num_threads)(1);
    for (size_t s = 0; s < sizeof SHAPES / sizeof SHAPES[0]; s++) {
        for (int kind = 0; kind < 3; kind++) {
            SP_TRY(check_product(kind == 2, kind == 1, SHAPES[s][0], SHAPES[s][1], SHAPES[s][2],
                                 error));
        }
    }
    return SP_OK;
}
