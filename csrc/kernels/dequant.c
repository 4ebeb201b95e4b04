#include "dequant.h"

#include <string.h>

/* ---- numbers ---- */

static inline float
from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* IEEE half precision. The exponent is moved by a product with 2^112, which is exact and makes
 * normal numbers of denormal ones. */
static inline float
half(const uint8_t *src)
{
    uint32_t h = (uint32_t)src[0] | (uint32_t)src[1] << 8;
    uint32_t rest = (h & 0x7fffu) << 13, sign = (h & 0x8000u) << 16;
    float value = from_bits(rest) * 5192296858534827628530496329220096.0f;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (rest >= 0x0f800000u) { /* infinity and NaN keep their payload */
        bits = rest | 0x7f800000u;
    }
    return from_bits(sign | bits);
}

static void
f16(const uint8_t *src, float *dst, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        dst[i] = half(src + 2 * i);
    }
}

static void
bf16(const uint8_t *src, float *dst, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        dst[i] = from_bits((uint32_t)src[2 * i] << 16 | (uint32_t)src[2 * i + 1] << 24);
    }
}

/* ---- blocks of 32 ---- */

/* d, 16 bytes of two numbers each: value = d (q - 8) */
static void
q4_0(const uint8_t *src, float *dst, size_t n)
{
    for (; n > 0; n--, src += 18, dst += 32) {
        float d = half(src);
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float)((src[2 + i] & 15) - 8);
            dst[i + 16] = d * (float)((src[2 + i] >> 4) - 8);
        }
    }
}

/* d, m, 16 bytes: value = d q + m */
static void
q4_1(const uint8_t *src, float *dst, size_t n)
{
    for (; n > 0; n--, src += 20, dst += 32) {
        float d = half(src), m = half(src + 2);
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float)(src[4 + i] & 15) + m;
            dst[i + 16] = d * (float)(src[4 + i] >> 4) + m;
        }
    }
}

static inline uint32_t
word(const uint8_t *src)
{
    return (uint32_t)src[0] | (uint32_t)src[1] << 8 | (uint32_t)src[2] << 16
           | (uint32_t)src[3] << 24;
}

/* d, 32 fifth bits, 16 bytes: value = d (q - 16) */
static void
q5_0(const uint8_t *src, float *dst, size_t n)
{
    for (; n > 0; n--, src += 22, dst += 32) {
        float d = half(src);
        uint32_t high = word(src + 2);
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float)((int)((src[6 + i] & 15) | (high >> i & 1) << 4) - 16);
            dst[i + 16] = d * (float)((int)((src[6 + i] >> 4) | (high >> (i + 16) & 1) << 4) - 16);
        }
    }
}

/* d, m, 32 fifth bits, 16 bytes: value = d q + m */
static void
q5_1(const uint8_t *src, float *dst, size_t n)
{
    for (; n > 0; n--, src += 24, dst += 32) {
        float d = half(src), m = half(src + 2);
        uint32_t high = word(src + 4);
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float)((src[8 + i] & 15) | (high >> i & 1) << 4) + m;
            dst[i + 16] = d * (float)((src[8 + i] >> 4) | (high >> (i + 16) & 1) << 4) + m;
        }
    }
}

/* d, 32 signed bytes: value = d q */
static void
q8_0(const uint8_t *src, float *dst, size_t n)
{
    for (; n > 0; n--, src += 34, dst += 32) {
        float d = half(src);
        for (int i = 0; i < 32; i++) {
            dst[i] = (float)(int8_t)src[2 + i] * d;
        }
    }
}

/* ---- blocks of 256 with scales of their own for 16 or 32 numbers ---- */

/* 16 bytes of scale and minimum, 64 bytes of four numbers, d, dmin */
static void
q2_k(const uint8_t *src, float *dst, size_t n)
{
    for (; n > 0; n--, src += 84, dst += 256) {
        const uint8_t *scales = src, *q = src + 16;
        float d = half(src + 80), dmin = half(src + 82);
        for (int i = 0; i < 256; i++) {
            int group = i / 16, byte = i / 128 * 32 + i % 32, shift = i % 128 / 32 * 2;
            float scale = d * (float)(scales[group] & 15);
            float least = dmin * (float)(scales[group] >> 4);
            dst[i] = scale * (float)(q[byte] >> shift & 3) - least;
        }
    }
}

