#include "linear.h"

#include "../base/blas.h"
#include "../base/size.h"
#include "kernels.h"

/* Rows and columns of one task. A task packs its part of x and of W anew inside the BLAS, so that
 * it has to be large; and there have to be enough of them for every thread. Both depend on the
 * sizes alone. A product goes through its depth in steps, so that a converted part of W stays small;
 * float32 weights take the same steps, so that either form gives the same bits. */
enum { ROW_GRAIN = 384, COLUMN_GRAIN = 288, SMALL_COLUMN_GRAIN = 96, DEPTH = 2048, FEW_ROWS = 8 };
/* Parts begin at multiples of this (vector and cache-line friendly). With few rows a part of W is
 * converted that fits into a core's own cache. */
enum { STEP = 16, FEW_FLOATS = 1 << 14, LEAST_FEW = 4 };

/* Number of equal parts of about `grain`. */
static int32_t
parts(int32_t size, int32_t grain)
{
    return sp_max32(1, (size + grain / 2) / grain);
}

/* First element of part i of `count`, a multiple of `step`. */
static int32_t
part_start(int32_t size, int32_t count, int32_t i, int32_t step)
{
    int64_t exact = (int64_t)size * i / count;
    return i == count ? size : (int32_t)(exact / step * step);
}

/* Number of parts of columns that begin at multiples of `step`. */
static int32_t
column_parts(int32_t columns, int32_t step)
{
    int32_t grain = columns >= 2 * COLUMN_GRAIN ? COLUMN_GRAIN : SMALL_COLUMN_GRAIN;
    return step <= STEP ? parts(columns, grain)
                        : parts(columns / step, sp_max32(1, (grain + step / 2) / step));
}

static int32_t
widest_part(int32_t columns, int32_t step)
{
    int32_t count = column_parts(columns, step), widest = 0;
    for (int32_t i = 0; i < count; i++) {
        widest = sp_max32(widest, part_start(columns, count, i + 1, step)
                                      - part_start(columns, count, i, step));
    }
    return widest;
}

/* Outputs computed together where rows are few. */
static int32_t
few_outputs(const sp_linear *linear)
{
    return linear->weight.numbers != NULL
               ? SMALL_COLUMN_GRAIN
               : sp_min32(SMALL_COLUMN_GRAIN, sp_max32(LEAST_FEW, FEW_FLOATS / linear->inputs));
}

size_t
sp_linear_scratch(const sp_linear *linear)
{
    if (linear->weight.numbers != NULL) {
        return 0;
    }
    int32_t step = sp_max32(STEP, sp_matrix_column_step(&linear->weight));
    size_t few = (size_t)few_outputs(linear) * (size_t)linear->inputs;
    size_t forward =
        (size_t)widest_part(linear->outputs, STEP) * (size_t)sp_min32(DEPTH, linear->inputs);
    /* other linears of a common backward may have larger blocks */
    size_t backward = (size_t)sp_min32(DEPTH, linear->outputs)
                      * (size_t)sp_max32(widest_part(linear->inputs, step),
                                         widest_part(linear->inputs, SP_LARGEST_BLOCK));
    size_t most = few > forward ? few : forward;
    return most > backward ? most : backward;
}

