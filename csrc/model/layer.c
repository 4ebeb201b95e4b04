#include "layer.h"

#include <math.h>
#include <string.h>

void
sp_rows_gather(float *to, const float *from, const int32_t *rows, int32_t count, int32_t width)
{
    for (int32_t i = 0; i < count; i++) {
        memcpy(to + (int64_t)i * width, from + (int64_t)rows[i] * width,
               (size_t)width * sizeof *to);
    }
}

void
sp_rows_scatter_add(float *to, const float *from, const int32_t *rows, int32_t count, int32_t width)
{
    for (int32_t i = 0; i < count; i++) {
        float *row = to + (int64_t)rows[i] * width;
        for (int32_t j = 0; j < width; j++) {
            row[j] += from[(int64_t)i * width + j];
        }
    }
}

/* ---- embedding ---- */

/* The input row r of a pack, before the embedding norm. */
static void
input_row(const sp_pass *pass, const sp_pack *pack, float *x, int32_t r)
{
    const sp_model *model = pass->model;
    const sp_stack *stack = sp_model_stack(model, pack->encoder);
    int32_t d = model->spec.hidden_size, symbol = pack->symbols[r], stride;
    const sp_matrix *table =
        sp_matrix_is_there(&stack->embedding) ? &stack->embedding : &model->decoder.embedding;
    const float *row = symbol < 0 ? pass->prompt + (int64_t)(-1 - symbol) * d
                                  : sp_matrix_tile(table, symbol, 1, 0, d, x, &stride);
    float scale = model->spec.input_scale * (symbol < 0 ? 1.0f : model->spec.embedding_scale);
    const float *place =
        !sp_matrix_is_there(&stack->position)
            ? NULL
            : sp_matrix_tile(&stack->position, pack->positions[r], 1, 0, d, pass->scratch, &stride);
    for (int32_t i = 0; i < d; i++) {
        x[i] = scale * row[i] + (place == NULL ? 0.0f : place[i]);
    }
}

void
sp_embed_forward(sp_pass *pass, const sp_pack *pack, const sp_activations *act)
{
    const sp_model *model = pass->model;
    sp_saved saved = sp_activations_layer(act, model, 0);
    float *rows = model->spec.embedding_norm ? pass->hidden : saved.x;
    for (int32_t r = 0; r < pack->num_rows; r++) {
        input_row(pass, pack, rows + (int64_t)r * model->spec.hidden_size, r);
    }
    if (model->spec.embedding_norm) { /* its statistics are computed again for virtual rows */
        sp_norm_forward(pass, &sp_model_stack(model, pack->encoder)->embedding_norm, saved.x,
                        saved.norm1, rows, pack->num_rows);
    }
    sp_rotation_prepare(pass, pack);
}

/* pass->virtual_dx: from the gradient of the first layer's input to that of its input rows. */
static void
embed_backward(sp_pass *pass, const sp_pack *pack)
{
    const sp_spec *spec = &pass->model->spec;
    int32_t p = pack->num_virtual, d = spec->hidden_size;
    if (spec->embedding_norm) {
        const sp_norm_weights *norm = &sp_model_stack(pass->model, pack->encoder)->embedding_norm;
        sp_norm_rows stats = {pass->virtual_stats, pass->virtual_stats + p};
        for (int32_t i = 0; i < p; i++) {
            input_row(pass, pack, pass->virtual_x + (int64_t)i * d, pack->virtual_rows[i]);
        }
        sp_norm_forward(pass, norm, pass->virtual_dh, stats, pass->virtual_x, p);
        memcpy(pass->virtual_dh, pass->virtual_dx, (size_t)p * (size_t)d * sizeof(float));
        memset(pass->virtual_dx, 0, (size_t)p * (size_t)d * sizeof(float));
        sp_norm_backward(pass, norm, pass->virtual_dx, pass->virtual_dh, pass->virtual_x, stats, p);
    }
}

/* ---- queries and keys: clamp, norm, rotation ---- */

/* The angle is rounded to float32 first, as transformers does. */
static void
turn(float *cosines, float *sines, int32_t position, const float *frequencies, float scale,
     int32_t half)
{
    for (int32_t i = 0; i < half; i++) {
        float angle = (float)position * frequencies[i];
        cosines[i] = scale * (float)cos((double)angle);
        sines[i] = scale * (float)sin((double)angle);
    }
}

