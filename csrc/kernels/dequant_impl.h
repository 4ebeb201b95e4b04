/* The bodies of the conversions, compiled once per kind of CPU. The including file defines
 * SP_CONVERSIONS (the name of its table) and has set the compiler's target. Plain loops, of which
 * the compiler makes vectors, upon a few steps in intrinsics; products and sums are never fused, so that every path gives the same
 * bits.
 */
#include <string.h>

#include "dequant.h"
#include "dequant_lanes.h"

/* Numbers of a super-block of the K types. */
enum { QK_K = 256 };

static void
f32(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    memcpy(dst, src, num_blocks * sizeof *dst); /* src may be unaligned */
}

static void
f16(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    size_t i = 0;
    for (; i + 16 <= num_blocks; i += 16) {
        halves(dst + i, src + 2 * i);
    }
    for (; i < num_blocks; i++) {
        dst[i] = load_half(src + 2 * i);
    }
}

static void
bf16(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t i = 0; i < num_blocks; i++) {
        const uint32_t bits = (uint32_t)load16(src + 2 * i) << 16;
        memcpy(dst + i, &bits, sizeof bits);
    }
}

/* ---- blocks of 32 ----------------------------------------------------------------------- */

/* d f16 | 16 bytes: number i in the low, number i + 16 in the high half of byte i */
static void
q4_0(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 18, dst += 32) {
        const float d = load_half(src);
        int8_t low[16], high[16];
        nibbles(low, high, src + 2);
        for (int i = 0; i < 16; i++) {
            low[i] = (int8_t)(low[i] - 8);
            high[i] = (int8_t)(high[i] - 8);
        }
        scaled(dst, low, d);
        scaled(dst + 16, high, d);
    }
}

/* d f16 | m f16 | 16 bytes as in Q4_0 */
static void
q4_1(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 20, dst += 32) {
        const float d = load_half(src), m = load_half(src + 2);
        int8_t low[16], high[16];
        nibbles(low, high, src + 4);
        scaled_and_shifted(dst, low, d, m);
        scaled_and_shifted(dst + 16, high, d, m);
    }
}

/* 32 numbers of 5 bits: fifth bits, bit i for number i | 16 bytes as in Q4_0. */
static inline void
five_bits(int8_t *low, int8_t *high, const uint8_t *src)
{
    const uint32_t bits = load16(src) | (uint32_t)load16(src + 2) << 16;
    int8_t low_fifth[16], high_fifth[16];
    nibbles(low, high, src + 4);
    sixteens(low_fifth, bits);
    sixteens(high_fifth, bits >> 16);
    for (int i = 0; i < 16; i++) {
        low[i] = (int8_t)(low[i] | low_fifth[i]);
        high[i] = (int8_t)(high[i] | high_fifth[i]);
    }
}

/* d f16 | numbers of 5 bits, 16 more than they mean */
static void
q5_0(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 22, dst += 32) {
        const float d = load_half(src);
        int8_t low[16], high[16];
        five_bits(low, high, src + 2);
        for (int i = 0; i < 16; i++) {
            low[i] = (int8_t)(low[i] - 16);
            high[i] = (int8_t)(high[i] - 16);
        }
        scaled(dst, low, d);
        scaled(dst + 16, high, d);
    }
}

/* d f16 | m f16 | numbers of 5 bits */
static void
q5_1(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 24, dst += 32) {
        const float d = load_half(src), m = load_half(src + 2);
        int8_t low[16], high[16];
        five_bits(low, high, src + 4);
        scaled_and_shifted(dst, low, d, m);
        scaled_and_shifted(dst + 16, high, d, m);
    }
}

/* d f16 | 32 signed bytes */
static void
q8_0(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 34, dst += 32) {
        const float d = load_half(src);
        scaled(dst, (const int8_t *)src + 2, d);
        scaled(dst + 16, (const int8_t *)src + 18, d);
    }
}

/* The 16 levels of the IQ4 types. */
static const int8_t iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};

/* 32 numbers of 16 bytes as in Q4_0, each half an index into the levels. */
static inline void
levels_of(float *dst, const uint8_t *q, float scale)
{
    int8_t low[16], high[16];
    nibbles(low, high, q);
    look_up(low, iq4_levels, (const uint8_t *)low);
    look_up(high, iq4_levels, (const uint8_t *)high);
    scaled(dst, low, scale);
    scaled(dst + 16, high, scale);
}

