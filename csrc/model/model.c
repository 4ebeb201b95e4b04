#include "model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/alloc.h"
#include "../base/status.h"

/* Bounds that keep every product of two sizes inside int32 or far inside int64. */
enum { MAX_WIDTH = 1 << 20, MAX_LAYERS = 1 << 12, MAX_VOCAB = 1 << 24, MAX_POSITIONS = 1 << 24 };

static sp_status
in_range(const char *name, int64_t value, int64_t low, int64_t high, sp_error *error)
{
    if (value < low || value > high) {
        return sp_fail(error, SP_INVALID, "%s = %lld: expected a number from %lld to %lld", name,
                       (long long)value, (long long)low, (long long)high);
    }
    return SP_OK;
}

static sp_status
is_number(const char *name, float value, int not_negative, sp_error *error)
{
    if (!isfinite(value) || (not_negative && value < 0.0f)) {
        return sp_fail(error, SP_INVALID, "%s = %g: expected a finite number%s", name,
                       (double)value, not_negative ? ", not negative" : "");
    }
    return SP_OK;
}

static sp_status
check_spec(const sp_spec *s, sp_error *error)
{
    SP_TRY(in_range("vocab_size", s->vocab_size, 1, MAX_VOCAB, error));
    SP_TRY(in_range("hidden_size", s->hidden_size, 1, MAX_WIDTH, error));
    SP_TRY(in_range("num_layers", s->num_layers, 1, MAX_LAYERS, error));
    SP_TRY(in_range("num_heads", s->num_heads, 1, MAX_WIDTH, error));
    SP_TRY(in_range("num_kv_heads", s->num_kv_heads, 1, s->num_heads, error));
    SP_TRY(in_range("head_dim", s->head_dim, 1, MAX_WIDTH, error));
    SP_TRY(in_range("intermediate_size", s->intermediate_size, 1, MAX_WIDTH, error));
    SP_TRY(in_range("max_positions", s->max_positions, 1, MAX_POSITIONS, error));
    SP_TRY(in_range("num_heads * head_dim", (int64_t)s->num_heads * s->head_dim, 1, MAX_WIDTH, error));
    if (s->num_heads % s->num_kv_heads != 0) {
        return sp_fail(error, SP_INVALID, "num_heads = %d is not a multiple of num_kv_heads = %d",
                       s->num_heads, s->num_kv_heads);
    }
    if (s->positions == SP_POSITIONS_ROTARY) {
        SP_TRY(in_range("rotary_dim", s->rotary_dim, 2, s->head_dim, error));
        if (s->rotary_dim % 2 != 0) {
            return sp_fail(error, SP_INVALID, "rotary_dim = %d: expected an even number",
                           s->rotary_dim);
        }
        SP_TRY(in_range("num_ropes", s->num_ropes, 1, MAX_LAYERS, error));
        SP_TRY(in_range("num_ropes * rotary_dim", (int64_t)s->num_ropes * s->rotary_dim, 1,
                        MAX_WIDTH, error));
    }
    SP_TRY(in_range("norm", s->norm, SP_NORM_RMS, SP_NORM_LAYER, error));
    SP_TRY(in_range("norm_place", s->norm_place, SP_NORM_PRE, SP_NORM_POST, error));
    SP_TRY(in_range("qk_norm", s->qk_norm, SP_QK_NORM_NONE, SP_QK_NORM_WHOLE, error));
    SP_TRY(in_range("positions", s->positions, SP_POSITIONS_NONE, SP_POSITIONS_ALIBI, error));
    SP_TRY(in_range("activation", s->activation, SP_SILU, SP_RELU_SQUARED, error));
    if (s->parallel_residual && s->norm_place == SP_NORM_POST) {
        return sp_fail(error, SP_INVALID,
                       "parallel_residual with norms after the sum: expected one or the other");
    }
    SP_TRY(is_number("norm_eps", s->norm_eps, 1, error));
    SP_TRY(is_number("attention_scale", s->attention_scale, 0, error));
    SP_TRY(is_number("attention_soft_cap", s->attention_soft_cap, 1, error));
    SP_TRY(is_number("qkv_clip", s->qkv_clip, 1, error));
    SP_TRY(is_number("embedding_scale", s->embedding_scale, 0, error));
    SP_TRY(is_number("input_scale", s->input_scale, 0, error));
    SP_TRY(is_number("residual_scale", s->residual_scale, 0, error));
    SP_TRY(is_number("logit_scale", s->logit_scale, 0, error));
    SP_TRY(is_number("logit_soft_cap", s->logit_soft_cap, 1, error));
    for (int32_t l = 0; s->windows != NULL && l < s->num_layers; l++) {
        SP_TRY(in_range("window", s->windows[l], 0, INT32_MAX, error));
    }
    for (int32_t l = 0; s->ropes != NULL && l < s->num_layers; l++) {
        SP_TRY(in_range("rope", s->ropes[l], -1, (int64_t)s->num_ropes - 1, error));
    }
    return SP_OK;
}