void
sp_rotation_prepare(sp_pass *pass, const sp_pack *pack)
{
    const sp_model *model = pass->model;
    if (model->spec.positions != SP_POSITIONS_ROTARY) {
        return;
    }
    int32_t half = model->spec.rotary_dim / 2;
    for (int32_t s = 0; s < model->spec.num_ropes; s++) {
        float scale = model->rope_scale == NULL ? 1.0f : model->rope_scale[s];
        float *cos_row = pass->cos + (size_t)s * pass->rope_stride;
        float *sin_row = pass->sin + (size_t)s * pass->rope_stride;
        const float *before = NULL;
        for (int32_t p = 0; p < pack->num_parts; p++) {
            const sp_part *part = &pack->parts[p];
            const sp_segment *segment = &pass->segments[part->segment];
            const float *all =
                segment->frequencies == NULL ? model->inv_freq : segment->frequencies;
            const float *frequencies = all + (size_t)s * (size_t)half;
            for (int32_t r = part->row; r < part->row + part->count; r++) {
                int32_t position = pack->positions[r];
                if (before == frequencies && position == pack->positions[r - 1]) {
                    memcpy(cos_row, cos_row - half, (size_t)half * sizeof(float));
                    memcpy(sin_row, sin_row - half, (size_t)half * sizeof(float));
                }
                else {
                    turn(cos_row, sin_row, position, frequencies, scale, half);
                }
                before = frequencies;
                cos_row += half;
                sin_row += half;
            }
        }
    }
}

/* Queries (rows `q_rows` of the pack, or all) and keys and values (all n rows) of a layer. Backward:
 * their gradients. */
typedef struct {
    const sp_pass *pass;
    const sp_layer *layer;
    const sp_saved *saved;
    float *q;
    const int32_t *q_rows;
    int32_t num_q;
    float *k, *v;
    const float *values; /* backward: v as it was */
    int32_t n;
    int backward;
} heads_job;

/* The norms of one row's heads; x to y, or the gradient dy (in place) of y to that of x. */
static void
head_norms(const heads_job *job, const sp_norm_weights *norm, sp_norm_rows rows, float *y,
           const float *x, int32_t heads, float *scratch)
{
    const sp_spec *spec = &job->pass->model->spec;
    const sp_kernels *kernels = job->pass->kernels;
    int32_t width = heads * spec->head_dim;
    int32_t calls = spec->qk_norm == SP_QK_NORM_HEADS ? heads : 1;
    int32_t n = spec->qk_norm == SP_QK_NORM_HEAD ? heads : 1; /* rows of a call */
    int32_t d = width / (calls * n);
    if (job->backward) {
        memcpy(scratch, y, (size_t)width * sizeof *y);
        memset(y, 0, (size_t)width * sizeof *y);
    }
    for (int32_t c = 0; c < calls; c++) {
        const float *w = norm->weight + c * d, *b = norm->bias == NULL ? NULL : norm->bias + c * d;
        float *mean = rows.mean + c, *rstd = rows.rstd + c, *to = y + c * d;
        const float *from = x + c * d, *dy = scratch + c * d;
        if (spec->norm == SP_NORM_RMS && !job->backward) {
            kernels->rms_norm_forward(to, rstd, from, w, spec->norm_eps, n, d);
        }
        else if (spec->norm == SP_NORM_RMS) {
            kernels->rms_norm_backward(to, dy, from, w, rstd, n, d);
        }
        else if (!job->backward) {
            kernels->layer_norm_forward(to, mean, rstd, from, w, b, spec->norm_eps, n, d);
        }
        else {
            kernels->layer_norm_backward(to, dy, from, w, mean, rstd, n, d);
        }
    }
}

/* One row of queries or keys: x_raw (NULL: not kept) -> x, or the gradient dx in x's place. */
static void
heads_row(const heads_job *job, const sp_norm_weights *norm, sp_norm_rows rows, float *x,
          float *raw, int64_t row, int32_t heads, float *scratch)
{
    const sp_pass *pass = job->pass;
    const sp_spec *spec = &pass->model->spec;
    int32_t width = heads * spec->head_dim, half = spec->rotary_dim / 2;
    int has_norm = spec->qk_norm != SP_QK_NORM_NONE;
    size_t at =
        (size_t)sp_max32(job->layer->rope, 0) * pass->rope_stride + (size_t)row * (size_t)half;
    if (!job->backward && raw != NULL) {
        if (spec->qkv_clip > 0.0f) {
            pass->kernels->clamp_forward(raw, spec->qkv_clip, width);
        }
        if (has_norm) {
            head_norms(job, norm, rows, x, raw, heads, scratch);
        }
        else {
            memcpy(x, raw, (size_t)width * sizeof *x);
        }
    }
    if (job->layer->rope >= 0) {
        pass->kernels->rotate(x, pass->cos + at, pass->sin + at, heads, spec->head_dim,
                              spec->rotary_dim, spec->rope_interleaved,
                              job->backward ? -1.0f : 1.0f);
    }
    if (job->backward && raw != NULL) {
        if (has_norm) {
            head_norms(job, norm, rows, x, raw, heads, scratch);
        }
        if (spec->qkv_clip > 0.0f) {
            pass->kernels->clamp_backward(x, raw, spec->qkv_clip, width);
        }
    }
}