typedef struct {
    const sp_team *team;
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
    const forward_job *job = argument;
    const sp_kernels *kernels = sp_kernels_now();
    float *scratch = sp_team_scratch(job->team, thread);
    int32_t row_part = task % job->row_parts, column_part = task / job->row_parts;
    int which = 0;
    while (column_part >= job->column_parts[which]) {
        column_part -= job->column_parts[which++];
    }
    const sp_linear *linear = job->linears[which];
    int32_t r0 = part_start(job->n, job->row_parts, row_part, STEP);
    int32_t r1 = part_start(job->n, job->row_parts, row_part + 1, STEP);
    int32_t c0 = part_start(linear->outputs, job->column_parts[which], column_part, STEP);
    int32_t c1 = part_start(linear->outputs, job->column_parts[which], column_part + 1, STEP);
    int32_t width = c1 - c0;
    float *y = job->y[which] + (int64_t)r0 * linear->outputs + c0;
    const float *x = job->x + (int64_t)r0 * linear->inputs;
    const float *b = linear->bias == NULL ? NULL : linear->bias + c0;
    const float *residual = which == 0 ? job->residual : NULL;
    if (residual != NULL) {
        residual += (int64_t)r0 * linear->outputs + c0;
    }
    if (job->n <= FEW_ROWS) {
        float few[FEW_ROWS * SMALL_COLUMN_GRAIN * 2];
        int32_t most = few_outputs(linear);
        for (int32_t done = 0; done < width; done += most) {
            int32_t now = sp_min32(most, width - done), stride;
            const float *w = sp_matrix_tile(&linear->weight, c0 + done, now, 0, linear->inputs,
                                            scratch, &stride);
            kernels->few_rows(few, now, x, linear->inputs, r1 - r0, w, now, linear->inputs);
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
    for (int32_t k = 0; k < linear->inputs; k += DEPTH) {
        int32_t depth = sp_min32(DEPTH, linear->inputs - k), stride;
        const float *w = sp_matrix_tile(&linear->weight, c0, width, k, depth, scratch, &stride);
        sp_gemm_nt(r1 - r0, width, depth, 1.0f, x + k, linear->inputs, w, stride, start || k > 0, y,
                   linear->outputs);
    }
}

void
sp_linear_forward(sp_team *team, int count, float *const *y, const float *x,
                  const sp_linear *const *linears, int32_t n, const float *residual)
{
    forward_job job = {.team = team,
                       .y = y,
                       .x = x,
                       .linears = linears,
                       .residual = residual,
                       .n = n,
                       .row_parts = parts(n, ROW_GRAIN)};
    int32_t tasks = 0;
    for (int i = 0; i < count; i++) {
        int32_t outputs = linears[i]->outputs;
        job.column_parts[i] = column_parts(outputs, STEP);
        tasks += job.column_parts[i];
    }
    sp_team_run(team, tasks * job.row_parts, forward_task, &job);
}

typedef struct {
    const sp_team *team;
    int count;
    float *dx;
    const float *const *dy;
    const sp_linear *const *linears;
    int32_t n;
    int32_t row_parts;
    int32_t column_parts;
    int32_t step; /* columns begin at multiples of it: whole blocks */
} backward_job;

static void
backward_task(void *argument, int task, int thread)
{
    const backward_job *job = argument;
    float *scratch = sp_team_scratch(job->team, thread);
    int32_t inputs = job->linears[0]->inputs;
    int32_t row_part = task % job->row_parts, column_part = task / job->row_parts;
    int32_t r0 = part_start(job->n, job->row_parts, row_part, STEP);
    int32_t r1 = part_start(job->n, job->row_parts, row_part + 1, STEP);
    int32_t c0 = part_start(inputs, job->column_parts, column_part, job->step);
    int32_t c1 = part_start(inputs, job->column_parts, column_part + 1, job->step);
    for (int i = 0; i < job->count; i++) {
        const sp_linear *linear = job->linears[i];
        for (int32_t k = 0; k < linear->outputs; k += DEPTH) {
            int32_t depth = sp_min32(DEPTH, linear->outputs - k), stride;
            const float *w =
                sp_matrix_tile(&linear->weight, k, depth, c0, c1 - c0, scratch, &stride);
            sp_gemm_nn(r1 - r0, c1 - c0, depth, 1.0f,
                       job->dy[i] + (int64_t)r0 * linear->outputs + k, linear->outputs, w, stride,
                       i > 0 || k > 0, job->dx + (int64_t)r0 * inputs + c0, inputs);
        }
    }
}

void
sp_linear_backward(sp_team *team, int count, float *dx, const float *const *dy,
                   const sp_linear *const *linears, int32_t n)
{
    int32_t inputs = linears[0]->inputs, step = STEP;
    for (int i = 0; i < count; i++) {
        step = sp_max32(step, sp_matrix_column_step(&linears[i]->weight));
    }
    backward_job job = {.team = team,
                        .count = count,
                        .dx = dx,
                        .dy = dy,
                        .linears = linears,
                        .n = n,
                        .row_parts = parts(n, ROW_GRAIN),
                        .column_parts = column_parts(inputs, step),
                        .step = step};
    sp_team_run(team, job.row_parts * job.column_parts, backward_task, &job);
}