sp_status
sp_model_create(const sp_spec *spec, sp_model **out, sp_error *error)
{
    *out = NULL;
    SP_TRY(check_spec(spec, error));
    sp_model *model = sp_alloc_zeroed(1, sizeof *model);
    sp_layer *layers = sp_alloc_zeroed((size_t)spec->num_layers, sizeof *layers);
    if (model == NULL || layers == NULL) {
        sp_free(model);
        sp_free(layers);
        return sp_fail(error, SP_NO_MEMORY, "no memory for a model of %d layers", spec->num_layers);
    }
    model->spec = *spec;
    model->spec.windows = model->spec.ropes = NULL;
    model->layers = layers;
    model->q_width = spec->num_heads * spec->head_dim;
    model->kv_width = spec->num_kv_heads * spec->head_dim;
    int32_t d = spec->hidden_size, f = spec->intermediate_size;
    for (int32_t l = 0; l < spec->num_layers; l++) {
        layers[l].q = (sp_linear){.outputs = model->q_width, .inputs = d};
        layers[l].k = layers[l].v = (sp_linear){.outputs = model->kv_width, .inputs = d};
        layers[l].o = (sp_linear){.outputs = d, .inputs = model->q_width};
        layers[l].gate = layers[l].up = (sp_linear){.outputs = f, .inputs = d};
        layers[l].down = (sp_linear){.outputs = d, .inputs = f};
        layers[l].window = spec->windows == NULL ? 0 : spec->windows[l];
        layers[l].rope = spec->positions != SP_POSITIONS_ROTARY ? -1
                         : spec->ropes == NULL                  ? 0
                                                                : spec->ropes[l];
    }
    model->head = (sp_linear){.outputs = spec->vocab_size, .inputs = d};
    *out = model;
    return SP_OK;
}

void
sp_model_destroy(sp_model *model)
{
    if (model != NULL) {
        sp_free(model->layers);
        sp_free(model);
    }
}

int32_t
sp_model_hidden_size(const sp_model *model)
{
    return model->spec.hidden_size;
}

int32_t
sp_model_vocab_size(const sp_model *model)
{
    return model->spec.vocab_size;
}

int32_t
sp_model_num_frequencies(const sp_model *model)
{
    return model->spec.positions == SP_POSITIONS_ROTARY
               ? model->spec.num_ropes * (model->spec.rotary_dim / 2)
               : 0;
}

sp_linear
sp_model_head(const sp_model *model)
{
    sp_linear head = model->head;
    if (head.weight == NULL) {
        head.weight = model->embedding;
    }
    return head;
}

/* ---- slots ---- */

typedef struct {
    const float **data;
    int64_t rows, cols;
} slot;

static int
norm_slot(sp_norm_weights *norm, int is_bias, int32_t d, slot *out)
{
    *out = (slot){is_bias ? &norm->bias : &norm->weight, 1, d};
    return 1;
}

static int
linear_slot(sp_linear *linear, int is_bias, slot *out)
{
    *out = is_bias ? (slot){&linear->bias, 1, linear->outputs}
                   : (slot){&linear->weight, linear->outputs, linear->inputs};
    return 1;
}

static int
layer_slot(sp_model *model, const char *name, slot *out)
{
    char *end;
    if (*name < '0' || *name > '9') {
        return 0;
    }
    long index = strtol(name, &end, 10);
    if (*end != '.' || index >= model->spec.num_layers) {
        return 0;
    }
    const char *part = end + 1, *kind = strchr(part, '.');
    if (kind == NULL || (strcmp(kind, ".weight") != 0 && strcmp(kind, ".bias") != 0)) {
        return 0;
    }
    sp_layer *layer = &model->layers[index];
    const sp_spec *spec = &model->spec;
    int is_bias = kind[1] == 'b';
    int one_head = spec->qk_norm == SP_QK_NORM_HEAD;
    size_t length = (size_t)(kind - part);
#define IS(text) (length == sizeof(text) - 1 && memcmp(part, text, length) == 0)
    if (IS("attn_norm")) return norm_slot(&layer->attn_norm, is_bias, spec->hidden_size, out);
    if (IS("mlp_norm")) return norm_slot(&layer->mlp_norm, is_bias, spec->hidden_size, out);
    if (IS("attn_out_norm")) {
        return norm_slot(&layer->attn_out_norm, is_bias, spec->hidden_size, out);
    }
    if (IS("mlp_out_norm")) return norm_slot(&layer->mlp_out_norm, is_bias, spec->hidden_size, out);
    if (IS("q_norm")) {
        return norm_slot(&layer->q_norm, is_bias, one_head ? spec->head_dim : model->q_width, out);
    }
    if (IS("k_norm")) {
        return norm_slot(&layer->k_norm, is_bias, one_head ? spec->head_dim : model->kv_width, out);
    }
    if (IS("q")) return linear_slot(&layer->q, is_bias, out);
    if (IS("k")) return linear_slot(&layer->k, is_bias, out);
    if (IS("v")) return linear_slot(&layer->v, is_bias, out);
    if (IS("o")) return linear_slot(&layer->o, is_bias, out);
    if (IS("gate")) return linear_slot(&layer->gate, is_bias, out);
    if (IS("up")) return linear_slot(&layer->up, is_bias, out);
    if (IS("down")) return linear_slot(&layer->down, is_bias, out);
#undef IS
    return 0;
}

