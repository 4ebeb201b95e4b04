/* Stored weights: to float32 as a whole, by the threads of a team, or as matrices in their file. */
#include "../base/size.h"
#include "../base/status.h"
#include "../base/team.h"
#include "model.h"

enum { BLOCKS_PER_TASK = 1024 };

typedef struct {
    const sp_stored_type *type;
    const uint8_t *bytes;
    float *numbers;
    size_t num_blocks;
} dequantize_job;

static void
dequantize_task(void *argument, int task, int thread)
{
    (void)thread;
    const dequantize_job *job = argument;
    size_t first = (size_t)task * BLOCKS_PER_TASK, left = job->num_blocks - first;
    sp_conversion_now(job->type)(job->bytes + first * job->type->block_bytes,
                                 job->numbers + first * job->type->block_size,
                                 left < BLOCKS_PER_TASK ? left : BLOCKS_PER_TASK);
}

static sp_status
find_type(const char *name, const sp_stored_type **type, sp_error *error)
{
    *type = sp_stored_type_find(name);
    if (*type == NULL) {
        return sp_fail(error, SP_UNSUPPORTED, "type %.40s is not known to the engine", name);
    }
    return SP_OK;
}

sp_status
sp_dequantize(const char *name, const uint8_t *bytes, size_t num_bytes, float *numbers,
              size_t num_numbers, int num_threads, sp_error *error)
{
    const sp_stored_type *type;
    SP_TRY(find_type(name, &type, error));
    size_t num_blocks = num_bytes / type->block_bytes;
    if (num_bytes % type->block_bytes != 0 || num_numbers % type->block_size != 0
        || num_numbers / type->block_size != num_blocks) {
        return sp_fail(error, SP_INVALID,
                       "%zu bytes of %s (%zu a block of %zu numbers) do not make %zu numbers",
                       num_bytes, name, (size_t)type->block_bytes, (size_t)type->block_size,
                       num_numbers);
    }
    if (num_blocks / BLOCKS_PER_TASK > 1u << 30) {
        return sp_fail(error, SP_OVERFLOW, "%zu blocks are too many for one call", num_blocks);
    }
    sp_team *team = sp_team_start(num_threads);
    if (team == NULL) {
        return sp_fail(error, SP_NO_MEMORY, "no memory for %d threads", num_threads);
    }
    dequantize_job job = {type, bytes, numbers, num_blocks};
    sp_team_run(team, (int)((num_blocks + BLOCKS_PER_TASK - 1) / BLOCKS_PER_TASK), dequantize_task,
                &job);
    sp_team_stop(team);
    return SP_OK;
}

sp_status
sp_matrix_of_stored(sp_matrix *matrix, const sp_stored *stored, sp_error *error)
{
    const sp_stored_type *type;
    SP_TRY(find_type(stored->type, &type, error));
    const int64_t sizes[] = {stored->rows, stored->cols, stored->run, stored->stride};
    int good = stored->start >= 0 && stored->start <= INT32_MAX;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        good = good && sizes[i] >= 1 && sizes[i] <= INT32_MAX;
    }
    if (!good || stored->rows % stored->run != 0) {
        return sp_fail(error, SP_INVALID,
                       "stored matrix [%lld, %lld] from line %lld on, %lld of every %lld: expected "
                       "positive numbers of 31 bits and whole runs",
                       (long long)stored->rows, (long long)stored->cols, (long long)stored->start,
                       (long long)stored->run, (long long)stored->stride);
    }
    if (stored->transposed && type->block_size != 1) {
        return sp_fail(error, SP_UNSUPPORTED,
                       "a transposed matrix of %s: expected a type without blocks", type->name);
    }
    if (stored->cols % type->block_size != 0) {
        return sp_fail(error, SP_INVALID, "rows of %lld numbers: %s has blocks of %u",
                       (long long)stored->cols, type->name, type->block_size);
    }
    /* Bytes of a row where lines are rows, of one number of every line where they are columns. */
    size_t unit = (size_t)(stored->cols / type->block_size) * type->block_bytes;
    size_t count = stored->num_bytes / unit;
    int64_t runs = stored->rows / stored->run;
    int64_t last = stored->start + (runs - 1) * stored->stride + stored->run - 1;
    if (stored->num_bytes % unit != 0 || last > INT32_MAX || (size_t)last >= count) {
        return sp_fail(error, SP_INVALID,
                       "%zu bytes of %s do not hold [%lld, %lld] from line %lld on, %lld of every "
                       "%lld",
                       stored->num_bytes, type->name, (long long)stored->rows,
                       (long long)stored->cols, (long long)stored->start, (long long)stored->run,
                       (long long)stored->stride);
    }
    *matrix = (sp_matrix){
        .bytes = stored->bytes,
        .type = type,
        .line_bytes = stored->transposed ? count * type->block_bytes : unit,
        .rows = (int32_t)stored->rows,
        .cols = (int32_t)stored->cols,
        .start = (int32_t)stored->start,
        .run = (int32_t)stored->run,
        .stride = (int32_t)stored->stride,
        .transposed = stored->transposed,
    };
    return SP_OK;
}

sp_status
sp_stored_rows(const sp_stored *stored, int64_t num_rows, const int64_t *rows, float *numbers,
               sp_error *error)
{
    sp_matrix matrix;
    SP_TRY(sp_matrix_of_stored(&matrix, stored, error));
    for (int64_t i = 0; i < num_rows; i++) {
        if (rows[i] < 0 || rows[i] >= stored->rows) {
            return sp_fail(error, SP_INVALID, "rows[%lld] = %lld: expected a row of %lld",
                           (long long)i, (long long)rows[i], (long long)stored->rows);
        }
    }
    for (int64_t i = 0; i < num_rows;) {
        int64_t run = 1; /* neighbours are converted together */
        while (i + run < num_rows && run < matrix.rows && rows[i + run] == rows[i] + run) {
            run++;
        }
        int32_t stride;
        sp_matrix_tile(&matrix, (int32_t)rows[i], (int32_t)run, 0, matrix.cols,
                       numbers + (size_t)i * (size_t)matrix.cols, &stride);
        i += run;
    }
    return SP_OK;
}