static void
heads_task(void *argument, int task, int thread)
{
    const heads_job *job = argument;
    const sp_model *model = job->pass->model;
    const sp_spec *spec = &model->spec;
    const sp_saved *saved = job->saved;
    int32_t start = task * SP_ROW_BLOCK, end = start + SP_ROW_BLOCK;
    int raw = sp_keeps_raw(spec);
    int64_t q_width = model->q_width, kv_width = model->kv_width;
    float *scratch = job->pass->heads + (int64_t)thread * q_width;
    for (int32_t i = start; i < sp_min32(end, job->num_q); i++) {
        sp_norm_rows rows = {saved->q_norm.mean + (int64_t)i * spec->num_heads,
                             saved->q_norm.rstd + (int64_t)i * spec->num_heads};
        heads_row(job, &job->layer->q_norm, rows, job->q + i * q_width,
                  raw ? saved->q_raw + i * q_width : NULL, job->q_rows == NULL ? i : job->q_rows[i],
                  spec->num_heads, scratch);
    }
    for (int32_t i = start; i < sp_min32(end, job->n); i++) {
        sp_norm_rows rows = {saved->k_norm.mean + (int64_t)i * spec->num_kv_heads,
                             saved->k_norm.rstd + (int64_t)i * spec->num_kv_heads};
        heads_row(job, &job->layer->k_norm, rows, job->k + i * kv_width,
                  raw ? saved->k_raw + i * kv_width : NULL, i, spec->num_kv_heads, scratch);
        if (spec->qkv_clip > 0.0f && !job->backward) {
            job->pass->kernels->clamp_forward(job->v + i * kv_width, spec->qkv_clip, kv_width);
        }
        else if (spec->qkv_clip > 0.0f) {
            job->pass->kernels->clamp_backward(job->v + i * kv_width, job->values + i * kv_width,
                                               spec->qkv_clip, kv_width);
        }
    }
}

static void
run_heads(const heads_job *job)
{
    const sp_spec *spec = &job->pass->model->spec;
    if (job->layer->rope >= 0 || sp_keeps_raw(spec)) {
        sp_pass_rows((sp_pass *)job->pass, sp_max32(job->num_q, job->n), heads_task, (void *)job);
    }
}

/* ---- norm ---- */

typedef struct {
    const sp_pass *pass;
    const sp_norm_weights *norm;
    float *y; /* forward: y; backward: dx */
    sp_norm_rows rows;
    const float *dy; /* NULL: forward */
    const float *x;
    int32_t n;
} norm_job;

static void
norm_task(void *argument, int task, int thread)
{
    (void)thread;
    const norm_job *job = argument;
    const sp_kernels *kernels = job->pass->kernels;
    const sp_spec *spec = &job->pass->model->spec;
    int32_t d = spec->hidden_size, start = task * SP_ROW_BLOCK;
    int32_t n = sp_min32(SP_ROW_BLOCK, job->n - start);
    int64_t at = (int64_t)start * d;
    float *mean = job->rows.mean + start, *rstd = job->rows.rstd + start;
    const float *w = job->norm->weight;
    if (spec->norm == SP_NORM_RMS) {
        if (job->dy == NULL) {
            kernels->rms_norm_forward(job->y + at, rstd, job->x + at, w, spec->norm_eps, n, d);
        }
        else {
            kernels->rms_norm_backward(job->y + at, job->dy + at, job->x + at, w, rstd, n, d);
        }
    }
    else {
        if (job->dy == NULL) {
            kernels->layer_norm_forward(job->y + at, mean, rstd, job->x + at, w, job->norm->bias,
                                        spec->norm_eps, n, d);
        }
        else {
            kernels->layer_norm_backward(job->y + at, job->dy + at, job->x + at, w, mean, rstd, n,
                                         d);
        }
    }
}

void
sp_norm_forward(sp_pass *pass, const sp_norm_weights *norm, float *y, sp_norm_rows rows,
                const float *x, int32_t n)
{
    norm_job job = {pass, norm, y, rows, NULL, x, n};
    sp_pass_rows(pass, n, norm_task, &job);
}

