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

/* 32 numbers of 16 bytes as in Q4_0, each half an index into 16 levels. */
static inline void
levels_of(float *dst, const int8_t *levels, const uint8_t *q, float scale)
{
    int8_t low[16], high[16];
    nibbles(low, high, q);
    look_up(low, levels, (const uint8_t *)low);
    look_up(high, levels, (const uint8_t *)high);
    scaled(dst, low, scale);
    scaled(dst + 16, high, scale);
}

/* d f16 | 16 bytes of indices */
static void
iq4_nl(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 18, dst += 32) {
        levels_of(dst, iq4_levels, src + 2, load_half(src));
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
            levels_of(dst, iq4_levels, src + 8 + run * 16, scale);
        }
    }
}

/* ---- super-blocks of 256 that look their numbers up in a codebook ---------------------------- */

static inline uint32_t
load32(const uint8_t *src)
{
    return load16(src) | (uint32_t)load16(src + 2) << 16;
}

/* Eight signs (a set bit: negative) of seven: the eighth makes the number of set bits even. */
static inline int
eight_signs(uint32_t seven)
{
    uint32_t parity = seven ^ seven >> 4;
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    return (int)(seven | (parity & 1) << 7);
}

static const int8_t iq2_levels[4] = {8, 25, 43, 0};
static const int8_t iq3_xxs_levels[8] = {4, 12, 20, 28, 36, 44, 52, 62};
static const int8_t iq3_s_levels[8] = {1, 3, 5, 7, 9, 11, 13, 15};

/* Eight numbers of a word of the IQ2 codebooks, and four of one of the IQ3 codebooks. */
static inline void
eight_of(int8_t *v, uint16_t word, int signs)
{
    for (int i = 0; i < 8; i++) {
        const int level = iq2_levels[word >> (2 * i) & 3];
        v[i] = (int8_t)(signs >> i & 1 ? -level : level);
    }
}

static inline void
four_of(int8_t *v, uint16_t word, const int8_t *levels, int signs)
{
    for (int i = 0; i < 4; i++) {
        const int level = levels[word >> (4 * i) & 7];
        v[i] = (int8_t)(signs >> i & 1 ? -level : level);
    }
}

/* d f16 | for each 32 numbers: 4 bytes of indices, 4 bytes: four times 7 signs and a scale */
static void
iq2_xxs(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 66) {
        const float d = load_half(src);
        for (int run = 0; run < QK_K / 32; run++) {
            const uint8_t *q = src + 2 + run * 8;
            const uint32_t signs = load32(q + 4);
            const float scale = d * (0.5f + (float)(signs >> 28)) * 0.25f;
            for (int half = 0; half < 2; half++, dst += 16) {
                int8_t v[16];
                for (int i = 0; i < 2; i++) {
                    const int which = half * 2 + i;
                    eight_of(v + 8 * i, sp_grid_iq2_xxs[q[which]],
                             eight_signs(signs >> (7 * which) & 127));
                }
                scaled(dst, v, scale);
            }
        }
    }
}

/* d f16 | for each 8 numbers 16 bits: index and 7 signs | 8 bytes: 16 scales of 4 bits */
static void
iq2_xs(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 74) {
        const float d = load_half(src);
        for (int run = 0; run < QK_K / 16; run++, dst += 16) {
            const int low = src[66 + run / 2] >> (run % 2 * 4) & 15;
            const float scale = d * (0.5f + (float)low) * 0.25f;
            int8_t v[16];
            for (int i = 0; i < 2; i++) {
                const uint16_t q = load16(src + 2 + run * 4 + i * 2);
                eight_of(v + 8 * i, sp_grid_iq2_xs[q & 511], eight_signs(q >> 9));
            }
            scaled(dst, v, scale);
        }
    }
}

/* d f16 | 32 bytes of indices | 32 bytes of signs | 8 bytes: two high bits of each index | 8 bytes:
 * 16 scales of 4 bits */
