#include "pass.h"

#include "../base/status.h"

void
sp_extent_add(sp_extent *extent, const sp_pack *pack)
{
    extent->rows = sp_max32(extent->rows, pack->num_rows);
    extent->head_rows = sp_max32(extent->head_rows, pack->num_head_rows);
    extent->virtual_rows = sp_max32(extent->virtual_rows, pack->num_virtual);
    extent->spans = sp_max32(extent->spans, sp_max32(pack->num_spans, pack->num_memories));
    const sp_attention *all[] = {&pack->all, &pack->head, &pack->cross_all, &pack->cross_head};
    for (int i = 0; i < 4; i++) {
        size_t floats = sp_attention_scratch(all[i], extent->want_grad);
        size_t strands = extent->want_grad ? sp_attention_strand_floats(all[i]) : 0;
        extent->attention_floats =
            floats > extent->attention_floats ? floats : extent->attention_floats;
        extent->strand_floats = strands > extent->strand_floats ? strands : extent->strand_floats;
    }
}

void
sp_pass_place(sp_pass *pass, sp_arena *arena, const sp_extent *extent, int num_threads)
{
    const sp_spec *spec = &pass->model->spec;
    size_t n = (size_t)extent->rows, m = (size_t)extent->head_rows;
    size_t p = (size_t)extent->virtual_rows, d = (size_t)spec->hidden_size;
    size_t f = (size_t)spec->intermediate_size;
    size_t half = spec->positions == SP_POSITIONS_ROTARY ? (size_t)spec->rotary_dim / 2 : 0;
    size_t q = (size_t)pass->model->q_width, kv = (size_t)pass->model->kv_width;
    pass->spans = (sp_span *)(void *)sp_arena_take(
        arena, (size_t)extent->spans * (sizeof(sp_span) / sizeof(float) + 1));
    pass->rope_stride = n * half;
    pass->cos = sp_arena_take(arena, sp_mul(n * half, (size_t)spec->num_ropes));
    pass->sin = sp_arena_take(arena, sp_mul(n * half, (size_t)spec->num_ropes));
    pass->hidden = sp_arena_take(arena, n * d);
    int adds_directly = !sp_norms_after(spec) && spec->residual_scale == 1.0f;
    pass->branch = sp_arena_take(arena, adds_directly ? 0 : n * d);
    int has_qk_norm = spec->qk_norm != SP_QK_NORM_NONE;
    pass->heads = sp_arena_take(arena, has_qk_norm ? sp_mul((size_t)num_threads, q) : 0);
    pass->wide = sp_arena_take(arena, n * f);
    pass->mixed = sp_arena_take(arena, n * q);
    pass->few = sp_arena_take(arena, m * d);
    pass->top = sp_arena_take(arena, m * d);
    pass->attention = sp_arena_take(arena, sp_mul((size_t)num_threads, extent->attention_floats));
    pass->scratch_floats = sp_model_scratch(pass->model);
    pass->scratch = sp_arena_take(arena, sp_mul((size_t)num_threads, pass->scratch_floats));
    if (extent->want_grad) {
        pass->wide2 = sp_arena_take(arena, spec->gated ? n * f : 0);
        pass->dx = sp_arena_take(arena, n * d);
        pass->strands = sp_arena_take(arena, extent->strand_floats);
        pass->virtual_dh = sp_arena_take(arena, p * d);
        pass->virtual_x = sp_arena_take(arena, p * d);
        pass->virtual_dx = sp_arena_take(arena, p * d);
        pass->virtual_dq = sp_arena_take(arena, p * q);
        pass->virtual_dk = sp_arena_take(arena, p * kv);
        pass->virtual_dv = sp_arena_take(arena, p * kv);
        pass->virtual_stats = sp_arena_take(arena, p * 2);
    }
}

sp_status
sp_pass_start(sp_pass *pass, int num_threads, sp_error *error)
{
    pass->team = sp_team_start(num_threads);
    if (pass->team == NULL) {
        return sp_fail(error, SP_NO_MEMORY, "no memory for %d threads", num_threads);
    }
    sp_team_lend(pass->team, pass->scratch, pass->scratch_floats);
    return SP_OK;
}

