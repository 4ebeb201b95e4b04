/* Stored number formats to float32: half precision, bfloat16 and the block formats of GGUF.
 *
 * A block of `block_size` numbers takes `block_bytes` bytes: small integers with a scale (and for
 * some types a minimum), as laid down in ggml's ggml-common.h. Every number is computed as the
 * `gguf` Python library does it, operation by operation, so the results are equal to the bit.
 */
#ifndef SP_KERNELS_DEQUANT_H
#define SP_KERNELS_DEQUANT_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *name;     /* as in GGUF: "F16", "Q4_K", ... */
    uint32_t block_size;  /* numbers of a block */
    uint32_t block_bytes; /* bytes of a block */
    /* dst [num_blocks * block_size] = src [num_blocks * block_bytes]. Both belong to the caller
     * and do not overlap; src needs no alignment. Any bytes are valid input; scales may turn out
     * as infinity or NaN. Allocates nothing. */
    void (*dequantize_blocks)(const uint8_t *src, float *dst, size_t num_blocks);
} sp_dequant_type;

/* A type of the table by its name, or NULL. The table lives as long as the process. */
const sp_dequant_type *sp_dequant_find(const char *name);

#endif