static void
iq2_s(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 82) {
        const float d = load_half(src);
        for (int run = 0; run < QK_K / 16; run++, dst += 16) {
            const int low = src[74 + run / 2] >> (run % 2 * 4) & 15;
            const float scale = d * (0.5f + (float)low) * 0.25f;
            int8_t v[16];
            for (int i = 0; i < 2; i++) {
                const int group = run * 2 + i;
                const int high = src[66 + group / 4] >> (group % 4 * 2) & 3;
                eight_of(v + 8 * i, sp_grid_iq2_s[src[2 + group] | high << 8], src[34 + group]);
            }
            scaled(dst, v, scale);
        }
    }
}

/* d f16 | 64 bytes of indices | for each 32 numbers 4 bytes: four times 7 signs and a scale */
static void
iq3_xxs(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 98) {
        const float d = load_half(src);
        for (int run = 0; run < QK_K / 16; run++, dst += 16) {
            const uint32_t packed = load32(src + 66 + run / 2 * 4);
            const float scale = d * (0.5f + (float)(packed >> 28)) * 0.5f;
            int8_t v[16];
            for (int i = 0; i < 2; i++) {
                const int signs = eight_signs(packed >> (7 * (run % 2 * 2 + i)) & 127);
                const uint8_t *q = src + 2 + run * 4 + i * 2;
                four_of(v + 8 * i, sp_grid_iq3_xxs[q[0]], iq3_xxs_levels, signs);
                four_of(v + 8 * i + 4, sp_grid_iq3_xxs[q[1]], iq3_xxs_levels, signs >> 4);
            }
            scaled(dst, v, scale);
        }
    }
}

/* d f16 | 64 bytes of indices | 8 bytes: their high bits | 32 bytes of signs | 4 bytes: 8 scales of
 * 4 bits */
static void
iq3_s(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 110) {
        const float d = load_half(src);
        for (int run = 0; run < QK_K / 16; run++, dst += 16) {
            const int low = src[106 + run / 4] >> (run / 2 % 2 * 4) & 15;
            const float scale = d * (float)(1 + 2 * low);
            int8_t v[16];
            for (int i = 0; i < 4; i++) {
                const int group = run * 4 + i;
                const int high = src[66 + group / 8] >> (group % 8) & 1;
                four_of(v + 4 * i, sp_grid_iq3_s[src[2 + group] | high << 8], iq3_s_levels,
                        src[74 + group / 2] >> (group % 2 * 4));
            }
            scaled(dst, v, scale);
        }
    }
}

/* Eight numbers of a word of the IQ1 codebook, -1, 0 or 1, moved by an eighth. */
static inline void
moved(float *dst, uint16_t word, float scale, float by)
{
    for (int i = 0; i < 8; i++) {
        dst[i] = scale * ((float)((word >> (2 * i) & 3) - 1) + by);
    }
}

/* d f16 | 32 bytes of indices | for each 32 numbers 16 bits: four times 3 high bits, a scale of 3
 * bits, the direction of the move */
static void
iq1_s(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 50) {
        const float d = load_half(src);
        for (int group = 0; group < QK_K / 8; group++, dst += 8) {
            const int high = load16(src + 34 + group / 4 * 2);
            const float scale = d * (float)(2 * (high >> 12 & 7) + 1);
            const int index = src[2 + group] | (high >> (group % 4 * 3) & 7) << 8;
            moved(dst, sp_grid_iq1[index], scale, high & 0x8000 ? -0.125f : 0.125f);
        }
    }
}

/* 32 bytes of indices | for each 8 numbers 4 bits: 3 high bits, the direction of the move | four
 * times 16 bits: four scales of 3 bits, and a quarter of d f16 */