/* Places of one layer's arrays, one after the other; `base` NULL: only the size is wanted. Only
 * head rows leave the `last` layer; it reads an encoder, or not. */
static size_t
layer_layout(sp_saved *saved, float *base, const sp_model *model, size_t n, size_t r, int last,
             int reads)
{
    const sp_spec *spec = &model->spec;
    size_t d = (size_t)spec->hidden_size, f = (size_t)spec->intermediate_size, at = 0;
    size_t q = (size_t)model->q_width, kv = (size_t)model->kv_width;
    size_t raw = sp_keeps_raw(spec) ? 1 : 0;
    size_t heads = spec->qk_norm != SP_QK_NORM_NONE ? (size_t)spec->num_heads : 0;
    size_t kv_heads = spec->qk_norm != SP_QK_NORM_NONE ? (size_t)spec->num_kv_heads : 0;
    size_t after = sp_norms_after(spec) ? 1 : 0, cross = reads ? 1 : 0;
    int own_mid = last || !spec->parallel_residual;
    const struct {
        float **place;
        size_t floats;
    } arrays[] = {
        {&saved->x, n * d},
        {&saved->norm1.mean, n},
        {&saved->norm1.rstd, n},
        {&saved->q, r * q},
        {&saved->q_raw, raw * r * q},
        {&saved->k_raw, raw * n * kv},
        {&saved->q_norm.mean, r * heads},
        {&saved->q_norm.rstd, r * heads},
        {&saved->k_norm.mean, n * kv_heads},
        {&saved->k_norm.rstd, n * kv_heads},
        {&saved->lse, r * (size_t)spec->num_heads},
        {&saved->x_mid, own_mid ? r * d : 0},
        {&saved->norm2.mean, r},
        {&saved->norm2.rstd, r},
        {&saved->gate, spec->gated ? r * f : 0},
        {&saved->up, r * f},
        {&saved->branch1, after * r * d},
        {&saved->branch2, after * r * d},
        {&saved->out_norm1.mean, after * r},
        {&saved->out_norm1.rstd, after * r},
        {&saved->out_norm2.mean, after * r},
        {&saved->out_norm2.rstd, after * r},
        {&saved->x_cross, cross * r * d},
        {&saved->cross_norm.mean, cross * r},
        {&saved->cross_norm.rstd, cross * r},
        {&saved->cross_q, cross * r * q},
        {&saved->cross_lse, cross * r * (size_t)spec->num_heads},
        {&saved->cross_branch, cross * after * r * d},
        {&saved->cross_out_norm.mean, cross * after * r},
        {&saved->cross_out_norm.rstd, cross * after * r},
    };
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) {
        *arrays[i].place = base == NULL ? NULL : base + at;
        at += (arrays[i].floats + 15) / 16 * 16;
    }
    if (!own_mid) {
        saved->x_mid = saved->x;
    }
    return at;
}

/* Whether layers attend to an encoder. */
static int
reads(const sp_model *model, int encoder)
{
    return !encoder && sp_has_encoder(&model->spec);
}

/* What an encoder gives to the decoder: resident segments get it layer by layer. */
static void
place_memory(sp_activations *act, sp_arena *arena, const sp_model *model)
{
    size_t rows = (size_t)act->n, floats = rows * (size_t)model->kv_width;
    size_t layers = act->keep == SP_KEEP_RESIDENT ? 1 : (size_t)model->decoder.num_layers;
    act->memory_stride = act->keep == SP_KEEP_RESIDENT ? 0 : floats;
    act->out = sp_arena_take(arena, rows * (size_t)model->spec.hidden_size);
    act->out_norm.mean = sp_arena_take(arena, rows);
    act->out_norm.rstd = sp_arena_take(arena, rows);
    act->memory_k = sp_arena_take(arena, sp_mul(layers, floats));
    act->memory_v = sp_arena_take(arena, sp_mul(layers, floats));
    if (act->keep == SP_KEEP_LAYERS) {
        act->memory_dk = sp_arena_take(arena, sp_mul(layers, floats));
        act->memory_dv = sp_arena_take(arena, sp_mul(layers, floats));
    }
}