void
sp_norm_backward(sp_pass *pass, const sp_norm_weights *norm, float *dx, const float *dy,
                 const float *x, sp_norm_rows rows, int32_t n)
{
    norm_job job = {pass, norm, dx, rows, dy, x, n};
    sp_pass_rows(pass, n, norm_task, &job);
}

/* ---- what a half of a layer adds to its input ---- */

typedef struct {
    const sp_pass *pass;
    float *y;
    const float *x, *z;
    float scale;
    int32_t n;
} sum_job;

/* y = x + scale * z, rows of d; y may be x. */
static void
sum_task(void *argument, int task, int thread)
{
    (void)thread;
    const sum_job *job = argument;
    int64_t d = job->pass->model->spec.hidden_size, at = (int64_t)task * SP_ROW_BLOCK * d;
    int64_t n = sp_min32(SP_ROW_BLOCK, job->n - task * SP_ROW_BLOCK) * d;
    job->pass->kernels->add_scaled(job->y + at, job->x + at, job->z + at, job->scale, n);
}

void
sp_rows_add(sp_pass *pass, float *y, const float *x, const float *z, float scale, int32_t n)
{
    sum_job job = {pass, y, x, z, scale, n};
    sp_pass_rows(pass, n, sum_task, &job);
}

/* The end of a half: its last linear, and what stands after it. */
typedef struct {
    const sp_linear *linear;     /* o, or down */
    const sp_norm_weights *norm; /* after the half, if there is one */
    float *branch;               /* [r, d] saved: what that norm gets */
    sp_norm_rows rows;
} half_end;

static half_end
attention_end(const sp_layer *layer, const sp_saved *saved)
{
    return (half_end){&layer->o, &layer->attn_out_norm, saved->branch1, saved->out_norm1};
}

static half_end
cross_end(const sp_layer *layer, const sp_saved *saved)
{
    return (half_end){&layer->cross_o, &layer->cross_out_norm, saved->cross_branch,
                      saved->cross_out_norm};
}

static half_end
mlp_end(const sp_layer *layer, const sp_saved *saved)
{
    return (half_end){&layer->down, &layer->mlp_out_norm, saved->branch2, saved->out_norm2};
}

/* out = residual + what the linear makes of `from` (its norm, its scale); out may be residual. */
static void
end_forward(sp_pass *pass, const half_end *end, float *out, const float *from,
            const float *residual, int32_t n)
{
    const sp_spec *spec = &pass->model->spec;
    const sp_linear *linears[] = {end->linear};
    int post = spec->norm_place == SP_NORM_POST;
    int norm_of_branch = sp_norms_after(spec) && !post;
    float *sum = post ? end->branch : out;
    if (!norm_of_branch && spec->residual_scale == 1.0f) {
        sp_linear_forward(pass->team, 1, &sum, from, linears, n, residual);
    }
    else {
        float *added = norm_of_branch ? end->branch : pass->branch;
        sp_linear_forward(pass->team, 1, &added, from, linears, n, NULL);
        if (norm_of_branch) {
            sp_norm_forward(pass, end->norm, pass->branch, end->rows, added, n);
        }
        sp_rows_add(pass, sum, residual, pass->branch, spec->residual_scale, n);
    }
    if (post) {
        sp_norm_forward(pass, end->norm, out, end->rows, sum, n);
    }
}

/* dx [n, d] is the gradient of the half's sum, with a norm after the sum first of that norm, and
 * becomes that of the residual. dfrom [n, inputs] is overwritten. Uses pass->hidden and branch. */
static void
end_backward(sp_pass *pass, const half_end *end, float *dfrom, float *dx, int32_t n)
{
    const sp_spec *spec = &pass->model->spec;
    size_t bytes = (size_t)n * (size_t)spec->hidden_size * sizeof *dx;
    const float *dy = dx;
    if (spec->norm_place == SP_NORM_POST) {
        memcpy(pass->branch, dx, bytes);
        memset(dx, 0, bytes);
        sp_norm_backward(pass, end->norm, dx, pass->branch, end->branch, end->rows, n);
    }
    if (spec->residual_scale != 1.0f) {
        memset(pass->branch, 0, bytes);
        sp_rows_add(pass, pass->branch, pass->branch, dy, spec->residual_scale, n);
        dy = pass->branch;
    }
    if (sp_norms_after(spec) && spec->norm_place != SP_NORM_POST) {
        memset(pass->hidden, 0, bytes);
        sp_norm_backward(pass, end->norm, pass->hidden, dy, end->branch, end->rows, n);
        dy = pass->hidden;
    }
    sp_linear_backward(pass->team, 1, dfrom, &dy, (const sp_linear *[]){end->linear}, n);
}

