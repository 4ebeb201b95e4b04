#include "dequant.h"

#include <string.h>

/* Numbers of a super-block of the K types. */
enum { QK_K = 256 };

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "stored weights are little-endian; this host is not"
#endif

static inline uint16_t
load16(const uint8_t *src)
{
    uint16_t value;
    memcpy(&value, src, sizeof(value)); /* src may be unaligned */
    return value;
}

static inline float
from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* IEEE half precision, by masks instead of branches so that loops over it become vectors. Signalling
 * NaNs stay what they are. */
static inline float
half_to_float(uint16_t half)
{
    const uint32_t magnitude = half & 0x7fffu;
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t rebias = 112u << 23; /* exponent bias 127 instead of 15 */
    const uint32_t is_special = -(uint32_t)(magnitude >= 0x7c00u); /* infinity, NaN */
    const uint32_t is_small = -(uint32_t)(magnitude < 0x0400u);    /* zero, denormal */
    const uint32_t bits = (magnitude << 13) + rebias + (rebias & is_special);
    const float small = (float)(int32_t)magnitude * 0x1p-24f;
    uint32_t small_bits;
    memcpy(&small_bits, &small, sizeof(small_bits));
    return from_bits((small_bits & is_small) | (bits & ~is_small) | sign);
}

static inline float
load_half(const uint8_t *src)
{
    return half_to_float(load16(src));
}

static void
f16(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t i = 0; i < num_blocks; i++) {
        dst[i] = load_half(src + 2 * i);
    }
}

static void
bf16(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t i = 0; i < num_blocks; i++) {
        dst[i] = from_bits((uint32_t)load16(src + 2 * i) << 16);
    }
}

/* ---- blocks of 32 ----------------------------------------------------------------------- */

/* d f16 | 16 bytes: number i in the low, number i + 16 in the high half of byte i */
static void
q4_0(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 18, dst += 32) {
        const float d = load_half(src);
        const uint8_t *q = src + 2;
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float)((q[i] & 15) - 8);
            dst[i + 16] = d * (float)((q[i] >> 4) - 8);
        }
    }
}

/* d f16 | m f16 | 16 bytes as in Q4_0 */
static void
q4_1(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 20, dst += 32) {
        const float d = load_half(src), m = load_half(src + 2);
        const uint8_t *q = src + 4;
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float)(q[i] & 15) + m;
            dst[i + 16] = d * (float)(q[i] >> 4) + m;
        }
    }
}

/* The fifth bits of 32 numbers, bit i for number i, as the addends 0 or 16. */
static inline void
fifth_bits(const uint8_t *src, int *high)
{
    const uint32_t bits = load16(src) | (uint32_t)load16(src + 2) << 16;
    for (int i = 0; i < 32; i++) {
        high[i] = (int)(bits >> i & 1) << 4;
    }
}

/* d f16 | fifth bits | 16 bytes as in Q4_0 */
static void
q5_0(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 22, dst += 32) {
        const float d = load_half(src);
        const uint8_t *q = src + 6;
        int high[32];
        fifth_bits(src + 2, high);
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float)((q[i] & 15) + high[i] - 16);
            dst[i + 16] = d * (float)((q[i] >> 4) + high[i + 16] - 16);
        }
    }
}

/* d f16 | m f16 | fifth bits | 16 bytes as in Q4_0 */
static void
q5_1(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 24, dst += 32) {
        const float d = load_half(src), m = load_half(src + 2);
        const uint8_t *q = src + 8;
        int high[32];
        fifth_bits(src + 4, high);
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float)((q[i] & 15) + high[i]) + m;
            dst[i + 16] = d * (float)((q[i] >> 4) + high[i + 16]) + m;
        }
    }
}

/* d f16 | 32 signed bytes */
static void
q8_0(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 34, dst += 32) {
        const float d = load_half(src);
        for (int i = 0; i < 32; i++) {
            dst[i] = d * (float)(int8_t)src[2 + i];
        }
    }
}

/* The 16 levels of the IQ4 types. */
static const int8_t iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};

/* d f16 | 16 bytes as in Q4_0, each half an index into the levels */
static void
iq4_nl(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 18, dst += 32) {
        const float d = load_half(src);
        const uint8_t *q = src + 2;
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float)iq4_levels[q[i] & 15];
            dst[i + 16] = d * (float)iq4_levels[q[i] >> 4];
        }
    }
}

/* ---- super-blocks of 256 ---------------------------------------------------------------- */

/* 16 bytes: scale in the low, minimum in the high half | 64 bytes of 2-bit numbers | d f16 |
 * dmin f16. A run of 32 bytes holds four runs of 32 numbers, one for each pair of bits. */
static void
q2_k(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 84) {
        const float d = load_half(src + 80), dmin = load_half(src + 82);
        for (int run = 0; run < QK_K / 16; run++, dst += 16) {
            const float scale = d * (float)(src[run] & 15), least = dmin * (float)(src[run] >> 4);
            const uint8_t *q = src + 16 + run / 8 * 32 + run % 2 * 16;
            const int shift = run % 8 / 2 * 2;
            for (int i = 0; i < 16; i++) {
                dst[i] = scale * (float)(q[i] >> shift & 3) - least;
            }
        }
    }
}

/* 32 bytes of third bits | 64 bytes of 2-bit numbers as in Q2_K | 12 bytes: 16 scales of 6 bits |
 * d f16. A number whose third bit is missing is 4 less. */
