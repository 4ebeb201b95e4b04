#include "matrix.h"

#include <string.h>

#include "../base/size.h"

int32_t
sp_matrix_column_step(const sp_matrix *matrix)
{
    return matrix->numbers != NULL ? 1 : (int32_t)matrix->type->block_size;
}

static int32_t
line_of(const sp_matrix *matrix, int32_t row)
{
    return matrix->start + row / matrix->run * matrix->stride + row % matrix->run;
}

/* Rows from `row` on whose lines are neighbours, at most `rows`. */
static int32_t
neighbours(const sp_matrix *matrix, int32_t row, int32_t rows)
{
    return sp_min32(rows, matrix->run - row % matrix->run);
}

/* Lines are rows. */
static void
fill(const sp_matrix *matrix, int32_t row, int32_t rows, int32_t col, int32_t cols, float *buffer)
{
    sp_conversion convert = sp_conversion_now(matrix->type);
    size_t block = matrix->type->block_size, bytes = matrix->type->block_bytes;
    for (int32_t done = 0; done < rows;) {
        int32_t now = neighbours(matrix, row + done, rows - done);
        const uint8_t *from = matrix->bytes
                              + (size_t)line_of(matrix, row + done) * matrix->line_bytes
                              + (size_t)col / block * bytes;
        float *to = buffer + (size_t)done * (size_t)cols;
        if (cols == matrix->cols) { /* no gap between the rows */
            convert(from, to, (size_t)now * (size_t)cols / block);
        }
        else {
            for (int32_t r = 0; r < now; r++, from += matrix->line_bytes, to += cols) {
                convert(from, to, (size_t)cols / block);
            }
        }
        done += now;
    }
}

/* Lines are columns: squares are converted and turned over. */
static void
fill_transposed(const sp_matrix *matrix, int32_t row, int32_t rows, int32_t col, int32_t cols,
                float *buffer)
{
    enum { SIDE = 32 };
    sp_conversion convert = sp_conversion_now(matrix->type);
    size_t bytes = matrix->type->block_bytes;
    float square[SIDE][SIDE];
    for (int32_t done = 0; done < rows;) {
        int32_t now = sp_min32(SIDE, neighbours(matrix, row + done, rows - done));
        size_t at = (size_t)line_of(matrix, row + done) * bytes;
        for (int32_t c = 0; c < cols; c += SIDE) {
            int32_t lines = sp_min32(SIDE, cols - c);
            for (int32_t i = 0; i < lines; i++) {
                convert(matrix->bytes + (size_t)(col + c + i) * matrix->line_bytes + at, square[i],
                        (size_t)now);
            }
            for (int32_t r = 0; r < now; r++) {
                float *to = buffer + (size_t)(done + r) * (size_t)cols + c;
                for (int32_t i = 0; i < lines; i++) {
                    to[i] = square[i][r];
                }
            }
        }
        done += now;
    }
}

const float *
sp_matrix_tile(const sp_matrix *matrix, int32_t row, int32_t rows, int32_t col, int32_t cols,
               float *buffer, int32_t *stride)
{
    if (matrix->numbers != NULL) {
        *stride = matrix->cols;
        return matrix->numbers + (size_t)row * (size_t)matrix->cols + col;
    }
    *stride = cols;
    if (matrix->transposed) {
        fill_transposed(matrix, row, rows, col, cols, buffer);
    }
    else {
        fill(matrix, row, rows, col, cols, buffer);
    }
    return buffer;
}

void
sp_matrix_gather(float *to, const sp_matrix *matrix, const int32_t *rows, int32_t count)
{
    for (int32_t i = 0; i < count; i++, to += matrix->cols) {
        int32_t stride;
        const float *row = sp_matrix_tile(matrix, rows[i], 1, 0, matrix->cols, to, &stride);
        if (row != to) {
            memcpy(to, row, (size_t)matrix->cols * sizeof *to);
        }
    }
}