static int
find_slot(sp_model *model, const char *name, slot *out)
{
    const sp_spec *spec = &model->spec;
    if (strncmp(name, "layers.", 7) == 0) {
        return layer_slot(model, name + 7, out);
    }
    const struct {
        const char *name;
        slot slot;
    } others[] = {
        {"embedding.weight", {&model->embedding, spec->vocab_size, spec->hidden_size}},
        {"position.weight", {&model->position, spec->max_positions, spec->hidden_size}},
        {"rope.inv_freq", {&model->inv_freq, spec->num_ropes, spec->rotary_dim / 2}},
        {"rope.scale", {&model->rope_scale, 1, spec->num_ropes}},
        {"alibi.bias", {&model->alibi, spec->num_heads, spec->max_positions}},
        {"embedding_norm.weight", {&model->embedding_norm.weight, 1, spec->hidden_size}},
        {"embedding_norm.bias", {&model->embedding_norm.bias, 1, spec->hidden_size}},
        {"final_norm.weight", {&model->final_norm.weight, 1, spec->hidden_size}},
        {"final_norm.bias", {&model->final_norm.bias, 1, spec->hidden_size}},
        {"head.weight", {&model->head.weight, spec->vocab_size, spec->hidden_size}},
        {"head.bias", {&model->head.bias, 1, spec->vocab_size}},
    };
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        if (strcmp(name, others[i].name) == 0) {
            *out = others[i].slot;
            return 1;
        }
    }
    return 0;
}

sp_status
sp_model_set_weight(sp_model *model, const char *name, const float *data, int64_t rows,
                    int64_t cols, sp_error *error)
{
    slot found;
    if (!find_slot(model, name, &found)) {
        return sp_fail(error, SP_INVALID, "weight %.100s: this model (%d layers) has no such slot",
                       name, model->spec.num_layers);
    }
    if (rows != found.rows || cols != found.cols) {
        return sp_fail(error, SP_INVALID, "weight %.100s: shape [%lld, %lld], expected [%lld, %lld]",
                       name, (long long)rows, (long long)cols, (long long)found.rows,
                       (long long)found.cols);
    }
    *found.data = data;
    return SP_OK;
}

static sp_status
need(const float *data, const char *name, int32_t layer, sp_error *error)
{
    if (data != NULL) {
        return SP_OK;
    }
    if (layer < 0) {
        return sp_fail(error, SP_INVALID, "weight %s is missing", name);
    }
    return sp_fail(error, SP_INVALID, "weight layers.%d.%s is missing", layer, name);
}

sp_status
sp_model_check(const sp_model *model, sp_error *error)
{
    const sp_spec *spec = &model->spec;
    SP_TRY(need(model->embedding, "embedding.weight", -1, error));
    if (spec->embedding_norm) {
        SP_TRY(need(model->embedding_norm.weight, "embedding_norm.weight", -1, error));
    }
    if (spec->final_norm) {
        SP_TRY(need(model->final_norm.weight, "final_norm.weight", -1, error));
    }
    if (spec->positions == SP_POSITIONS_ALIBI) {
        SP_TRY(need(model->alibi, "alibi.bias", -1, error));
    }
    if (spec->positions == SP_POSITIONS_LEARNED) {
        SP_TRY(need(model->position, "position.weight", -1, error));
    }
    if (spec->positions == SP_POSITIONS_ROTARY) {
        SP_TRY(need(model->inv_freq, "rope.inv_freq", -1, error));
    }
    for (int32_t l = 0; l < spec->num_layers; l++) {
        const sp_layer *layer = &model->layers[l];
        if (sp_norms_before(spec)) {
            SP_TRY(need(layer->attn_norm.weight, "attn_norm.weight", l, error));
            SP_TRY(need(layer->mlp_norm.weight, "mlp_norm.weight", l, error));
        }
        if (sp_norms_after(spec)) {
            SP_TRY(need(layer->attn_out_norm.weight, "attn_out_norm.weight", l, error));
            SP_TRY(need(layer->mlp_out_norm.weight, "mlp_out_norm.weight", l, error));
        }
        if (spec->qk_norm != SP_QK_NORM_NONE) {
            SP_TRY(need(layer->q_norm.weight, "q_norm.weight", l, error));
            SP_TRY(need(layer->k_norm.weight, "k_norm.weight", l, error));
        }
        SP_TRY(need(layer->q.weight, "q.weight", l, error));
        SP_TRY(need(layer->k.weight, "k.weight", l, error));
        SP_TRY(need(layer->v.weight, "v.weight", l, error));
        SP_TRY(need(layer->o.weight, "o.weight", l, error));
        SP_TRY(need(layer->up.weight, "up.weight", l, error));
        SP_TRY(need(layer->down.weight, "down.weight", l, error));
        if (spec->gated) {
            SP_TRY(need(layer->gate.weight, "gate.weight", l, error));
        }
    }
    return SP_OK;
}
