/* The bodies of the vector kernels, compiled once per kind of CPU. The including file defines
 * SP_TABLE (the name of its table) and has set the compiler's target. Plain loops: the compiler
 * makes the vectors, and `omp simd reduction` allows it to split a sum into lanes, always in the
 * same way.
 */
#include <math.h>
#include <string.h>

#include "kernels.h"

/* e^x to about 2 units in the last place: x = k ln 2 + r, a polynomial for e^r (coefficients of
 * Cephes expf, S. Moshier), and k put into the exponent. Below -87 it is e^-87, about 1e-38. Of no
 * number it is none: what then stands in the exponent does not matter, and may not overflow. */
static inline float
exp_(float x)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float shifted = x * 1.44269504088896341f + magic;
    float k = shifted - magic;
    float r = x - k * 0.693359375f;
    r = r - k * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    union {
        float f;
        uint32_t bits;
    } scale = {.f = shifted};
    scale.bits = (scale.bits - 0x4b400000u + 127u) << 23;
    return p * scale.f;
}

static inline float
sigmoid_(float x)
{
    return 1.0f / (1.0f + exp_(-x));
}

/* To about 2 units in the last place: an odd polynomial near 0 (coefficients of Cephes tanhf), where
 * the exponential form loses digits. */
static inline float
tanh_(float x)
{
    float z = x * x;
    float p = -5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    float small = x + x * z * p;
    float large = 1.0f - 2.0f / (exp_(2.0f * (x < 0.0f ? -x : x)) + 1.0f);
    large = x < 0.0f ? -large : large;
    return z < 0.390625f ? small : large;
}

/* ---- norms ---- */

static void
rms_norm_forward(float *restrict y, float *restrict rstd, const float *restrict x,
                 const float *restrict w, float eps, int32_t n, int32_t d)
{
    for (int32_t r = 0; r < n; r++, x += d, y += d) {
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int32_t i = 0; i < d; i++) {
            sum += x[i] * x[i];
        }
        float scale = 1.0f / sqrtf(sum / (float)d + eps);
        rstd[r] = scale;
        for (int32_t i = 0; i < d; i++) {
            y[i] = x[i] * scale * w[i];
        }
    }
}

static void
rms_norm_backward(float *restrict dx, const float *restrict dy, const float *restrict x,
                  const float *restrict w, const float *restrict rstd, int32_t n, int32_t d)
{
    for (int32_t r = 0; r < n; r++, x += d, dy += d, dx += d) {
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int32_t i = 0; i < d; i++) {
            sum += w[i] * dy[i] * x[i];
        }
        float scale = rstd[r], mean = sum * scale * scale / (float)d;
        for (int32_t i = 0; i < d; i++) {
            dx[i] += scale * (w[i] * dy[i] - x[i] * mean);
        }
    }
}

static void
layer_norm_forward(float *restrict y, float *restrict mean, float *restrict rstd,
                   const float *restrict x, const float *restrict w, const float *restrict b,
                   float eps, int32_t n, int32_t d)
{
    for (int32_t r = 0; r < n; r++, x += d, y += d) {
        float sum = 0.0f, squares = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int32_t i = 0; i < d; i++) {
            sum += x[i];
        }
        float middle = sum / (float)d;
#pragma omp simd reduction(+ : squares)
        for (int32_t i = 0; i < d; i++) {
            squares += (x[i] - middle) * (x[i] - middle);
        }
        float scale = 1.0f / sqrtf(squares / (float)d + eps);
        mean[r] = middle;
        rstd[r] = scale;
        for (int32_t i = 0; i < d; i++) {
            y[i] = (x[i] - middle) * scale * w[i];
        }
        if (b != NULL) {
            for (int32_t i = 0; i < d; i++) {
                y[i] += b[i];
            }
        }
    }
}