/* The input of a half: the norm of x, in pass->hidden, or x itself. */
static const float *
begin_forward(sp_pass *pass, const sp_norm_weights *norm, sp_norm_rows rows, const float *x,
              int32_t n)
{
    if (!sp_norms_before(&pass->model->spec)) {
        return x;
    }
    sp_norm_forward(pass, norm, pass->hidden, rows, x, n);
    return pass->hidden;
}

/* dx += what comes back through the half's input dy. */
static void
begin_backward(sp_pass *pass, const sp_norm_weights *norm, sp_norm_rows rows, float *dx,
               const float *dy, const float *x, int32_t n)
{
    if (sp_norms_before(&pass->model->spec)) {
        sp_norm_backward(pass, norm, dx, dy, x, rows, n);
    }
    else {
        sp_rows_add(pass, dx, dx, dy, 1.0f, n);
    }
}

/* ---- activation ---- */

typedef struct {
    const sp_pass *pass;
    sp_saved saved;
    int backward;
    int32_t n;
} activation_job;

/* Forward: wide = act(gate) * up. Backward: wide holds the gradient of that and becomes dgate (or
 * dup where there is no gate), wide2 becomes dup. */
static void
activation_task(void *argument, int task, int thread)
{
    (void)thread;
    const activation_job *job = argument;
    const sp_spec *spec = &job->pass->model->spec;
    const sp_kernels *kernels = job->pass->kernels;
    int64_t f = spec->intermediate_size, at = (int64_t)task * SP_ROW_BLOCK * f;
    int64_t n = sp_min32(SP_ROW_BLOCK, job->n - task * SP_ROW_BLOCK) * f;
    float *wide = job->pass->wide + at;
    const float *up = job->saved.up + at;
    if (spec->gated) {
        const float *gate = job->saved.gate + at;
        if (job->backward) {
            kernels->gated_backward(wide, job->pass->wide2 + at, wide, gate, up, spec->activation,
                                    n);
        }
        else {
            kernels->gated_forward(wide, gate, up, spec->activation, n);
        }
    }
    else if (job->backward) {
        kernels->activation_backward(wide, wide, up, spec->activation, n);
    }
    else {
        kernels->activation_forward(wide, up, spec->activation, n);
    }
}

/* ---- the two halves of a layer ---- */

static void
mlp_forward(sp_pass *pass, const sp_layer *layer, const sp_saved *saved, int32_t n)
{
    const float *in = begin_forward(pass, &layer->mlp_norm, saved->norm2, saved->x_mid, n);
    if (pass->model->spec.gated) {
        sp_linear_forward(pass->team, 2, (float *[]){saved->gate, saved->up}, in,
                          (const sp_linear *[]){&layer->gate, &layer->up}, n, NULL);
    }
    else {
        sp_linear_forward(pass->team, 1, (float *[]){saved->up}, in,
                          (const sp_linear *[]){&layer->up}, n, NULL);
    }
    activation_job job = {pass, *saved, 0, n};
    sp_pass_rows(pass, n, activation_task, &job);
}

/* pass->wide [n, f] is the gradient of the activations; dx [n, d] += that of x_mid. */
static void
mlp_backward(sp_pass *pass, const sp_layer *layer, const sp_saved *saved, float *dx, int32_t n)
{
    activation_job job = {pass, *saved, 1, n};
    sp_pass_rows(pass, n, activation_task, &job);
    if (pass->model->spec.gated) {
        sp_linear_backward(pass->team, 2, pass->hidden, (const float *[]){pass->wide, pass->wide2},
                           (const sp_linear *[]){&layer->gate, &layer->up}, n);
    }
    else {
        sp_linear_backward(pass->team, 1, pass->hidden, (const float *[]){pass->wide},
                           (const sp_linear *[]){&layer->up}, n);
    }
    begin_backward(pass, &layer->mlp_norm, saved->norm2, dx, pass->hidden, saved->x_mid, n);
}

static sp_scores
scores_of_layer(const sp_model *model, const sp_stack *stack, const sp_layer *layer)
{
    return (sp_scores){.scale = model->spec.attention_scale,
                       .soft_cap = model->spec.attention_soft_cap,
                       .window = layer->window,
                       .alibi = model->alibi,
                       .alibi_stride = model->spec.max_positions,
                       .relative = stack->relative,
                       .relative_reach = model->spec.relative_reach};
}

/* ---- attention to an encoder: between the halves ---- */

/* What is read has no place beside the reader: no bias. */
static sp_scores
cross_scores(const sp_model *model)
{
    return (sp_scores){.scale = model->spec.attention_scale,
                       .soft_cap = model->spec.attention_soft_cap};
}

