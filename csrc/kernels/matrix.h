/* A frozen matrix [rows, cols]: float32 in memory, or the bytes of a file as they lie there. */
#ifndef SP_KERNELS_MATRIX_H
#define SP_KERNELS_MATRIX_H

#include <stddef.h>
#include <stdint.h>

#include "dequant.h"

/* Zeroed: no matrix. */
typedef struct {
    const float *numbers; /* [rows, cols], borrowed; NULL: to be converted from `bytes` */
    const uint8_t *bytes; /* lines of the file, borrowed; need no alignment */
    const sp_stored_type *type;
    size_t line_bytes;
    int32_t rows, cols;
    /* Row r is line start + r / run * stride + r % run. Transposed (types whose block is one
     * number): a line is a column, and row r is that number of every line. */
    int32_t start, run, stride;
    int transposed;
} sp_matrix;

static inline int
sp_matrix_is_there(const sp_matrix *matrix)
{
    return matrix->numbers != NULL || matrix->bytes != NULL;
}

/* A tile may begin at the multiples of this many columns. */
int32_t sp_matrix_column_step(const sp_matrix *matrix);

/* Rows row .. row + rows - 1, of them the columns col .. col + cols - 1 (whole blocks): where they
 * are, or `buffer` [rows, cols], filled. *stride: floats from one row to the next. */
const float *sp_matrix_tile(const sp_matrix *matrix, int32_t row, int32_t rows, int32_t col,
                            int32_t cols, float *buffer, int32_t *stride);

/* to[i] = row rows[i]; to [count, cols] */
void sp_matrix_gather(float *to, const sp_matrix *matrix, const int32_t *rows, int32_t count);

#endif
