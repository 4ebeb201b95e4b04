/* Segments whose keys and values stay between calls: the cache of generation. */
#include <string.h>

#include "../base/alloc.h"
#include "../base/status.h"
#include "context.h"
#include "head.h"
#include "layer.h"
#include "memory.h"
#include "schedule.h"

static sp_status
find(const sp_context *context, int32_t segment, const char *name, sp_error *error)
{
    if (segment < 0 || segment >= context->num_segments || !context->residents[segment].in_use) {
        return sp_fail(error, SP_INVALID, "%s = %d is not a resident segment", name, segment);
    }
    return SP_OK;
}

/* A free place in the tables, which grow by doubling. */
static sp_status
free_place(sp_context *context, int32_t *place, sp_error *error)
{
    for (int32_t s = 0; s < context->num_segments; s++) {
        if (!context->residents[s].in_use) {
            *place = s;
            return SP_OK;
        }
    }
    int32_t old = context->num_segments, new = old == 0 ? 16 : old * 2;
    if (old > INT32_MAX / 2) {
        return sp_fail(error, SP_OVERFLOW, "more than %d resident segments", old);
    }
    sp_segment *segments = sp_alloc_zeroed((size_t)new, sizeof *segments);
    sp_resident *residents = sp_alloc_zeroed((size_t)new, sizeof *residents);
    if (segments == NULL || residents == NULL) {
        sp_free(segments);
        sp_free(residents);
        return sp_fail(error, SP_NO_MEMORY, "no memory for %d resident segments", new);
    }
    if (old > 0) {
        memcpy(segments, context->segments, (size_t)old * sizeof *segments);
        memcpy(residents, context->residents, (size_t)old * sizeof *residents);
    }
    sp_free(context->segments);
    sp_free(context->residents);
    context->segments = segments;
    context->residents = residents;
    context->num_segments = new;
    *place = old;
    return SP_OK;
}

/* Keys and values of all layers. */
static size_t
resident_floats(const sp_context *context, int32_t capacity)
{
    return sp_mul(sp_mul((size_t)context->model->spec.num_layers * 2, (size_t)capacity),
                  (size_t)context->model->kv_width);
}

static sp_status
check_capacity(const sp_context *context, int32_t capacity, sp_error *error)
{
    if (capacity < 1 || capacity > context->model->spec.max_positions) {
        return sp_fail(error, SP_INVALID, "capacity = %d: expected 1 to %d, the model's context",
                       capacity, context->model->spec.max_positions);
    }
    return SP_OK;
}

static int
is_memory(const sp_context *context, int32_t segment)
{
    return context->segments[segment].memory == SP_ENCODER;
}

/* The segment that counts this one among its children, or -1. */
static int32_t
above(const sp_context *context, int32_t segment)
{
    const sp_segment *s = &context->segments[segment];
    return s->parent != -1 ? s->parent : sp_max32(s->memory, -1);
}

sp_status
sp_memory_create(sp_context *context, int32_t capacity, int32_t *segment, sp_error *error)
{
    if (!sp_has_encoder(&context->model->spec)) {
        return sp_fail(error, SP_INVALID, "a segment of the encoder: this model has none");
    }
    SP_TRY(check_capacity(context, capacity, error));
    int32_t place = -1;
    SP_TRY(free_place(context, &place, error));
    size_t floats = resident_floats(context, capacity);
    float *block = sp_alloc(floats, sizeof(float));
    if (block == NULL) {
        return sp_fail(error, SP_NO_MEMORY, "no memory for the keys and values of %d rows",
                       capacity);
    }
    context->segments[place] = (sp_segment){
        .parent = -1,
        .memory = SP_ENCODER,
        .memory_k = block,
        .memory_v = block + floats / 2,
        .memory_stride = (size_t)capacity * (size_t)context->model->kv_width,
    };
    context->residents[place] = (sp_resident){.in_use = 1, .capacity = capacity, .block = block};
    context->resident_bytes += floats * sizeof(float);
    *segment = place;
    return SP_OK;
}

