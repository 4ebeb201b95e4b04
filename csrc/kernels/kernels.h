/* Vector kernels: pure functions on pointers and sizes, one form per kind of CPU, chosen once.
 *
 * n rows of width d, row-major and dense unless a stride is given. Outputs come first. Outputs are
 * overwritten unless the comment says +=. Forward and backward of an operation are neighbours.
 */
#ifndef SP_KERNELS_H
#define SP_KERNELS_H

#include "../softprompt.h"

typedef struct {
    /* y = x / rms(x) * w.  rstd [n] = 1 / sqrt(mean(x^2) + eps) */
    void (*rms_norm_forward)(float *y, float *rstd, const float *x, const float *w, float eps,
                             int32_t n, int32_t d);
    /* dx += rstd * (w dy - xhat * mean(w dy xhat)),  xhat = x * rstd */
    void (*rms_norm_backward)(float *dx, const float *dy, const float *x, const float *w,
                              const float *rstd, int32_t n, int32_t d);
    /* y = (x - mean) * rstd * w + b; b may be NULL.  mean, rstd [n] */
    void (*layer_norm_forward)(float *y, float *mean, float *rstd, const float *x, const float *w,
                               const float *b, float eps, int32_t n, int32_t d);
    /* dx += rstd * (w dy - mean(w dy) - xhat * mean(w dy xhat)) */
    void (*layer_norm_backward)(float *dx, const float *dy, const float *x, const float *w,
                                const float *mean, const float *rstd, int32_t n, int32_t d);

    /* Rotates the first rotary_dim numbers of each of `heads` heads of one row in place.
     * cos, sin [rotary_dim / 2]. direction +1: forward, -1: back (its own backward). */
    void (*rotate)(float *x, const float *cos, const float *sin, int32_t heads, int32_t head_dim,
                   int32_t rotary_dim, int interleaved, float direction);

    /* y = act(gate) * up over n numbers; backward overwrites dgate and dup (dy may be either). */
    void (*gated_forward)(float *y, const float *gate, const float *up, sp_activation act,
                          int64_t n);
    void (*gated_backward)(float *dgate, float *dup, const float *dy, const float *gate,
                           const float *up, sp_activation act, int64_t n);
    /* y = act(x); dx = dy * act'(x) (dx may be dy). */
    void (*activation_forward)(float *y, const float *x, sp_activation act, int64_t n);
    void (*activation_backward)(float *dx, const float *dy, const float *x, sp_activation act,
                                int64_t n);

    /* s[0..n) becomes its softmax; returns log(sum(exp(s))). n >= 1 */
    float (*softmax_forward)(float *s, int32_t n);
    /* The same from the stored logarithm: s = exp(s - lse). */
    void (*softmax_again)(float *s, float lse, int32_t n);
    /* ds = p * (dp - sum(p dp)) in dp's place. */
    void (*softmax_backward)(float *dp, const float *p, int32_t n);
    /* log(sum(exp(s))) without changing s. n >= 1 */
    double (*log_sum_exp)(const float *s, int32_t n);
    /* s = scale * exp(s - lse), with a cap times the slope of the soft cap that gave s. */
    void (*scaled_probabilities)(float *s, float lse, float scale, float cap, int32_t n);

    /* s = cap * tanh(scale * s / cap), cap 0: scale * s.  ds *= 1 - (s / cap)^2 with the capped s */
    void (*soft_cap_forward)(float *s, float scale, float cap, int32_t n);
    void (*soft_cap_backward)(float *ds, const float *s, float cap, int32_t n);
    /* x to [-limit, limit]; dx = 0 where the clamped x lies on a limit. */
    void (*clamp_forward)(float *x, float limit, int64_t n);
    void (*clamp_backward)(float *dx, const float *x, float limit, int64_t n);
    /* s += bias - offset: the linear bias of keys relative to the query's own. */
    void (*add_relative)(float *s, const float *bias, float offset, int32_t n);

    /* y[r, o] = x[r] . w[o] for r < rows, o < outputs; strides in floats. For a few rows, where
     * reading w once is everything. */
    void (*few_rows)(float *y, int64_t y_stride, const float *x, int64_t x_stride, int32_t rows,
                     const float *w, int32_t outputs, int32_t width);
    /* y += x; y = x + scale * z (y may be x) over n numbers;
     * y[r] = x[r] + b, rows of width d (x NULL: zeros, b NULL: zeros) */
    void (*add)(float *y, const float *x, int64_t n);
    void (*add_scaled)(float *y, const float *x, const float *z, float scale, int64_t n);
    void (*add_bias)(float *y, const float *x, const float *b, int32_t n, int32_t d);
} sp_kernels;

/* The table for one kind of CPU; the caller checks that this CPU has it. */
const sp_kernels *sp_kernels_for(sp_cpu cpu);
/* Chosen once by sp_kernels_choose, read by everybody. */
const sp_kernels *sp_kernels_now(void);
sp_cpu sp_kernels_cpu(void);
void sp_kernels_choose(sp_cpu cpu);

extern const sp_kernels sp_kernels_generic;
#if defined(__x86_64__)
extern const sp_kernels sp_kernels_avx2;
extern const sp_kernels sp_kernels_avx512;
#endif

#endif