static void
iq1_m(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 56) {
        const uint8_t *scales = src + 48;
        uint8_t bytes[2] = {0, 0};
        bytes[0] = (uint8_t)((scales[1] >> 4) | (scales[3] & 0xf0));
        bytes[1] = (uint8_t)((scales[5] >> 4) | (scales[7] & 0xf0));
        const float d = load_half(bytes);
        for (int group = 0; group < QK_K / 8; group++, dst += 8) {
            const int run = group / 2;
            const int s = load16(scales + run / 4 * 2) >> (run % 4 * 3) & 7;
            const float scale = d * (float)(2 * s + 1);
            const int high = src[32 + group / 2] >> (group % 2 * 4) & 15;
            moved(dst, sp_grid_iq1[src[group] | (high & 7) << 8], scale,
                  high & 8 ? -0.125f : 0.125f);
        }
    }
}

/* ---- three levels, and blocks of four-bit floats ------------------------------------------- */

/* 48 bytes of five ternary digits, 4 of four | d f16. Digit p of a byte q is the integer part of
 * 3 * (q * 3^p mod 256) / 256. */
static void
tq1_0(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    static const struct {
        int first, bytes, digits;
    } runs[] = {{0, 32, 5}, {32, 16, 5}, {48, 4, 4}};
    for (size_t b = 0; b < num_blocks; b++, src += 54) {
        const float d = load_half(src + 52);
        for (size_t run = 0; run < sizeof runs / sizeof runs[0]; run++) {
            unsigned power = 1;
            for (int digit = 0; digit < runs[run].digits; digit++, power *= 3) {
                for (int i = 0; i < runs[run].bytes; i++) {
                    const unsigned q = src[runs[run].first + i] * power & 255;
                    *dst++ = d * (float)((int)(q * 3 >> 8) - 1);
                }
            }
        }
    }
}

/* 64 bytes of 2-bit numbers as in Q2_K | d f16 */
static void
tq2_0(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 66) {
        const float d = load_half(src + 64);
        for (int run = 0; run < QK_K / 16; run++, dst += 16) {
            int8_t v[16];
            fields(v, src + run / 8 * 32 + run % 2 * 16, run % 8 / 2 * 2, 3);
            for (int i = 0; i < 16; i++) {
                v[i] = (int8_t)(v[i] - 1);
            }
            scaled(dst, v, d);
        }
    }
}

/* Twice the sixteen numbers of E2M1. */
static const int8_t fp4_levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* Exponent of d/2 | 16 bytes as in Q4_0 */
static void
mxfp4(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 17, dst += 32) {
        const uint32_t bits = src[0] < 2 ? 0x00200000u << src[0] : (uint32_t)(src[0] - 1) << 23;
        float d;
        memcpy(&d, &bits, sizeof d);
        levels_of(dst, fp4_levels, src + 1, d);
    }
}

/* Four scales, unsigned E4M3 | for each 16 numbers 8 bytes as in Q4_0 */
static void
nvfp4(const uint8_t *restrict src, float *restrict dst, size_t num_blocks)
{
    for (size_t b = 0; b < num_blocks; b++, src += 36) {
        for (int run = 0; run < 4; run++, dst += 16) {
            const int s = src[run], exponent = s >> 3 & 15;
            const float mantissa = (float)(s & 7);
            const float power = (float)(1 << exponent) * 0x1p-7f;
            const float value =
                exponent == 0 ? mantissa * 0x1p-9f : (1.0f + mantissa / 8.0f) * power;
            const float scale = s == 0x7f ? 0.0f : value * 0.5f;
            int8_t v[16];
            for (int i = 0; i < 8; i++) {
                const int q = src[4 + run * 8 + i];
                v[i] = fp4_levels[q & 15];
                v[i + 8] = fp4_levels[q >> 4];
            }
            scaled(dst, v, scale);
        }
    }
}

#define CONVERSION(name, size, bytes, convert) convert,
const sp_conversion SP_CONVERSIONS[] = {SP_EACH_STORED_TYPE(CONVERSION)};
#undef CONVERSION