static void
layer_norm_backward(float *restrict dx, const float *restrict dy, const float *restrict x,
                    const float *restrict w, const float *restrict mean, const float *restrict rstd,
                    int32_t n, int32_t d)
{
    for (int32_t r = 0; r < n; r++, x += d, dy += d, dx += d) {
        float sum = 0.0f, product = 0.0f, middle = mean[r], scale = rstd[r];
#pragma omp simd reduction(+ : sum, product)
        for (int32_t i = 0; i < d; i++) {
            float g = w[i] * dy[i];
            sum += g;
            product += g * (x[i] - middle);
        }
        float mean_g = sum / (float)d, mean_gx = product * scale * scale / (float)d;
        for (int32_t i = 0; i < d; i++) {
            dx[i] += scale * (w[i] * dy[i] - mean_g - (x[i] - middle) * mean_gx);
        }
    }
}

/* ---- rotary positions ---- */

static void
rotate(float *restrict x, const float *restrict cos, const float *restrict sin, int32_t heads,
       int32_t head_dim, int32_t rotary_dim, int interleaved, float direction)
{
    int32_t half = rotary_dim / 2;
    for (int32_t h = 0; h < heads; h++, x += head_dim) {
        if (interleaved) {
            for (int32_t i = 0; i < half; i++) {
                float a = x[2 * i], b = x[2 * i + 1], s = direction * sin[i];
                x[2 * i] = a * cos[i] - b * s;
                x[2 * i + 1] = b * cos[i] + a * s;
            }
        }
        else {
            for (int32_t i = 0; i < half; i++) {
                float a = x[i], b = x[i + half], s = direction * sin[i];
                x[i] = a * cos[i] - b * s;
                x[i + half] = b * cos[i] + a * s;
            }
        }
    }
}

/* ---- activations: value and derivative of one number ---- */

static inline float
silu(float x)
{
    return x * sigmoid_(x);
}

static inline float
silu_slope(float x)
{
    float s = sigmoid_(x);
    return s * (1.0f + x * (1.0f - s));
}

/* Hendrycks, Gimpel 2016 (arXiv 1606.08415), the tanh form. (1 + tanh u) / 2 = sigmoid(2u). */
static inline float
gelu_tanh(float x)
{
    return x * sigmoid_(1.5957691216057308f * (x + 0.044715f * x * x * x));
}

static inline float
gelu_tanh_slope(float x)
{
    float s = sigmoid_(1.5957691216057308f * (x + 0.044715f * x * x * x));
    return s + x * s * (1.0f - s) * 1.5957691216057308f * (1.0f + 0.134145f * x * x);
}

static inline float
gelu_erf(float x)
{
    return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
}

static inline float
gelu_erf_slope(float x)
{
    return 0.5f * (1.0f + erff(x * 0.70710678118654752f))
           + x * 0.39894228040143268f * exp_(-0.5f * x * x);
}

static inline float
gelu_quick(float x)
{
    return x * sigmoid_(1.702f * x);
}

static inline float
gelu_quick_slope(float x)
{
    float s = sigmoid_(1.702f * x);
    return s * (1.0f + 1.702f * x * (1.0f - s));
}

static inline float
relu(float x)
{
    return x > 0.0f ? x : 0.0f;
}

static inline float
relu_slope(float x)
{
    return x > 0.0f ? 1.0f : 0.0f;
}

static inline float
relu_squared(float x)
{
    float y = relu(x);
    return y * y;
}

static inline float
relu_squared_slope(float x)
{
    return 2.0f * relu(x);
}

#define SP_EACH_ACTIVATION(CASE)    \
    CASE(SP_SILU, silu)             \
    CASE(SP_GELU_TANH, gelu_tanh)   \
    CASE(SP_GELU_ERF, gelu_erf)     \
    CASE(SP_GELU_QUICK, gelu_quick) \
    CASE(SP_RELU, relu)             \
    CASE(SP_RELU_SQUARED, relu_squared)

static void
gated_forward(float *y, const float *gate, const float *up, sp_activation act, int64_t n)
{
#define CASE(kind, f)                                       \
    case kind:                                              \
        _Pragma("omp simd") for (int64_t i = 0; i < n; i++) \
        {                                                   \
            y[i] = f(gate[i]) * up[i];                      \
        }                                                   \
        break;
    switch (act) {
        SP_EACH_ACTIVATION(CASE)
    }
#undef CASE
}

