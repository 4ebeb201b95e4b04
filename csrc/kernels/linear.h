/* y = x W^T + b and dx = dy W for a frozen W: 95 % of the time of a step. */
#ifndef SP_KERNELS_LINEAR_H
#define SP_KERNELS_LINEAR_H

#include <stdint.h>

#include "../base/team.h"
#include "matrix.h"

typedef struct {
    sp_matrix weight;  /* [outputs, inputs] */
    const float *bias; /* [outputs], borrowed, or NULL */
    int32_t outputs;
    int32_t inputs;
} sp_linear;

/* Floats of scratch that each thread of the team has to have (sp_team_lend): the part of the weight
 * that it converts before it multiplies. 0: the weight is float32. */
size_t sp_linear_scratch(const sp_linear *linear);

/* Several linears share their rows, so that one round of the team serves all of them. */
enum { SP_MAX_LINEARS = 3 };

/* y[i] [n, outputs_i] = x [n, inputs] W_i^T + b_i.  residual [n, outputs] (or NULL) is added to
 * y[0]; it may be y[0] itself. */
void sp_linear_forward(sp_team *team, int count, float *const *y, const float *x,
                       const sp_linear *const *linears, int32_t n, const float *residual);
/* dx [n, inputs] = sum_i dy[i] [n, outputs_i] W_i */
void sp_linear_backward(sp_team *team, int count, float *dx, const float *const *dy,
                        const sp_linear *const *linears, int32_t n);

#endif
