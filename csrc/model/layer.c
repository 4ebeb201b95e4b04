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

/* ---- embedding and rotation ---- */

void
sp_rotation_prepare(sp_pass *pass, const sp_pack *pack)
{
    const sp_spec *spec = &pass->model->spec;
    if (spec->positions != SP_POSITIONS_ROTARY) {
        return;
    }
    int32_t half = spec->rotary_dim / 2;
    for (int32_t r = 0; r < pack->num_rows; r++) {
        float *cos_row = pass->cos + (int64_t)r * half, *sin_row = pass->sin + (int64_t)r * half;
        if (r > 0 && pack->positions[r] == pack->positions[r - 1]) {
            memcpy(cos_row, cos_row - half, (size_t)half * sizeof(float));
            memcpy(sin_row, sin_row - half, (size_t)half * sizeof(float));
            continue;
        }
        for (int32_t i = 0; i < half; i++) {
            /* The angle is rounded to float32 first, as transformers does. */
            float angle = (float)pack->positions[r] * pass->model->inv_freq[i];
            cos_row[i] = (float)cos((double)angle);
            sin_row[i] = (float)sin((double)angle);
        }
    }
}

void
sp_embed_forward(sp_pass *pass, const sp_pack *pack, const sp_activations *act, const float *prompt)
{
    const sp_model *model = pass->model;
    int32_t d = model->spec.hidden_size;
    float *x = sp_activations_layer(act, model, 0).x;
    for (int32_t r = 0; r < pack->num_rows; r++, x += d) {
        int32_t symbol = pack->symbols[r];
        const float *row = symbol < 0 ? prompt + (int64_t)(-1 - symbol) * d
                                      : model->embedding + (int64_t)symbol * d;
        float scale = symbol < 0 ? 1.0f : model->spec.embedding_scale;
        const float *position =
            model->position == NULL ? NULL : model->position + (int64_t)pack->positions[r] * d;
        for (int32_t i = 0; i < d; i++) {
            x[i] = scale * row[i] + (position == NULL ? 0.0f : position[i]);
        }
    }
    sp_rotation_prepare(pass, pack);
}

/* Rotates q (rows `rows`, or all) and k (all n rows), either may be NULL. */
typedef struct {
    const sp_pass *pass;
    float *q;
    const int32_t *q_rows;
    int32_t num_q;
    float *k;
    int32_t n;
    float direction;
} rotation_job;

static void
rotation_task(void *argument, int task, int thread)
{
    (void)thread;
    const rotation_job *job = argument;
    const sp_model *model = job->pass->model;
    const sp_spec *spec = &model->spec;
    int32_t half = spec->rotary_dim / 2;
    int32_t start = task * SP_ROW_BLOCK, end = start + SP_ROW_BLOCK;
    for (int32_t i = start; i < sp_min32(end, job->num_q); i++) {
        int64_t at = (int64_t)(job->q_rows == NULL ? i : job->q_rows[i]) * half;
        job->pass->kernels->rotate(job->q + (int64_t)i * model->q_width, job->pass->cos + at,
                                   job->pass->sin + at, spec->num_heads, spec->head_dim,
                                   spec->rotary_dim, spec->rope_interleaved, job->direction);
    }
    for (int32_t i = start; i < sp_min32(end, job->n); i++) {
        int64_t at = (int64_t)i * half;
        job->pass->kernels->rotate(job->k + (int64_t)i * model->kv_width, job->pass->cos + at,
                                   job->pass->sin + at, spec->num_kv_heads, spec->head_dim,
                                   spec->rotary_dim, spec->rope_interleaved, job->direction);
    }
}

static void
rotate(sp_pass *pass, float *q, const int32_t *q_rows, int32_t num_q, float *k, int32_t n,
       float direction)
{
    if (pass->model->spec.positions == SP_POSITIONS_ROTARY) {
        rotation_job job = {pass, q, q_rows, num_q, k, n, direction};
        sp_pass_rows(pass, sp_max32(num_q, n), rotation_task, &job);
    }
}

/* ---- norm ---- */