sp_status
sp_segment_create(sp_context *context, int32_t parent, int32_t capacity, const float *frequencies,
                  int32_t *segment, sp_error *error)
{
    int32_t num_frequencies = sp_model_num_frequencies(context->model);
    if (parent != -1 || sp_has_encoder(&context->model->spec)) {
        SP_TRY(find(context, parent, "parent", error));
    }
    SP_TRY(check_capacity(context, capacity, error));
    if (frequencies != NULL && (parent != -1 || num_frequencies == 0)) {
        return sp_fail(error, SP_INVALID,
                       "frequencies: expected a segment without a parent, of a "
                       "model with rotary positions");
    }
    int32_t place = -1;
    SP_TRY(free_place(context, &place, error));
    size_t floats = resident_floats(context, capacity);
    size_t own = frequencies == NULL ? 0 : (size_t)num_frequencies;
    float *keys = sp_alloc(sp_add(floats, own), sizeof(float));
    if (keys == NULL) {
        return sp_fail(error, SP_NO_MEMORY, "no memory for the keys and values of %d rows",
                       capacity);
    }
    int reads = parent != -1 && is_memory(context, parent);
    context->segments[place] = (sp_segment){
        .parent = reads ? -1 : parent,
        .memory = reads          ? parent
                  : parent == -1 ? -1
                                 : context->segments[parent].memory,
        .k = keys,
        .v = keys + floats / 2,
        .stride = (size_t)capacity * (size_t)context->model->kv_width,
    };
    if (frequencies != NULL) {
        context->segments[place].frequencies =
            memcpy(keys + floats, frequencies, own * sizeof *keys);
    }
    else if (parent != -1) {
        context->segments[place].frequencies = context->segments[parent].frequencies;
    }
    context->residents[place] = (sp_resident){.in_use = 1, .capacity = capacity, .block = keys};
    context->resident_bytes += floats * sizeof(float);
    if (parent != -1) {
        context->residents[parent].children++;
    }
    *segment = place;
    return SP_OK;
}

sp_status
sp_segment_release(sp_context *context, int32_t segment, sp_error *error)
{
    SP_TRY(find(context, segment, "segment", error));
    sp_resident *resident = &context->residents[segment];
    if (resident->children > 0) {
        return sp_fail(error, SP_INVALID, "segment = %d still has %d children", segment,
                       resident->children);
    }
    if (above(context, segment) != -1) {
        context->residents[above(context, segment)].children--;
    }
    context->resident_bytes -= resident_floats(context, resident->capacity) * sizeof(float);
    sp_free(resident->block);
    context->segments[segment] = (sp_segment){0};
    *resident = (sp_resident){0};
    return SP_OK;
}

/* Rows of one stand for rows of the other: they follow the same rows, at the same positions. */
static int
are_siblings(const sp_context *context, int32_t a, int32_t b)
{
    const sp_segment *one = &context->segments[a], *other = &context->segments[b];
    if (a == b || one->parent != other->parent
        || (one->frequencies == NULL) != (other->frequencies == NULL)) {
        return 0;
    }
    size_t count = (size_t)sp_model_num_frequencies(context->model);
    return one->frequencies == NULL
           || memcmp(one->frequencies, other->frequencies, count * sizeof(float)) == 0;
}

sp_status
sp_segment_copy(sp_context *context, int32_t source, int32_t target, int32_t num_equal,
                sp_error *error)
{
    SP_TRY(find(context, source, "source", error));
    SP_TRY(find(context, target, "target", error));
    const sp_segment *from = &context->segments[source];
    sp_segment *to = &context->segments[target];
    if (!are_siblings(context, source, target)) {
        return sp_fail(error, SP_INVALID,
                       "segments %d and %d: expected two with one parent and "
                       "equal frequencies",
                       source, target);
    }
    if (context->residents[target].children > 0) {
        return sp_fail(error, SP_INVALID, "segment %d has children and cannot change", target);
    }
    if (from->length > context->residents[target].capacity) {
        return sp_fail(error, SP_INVALID,
                       "segment %d has room for %d rows, not for the %d of "
                       "segment %d",
                       target, context->residents[target].capacity, from->length, source);
    }
    if (num_equal < 0 || num_equal > from->length || num_equal > to->length) {
        return sp_fail(error, SP_INVALID, "num_equal = %d of segments with %d and %d rows",
                       num_equal, from->length, to->length);
    }
    size_t width = (size_t)context->model->kv_width, first = (size_t)num_equal * width;
    size_t bytes = (size_t)(from->length - num_equal) * width * sizeof(float);
    for (size_t l = 0; l < (size_t)context->model->spec.num_layers; l++) {
        memcpy(to->k + l * to->stride + first, from->k + l * from->stride + first, bytes);
        memcpy(to->v + l * to->stride + first, from->v + l * from->stride + first, bytes);
    }
    to->base = from->base;
    to->length = from->length;
    return SP_OK;
}