/* saved->x_cross [n, d] -> saved->x_mid */
static void
cross_forward(sp_pass *pass, const sp_pack *pack, const sp_attention *attention,
              const sp_saved *saved, int32_t index, int32_t n)
{
    const sp_layer *layer = &pass->model->decoder.layers[index];
    const float *in = begin_forward(pass, &layer->cross_norm, saved->cross_norm, saved->x_cross, n);
    sp_linear_forward(pass->team, 1, (float *[]){saved->cross_q}, in,
                      (const sp_linear *[]){&layer->cross_q}, n, NULL);
    sp_scores rule = cross_scores(pass->model);
    sp_pack_memories(pack, attention, pass->segments, index, pass->spans);
    sp_attention_forward(pass->team, attention, &rule, pass->spans, pass->mixed, saved->cross_lse,
                         saved->cross_q, pass->attention);
    half_end ends = cross_end(layer, saved);
    end_forward(pass, &ends, saved->x_mid, pass->mixed, saved->x_cross, n);
}

/* dx [n, d]: the gradient of x_mid becomes that of x_cross, but in the first layer, where nobody
 * needs it. What is read gets its own. */
static void
cross_backward(sp_pass *pass, const sp_pack *pack, const sp_attention *attention,
               const sp_saved *saved, int32_t index, float *dx, int32_t n)
{
    const sp_layer *layer = &pass->model->decoder.layers[index];
    half_end ends = cross_end(layer, saved);
    end_backward(pass, &ends, pass->mixed, dx, n);
    sp_scores rule = cross_scores(pass->model);
    sp_pack_memories(pack, attention, pass->segments, index, pass->spans);
    sp_attention_backward(pass->team, attention, &rule, pass->spans, pass->mixed, pass->mixed,
                          saved->cross_q, saved->cross_lse, pass->attention, pass->strands,
                          index == 0);
    if (index > 0) {
        sp_linear_backward(pass->team, 1, pass->hidden, (const float *[]){pass->mixed},
                           (const sp_linear *[]){&layer->cross_q}, n);
        begin_backward(pass, &layer->cross_norm, saved->cross_norm, dx, pass->hidden,
                       saved->x_cross, n);
    }
}

/* ---- a layer ---- */

void
sp_store_resident(const sp_pass *pass, const sp_pack *pack, const float *k, const float *v,
                  int32_t layer)
{
    size_t width = (size_t)pass->model->kv_width;
    for (int32_t p = 0; p < pack->num_parts; p++) {
        const sp_part *part = &pack->parts[p];
        const sp_segment *segment = &pass->segments[part->segment];
        size_t stride = pack->encoder ? segment->memory_stride : segment->stride;
        size_t to = (size_t)layer * stride + (size_t)part->first * width;
        size_t from = (size_t)part->row * width,
               bytes = (size_t)part->count * width * sizeof(float);
        memcpy((pack->encoder ? segment->memory_k : segment->k) + to, k + from, bytes);
        memcpy((pack->encoder ? segment->memory_v : segment->v) + to, v + from, bytes);
    }
}

/* The layer that only head rows leave. All rows of an encoder are read. */
static int
is_last(const sp_pack *pack, const sp_stack *stack, int32_t index)
{
    return !pack->encoder && index == stack->num_layers - 1;
}

