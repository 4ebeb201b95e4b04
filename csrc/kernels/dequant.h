/* Stored weight types and their conversion to float32, bit for bit what the `gguf` library gives.
 *
 * The layouts of the blocks are those of ggml (ggml/src/ggml-common.h, MIT): `block_bytes` bytes
 * hold `block_size` numbers, little endian, at any alignment.
 */
#ifndef SP_KERNELS_DEQUANT_H
#define SP_KERNELS_DEQUANT_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *name;
    uint32_t block_size;
    uint32_t block_bytes;
    /* src [num_blocks * block_bytes], dst [num_blocks * block_size]; no overlap */
    void (*dequantize_blocks)(const uint8_t *src, float *dst, size_t num_blocks);
} sp_dequant_type;

/* NULL: not one of the types here. */
const sp_dequant_type *sp_dequant_find(const char *name);

#endif