static void
gated_backward(float *dgate, float *dup, const float *dy, const float *gate, const float *up,
               sp_activation act, int64_t n)
{
#define CASE(kind, f)                                       \
    case kind:                                              \
        _Pragma("omp simd") for (int64_t i = 0; i < n; i++) \
        {                                                   \
            float g = gate[i], d = dy[i], u = up[i];        \
            dup[i] = d * f(g);                              \
            dgate[i] = d * u * f##_slope(g);                \
        }                                                   \
        break;
    switch (act) {
        SP_EACH_ACTIVATION(CASE)
    }
#undef CASE
}

static void
activation_forward(float *y, const float *x, sp_activation act, int64_t n)
{
#define CASE(kind, f)                                       \
    case kind:                                              \
        _Pragma("omp simd") for (int64_t i = 0; i < n; i++) \
        {                                                   \
            y[i] = f(x[i]);                                 \
        }                                                   \
        break;
    switch (act) {
        SP_EACH_ACTIVATION(CASE)
    }
#undef CASE
}

static void
activation_backward(float *dx, const float *dy, const float *x, sp_activation act, int64_t n)
{
#define CASE(kind, f)                                       \
    case kind:                                              \
        _Pragma("omp simd") for (int64_t i = 0; i < n; i++) \
        {                                                   \
            dx[i] = dy[i] * f##_slope(x[i]);                \
        }                                                   \
        break;
    switch (act) {
        SP_EACH_ACTIVATION(CASE)
    }
#undef CASE
}

/* ---- softmax ---- */

static inline float
largest(const float *s, int32_t n)
{
    float top = s[0];
#pragma omp simd reduction(max : top)
    for (int32_t i = 0; i < n; i++) {
        top = s[i] > top ? s[i] : top;
    }
    return top;
}

static float
softmax_forward(float *s, int32_t n)
{
    float top = largest(s, n), sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int32_t i = 0; i < n; i++) {
        float e = exp_(s[i] - top);
        s[i] = e;
        sum += e;
    }
    float scale = 1.0f / sum;
    for (int32_t i = 0; i < n; i++) {
        s[i] *= scale;
    }
    return top + logf(sum);
}

static void
softmax_again(float *s, float lse, int32_t n)
{
#pragma omp simd
    for (int32_t i = 0; i < n; i++) {
        s[i] = exp_(s[i] - lse);
    }
}

static void
softmax_backward(float *restrict dp, const float *restrict p, int32_t n)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int32_t i = 0; i < n; i++) {
        sum += p[i] * dp[i];
    }
    for (int32_t i = 0; i < n; i++) {
        dp[i] = p[i] * (dp[i] - sum);
    }
}

static double
log_sum_exp(const float *s, int32_t n)
{
    /* Blocks of float sums, added in double: a vocabulary has 10^5 terms. */
    enum { BLOCK = 1024 };
    float top = largest(s, n);
    double total = 0.0;
    for (int32_t start = 0; start < n; start += BLOCK) {
        int32_t end = start + BLOCK < n ? start + BLOCK : n;
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int32_t i = start; i < end; i++) {
            sum += exp_(s[i] - top);
        }
        total += sum;
    }
    return top + log(total);
}

static void
scaled_probabilities(float *s, float lse, float scale, float cap, int32_t n)
{
    float inverse = cap == 0.0f ? 0.0f : 1.0f / cap;
#pragma omp simd
    for (int32_t i = 0; i < n; i++) {
        float t = s[i] * inverse;
        s[i] = scale * exp_(s[i] - lse) * (1.0f - t * t);
    }
}

/* ---- what happens to scores and logits ---- */

static void
soft_cap_forward(float *s, float scale, float cap, int32_t n)
{
    if (cap == 0.0f) {
        for (int32_t i = 0; i < n; i++) {
            s[i] *= scale;
        }
        return;
    }
    float inverse = scale / cap;
#pragma omp simd
    for (int32_t i = 0; i < n; i++) {
        s[i] = cap * tanh_(s[i] * inverse);
    }
}