static void
q3_k(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 110) {
        const float d = load_half(src + 108);
        const uint8_t *scales = src + 96;
        for (int run = 0; run < QK_K / 16; run++, dst += 16) {
            const int low = run < 8 ? scales[run] & 15 : scales[run - 8] >> 4;
            const int high = scales[8 + run % 4] >> (run / 4 * 2) & 3;
            const float scale = d * (float)((low | high << 4) - 32);
            const uint8_t *third = src + run % 2 * 16;
            const uint8_t *q = src + 32 + run / 8 * 32 + run % 2 * 16;
            const int shift = run % 8 / 2 * 2, bit = run / 2;
            for (int i = 0; i < 16; i++) {
                const int value = (q[i] >> shift & 3) - (~third[i] >> bit & 1) * 4;
                dst[i] = scale * (float)value;
            }
        }
    }
}

/* The 6-bit scales and minima of Q4_K and Q5_K: eight of each in 12 bytes. The first four stand in
 * the low bits of bytes 0..3 and 4..7; the others have their low half in bytes 8..11 and their two
 * high bits above the first four. */
static inline void
scale_and_min(const uint8_t *packed, int run, float *scale, float *least)
{
    int s, m;
    if (run < 4) {
        s = packed[run] & 63;
        m = packed[run + 4] & 63;
    }
    else {
        s = (packed[run + 4] & 15) | (packed[run - 4] >> 6) << 4;
        m = packed[run + 4] >> 4 | (packed[run] >> 6) << 4;
    }
    *scale *= (float)s;
    *least *= (float)m;
}

/* d f16 | dmin f16 | 12 bytes of scales and minima | 128 bytes: 32 hold 32 numbers in their low and
 * the next 32 in their high halves */
static void
q4_k(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 144) {
        for (int run = 0; run < QK_K / 32; run++, dst += 32) {
            float scale = load_half(src), least = load_half(src + 2);
            scale_and_min(src + 4, run, &scale, &least);
            const uint8_t *q = src + 16 + run / 2 * 32;
            const int shift = run % 2 * 4;
            for (int i = 0; i < 32; i++) {
                dst[i] = scale * (float)(q[i] >> shift & 15) - least;
            }
        }
    }
}

/* As Q4_K, with 32 bytes of fifth bits (bit r for run r) before the 128 */
static void
q5_k(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 176) {
        const uint8_t *fifth = src + 16;
        for (int run = 0; run < QK_K / 32; run++, dst += 32) {
            float scale = load_half(src), least = load_half(src + 2);
            scale_and_min(src + 4, run, &scale, &least);
            const uint8_t *q = src + 48 + run / 2 * 32;
            const int shift = run % 2 * 4;
            for (int i = 0; i < 32; i++) {
                const int value = (q[i] >> shift & 15) | (fifth[i] >> run & 1) << 4;
                dst[i] = scale * (float)value - least;
            }
        }
    }
}

/* 128 bytes of low halves | 64 bytes of 2-bit high parts | 16 signed scales | d f16. A half of the
 * block takes 64 and 32 of these bytes: numbers 0..63 in the low halves, 64..127 in the high ones. */
static void
q6_k(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 210) {
        const float d = load_half(src + 208);
        for (int run = 0; run < QK_K / 16; run++, dst += 16) {
            const float scale = d * (float)(int8_t)src[192 + run];
            const int half = run / 8, part = run % 8 / 2; /* part: 32 numbers of the half */
            const uint8_t *low = src + half * 64 + part % 2 * 32 + run % 2 * 16;
            const uint8_t *high = src + 128 + half * 32 + run % 2 * 16;
            const int low_shift = part / 2 * 4, high_shift = part * 2;
            for (int i = 0; i < 16; i++) {
                const int value = (low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4;
                dst[i] = scale * (float)(value - 32);
            }
        }
    }
}

/* d f16 | 16 bits: the two high bits of eight scales | 4 bytes: their low halves | 128 bytes: runs
 * of 16 as in IQ4_NL */
static void
iq4_xs(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 136) {
        const float d = load_half(src);
        const int high = load16(src + 2);
        for (int run = 0; run < QK_K / 32; run++, dst += 32) {
            const int low = src[4 + run / 2] >> (run % 2 * 4) & 15;
            const float scale = d * (float)((low | (high >> (2 * run) & 3) << 4) - 32);
            const uint8_t *q = src + 8 + run * 16;
            for (int i = 0; i < 16; i++) {
                dst[i] = scale * (float)iq4_levels[q[i] & 15];
                dst[i + 16] = scale * (float)iq4_levels[q[i] >> 4];
            }
        }
    }
}

/* ---- table ------------------------------------------------------------------------------ */

static const sp_dequant_type types[] = {
    {"F16", 1, 2, f16},         {"BF16", 1, 2, bf16},          {"Q4_0", 32, 18, q4_0},
    {"Q4_1", 32, 20, q4_1},     {"Q5_0", 32, 22, q5_0},        {"Q5_1", 32, 24, q5_1},
    {"Q8_0", 32, 34, q8_0},     {"Q2_K", QK_K, 84, q2_k},      {"Q3_K", QK_K, 110, q3_k},
    {"Q4_K", QK_K, 144, q4_k},  {"Q5_K", QK_K, 176, q5_k},     {"Q6_K", QK_K, 210, q6_k},
    {"IQ4_NL", 32, 18, iq4_nl}, {"IQ4_XS", QK_K, 136, iq4_xs},
};

const sp_dequant_type *
sp_dequant_find(const char *name)
{
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        if (strcmp(types[i].name, name) == 0) {
            return &types[i];
        }
    }
    return NULL;
}