typedef struct {
    const sp_pass *pass;
    const sp_norm_weights *norm;
    float *y, *mean, *rstd; /* forward: y; backward: y is dx */
    const float *dy;        /* NULL: forward */
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
    float *mean = job->mean + start, *rstd = job->rstd + start;
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
sp_norm_forward(sp_pass *pass, const sp_norm_weights *norm, float *y, float *mean, float *rstd,
                const float *x, int32_t n)
{
    norm_job job = {pass, norm, y, mean, rstd, NULL, x, n};
    sp_pass_rows(pass, n, norm_task, &job);
}

void
sp_norm_backward(sp_pass *pass, const sp_norm_weights *norm, float *dx, const float *dy,
                 const float *x, const float *mean, const float *rstd, int32_t n)
{
    norm_job job = {pass, norm, dx, (float *)mean, (float *)rstd, dy, x, n};
    sp_pass_rows(pass, n, norm_task, &job);
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
mlp_forward(sp_pass *pass, const sp_layer *layer, const sp_saved *saved, float *out, int32_t n)
{
    sp_norm_forward(pass, &layer->mlp_norm, pass->hidden, saved->mean2, saved->rstd2, saved->x_mid,
                    n);
    if (pass->model->spec.gated) {
        sp_linear_forward(pass->team, 2, (float *[]){saved->gate, saved->up}, pass->hidden,
                          (const sp_linear *[]){&layer->gate, &layer->up}, n, NULL);
    }
    else {
        sp_linear_forward(pass->team, 1, (float *[]){saved->up}, pass->hidden,
                          (const sp_linear *[]){&layer->up}, n, NULL);
    }
    activation_job job = {pass, *saved, 0, n};
    sp_pass_rows(pass, n, activation_task, &job);
    sp_linear_forward(pass->team, 1, (float *[]){out}, pass->wide,
                      (const sp_linear *[]){&layer->down}, n, saved->x_mid);
}

/* dx [n, d]: gradient of the layer's output, becomes that of x_mid. */
static void
mlp_backward(sp_pass *pass, const sp_layer *layer, const sp_saved *saved, float *dx, int32_t n)
{
    sp_linear_backward(pass->team, 1, pass->wide, (const float *[]){dx},
                       (const sp_linear *[]){&layer->down}, n);
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
    sp_norm_backward(pass, &layer->mlp_norm, dx, pass->hidden, saved->x_mid, saved->mean2,
                     saved->rstd2, n);
}

/* New keys and values of resident segments go to the segments' own memory. */
static void
store_resident(const sp_pass *pass, const sp_pack *pack, const float *k, const float *v,
               int32_t layer)
{
    size_t width = (size_t)pass->model->kv_width;
    for (int32_t p = 0; p < pack->num_parts; p++) {
        const sp_part *part = &pack->parts[p];
        const sp_segment *segment = &pass->segments[part->segment];
        size_t to = (size_t)layer * segment->stride + (size_t)part->first * width;
        size_t from = (size_t)part->row * width, bytes = (size_t)part->count * width * sizeof(float);
        memcpy(segment->k + to, k + from, bytes);
        memcpy(segment->v + to, v + from, bytes);
    }
}

void
sp_layer_forward(sp_pass *pass, const sp_pack *pack, const sp_activations *act, int32_t index)
{
    const sp_model *model = pass->model;
    const sp_layer *layer = &model->layers[index];
    int32_t n = pack->num_rows, d = model->spec.hidden_size;
    int last = index == model->spec.num_layers - 1;
    int32_t r = last ? pack->num_head_rows : n;
    const sp_attention *attention = last ? &pack->head : &pack->all;
    sp_saved saved = sp_activations_layer(act, model, index);
    float *k = act->k + (size_t)index * act->kv_stride;
    float *v = act->v + (size_t)index * act->kv_stride;

    sp_norm_forward(pass, &layer->attn_norm, pass->hidden, saved.mean1, saved.rstd1, saved.x, n);
    if (last) {
        sp_linear_forward(pass->team, 2, (float *[]){k, v}, pass->hidden,
                          (const sp_linear *[]){&layer->k, &layer->v}, n, NULL);
        sp_rows_gather(pass->few, pass->hidden, pack->head_rows, r, d);
        sp_linear_forward(pass->team, 1, (float *[]){saved.q}, pass->few,
                          (const sp_linear *[]){&layer->q}, r, NULL);
    }
    else {
        sp_linear_forward(pass->team, 3, (float *[]){saved.q, k, v}, pass->hidden,
                          (const sp_linear *[]){&layer->q, &layer->k, &layer->v}, n, NULL);
    }
    rotate(pass, saved.q, last ? pack->head_rows : NULL, r, k, n, 1.0f);
    if (act->keep == SP_KEEP_RESIDENT) {
        store_resident(pass, pack, k, v, index);
    }
    if (r == 0) {
        return;
    }
    sp_pack_spans(pack, attention, pass->segments, index, 0, pass->spans);
    sp_attention_forward(pass->team, attention, pass->spans, pass->mixed, saved.lse, saved.q,
                         pass->attention);
    const float *residual = saved.x;
    if (last) {
        sp_rows_gather(saved.x_mid, saved.x, pack->head_rows, r, d);
        residual = saved.x_mid;
    }
    sp_linear_forward(pass->team, 1, (float *[]){saved.x_mid}, pass->mixed,
                      (const sp_linear *[]){&layer->o}, r, residual);
    float *out = last ? pass->top : sp_activations_layer(act, model, index + 1).x;
    mlp_forward(pass, layer, &saved, out, r);
}

/* Layer 0 goes on for the virtual rows alone: their gradient is what the whole pass is for. */
static void
virtual_backward(sp_pass *pass, const sp_pack *pack, const sp_activations *act,
                 const sp_saved *saved, const float *dx_mid, float *grad)
{
    const sp_model *model = pass->model;
    const sp_layer *layer = &model->layers[0];
    int32_t p = pack->num_virtual, d = model->spec.hidden_size;
    if (p == 0) {
        return;
    }
    const int32_t *rows = pack->virtual_rows;
    sp_rows_gather(pass->virtual_x, saved->x, rows, p, d);
    sp_rows_gather(pass->virtual_dk, act->dk, rows, p, model->kv_width);
    sp_rows_gather(pass->virtual_dv, act->dv, rows, p, model->kv_width);
    sp_rows_gather(pass->virtual_stats, saved->mean1, rows, p, 1);
    sp_rows_gather(pass->virtual_stats + p, saved->rstd1, rows, p, 1);
    if (model->spec.num_layers > 1) {
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
    sp_linear_backward(
        pass->team, 3, pass->virtual_dh,
        (const float *[]){pass->virtual_dq, pass->virtual_dk, pass->virtual_dv},
        (const sp_linear *[]){&layer->q, &layer->k, &layer->v}, p);
    sp_norm_backward(pass, &layer->attn_norm, pass->virtual_dx, pass->virtual_dh, pass->virtual_x,
                     pass->virtual_stats, pass->virtual_stats + p, p);
    for (int32_t i = 0; i < p; i++) {
        int32_t row = -1 - pack->symbols[rows[i]];
        sp_rows_scatter_add(grad, pass->virtual_dx + (int64_t)i * d, &row, 1, d);
    }
}

void
sp_layer_backward(sp_pass *pass, const sp_pack *pack, const sp_activations *act, int32_t index,
                  float *grad)
{
    const sp_model *model = pass->model;
    const sp_layer *layer = &model->layers[index];
    int32_t n = pack->num_rows, d = model->spec.hidden_size;
    int last = index == model->spec.num_layers - 1;
    int32_t r = last ? pack->num_head_rows : n;
    const sp_attention *attention = last ? &pack->head : &pack->all;
    sp_saved saved = sp_activations_layer(act, model, index);
    float *dk = act->dk + (size_t)index * act->dkv_stride;
    float *dv = act->dv + (size_t)index * act->dkv_stride;
    float *dx = last ? act->dtop : pass->dx;

    if (act->keep == SP_KEEP_LAYERS) { /* nobody added to them before */
        memset(dk, 0, (size_t)n * (size_t)model->kv_width * sizeof *dk);
        memset(dv, 0, (size_t)n * (size_t)model->kv_width * sizeof *dv);
    }
    if (r > 0) {
        mlp_backward(pass, layer, &saved, dx, r);
        sp_linear_backward(pass->team, 1, pass->mixed, (const float *[]){dx},
                           (const sp_linear *[]){&layer->o}, r);
        sp_pack_spans(pack, attention, pass->segments, index, index == 0, pass->spans);
        sp_attention_backward(pass->team, attention, pass->spans, pass->mixed, pass->mixed, saved.q,
                              saved.lse, pass->attention, pass->strands, index == 0);
    }
    rotate(pass, pass->mixed, last ? pack->head_rows : NULL, r, dk, n, -1.0f);
    if (index == 0) {
        virtual_backward(pass, pack, act, &saved, dx, grad);
        return;
    }
    if (!last) {
        sp_linear_backward(pass->team, 3, pass->hidden, (const float *[]){pass->mixed, dk, dv},
                           (const sp_linear *[]){&layer->q, &layer->k, &layer->v}, n);
        sp_norm_backward(pass, &layer->attn_norm, dx, pass->hidden, saved.x, saved.mean1,
                         saved.rstd1, n);
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
    sp_norm_backward(pass, &layer->attn_norm, pass->dx, pass->hidden, saved.x, saved.mean1,
                     saved.rstd1, n);
    sp_rows_scatter_add(pass->dx, dx, pack->head_rows, r, d);
}