void
sp_activations_place(sp_activations *act, sp_arena *arena, const sp_model *model,
                     const sp_pack *pack, sp_keep keep)
{
    size_t n = (size_t)pack->num_rows, m = (size_t)pack->num_head_rows;
    size_t layers = (size_t)sp_model_stack(model, pack->encoder)->num_layers;
    size_t kv = (size_t)model->kv_width;
    int saves = keep == SP_KEEP_LAYERS || keep == SP_KEEP_ALL;
    sp_saved unused;
    size_t stride = layer_layout(&unused, NULL, model, n, n, 0, reads(model, pack->encoder));
    size_t last =
        pack->encoder ? stride : layer_layout(&unused, NULL, model, n, m, 1, reads(model, 0));
    *act = (sp_activations){
        .keep = keep, .encoder = pack->encoder, .n = pack->num_rows, .m = pack->num_head_rows};
    act->layer_stride = saves ? stride : 0;
    size_t largest = layers > 1 && stride > last ? stride : last;
    act->layers = sp_arena_take(arena, saves ? sp_add(sp_mul(layers - 1, stride), last) : largest);
    act->kv_stride = saves || keep == SP_KEEP_KEYS ? n * kv : 0;
    act->k = sp_arena_take(arena, sp_mul(act->kv_stride > 0 ? layers : 1, n * kv));
    act->v = sp_arena_take(arena, sp_mul(act->kv_stride > 0 ? layers : 1, n * kv));
    if (saves) {
        act->dkv_stride = keep == SP_KEEP_ALL ? n * kv : 0;
        act->dk = sp_arena_take(arena, sp_mul(act->dkv_stride > 0 ? layers : 1, n * kv));
        act->dv = sp_arena_take(arena, sp_mul(act->dkv_stride > 0 ? layers : 1, n * kv));
        act->dtop = sp_arena_take(arena, m * (size_t)model->spec.hidden_size);
    }
    if (pack->encoder) {
        place_memory(act, arena, model);
    }
}

sp_saved
sp_activations_layer(const sp_activations *act, const sp_model *model, int32_t layer)
{
    sp_saved saved;
    int last = !act->encoder && layer == model->spec.num_layers - 1;
    layer_layout(&saved, act->layers + (size_t)layer * act->layer_stride, model, (size_t)act->n,
                 (size_t)(last ? act->m : act->n), last, reads(model, act->encoder));
    return saved;
}

void
sp_activations_bind(const sp_activations *act, const sp_pack *pack, const sp_model *model,
                    sp_segment *segments)
{
    for (int32_t p = 0; p < pack->num_parts; p++) {
        sp_segment *segment = &segments[pack->parts[p].segment];
        size_t at = (size_t)pack->parts[p].row * (size_t)model->kv_width;
        int wanted = act->dk != NULL && segment->needs_grad;
        segment->k = act->k + at;
        segment->v = act->v + at;
        segment->stride = act->kv_stride;
        segment->dk = wanted ? act->dk + at : NULL;
        segment->dv = wanted ? act->dv + at : NULL;
        segment->dstride = act->dkv_stride;
        if (act->encoder && act->keep != SP_KEEP_RESIDENT) {
            wanted = act->memory_dk != NULL && segment->needs_grad;
            segment->memory_k = act->memory_k + at;
            segment->memory_v = act->memory_v + at;
            segment->memory_stride = act->memory_stride;
            segment->memory_dk = wanted ? act->memory_dk + at : NULL;
            segment->memory_dv = wanted ? act->memory_dv + at : NULL;
        }
    }
}

void
sp_pass_rows(sp_pass *pass, int32_t rows, sp_task *task, void *job)
{
    sp_team_run(pass->team, (rows + SP_ROW_BLOCK - 1) / SP_ROW_BLOCK, task, job);
}
