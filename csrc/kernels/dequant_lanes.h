/* What the conversions of stored numbers are made of, sixteen numbers at a time: in intrinsics where
 * the including file has set SP_LANES to the floats of a vector register, otherwise as loops. Each
 * form gives the same bits: one product, then one sum, never fused. */

static inline uint16_t
load16(const uint8_t *src)
{
    uint16_t value;
    memcpy(&value, src, sizeof(value)); /* src may be unaligned */
    return value;
}

#if SP_LANES >= 8

static inline float
load_half(const uint8_t *src)
{
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(load16(src))));
}

/* dst [16] of 16 half-precision numbers. */
static inline void
halves(float *dst, const uint8_t *src)
{
    for (int i = 0; i < 16; i += 8) {
        __m128i half = _mm_loadu_si128((const __m128i *)(const void *)(src + 2 * i));
        _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(half));
    }
}

/* v[i] = q[i] >> shift & mask of 16 bytes; mask has no bit that comes from a neighbour. */
static inline void
fields(int8_t *v, const uint8_t *q, int shift, int mask)
{
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)q);
    bytes = _mm_srl_epi16(bytes, _mm_cvtsi32_si128(shift));
    bytes = _mm_and_si128(bytes, _mm_set1_epi8((char)mask));
    _mm_storeu_si128((__m128i *)(void *)v, bytes);
}

/* 16 bits, the lowest first, as bytes of 0 or 16. */
static inline void
sixteens(int8_t *v, uint32_t bits)
{
    const __m128i which = _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    const __m128i select = _mm_set1_epi64x((long long)0x8040201008040201);
    __m128i spread = _mm_shuffle_epi8(_mm_cvtsi32_si128((int)bits), which);
    __m128i is_set = _mm_cmpeq_epi8(_mm_and_si128(spread, select), select);
    _mm_storeu_si128((__m128i *)(void *)v, _mm_and_si128(is_set, _mm_set1_epi8(16)));
}

/* v[i] = levels[q[i]] for indices below 16. */
static inline void
look_up(int8_t *v, const int8_t *levels, const uint8_t *q)
{
    __m128i table = _mm_loadu_si128((const __m128i *)(const void *)levels);
    __m128i index = _mm_loadu_si128((const __m128i *)(const void *)q);
    _mm_storeu_si128((__m128i *)(void *)v, _mm_shuffle_epi8(table, index));
}

#else

static inline float
from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* IEEE half precision, by masks instead of branches so that loops over it become vectors. */
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

static inline void
halves(float *dst, const uint8_t *src)
{
    for (int i = 0; i < 16; i++) {
        dst[i] = load_half(src + 2 * i);
    }
}

static inline void
fields(int8_t *v, const uint8_t *q, int shift, int mask)
{
    uint64_t words[2];
    memcpy(words, q, sizeof words);
    for (int i = 0; i < 2; i++) {
        words[i] = words[i] >> shift & 0x0101010101010101u * (uint64_t)mask;
    }
    memcpy(v, words, sizeof words);
}

static inline void
sixteens(int8_t *v, uint32_t bits)
{
    for (int i = 0; i < 16; i++) {
        v[i] = (int8_t)((bits >> i & 1) << 4);
    }
}

static inline void
look_up(int8_t *v, const int8_t *levels, const uint8_t *q)
{
    for (int i = 0; i < 16; i++) {
        v[i] = levels[q[i]];
    }
}

#endif

#if SP_LANES == 16

static inline __m512
to_floats(const int8_t *v)
{
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)v);
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}

/* dst[i] = scale * v[i] */
static inline void
scaled(float *dst, const int8_t *v, float scale)
{
    _mm512_storeu_ps(dst, _mm512_mul_ps(_mm512_set1_ps(scale), to_floats(v)));
}

/* dst[i] = scale * v[i] + shift */
static inline void
scaled_and_shifted(float *dst, const int8_t *v, float scale, float shift)
{
    __m512 product = _mm512_mul_ps(_mm512_set1_ps(scale), to_floats(v));
    _mm512_storeu_ps(dst, _mm512_add_ps(product, _mm512_set1_ps(shift)));
}

#elif SP_LANES == 8

static inline __m256
to_floats(const int8_t *v)
{
    __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)v);
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}

static inline void
scaled(float *dst, const int8_t *v, float scale)
{
    const __m256 factor = _mm256_set1_ps(scale);
    _mm256_storeu_ps(dst, _mm256_mul_ps(factor, to_floats(v)));
    _mm256_storeu_ps(dst + 8, _mm256_mul_ps(factor, to_floats(v + 8)));
}

static inline void
scaled_and_shifted(float *dst, const int8_t *v, float scale, float shift)
{
    const __m256 factor = _mm256_set1_ps(scale), addend = _mm256_set1_ps(shift);
    _mm256_storeu_ps(dst, _mm256_add_ps(_mm256_mul_ps(factor, to_floats(v)), addend));
    _mm256_storeu_ps(dst + 8, _mm256_add_ps(_mm256_mul_ps(factor, to_floats(v + 8)), addend));
}

#else

static inline void
scaled(float *dst, const int8_t *v, float scale)
{
    for (int i = 0; i < 16; i++) {
        dst[i] = scale * (float)v[i];
    }
}

static inline void
scaled_and_shifted(float *dst, const int8_t *v, float scale, float shift)
{
    for (int i = 0; i < 16; i++) {
        dst[i] = scale * (float)v[i] + shift;
    }
}

#endif

/* The low and the high halves of 16 bytes. */
static inline void
nibbles(int8_t *low, int8_t *high, const uint8_t *q)
{
    for (int i = 0; i < 16; i++) {
        low[i] = (int8_t)(q[i] & 15);
        high[i] = (int8_t)(q[i] >> 4);
    }
}