/* 32 bytes of third bits, 64 bytes of four numbers, 12 bytes of 16 six-bit scales, d */
static void
q3_k(const uint8_t *src, float *dst, size_t n)
{
    for (; n > 0; n--, src += 110, dst += 256) {
        const uint8_t *high = src, *q = src + 32, *packed = src + 96;
        float d = half(src + 108), scales[16];
        for (int g = 0; g < 16; g++) {
            int low = g < 8 ? packed[g] & 15 : packed[g - 8] >> 4;
            int top = packed[8 + g % 4] >> (g / 4 * 2) & 3;
            scales[g] = d * (float)((low | top << 4) - 32);
        }
        for (int i = 0; i < 256; i++) {
            int byte = i / 128 * 32 + i % 32, shift = i % 128 / 32 * 2;
            int value = (q[byte] >> shift & 3) - ((high[i % 32] >> (i / 32) & 1) ? 0 : 4);
            dst[i] = scales[i / 16] * (float)value;
        }
    }
}

/* Eight six-bit scales and eight six-bit minima in 12 bytes. */
static inline void
k_scales(const uint8_t *packed, int g, int *scale, int *least)
{
    if (g < 4) {
        *scale = packed[g] & 63;
        *least = packed[g + 4] & 63;
    }
    else {
        *scale = (packed[g + 4] & 15) | (packed[g - 4] >> 6) << 4;
        *least = (packed[g + 4] >> 4) | (packed[g] >> 6) << 4;
    }
}

/* d, dmin, 12 bytes of scales, 128 bytes of two numbers */
static void
q4_k(const uint8_t *src, float *dst, size_t n)
{
    for (; n > 0; n--, src += 144, dst += 256) {
        float d = half(src), dmin = half(src + 2);
        const uint8_t *q = src + 16;
        for (int g = 0; g < 8; g++) {
            int scale, least, shift = g % 2 * 4;
            k_scales(src + 4, g, &scale, &least);
            float factor = d * (float)scale, offset = dmin * (float)least;
            for (int i = 0; i < 32; i++) {
                dst[g * 32 + i] = factor * (float)(q[g / 2 * 32 + i] >> shift & 15) - offset;
            }
        }
    }
}

/* d, dmin, 12 bytes of scales, 32 bytes of fifth bits, 128 bytes of two numbers */
static void
q5_k(const uint8_t *src, float *dst, size_t n)
{
    for (; n > 0; n--, src += 176, dst += 256) {
        float d = half(src), dmin = half(src + 2);
        const uint8_t *high = src + 16, *q = src + 48;
        for (int g = 0; g < 8; g++) {
            int scale, least, shift = g % 2 * 4;
            k_scales(src + 4, g, &scale, &least);
            float factor = d * (float)scale, offset = dmin * (float)least;
            for (int i = 0; i < 32; i++) {
                int value = (q[g / 2 * 32 + i] >> shift & 15) | (high[i] >> g & 1) << 4;
                dst[g * 32 + i] = factor * (float)value - offset;
            }
        }
    }
}

/* 128 bytes of low four bits, 64 bytes of high two bits, 16 signed scales, d */
static void
q6_k(const uint8_t *src, float *dst, size_t n)
{
    for (; n > 0; n--, src += 210, dst += 256) {
        const uint8_t *low = src, *high = src + 128;
        float d = half(src + 208);
        for (int i = 0; i < 256; i++) {
            int part = i / 128, place = i % 128;
            int four = low[part * 64 + place % 64] >> (place / 64 * 4) & 15;
            int two = high[part * 32 + place % 32] >> (place / 32 * 2) & 3;
            float scale = d * (float)(int8_t)src[192 + i / 16];
            dst[i] = scale * (float)((four | two << 4) - 32);
        }
    }
}

static const sp_dequant_type TYPES[] = {
    {"F16", 1, 2, f16},       {"BF16", 1, 2, bf16},     {"Q4_0", 32, 18, q4_0},
    {"Q4_1", 32, 20, q4_1},   {"Q5_0", 32, 22, q5_0},   {"Q5_1", 32, 24, q5_1},
    {"Q8_0", 32, 34, q8_0},   {"Q2_K", 256, 84, q2_k},  {"Q3_K", 256, 110, q3_k},
    {"Q4_K", 256, 144, q4_k}, {"Q5_K", 256, 176, q5_k}, {"Q6_K", 256, 210, q6_k},
};

const sp_dequant_type *
sp_dequant_find(const char *name)
{
    for (size_t i = 0; i < sizeof TYPES / sizeof TYPES[0]; i++) {
        if (strcmp(name, TYPES[i].name) == 0) {
            return &TYPES[i];
        }
    }
    return NULL;
}
