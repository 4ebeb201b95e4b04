/* Stored weights to float32, by the threads of a team. */
#include "../base/status.h"
#include "../base/team.h"
#include "../kernels/dequant.h"

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

sp_status
sp_dequantize(const char *name, const uint8_t *bytes, size_t num_bytes, float *numbers,
              size_t num_numbers, int num_threads, sp_error *error)
{
    const sp_stored_type *type = sp_stored_type_find(name);
    if (type == NULL) {
        return sp_fail(error, SP_UNSUPPORTED, "type %.40s is not known to the engine", name);
    }
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