static void
soft_cap_backward(float *restrict ds, const float *restrict s, float cap, int32_t n)
{
    float inverse = 1.0f / cap;
    for (int32_t i = 0; i < n; i++) {
        float t = s[i] * inverse;
        ds[i] *= 1.0f - t * t;
    }
}

static void
clamp_forward(float *x, float limit, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float high = x[i] > limit ? limit : x[i];
        x[i] = high < -limit ? -limit : high;
    }
}

static void
clamp_backward(float *restrict dx, const float *restrict x, float limit, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        dx[i] = x[i] > -limit && x[i] < limit ? dx[i] : 0.0f;
    }
}

static void
add_relative(float *restrict s, const float *restrict bias, float offset, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        s[i] += bias[i] - offset;
    }
}

/* ---- sums ---- */

/* Four rows of x at a time against one row of w: w is read once from memory. */
static void
few_rows(float *restrict y, int64_t y_stride, const float *restrict x, int64_t x_stride,
         int32_t rows, const float *restrict w, int32_t outputs, int32_t width)
{
    for (int32_t o = 0; o < outputs; o++, w += width) {
        int32_t r = 0;
        for (; r + 4 <= rows; r += 4) {
            const float *x0 = x + r * x_stride, *x1 = x0 + x_stride, *x2 = x1 + x_stride,
                        *x3 = x2 + x_stride;
            float a = 0.0f, b = 0.0f, c = 0.0f, e = 0.0f;
#pragma omp simd reduction(+ : a, b, c, e)
            for (int32_t i = 0; i < width; i++) {
                a += x0[i] * w[i];
                b += x1[i] * w[i];
                c += x2[i] * w[i];
                e += x3[i] * w[i];
            }
            y[r * y_stride + o] = a;
            y[(r + 1) * y_stride + o] = b;
            y[(r + 2) * y_stride + o] = c;
            y[(r + 3) * y_stride + o] = e;
        }
        for (; r < rows; r++) {
            const float *x0 = x + r * x_stride;
            float a = 0.0f;
#pragma omp simd reduction(+ : a)
            for (int32_t i = 0; i < width; i++) {
                a += x0[i] * w[i];
            }
            y[r * y_stride + o] = a;
        }
    }
}

static void
add(float *restrict y, const float *restrict x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        y[i] += x[i];
    }
}

static void
add_scaled(float *y, const float *x, const float *z, float scale, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        y[i] = x[i] + scale * z[i];
    }
}

static void
add_bias(float *restrict y, const float *restrict x, const float *restrict b, int32_t n, int32_t d)
{
    for (int32_t r = 0; r < n; r++, y += d) {
        if (x == NULL && b == NULL) {
            memset(y, 0, (size_t)d * sizeof *y);
        }
        else if (x == NULL) {
            memcpy(y, b, (size_t)d * sizeof *y);
        }
        else if (b == NULL) {
            memcpy(y, x + (int64_t)r * d, (size_t)d * sizeof *y);
        }
        else {
            const float *row = x + (int64_t)r * d;
            for (int32_t i = 0; i < d; i++) {
                y[i] = row[i] + b[i];
            }
        }
    }
}

const sp_kernels SP_TABLE = {
    .rms_norm_forward = rms_norm_forward,
    .rms_norm_backward = rms_norm_backward,
    .layer_norm_forward = layer_norm_forward,
    .layer_norm_backward = layer_norm_backward,
    .rotate = rotate,
    .gated_forward = gated_forward,
    .gated_backward = gated_backward,
    .activation_forward = activation_forward,
    .activation_backward = activation_backward,
    .softmax_forward = softmax_forward,
    .softmax_again = softmax_again,
    .softmax_backward = softmax_backward,
    .log_sum_exp = log_sum_exp,
    .scaled_probabilities = scaled_probabilities,
    .soft_cap_forward = soft_cap_forward,
    .soft_cap_backward = soft_cap_backward,
    .clamp_forward = clamp_forward,
    .clamp_backward = clamp_backward,
    .add_relative = add_relative,
    .few_rows = few_rows,
    .add = add,
    .add_scaled = add_scaled,
    .add_bias = add_bias,
};