void
sp_layer_forward(sp_pass *pass, const sp_pack *pack, const sp_activations *act, int32_t index)
{
    const sp_model *model = pass->model;
    const sp_stack *stack = sp_model_stack(model, pack->encoder);
    const sp_layer *layer = &stack->layers[index];
    int32_t n = pack->num_rows, d = model->spec.hidden_size;
    int last = is_last(pack, stack, index);
    int32_t r = last ? pack->num_head_rows : n;
    const sp_attention *attention = last ? &pack->head : &pack->all;
    sp_saved saved = sp_activations_layer(act, model, index);
    float *k = act->k + (size_t)index * act->kv_stride;
    float *v = act->v + (size_t)index * act->kv_stride;

    float *q = sp_keeps_raw(&model->spec) ? saved.q_raw : saved.q;
    float *keys = sp_keeps_raw(&model->spec) ? saved.k_raw : k;

    const float *in = begin_forward(pass, &layer->attn_norm, saved.norm1, saved.x, n);
    if (last) {
        sp_linear_forward(pass->team, 2, (float *[]){keys, v}, in,
                          (const sp_linear *[]){&layer->k, &layer->v}, n, NULL);
        sp_rows_gather(pass->few, in, pack->head_rows, r, d);
        sp_linear_forward(pass->team, 1, (float *[]){q}, pass->few,
                          (const sp_linear *[]){&layer->q}, r, NULL);
    }
    else {
        sp_linear_forward(pass->team, 3, (float *[]){q, keys, v}, in,
                          (const sp_linear *[]){&layer->q, &layer->k, &layer->v}, n, NULL);
    }
    heads_job heads = {.pass = pass,
                       .layer = layer,
                       .saved = &saved,
                       .q = saved.q,
                       .q_rows = last ? pack->head_rows : NULL,
                       .num_q = r,
                       .k = k,
                       .v = v,
                       .n = n};
    run_heads(&heads);
    if (act->keep == SP_KEEP_RESIDENT && !pack->encoder) {
        sp_store_resident(pass, pack, k, v, index);
    }
    if (r == 0) {
        return;
    }
    sp_scores rule = scores_of_layer(model, stack, layer);
    sp_pack_spans(pack, attention, pass->segments, index, 0, pass->spans);
    sp_attention_forward(pass->team, attention, &rule, pass->spans, pass->mixed, saved.lse, saved.q,
                         pass->attention);
    float *out = last                             ? pass->top
                 : index == stack->num_layers - 1 ? act->out
                                                  : sp_activations_layer(act, model, index + 1).x;
    half_end attention_ends = attention_end(layer, &saved), mlp_ends = mlp_end(layer, &saved);
    int cross = pack->num_memories > 0;
    float *attended = cross ? saved.x_cross : saved.x_mid;
    const float *residual = saved.x;
    if (last) {
        sp_rows_gather(attended, saved.x, pack->head_rows, r, d);
        residual = attended;
    }
    if (model->spec.parallel_residual) {
        mlp_forward(pass, layer, &saved, r); /* first: out may lie where x does */
        end_forward(pass, &attention_ends, out, pass->mixed, residual, r);
        end_forward(pass, &mlp_ends, out, pass->wide, out, r);
    }
    else {
        end_forward(pass, &attention_ends, attended, pass->mixed, residual, r);
        if (cross) {
            cross_forward(pass, pack, last ? &pack->cross_head : &pack->cross_all, &saved, index,
                          r);
        }
        mlp_forward(pass, layer, &saved, r);
        end_forward(pass, &mlp_ends, out, pass->wide, saved.x_mid, r);
    }
}

/* Layer 0 goes on for the virtual rows alone: their gradient is what the whole pass is for. */
static void
virtual_backward(sp_pass *pass, const sp_pack *pack, const sp_activations *act,
                 const sp_saved *saved, const float *dx_mid, float *grad)
{
    const sp_model *model = pass->model;
    const sp_stack *stack = sp_model_stack(model, pack->encoder);
    const sp_layer *layer = &stack->layers[0];
    int32_t p = pack->num_virtual, d = model->spec.hidden_size;
    const int32_t *rows = pack->virtual_rows;
    sp_rows_gather(pass->virtual_x, saved->x, rows, p, d);
    sp_rows_gather(pass->virtual_dk, act->dk, rows, p, model->kv_width);
    sp_rows_gather(pass->virtual_dv, act->dv, rows, p, model->kv_width);
    sp_norm_rows stats = {pass->virtual_stats, pass->virtual_stats + p};
    sp_rows_gather(stats.mean, saved->norm1.mean, rows, p, 1);
    sp_rows_gather(stats.rstd, saved->norm1.rstd, rows, p, 1);
    if (!is_last(pack, stack, 0)) {
        sp_rows_gather(pass->virtual_dq, pass->mixed, rows, p, model->q_width);
        sp_rows_gather(pass->virtual_dx, dx_mid, rows, p, d);
    }
    else { /* the first layer is the last one too: only head rows asked */
        memset(pass->virtual_dq, 0, (size_t)p * (size_t)model->q_width * sizeof(float));
        memset(pass->virtual_dx, 0, (size_t)p * (size_t)d * sizeof(float));
        for (int32_t i = 0, h = 0; i < p; i++) {
            while (h < pack->num_head_rows && pack->head_rows[h] < rows[i]) {
                h++;
            }
            if (h < pack->num_head_rows && pack->head_rows[h] == rows[i]) {
                sp_rows_gather(pass->virtual_dq + (int64_t)i * model->q_width, pass->mixed, &h, 1,
                               model->q_width);
                sp_rows_gather(pass->virtual_dx + (int64_t)i * d, dx_mid, &h, 1, d);
            }
        }
    }
    sp_linear_backward(pass->team, 3, pass->virtual_dh,
                       (const float *[]){pass->virtual_dq, pass->virtual_dk, pass->virtual_dv},
                       (const sp_linear *[]){&layer->q, &layer->k, &layer->v}, p);
    begin_backward(pass, &layer->attn_norm, stats, pass->virtual_dx, pass->virtual_dh,
                   pass->virtual_x, p);
    embed_backward(pass, pack);
    for (int32_t i = 0; i < p; i++) {
        float *to = grad + (int64_t)(-1 - pack->symbols[rows[i]]) * d;
        pass->kernels->add_scaled(to, to, pass->virtual_dx + (int64_t)i * d,
                                  model->spec.input_scale, d);
    }
}

