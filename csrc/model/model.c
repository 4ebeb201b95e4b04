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
    SP_TRY(
        in_range("num_heads * head_dim", (int64_t)s->num_heads * s->head_dim, 1, MAX_WIDTH, error));
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
    SP_TRY(in_range("positions", s->positions, SP_POSITIONS_NONE, SP_POSITIONS_RELATIVE, error));
    SP_TRY(in_range("activation", s->activation, SP_SILU, SP_RELU_SQUARED, error));
    SP_TRY(in_range("num_encoder_layers", s->num_encoder_layers, 0, MAX_LAYERS, error));
    SP_TRY(in_range("encoder_vocab_size", s->encoder_vocab_size, 0,
                    sp_has_encoder(s) ? MAX_VOCAB : 0, error));
    int relative = s->positions == SP_POSITIONS_RELATIVE;
    SP_TRY(in_range("relative_reach", s->relative_reach, relative ? 1 : 0, relative ? MAX_WIDTH : 0,
                    error));
    if (sp_has_encoder(s)
        && (s->positions == SP_POSITIONS_ROTARY || s->positions == SP_POSITIONS_ALIBI
            || s->parallel_residual || s->windows != NULL || s->qkv_clip != 0.0f
            || s->qk_norm != SP_QK_NORM_NONE)) {
        return sp_fail(error, SP_INVALID,
                       "num_encoder_layers = %d: an encoder goes with no rotary positions, ALiBi, "
                       "parallel residual, window, clamp, or norm of queries and keys",
                       s->num_encoder_layers);
    }
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
    size_t num_layers = (size_t)spec->num_layers, num_all = num_layers;
    num_all += (size_t)spec->num_encoder_layers;
    sp_layer *layers = sp_alloc_zeroed(num_all, sizeof *layers);
    if (model == NULL || layers == NULL) {
        sp_free(model);
        sp_free(layers);
        return sp_fail(error, SP_NO_MEMORY, "no memory for a model of %d layers", spec->num_layers);
    }
    model->spec = *spec;
    model->spec.windows = model->spec.ropes = NULL;
    model->decoder = (sp_stack){
        .num_layers = spec->num_layers, .vocab_size = spec->vocab_size, .layers = layers};
    model->encoder = (sp_stack){
        .num_layers = spec->num_encoder_layers,
        .vocab_size = spec->encoder_vocab_size > 0 ? spec->encoder_vocab_size : spec->vocab_size,
        .layers = layers + num_layers};
    model->q_width = spec->num_heads * spec->head_dim;
    model->kv_width = spec->num_kv_heads * spec->head_dim;
    int32_t d = spec->hidden_size, f = spec->intermediate_size;
    for (size_t l = 0; l < num_all; l++) {
        layers[l].q = (sp_linear){.outputs = model->q_width, .inputs = d};
        layers[l].k = layers[l].v = (sp_linear){.outputs = model->kv_width, .inputs = d};
        layers[l].o = (sp_linear){.outputs = d, .inputs = model->q_width};
        layers[l].gate = layers[l].up = (sp_linear){.outputs = f, .inputs = d};
        layers[l].down = (sp_linear){.outputs = d, .inputs = f};
        layers[l].window = spec->windows == NULL ? 0 : spec->windows[l];
        layers[l].rope = spec->positions != SP_POSITIONS_ROTARY ? -1
                         : spec->ropes == NULL                  ? 0
                                                                : spec->ropes[l];
        if (sp_has_encoder(spec) && l < num_layers) {
            layers[l].cross_q = layers[l].q;
            layers[l].cross_k = layers[l].cross_v = layers[l].k;
            layers[l].cross_o = layers[l].o;
        }
    }
    model->head = (sp_linear){.outputs = spec->vocab_size, .inputs = d};
    *out = model;
    return SP_OK;
}

