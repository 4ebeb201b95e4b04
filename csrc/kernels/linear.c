#include "linear.h"

#include "../base/blas.h"
#include "../base/size.h"
#include "kernels.h"

/* Rows and columns of one task. A task packs its part of x and of W anew inside the BLAS, so that
 * it has to be large; and there have to be enough of them for every thread. Both depend on the
 * sizes alone. */
enum { ROW_GRAIN = 384, COLUMN_GRAIN = 288, SMALL_COLUMN_GRAIN = 96, FEW_ROWS = 8 };

/* Number of equal parts of about `grain`. */
static int32_t
parts(int32_t size, int32_t grain)
{
    return sp_max32(1, (size + grain / 2) / grain);
}

/* First element of part i of `count`, in multiples of 16 (vector and cache-line friendly). */
static int32_t
part_start(int32_t size, int32_t count, int32_t i)
{
    int64_t exact = (int64_t)size * i / count;
    return i == count ? size : (int32_t)(exact / 16 * 16);
}

static int32_t
column_grain(int32_t columns)
{
    return columns >= 2 * COLUMN_GRAIN ? COLUMN_GRAIN : SMALL_COLUMN_GRAIN;
}

typedef struct {
    float *const *y;
    const float *x;
    const sp_linear *const *linears;
    const float *residual;
    int32_t n;
    int32_t row_parts;
    int32_t column_parts[SP_MAX_LINEARS];
} forward_job;

static void
forward_task(void *argument, int task, int thread)
{
    (void)thread;
    const forward_job *job = argument;
    const sp_kernels *kernels = sp_kernels_now();
    int32_t row_part = task % job->row_parts, column_part = task / job->row_parts;
    int which = 0;
    while (column_part >= job->column_parts[which]) {
        column_part -= job->column_parts[which++];
    }
    const sp_linear *linear = job->linears[which];
    int32_t r0 = part_start(job->n, job->row_parts, row_part);
    int32_t r1 = part_start(job->n, job->row_parts, row_part + 1);
    int32_t c0 = part_start(linear->outputs, job->column_parts[which], column_part);
    int32_t c1 = part_start(linear->outputs, job->column_parts[which], column_part + 1);
    int32_t width = c1 - c0;
    float *y = job->y[which] + (int64_t)r0 * linear->outputs + c0;
    const float *x = job->x + (int64_t)r0 * linear->inputs;
    const float *w = linear->weight + (int64_t)c0 * linear->inputs;
    const float *b = linear->bias == NULL ? NULL : linear->bias + c0;
    const float *residual = which == 0 ? job->residual : NULL;
    if (residual != NULL) {
        residual += (int64_t)r0 * linear->outputs + c0;
    }
    if (job->n <= FEW_ROWS) {
        float few[FEW_ROWS * SMALL_COLUMN_GRAIN * 2];
        for (int32_t done = 0; done < width; done += SMALL_COLUMN_GRAIN) {
            int32_t now = sp_min32(SMALL_COLUMN_GRAIN, width - done);
            kernels->few_rows(few, now, x, linear->inputs, r1 - r0,
                              w + (int64_t)done * linear->inputs, now, linear->inputs);
            for (int32_t r = 0; r < r1 - r0; r++) {
                for (int32_t i = 0; i < now; i++) {
                    int64_t at = (int64_t)r * linear->outputs + done + i;
                    y[at] = few[r * now + i] + (b == NULL ? 0.0f : b[done + i])
                            + (residual == NULL ? 0.0f : residual[at]);
                }
            }
        }
        return;
    }
    int start = residual != NULL || b != NULL;
    if (start && (residual != y || b != NULL)) {
        for (int32_t r = 0; r < r1 - r0; r++) {
            int64_t at = (int64_t)r * linear->outputs;
            if (residual == y) {
                kernels->add(y + at, b, width);
            }
            else {
                kernels->add_bias(y + at, residual == NULL ? NULL : residual + at, b, 1, width);
            }
        }
    }
    sp_gemm_nt(r1 - r0, width, linear->inputs, 1.0f, x, linear->inputs, w, linear->inputs, start, y,
               linear->outputs);
}

void
sp_linear_forward(sp_team *team, int count, float *const *y, const float *x,
                  const sp_linear *const *linears, int32_t n, const float *residual)
{
    forward_job job = {.y = y, .x = x, .linears = linears, .residual = residual,
                       .n = n, .row_parts = parts(n, ROW_GRAIN)};
    int32_t tasks = 0;
    for (int i = 0; i < count; i++) {
        int32_t outputs = linears[i]->outputs;
        job.column_parts[i] = parts(outputs, column_grain(outputs));
        tasks += job.column_parts[i];
    }
    sp_team_run(team, tasks * job.row_parts, forward_task, &job);
}

typedef struct {
    int count;
    float *dx;
    const float *const *dy;
    const sp_linear *const *linears;
    int32_t n;
    int32_t row_parts;
    int32_t column_parts;
} backward_job;

static void
backward_task(void *argument, int task, int thread)
{
    (void)thread;
    const backward_job *job = argument;
    int32_t inputs = job->linears[0]->inputs;
    int32_t r0 = part_start(job->n, job->row_parts, task % job->row_parts);
    int32_t r1 = part_start(job->n, job->row_parts, task % job->row_parts + 1);
    int32_t c0 = part_start(inputs, job->column_parts, task / job->row_parts);
    int32_t c1 = part_start(inputs, job->column_parts, task / job->row_parts + 1);
    for (int i = 0; i < job->count; i++) {
        const sp_linear *linear = job->linears[i];
        sp_gemm_nn(r1 - r0, c1 - c0, linear->outputs, 1.0f,
                   job->dy[i] + (int64_t)r0 * linear->outputs, linear->outputs,
                   linear->weight + c0, inputs, i > 0, job->dx + (int64_t)r0 * inputs + c0, inputs);
    }
}

void
sp_linear_backward(sp_team *team, int count, float *dx, const float *const *dy,
                   const sp_linear *const *linears, int32_t n)
{
    int32_t inputs = linears[0]->inputs;
    backward_job job = {.count = count, .dx = dx, .dy = dy, .linears = linears, .n = n,
                        .row_parts = parts(n, ROW_GRAIN),
                        .column_parts = parts(inputs, column_grain(inputs))};
    sp_team_run(team, job.row_parts * job.column_parts, backward_task, &job);
}