void
sp_layer_backward(sp_pass *pass, const sp_pack *pack, const sp_activations *act, int32_t index,
                  float *grad)
{
    const sp_model *model = pass->model;
    const sp_stack *stack = sp_model_stack(model, pack->encoder);
    const sp_layer *layer = &stack->layers[index];
    int32_t n = pack->num_rows, d = model->spec.hidden_size;
    int last = is_last(pack, stack, index);
    int32_t r = last ? pack->num_head_rows : n;
    const sp_attention *attention = last ? &pack->head : &pack->all;
    sp_saved saved = sp_activations_layer(act, model, index);
    float *dk = act->dk + (size_t)index * act->dkv_stride;
    float *dv = act->dv + (size_t)index * act->dkv_stride;
    float *dx = last ? act->dtop : pass->dx;
    int cross = pack->num_memories > 0;

    if (act->keep == SP_KEEP_LAYERS) { /* nobody added to them before */
        memset(dk, 0, (size_t)n * (size_t)model->kv_width * sizeof *dk);
        memset(dv, 0, (size_t)n * (size_t)model->kv_width * sizeof *dv);
    }
    if (r > 0) {
        half_end attention_ends = attention_end(layer, &saved), mlp_ends = mlp_end(layer, &saved);
        end_backward(pass, &mlp_ends, pass->wide, dx, r);
        if (model->spec.parallel_residual) { /* before the MLP adds to dx */
            end_backward(pass, &attention_ends, pass->mixed, dx, r);
            mlp_backward(pass, layer, &saved, dx, r);
        }
        else {
            mlp_backward(pass, layer, &saved, dx, r);
            if (cross) {
                cross_backward(pass, pack, last ? &pack->cross_head : &pack->cross_all, &saved,
                               index, dx, r);
                if (index == 0) { /* no virtual token below */
                    return;
                }
            }
            end_backward(pass, &attention_ends, pass->mixed, dx, r);
        }
        sp_scores rule = scores_of_layer(model, stack, layer);
        sp_pack_spans(pack, attention, pass->segments, index, index == 0, pass->spans);
        sp_attention_backward(pass->team, attention, &rule, pass->spans, pass->mixed, pass->mixed,
                              saved.q, saved.lse, pass->attention, pass->strands, index == 0);
    }
    if (index == 0 && pack->num_virtual == 0) {
        return; /* the ancestors have theirs, and nothing before these rows is wanted */
    }
    heads_job heads = {.pass = pass,
                       .layer = layer,
                       .saved = &saved,
                       .q = pass->mixed,
                       .q_rows = last ? pack->head_rows : NULL,
                       .num_q = r,
                       .k = dk,
                       .v = dv,
                       .values = act->v + (size_t)index * act->kv_stride,
                       .n = n,
                       .backward = 1};
    run_heads(&heads);
    if (index == 0) {
        virtual_backward(pass, pack, act, &saved, dx, grad);
        return;
    }
    if (!last) {
        sp_linear_backward(pass->team, 3, pass->hidden, (const float *[]){pass->mixed, dk, dv},
                           (const sp_linear *[]){&layer->q, &layer->k, &layer->v}, n);
        begin_backward(pass, &layer->attn_norm, saved.norm1, dx, pass->hidden, saved.x, n);
        return;
    }
    sp_linear_backward(pass->team, 2, pass->hidden, (const float *[]){dk, dv},
                       (const sp_linear *[]){&layer->k, &layer->v}, n);
    if (r > 0) {
        sp_linear_backward(pass->team, 1, pass->few, (const float *[]){pass->mixed},
                           (const sp_linear *[]){&layer->q}, r);
        sp_rows_scatter_add(pass->hidden, pass->few, pack->head_rows, r, d);
    }
    memset(pass->dx, 0, (size_t)n * (size_t)d * sizeof *pass->dx);
    begin_backward(pass, &layer->attn_norm, saved.norm1, pass->dx, pass->hidden, saved.x, n);
    sp_rows_scatter_add(pass->dx, dx, pack->head_rows, r, d);
}
