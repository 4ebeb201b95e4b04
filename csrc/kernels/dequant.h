/* Stored number formats to float32: single and half precision, bfloat16 and the block formats of
 * GGUF.
 *
 * A block of `block_size` numbers takes `block_bytes` bytes: small integers with a scale (and for
 * some types a minimum), as laid down in ggml's ggml-common.h. Every number is computed as the
 * `gguf` Python library does it, operation by operation, so the results are equal to the bit, on
 * every kind of CPU.
 */
#ifndef SP_KERNELS_DEQUANT_H
#define SP_KERNELS_DEQUANT_H

#include <stddef.h>
#include <stdint.h>

/* name as in GGUF, numbers of a block (1, or a power of two), bytes of a block, function */
#define SP_EACH_STORED_TYPE(TYPE)   \
    TYPE(F32, 1, 4, f32)            \
    TYPE(F16, 1, 2, f16)            \
    TYPE(BF16, 1, 2, bf16)          \
    TYPE(Q4_0, 32, 18, q4_0)        \
    TYPE(Q4_1, 32, 20, q4_1)        \
    TYPE(Q5_0, 32, 22, q5_0)        \
    TYPE(Q5_1, 32, 24, q5_1)        \
    TYPE(Q8_0, 32, 34, q8_0)        \
    TYPE(Q2_K, 256, 84, q2_k)       \
    TYPE(Q3_K, 256, 110, q3_k)      \
    TYPE(Q4_K, 256, 144, q4_k)      \
    TYPE(Q5_K, 256, 176, q5_k)      \
    TYPE(Q6_K, 256, 210, q6_k)      \
    TYPE(IQ4_NL, 32, 18, iq4_nl)    \
    TYPE(IQ4_XS, 256, 136, iq4_xs)  \
    TYPE(IQ3_S, 256, 110, iq3_s)    \
    TYPE(IQ3_XXS, 256, 98, iq3_xxs) \
    TYPE(IQ2_S, 256, 82, iq2_s)     \
    TYPE(IQ2_XS, 256, 74, iq2_xs)   \
    TYPE(IQ2_XXS, 256, 66, iq2_xxs) \
    TYPE(IQ1_M, 256, 56, iq1_m)     \
    TYPE(IQ1_S, 256, 50, iq1_s)     \
    TYPE(TQ1_0, 256, 54, tq1_0)     \
    TYPE(TQ2_0, 256, 66, tq2_0)     \
    TYPE(MXFP4, 32, 17, mxfp4)      \
    TYPE(NVFP4, 64, 36, nvfp4)

/* Largest block of a type: a multiple of it is a multiple of every block. */
enum { SP_LARGEST_BLOCK = 256 };

/* dst [num_blocks * block_size] = src [num_blocks * block_bytes]. Both belong to the caller and do
 * not overlap; src needs no alignment. Any bytes are valid input; scales may turn out as infinity
 * or NaN. Allocates nothing. */
typedef void (*sp_conversion)(const uint8_t *src, float *dst, size_t num_blocks);

typedef struct {
    const char *name;     /* "F16", "Q4_K", ... */
    uint32_t block_size;  /* numbers of a block */
    uint32_t block_bytes; /* bytes of a block */
    int32_t index;        /* place in the tables of conversions */
} sp_stored_type;

/* A type of the table by its name, or NULL. The table lives as long as the process. */
const sp_stored_type *sp_stored_type_find(const char *name);
/* The conversion of the chosen kind of CPU. */
sp_conversion sp_conversion_now(const sp_stored_type *type);

/* Codebooks of the IQ types: 8 numbers of 2 bits a word, of IQ3 4 numbers of 4 bits, each a place
 * among the type's levels. */
extern const uint16_t sp_grid_iq2_xxs[256], sp_grid_iq2_xs[512], sp_grid_iq2_s[1024];
extern const uint16_t sp_grid_iq3_xxs[256], sp_grid_iq3_s[512];
extern const uint16_t sp_grid_iq1[2048];

extern const sp_conversion sp_conversions_generic[];
#if defined(__x86_64__)
extern const sp_conversion sp_conversions_avx2[];
extern const sp_conversion sp_conversions_avx512[];
#endif

#endif