void
sp_model_destroy(sp_model *model)
{
    if (model != NULL) {
        sp_free(model->decoder.layers); /* the encoder's are behind them */
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
sp_model_num_layers(const sp_model *model)
{
    return model->spec.num_layers;
}

int32_t
sp_model_kv_width(const sp_model *model)
{
    return model->kv_width;
}

int32_t
sp_model_num_frequencies(const sp_model *model)
{
    return model->spec.positions == SP_POSITIONS_ROTARY
               ? model->spec.num_ropes * (model->spec.rotary_dim / 2)
               : 0;
}

int
sp_model_has_encoder(const sp_model *model)
{
    return sp_has_encoder(&model->spec);
}

sp_linear
sp_model_head(const sp_model *model)
{
    sp_linear head = model->head;
    if (!sp_matrix_is_there(&head.weight)) {
        head.weight = model->decoder.embedding;
    }
    return head;
}

static size_t
stack_scratch(const sp_stack *stack, size_t row)
{
    int converts = sp_matrix_is_there(&stack->position) && stack->position.numbers == NULL;
    size_t most = converts ? row : 0;
    for (int32_t l = 0; l < stack->num_layers; l++) {
        const sp_layer *layer = &stack->layers[l];
        const sp_linear *linears[] = {&layer->q,       &layer->k,       &layer->v,
                                      &layer->o,       &layer->gate,    &layer->up,
                                      &layer->down,    &layer->cross_q, &layer->cross_k,
                                      &layer->cross_v, &layer->cross_o};
        for (size_t i = 0; i < sizeof linears / sizeof linears[0]; i++) {
            int is_there = sp_matrix_is_there(&linears[i]->weight); /* some need not be */
            size_t floats = is_there ? sp_linear_scratch(linears[i]) : 0;
            most = floats > most ? floats : most;
        }
    }
    return most;
}

size_t
sp_model_scratch(const sp_model *model)
{
    sp_linear head = sp_model_head(model);
    size_t row = (size_t)model->spec.hidden_size;
    size_t floats[] = {sp_linear_scratch(&head), stack_scratch(&model->decoder, row),
                       stack_scratch(&model->encoder, row)};
    size_t most = floats[0] > floats[1] ? floats[0] : floats[1];
    return most > floats[2] ? most : floats[2];
}

/* ---- slots ---- */

/* A vector (or a small table), or a matrix. */
typedef struct {
    const float **data;
    sp_matrix *matrix;
    int64_t rows, cols;
} slot;

static int
norm_slot(sp_norm_weights *norm, int is_bias, int32_t d, slot *out)
{
    *out = (slot){is_bias ? &norm->bias : &norm->weight, NULL, 1, d};
    return 1;
}

static int
linear_slot(sp_linear *linear, int is_bias, slot *out)
{
    *out = is_bias ? (slot){&linear->bias, NULL, 1, linear->outputs}
                   : (slot){NULL, &linear->weight, linear->outputs, linear->inputs};
    return 1;
}

static int
layer_slot(const sp_model *model, const sp_stack *stack, const char *name, slot *out)
{
    char *end;
    if (*name < '0' || *name > '9') {
        return 0;
    }
    long index = strtol(name, &end, 10);
    if (*end != '.' || index >= stack->num_layers) {
        return 0;
    }
    const char *part = end + 1, *kind = strchr(part, '.');
    if (kind == NULL || (strcmp(kind, ".weight") != 0 && strcmp(kind, ".bias") != 0)) {
        return 0;
    }
    sp_layer *layer = &stack->layers[index];
    const sp_spec *spec = &model->spec;
    int is_bias = kind[1] == 'b';
    int one_head = spec->qk_norm == SP_QK_NORM_HEAD;
    size_t length = (size_t)(kind - part);
#define IS(text) (length == sizeof(text) - 1 && memcmp(part, text, length) == 0)
    if (IS("attn_norm")) {
        return norm_slot(&layer->attn_norm, is_bias, spec->hidden_size, out);
    }
    if (IS("mlp_norm")) {
        return norm_slot(&layer->mlp_norm, is_bias, spec->hidden_size, out);
    }
    if (IS("attn_out_norm")) {
        return norm_slot(&layer->attn_out_norm, is_bias, spec->hidden_size, out);
    }
    if (IS("mlp_out_norm")) {
        return norm_slot(&layer->mlp_out_norm, is_bias, spec->hidden_size, out);
    }
    if (IS("q_norm")) {
        return norm_slot(&layer->q_norm, is_bias, one_head ? spec->head_dim : model->q_width, out);
    }
    if (IS("k_norm")) {
        return norm_slot(&layer->k_norm, is_bias, one_head ? spec->head_dim : model->kv_width, out);
    }
    if (IS("q")) {
        return linear_slot(&layer->q, is_bias, out);
    }
    if (IS("k")) {
        return linear_slot(&layer->k, is_bias, out);
    }
    if (IS("v")) {
        return linear_slot(&layer->v, is_bias, out);
    }
    if (IS("o")) {
        return linear_slot(&layer->o, is_bias, out);
    }
    if (IS("gate")) {
        return linear_slot(&layer->gate, is_bias, out);
    }
    if (IS("up")) {
        return linear_slot(&layer->up, is_bias, out);
    }
    if (IS("down")) {
        return linear_slot(&layer->down, is_bias, out);
    }
    if (layer->cross_q.outputs == 0) {
        return 0;
    }
    if (IS("cross_norm")) {
        return norm_slot(&layer->cross_norm, is_bias, spec->hidden_size, out);
    }
    if (IS("cross_out_norm")) {
        return norm_slot(&layer->cross_out_norm, is_bias, spec->hidden_size, out);
    }
    if (IS("cross_q")) {
        return linear_slot(&layer->cross_q, is_bias, out);
    }
    if (IS("cross_k")) {
        return linear_slot(&layer->cross_k, is_bias, out);
    }
    if (IS("cross_v")) {
        return linear_slot(&layer->cross_v, is_bias, out);
    }
    if (IS("cross_o")) {
        return linear_slot(&layer->cross_o, is_bias, out);
    }
#undef IS
    return 0;
}

static int
find_slot(sp_model *model, const char *name, slot *out)
{
    const sp_spec *spec = &model->spec;
    static const char prefix[] = "encoder.";
    int of_encoder = sp_has_encoder(spec) && strncmp(name, prefix, sizeof prefix - 1) == 0;
    sp_stack *stack = of_encoder ? &model->encoder : &model->decoder;
    if (of_encoder) {
        name += sizeof prefix - 1;
    }
    if (strncmp(name, "layers.", 7) == 0) {
        return layer_slot(model, stack, name + 7, out);
    }
    const struct {
        const char *name;
        slot slot;
        int absent;
    } others[] = {
        {"embedding.weight",
         {NULL, &stack->embedding, stack->vocab_size, spec->hidden_size},
         of_encoder && spec->encoder_vocab_size == 0},
        {"position.weight", {NULL, &stack->position, spec->max_positions, spec->hidden_size}, 0},
        {"relative.bias",
         {&stack->relative, NULL, spec->num_heads, 2 * (int64_t)spec->relative_reach + 1},
         spec->positions != SP_POSITIONS_RELATIVE},
        {"embedding_norm.weight", {&stack->embedding_norm.weight, NULL, 1, spec->hidden_size}, 0},
        {"embedding_norm.bias", {&stack->embedding_norm.bias, NULL, 1, spec->hidden_size}, 0},
        {"final_norm.weight", {&stack->final_norm.weight, NULL, 1, spec->hidden_size}, 0},
        {"final_norm.bias", {&stack->final_norm.bias, NULL, 1, spec->hidden_size}, 0},
        {"rope.inv_freq",
         {&model->inv_freq, NULL, spec->num_ropes, spec->rotary_dim / 2},
         of_encoder},
        {"rope.scale", {&model->rope_scale, NULL, 1, spec->num_ropes}, of_encoder},
        {"alibi.bias", {&model->alibi, NULL, spec->num_heads, spec->max_positions}, of_encoder},
        {"head.weight",
         {NULL, &model->head.weight, spec->vocab_size, spec->hidden_size},
         of_encoder},
        {"head.bias", {&model->head.bias, NULL, 1, spec->vocab_size}, of_encoder},
    };
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        if (strcmp(name, others[i].name) == 0 && !others[i].absent) {
            *out = others[i].slot;
            return 1;
        }
    }
    return 0;
}

/* The slot `name`, if it has this shape. */
static sp_status
slot_of_shape(sp_model *model, const char *name, int64_t rows, int64_t cols, slot *found,
              sp_error *error)
{
    if (!find_slot(model, name, found)) {
        return sp_fail(error, SP_INVALID, "weight %.100s: this model (%d layers) has no such slot",
                       name, model->spec.num_layers);
    }
    if (rows != found->rows || cols != found->cols) {
        return sp_fail(
            error, SP_INVALID, "weight %.100s: shape [%lld, %lld], expected [%lld, %lld]", name,
            (long long)rows, (long long)cols, (long long)found->rows, (long long)found->cols);
    }
    return SP_OK;
}

sp_status
sp_model_set_weight(sp_model *model, const char *name, const float *data, int64_t rows,
                    int64_t cols, sp_error *error)
{
    slot found;
    SP_TRY(slot_of_shape(model, name, rows, cols, &found, error));
    if (found.matrix != NULL) {
        *found.matrix = (sp_matrix){.numbers = data, .rows = (int32_t)rows, .cols = (int32_t)cols};
    }
    else {
        *found.data = data;
    }
    return SP_OK;
}

sp_status
sp_model_set_stored(sp_model *model, const char *name, const sp_stored *stored, sp_error *error)
{
    slot found;
    SP_TRY(slot_of_shape(model, name, stored->rows, stored->cols, &found, error));
    if (found.matrix == NULL) {
        return sp_fail(error, SP_INVALID, "weight %.100s: expected float32, it is no matrix", name);
    }
    return sp_matrix_of_stored(found.matrix, stored, error);
}

/* Weights of one stack are all there; messages put `prefix` before their names. */
typedef struct {
    const char *prefix;
    sp_error *error;
} checker;

static sp_status
need_either(const checker *c, int is_there, const char *name, int32_t layer)
{
    if (is_there) {
        return SP_OK;
    }
    if (layer < 0) {
        return sp_fail(c->error, SP_INVALID, "weight %s%s is missing", c->prefix, name);
    }
    return sp_fail(c->error, SP_INVALID, "weight %slayers.%d.%s is missing", c->prefix, layer,
                   name);
}

static sp_status
need(const checker *c, const float *data, const char *name, int32_t layer)
{
    return need_either(c, data != NULL, name, layer);
}

static sp_status
need_matrix(const checker *c, const sp_matrix *matrix, const char *name, int32_t layer)
{
    return need_either(c, sp_matrix_is_there(matrix), name, layer);
}

static sp_status
check_cross(const checker *c, const sp_spec *spec, const sp_layer *layer, int32_t l)
{
    if (sp_norms_before(spec)) {
        SP_TRY(need(c, layer->cross_norm.weight, "cross_norm.weight", l));
    }
    if (sp_norms_after(spec)) {
        SP_TRY(need(c, layer->cross_out_norm.weight, "cross_out_norm.weight", l));
    }
    SP_TRY(need_matrix(c, &layer->cross_q.weight, "cross_q.weight", l));
    SP_TRY(need_matrix(c, &layer->cross_k.weight, "cross_k.weight", l));
    SP_TRY(need_matrix(c, &layer->cross_v.weight, "cross_v.weight", l));
    return need_matrix(c, &layer->cross_o.weight, "cross_o.weight", l);
}

static sp_status
check_stack(const checker *c, const sp_spec *spec, const sp_stack *stack)
{
    if (spec->embedding_norm) {
        SP_TRY(need(c, stack->embedding_norm.weight, "embedding_norm.weight", -1));
    }
    if (spec->final_norm) {
        SP_TRY(need(c, stack->final_norm.weight, "final_norm.weight", -1));
    }
    if (spec->positions == SP_POSITIONS_LEARNED) {
        SP_TRY(need_matrix(c, &stack->position, "position.weight", -1));
    }
    if (spec->positions == SP_POSITIONS_RELATIVE) {
        SP_TRY(need(c, stack->relative, "relative.bias", -1));
    }
    for (int32_t l = 0; l < stack->num_layers; l++) {
        const sp_layer *layer = &stack->layers[l];
        if (sp_norms_before(spec)) {
            SP_TRY(need(c, layer->attn_norm.weight, "attn_norm.weight", l));
            SP_TRY(need(c, layer->mlp_norm.weight, "mlp_norm.weight", l));
        }
        if (sp_norms_after(spec)) {
            SP_TRY(need(c, layer->attn_out_norm.weight, "attn_out_norm.weight", l));
            SP_TRY(need(c, layer->mlp_out_norm.weight, "mlp_out_norm.weight", l));
        }
        if (spec->qk_norm != SP_QK_NORM_NONE) {
            SP_TRY(need(c, layer->q_norm.weight, "q_norm.weight", l));
            SP_TRY(need(c, layer->k_norm.weight, "k_norm.weight", l));
        }
        SP_TRY(need_matrix(c, &layer->q.weight, "q.weight", l));
        SP_TRY(need_matrix(c, &layer->k.weight, "k.weight", l));
        SP_TRY(need_matrix(c, &layer->v.weight, "v.weight", l));
        SP_TRY(need_matrix(c, &layer->o.weight, "o.weight", l));
        SP_TRY(need_matrix(c, &layer->up.weight, "up.weight", l));
        SP_TRY(need_matrix(c, &layer->down.weight, "down.weight", l));
        if (spec->gated) {
            SP_TRY(need_matrix(c, &layer->gate.weight, "gate.weight", l));
        }
        if (layer->cross_q.outputs > 0) {
            SP_TRY(check_cross(c, spec, layer, l));
        }
    }
    return SP_OK;
}

sp_status
sp_model_check(const sp_model *model, sp_error *error)
{
    const sp_spec *spec = &model->spec;
    checker decoder = {"", error}, encoder = {"encoder.", error};
    SP_TRY(need_matrix(&decoder, &model->decoder.embedding, "embedding.weight", -1));
    if (spec->positions == SP_POSITIONS_ALIBI) {
        SP_TRY(need(&decoder, model->alibi, "alibi.bias", -1));
    }
    if (spec->positions == SP_POSITIONS_ROTARY) {
        SP_TRY(need(&decoder, model->inv_freq, "rope.inv_freq", -1));
    }
    SP_TRY(check_stack(&decoder, spec, &model->decoder));
    if (!sp_has_encoder(spec)) {
        return SP_OK;
    }
    if (spec->encoder_vocab_size > 0) {
        SP_TRY(need_matrix(&encoder, &model->encoder.embedding, "embedding.weight", -1));
    }
    return check_stack(&encoder, spec, &model->encoder);
}