/* d f16 | 16 bytes of indices */
static void
iq4_nl(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 18, dst += 32) {
        levels_of(dst, src + 2, load_half(src));
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
            int8_t v[16];
            fields(v, q, shift, 3);
            scaled_and_shifted(dst, v, scale, -least);
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
            int8_t v[16], add[16];
            fields(v, q, shift, 3);
            fields(add, third, bit, 1);
            for (int i = 0; i < 16; i++) {
                v[i] = (int8_t)(v[i] + 4 * add[i] - 4);
            }
            scaled(dst, v, scale);
        }
    }
}

/* The 6-bit scales and minima of Q4_K and Q5_K: eight of each in 12 bytes. The first four stand in
 * the low bits of bytes 0..3 and 4..7; the others have their low half in bytes 8..11 and their two
 * high bits above the first four. */
static inline void
scales_and_minima(const uint8_t *packed, uint8_t *scales, uint8_t *minima)
{
    for (int i = 0; i < 4; i++) {
        scales[i] = packed[i] & 63;
        minima[i] = packed[i + 4] & 63;
        scales[i + 4] = (uint8_t)((packed[i + 8] & 15) | (packed[i] >> 6) << 4);
        minima[i + 4] = (uint8_t)(packed[i + 8] >> 4 | (packed[i + 4] >> 6) << 4);
    }
}

/* d f16 | dmin f16 | 12 bytes of scales and minima | 128 bytes: 32 hold 32 numbers in their low and
 * the next 32 in their high halves */
static void
q4_k(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 144) {
        const float d = load_half(src), dmin = load_half(src + 2);
        uint8_t scales[8], minima[8];
        scales_and_minima(src + 4, scales, minima);
        for (int run = 0; run < 8; run += 2, dst += 64) {
            const float s0 = d * (float)scales[run], s1 = d * (float)scales[run + 1];
            const float m0 = dmin * (float)minima[run], m1 = dmin * (float)minima[run + 1];
            for (int i = 0; i < 32; i += 16) {
                int8_t low[16], high[16];
                nibbles(low, high, src + 16 + run * 16 + i);
                scaled_and_shifted(dst + i, low, s0, -m0);
                scaled_and_shifted(dst + 32 + i, high, s1, -m1);
            }
        }
    }
}

/* As Q4_K, with 32 bytes of fifth bits (bit r for run r) before the 128 */
static void
q5_k(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 176) {
        const float d = load_half(src), dmin = load_half(src + 2);
        uint8_t scales[8], minima[8];
        scales_and_minima(src + 4, scales, minima);
        for (int run = 0; run < 8; run += 2, dst += 64) {
            const float s0 = d * (float)scales[run], s1 = d * (float)scales[run + 1];
            const float m0 = dmin * (float)minima[run], m1 = dmin * (float)minima[run + 1];
            for (int i = 0; i < 32; i += 16) {
                const uint8_t *fifth = src + 16 + i;
                int8_t low[16], high[16], low_fifth[16], high_fifth[16];
                nibbles(low, high, src + 48 + run * 16 + i);
                fields(low_fifth, fifth, run, 1);
                fields(high_fifth, fifth, run + 1, 1);
                for (int j = 0; j < 16; j++) {
                    low[j] = (int8_t)(low[j] + 16 * low_fifth[j]);
                    high[j] = (int8_t)(high[j] + 16 * high_fifth[j]);
                }
                scaled_and_shifted(dst + i, low, s0, -m0);
                scaled_and_shifted(dst + 32 + i, high, s1, -m1);
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
            int8_t v[16], above[16];
            fields(v, low, low_shift, 15);
            fields(above, high, high_shift, 3);
            for (int i = 0; i < 16; i++) {
                v[i] = (int8_t)(v[i] + 16 * above[i] - 32);
            }
            scaled(dst, v, scale);
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
            levels_of(dst, src + 8 + run * 16, scale);
        }
    }
}

#define CONVERSION(name, size, bytes, convert) convert,
const sp_conversion SP_CONVERSIONS[] = {SP_EACH_STORED_TYPE(CONVERSION)};
#undef CONVERSION