sp_status
sp_segment_fill(sp_context *context, int32_t segment, int32_t num_rows, const float *prefix,
                sp_error *error)
{
    SP_TRY(find(context, segment, "segment", error));
    sp_segment *stored = &context->segments[segment];
    int32_t capacity = context->residents[segment].capacity;
    if (stored->parent != -1 || stored->length > 0) {
        return sp_fail(error, SP_INVALID, "segment %d has rows or a parent, expected neither",
                       segment);
    }
    if (num_rows < 1 || num_rows > capacity) {
        return sp_fail(error, SP_INVALID, "num_rows = %d: expected 1 to %d, what segment %d holds",
                       num_rows, capacity, segment);
    }
    size_t floats = (size_t)num_rows * (size_t)context->model->kv_width;
    for (size_t l = 0; l < (size_t)context->model->spec.num_layers; l++) {
        const float *keys = prefix + 2 * l * floats;
        memcpy(stored->k + l * stored->stride, keys, floats * sizeof *keys);
        memcpy(stored->v + l * stored->stride, keys + floats, floats * sizeof *keys);
    }
    stored->length = num_rows;
    return SP_OK;
}

sp_status
sp_segment_key_values(const sp_context *context, int32_t segment, sp_key_values *key_values,
                      sp_error *error)
{
    SP_TRY(find(context, segment, "segment", error));
    const sp_segment *stored = &context->segments[segment];
    *key_values = (sp_key_values){
        .num_layers = context->model->spec.num_layers,
        .num_rows = stored->length,
        .kv_width = context->model->kv_width,
        .layer_stride = is_memory(context, segment) ? stored->memory_stride : stored->stride,
        .keys = is_memory(context, segment) ? stored->memory_k : stored->k,
        .values = is_memory(context, segment) ? stored->memory_v : stored->v,
    };
    return SP_OK;
}

/* The parent of the part `p` (or what it reads) has rows, or gets them by an earlier part: it could
 * not get any later without moving this one. */
static int
parent_is_there(const sp_context *context, const int32_t *segments, int32_t p)
{
    int32_t parent = above(context, segments[p]);
    if (parent < 0 || context->segments[parent].length > 0) {
        return 1;
    }
    for (int32_t q = 0; q < p; q++) {
        if (segments[q] == parent) {
            return 1;
        }
    }
    return 0;
}

/* The parts of one call, checked; segments are not changed yet. */
static sp_status
make_parts(sp_context *context, int32_t num_parts, const int32_t *segments, const int32_t *starts,
           sp_part *parts, sp_error *error)
{
    for (int32_t p = 0; p < num_parts; p++) {
        SP_TRY(find(context, segments[p], "segment", error));
        const sp_segment *segment = &context->segments[segments[p]];
        if (starts[0] != 0 || starts[p + 1] <= starts[p]) {
            return sp_fail(error, SP_INVALID, "part %d has no rows", p);
        }
        int32_t count = starts[p + 1] - starts[p];
        if (count > context->residents[segments[p]].capacity - segment->length) {
            return sp_fail(error, SP_INVALID, "segment %d holds %d of %d rows, no room for %d more",
                           segments[p], segment->length, context->residents[segments[p]].capacity,
                           count);
        }
        if (is_memory(context, segments[p]) != is_memory(context, segments[0])) {
            return sp_fail(error, SP_INVALID,
                           "segments %d and %d are the encoder's and the decoder's", segments[0],
                           segments[p]);
        }
        if (is_memory(context, segments[p]) && segment->length > 0) {
            return sp_fail(error, SP_INVALID, "segment %d is the encoder's and cannot grow",
                           segments[p]);
        }
        if (context->residents[segments[p]].children > 0 && segment->length > 0) {
            return sp_fail(error, SP_INVALID, "segment %d has children and cannot grow",
                           segments[p]);
        }
        if (!parent_is_there(context, segments, p)) {
            return sp_fail(error, SP_INVALID, "segment %d: its parent %d has no rows yet",
                           segments[p], above(context, segments[p]));
        }
        for (int32_t q = 0; q < p; q++) {
            if (segments[q] == segments[p]) {
                return sp_fail(error, SP_INVALID, "segment %d stands in two parts", segments[p]);
            }
        }
        parts[p] = (sp_part){
            .segment = segments[p], .first = segment->length, .row = starts[p], .count = count};
    }
    return SP_OK;
}

/* Lengths after the call (grow) or before it. A segment's place on its path is known when it gets
 * its first rows: parents have theirs by then. */
static void
set_lengths(sp_context *context, int32_t num_parts, const sp_part *parts, int grow)
{
    for (int32_t p = 0; p < num_parts; p++) {
        sp_segment *segment = &context->segments[parts[p].segment];
        if (parts[p].first == 0 && segment->parent >= 0) {
            const sp_segment *parent = &context->segments[segment->parent];
            segment->base = parent->base + parent->length;
        }
        segment->length = parts[p].first + (grow ? parts[p].count : 0);
    }
}

static sp_status
check_positions(const sp_context *context, int32_t num_parts, const sp_part *parts, sp_error *error)
{
    int32_t limit = context->model->spec.max_positions;
    for (int32_t p = 0; p < num_parts; p++) {
        const sp_segment *segment = &context->segments[parts[p].segment];
        if (segment->length > limit - segment->base) {
            return sp_fail(error, SP_INVALID,
                           "a sequence of %lld rows is longer than the model's context of %d",
                           (long long)segment->base + segment->length, limit);
        }
    }
    return SP_OK;
}

static sp_status
extend(sp_context *context, const sp_pack *pack, const float *prompt, const sp_options *options,
       float *logits, sp_error *error)
{
    const sp_model *model = context->model;
    sp_pass pass = {.model = model,
                    .kernels = sp_kernels_now(),
                    .segments = context->segments,
                    .prompt = prompt};
    sp_heads heads = {.logits = logits};
    sp_extent extent = {0};
    sp_activations act;
    sp_extent_add(&extent, pack);
    sp_arena arena = {0};
    for (int measured = 0; measured < 2; measured++) {
        sp_pass_place(&pass, &arena, &extent, options->num_threads);
        sp_heads_place(&heads, &arena, model, extent.head_rows);
        sp_activations_place(&act, &arena, model, pack, SP_KEEP_RESIDENT);
        if (measured == 0) {
            SP_TRY(sp_context_workspace(context, arena.peak, error));
            arena = (sp_arena){.base = context->workspace};
        }
    }
    SP_TRY(sp_pass_start(&pass, options->num_threads, error));
    sp_status status = SP_OK;
    if (pack->encoder) {
        sp_activations_bind(&act, pack, model, context->segments);
    }
    sp_embed_forward(&pass, pack, &act);
    int32_t num_layers = sp_model_stack(model, pack->encoder)->num_layers;
    for (int32_t l = 0; l < num_layers && status == SP_OK; l++) {
        status = sp_poll_now(options, error);
        if (status == SP_OK) {
            sp_layer_forward(&pass, pack, &act, l);
        }
    }
    if (status == SP_OK && pack->encoder) {
        sp_memory_forward(&pass, pack, &act);
    }
    else if (status == SP_OK) {
        sp_heads_run(&heads, &pass, 0, pack->num_head_rows, NULL);
    }
    sp_team_stop(pass.team);
    return status;
}

sp_status
sp_segment_extend(sp_context *context, int32_t num_parts, const int32_t *segments,
                  const int32_t *starts, const int32_t *symbols, int32_t num_virtual,
                  const float *prompt, int32_t num_rows, const int32_t *rows,
                  const sp_options *options, float *logits, sp_error *error)
{
    SP_TRY(sp_options_check(options, error));
    if (num_parts < 1 || num_rows < 0) {
        return sp_fail(error, SP_INVALID,
                       "num_parts = %d, num_rows = %d: expected at least 1 and 0", num_parts,
                       num_rows);
    }
    int32_t *span_of = sp_alloc((size_t)context->num_segments, sizeof *span_of);
    sp_part *parts = sp_alloc((size_t)num_parts, sizeof *parts);
    sp_status status = SP_OK;
    sp_pack pack;
    if (span_of == NULL || parts == NULL) {
        status = sp_fail(error, SP_NO_MEMORY, "no memory for %d parts", num_parts);
    }
    if (status == SP_OK) {
        status = make_parts(context, num_parts, segments, starts, parts, error);
    }
    if (status == SP_OK) {
        int encoder = is_memory(context, segments[0]);
        status = sp_symbols_check(context->model, encoder, symbols, 0, starts[num_parts],
                                  num_virtual, prompt, error);
        if (status == SP_OK && encoder && num_rows > 0) {
            status =
                sp_fail(error, SP_INVALID, "num_rows = %d: the encoder gives no logits", num_rows);
        }
    }
    for (int32_t r = 0; r < num_rows && status == SP_OK; r++) {
        if (rows[r] < (r > 0 ? rows[r - 1] + 1 : 0) || rows[r] >= starts[num_parts]) {
            status = sp_fail(error, SP_INVALID, "rows[%d] = %d: expected rising rows below %d", r,
                             rows[r], starts[num_parts]);
        }
    }
    if (status == SP_OK) {
        for (int32_t s = 0; s < context->num_segments; s++) {
            span_of[s] = -1;
        }
        set_lengths(context, num_parts, parts, 1);
        status = check_positions(context, num_parts, parts, error);
        int built = 0;
        if (status == SP_OK) {
            status = sp_pack_build(&pack, &context->model->spec, context->segments, num_parts,
                                   parts, symbols, num_rows, rows, span_of, error);
            built = status == SP_OK;
        }
        if (built) {
            status = extend(context, &pack, prompt, options, logits, error);
            sp_pack_free(&pack);
        }
        if (status != SP_OK) { /* as if it had not been called */
            set_lengths(context, num_parts, parts, 0);
        }
    }
    sp_free(parts);
    sp_free(span_of);
    return status;
}
