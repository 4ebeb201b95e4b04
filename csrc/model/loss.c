/* Losses, gradients and logits of a whole forest. */
#include <string.h>

#include "../base/status.h"
#include "context.h"
#include "head.h"
#include "layer.h"
#include "memory.h"
#include "schedule.h"

/* One call: its schedule, and where everything lies. */
typedef struct {
    sp_schedule schedule;
    sp_extent extent;
    sp_pass pass;
    sp_heads heads;
    const sp_forest *forest;
    float *grad; /* [num_virtual, d], or NULL */
} call;

static sp_keep
keep_of(const sp_pack *pack, sp_op_kind kind, int want_grad)
{
    if (pack->encoder) { /* nobody adds to the gradients of its own keys */
        return want_grad && pack->needs_grad ? SP_KEEP_LAYERS : SP_KEEP_NOTHING;
    }
    if (want_grad && pack->needs_grad) {
        return kind == SP_RUN ? SP_KEEP_LAYERS : SP_KEEP_ALL;
    }
    return kind == SP_RUN ? SP_KEEP_NOTHING : SP_KEEP_KEYS;
}

static void
place(call *c, sp_arena *arena, int num_threads)
{
    sp_pass_place(&c->pass, arena, &c->extent, num_threads);
    sp_heads_place(&c->heads, arena, c->pass.model, c->extent.head_rows);
}

/* Bytes of the whole call: what all packs share, and the deepest stack of packs. */
static size_t
measure(call *c, int num_threads)
{
    sp_arena arena = {0};
    place(c, &arena, num_threads);
    /* The activations of entered packs form a stack; its marks are found again by recomputing the
     * size that each of them took. */
    for (int32_t i = 0; i < c->schedule.num_ops; i++) {
        const sp_op *op = &c->schedule.ops[i];
        const sp_pack *pack = &c->schedule.packs[op->pack];
        sp_activations act;
        sp_arena alone = {0};
        sp_keep keep = keep_of(pack, op->kind == SP_RUN ? SP_RUN : SP_ENTER, c->heads.want_grad);
        sp_activations_place(&act, &alone, c->pass.model, pack, keep);
        if (op->kind == SP_LEAVE) {
            arena.used -= arena.used == SIZE_MAX ? 0 : alone.used;
            continue;
        }
        size_t mark = arena.used;
        arena.used = sp_add(arena.used, alone.used);
        arena.peak = arena.used > arena.peak ? arena.used : arena.peak;
        if (op->kind == SP_RUN) {
            sp_arena_release(&arena, mark);
        }
    }
    return arena.peak;
}

static sp_status
forward(call *c, const sp_pack *pack, int32_t index, const sp_activations *act,
        const sp_options *options, sp_error *error)
{
    sp_activations_bind(act, pack, c->pass.model, c->pass.segments);
    if (act->keep == SP_KEEP_ALL) {
        size_t bytes = act->dkv_stride * (size_t)c->pass.model->spec.num_layers * sizeof(float);
        memset(act->dk, 0, bytes);
        memset(act->dv, 0, bytes);
    }
    if (act->memory_dk != NULL) {
        size_t bytes =
            act->memory_stride * (size_t)c->pass.model->decoder.num_layers * sizeof(float);
        memset(act->memory_dk, 0, bytes);
        memset(act->memory_dv, 0, bytes);
    }
    sp_embed_forward(&c->pass, pack, act);
    for (int32_t l = 0; l < sp_model_stack(c->pass.model, pack->encoder)->num_layers; l++) {
        SP_TRY(sp_poll_now(options, error));
        sp_layer_forward(&c->pass, pack, act, l);
    }
    if (pack->encoder) {
        sp_memory_forward(&c->pass, pack, act);
        return SP_OK;
    }
    sp_heads_run(&c->heads, &c->pass, c->schedule.first_head[index], pack->num_head_rows,
                 act->dtop);
    return SP_OK;
}

static sp_status
backward(call *c, const sp_pack *pack, const sp_activations *act, const sp_options *options,
         sp_error *error)
{
    sp_rotation_prepare(&c->pass, pack);
    if (pack->encoder) {
        sp_memory_backward(&c->pass, pack, act);
    }
    for (int32_t l = sp_model_stack(c->pass.model, pack->encoder)->num_layers - 1; l >= 0; l--) {
        SP_TRY(sp_poll_now(options, error));
        sp_layer_backward(&c->pass, pack, act, l, c->grad);
    }
    return SP_OK;
}

/* Runs the operations in order. The stack of entered packs lies in the arena; `stack` holds what
 * is needed to find it again. */
typedef struct {
    sp_activations act;
    size_t mark;
} entered;

static sp_status
run(call *c, sp_arena *arena, const sp_options *options, entered *stack, sp_error *error)
{
    int32_t depth = 0;
    for (int32_t i = 0; i < c->schedule.num_ops; i++) {
        const sp_op *op = &c->schedule.ops[i];
        const sp_pack *pack = &c->schedule.packs[op->pack];
        if (op->kind == SP_LEAVE) {
            entered *top = &stack[--depth];
            if (top->act.keep == SP_KEEP_ALL || top->act.keep == SP_KEEP_LAYERS) {
                SP_TRY(backward(c, pack, &top->act, options, error));
            }
            sp_arena_release(arena, top->mark);
            continue;
        }
        entered *now = &stack[depth];
        now->mark = arena->used;
        sp_activations_place(&now->act, arena, c->pass.model, pack,
                             keep_of(pack, op->kind, c->heads.want_grad));
        SP_TRY(forward(c, pack, op->pack, &now->act, options, error));
        if (op->kind == SP_ENTER) {
            depth++;
            continue;
        }
        if (now->act.keep == SP_KEEP_LAYERS) {
            SP_TRY(backward(c, pack, &now->act, options, error));
        }
        sp_arena_release(arena, now->mark);
    }
    return SP_OK;
}

static sp_status
prepare(call *c, const sp_context *context, const sp_forest *forest, int32_t num_entries,
        const int32_t *rows, const sp_losses *losses, int want_grad, float *prefix_grad,
        const sp_options *options, sp_error *error)
{
    memset(c, 0, sizeof *c);
    SP_TRY(sp_options_check(options, error));
    SP_TRY(sp_forest_check(context->model, forest, error));
    SP_TRY(sp_schedule_build(&c->schedule, context->model, forest, num_entries, rows, losses,
                             want_grad, prefix_grad, options->pack_rows, error));
    c->forest = forest;
    c->extent.want_grad = want_grad;
    for (int32_t p = 0; p < c->schedule.num_packs; p++) {
        sp_extent_add(&c->extent, &c->schedule.packs[p]);
    }
    c->pass.model = context->model;
    c->pass.kernels = sp_kernels_now();
    c->pass.segments = c->schedule.segments;
    c->pass.prompt = forest->prompt;
    c->heads.losses = losses;
    c->heads.want_grad = want_grad;
    c->heads.entry_starts = c->schedule.entry_starts;
    return SP_OK;
}

static int32_t
deepest(const sp_schedule *schedule)
{
    int32_t depth = 0, most = 0;
    for (int32_t i = 0; i < schedule->num_ops; i++) {
        depth += schedule->ops[i].kind == SP_ENTER;
        depth -= schedule->ops[i].kind == SP_LEAVE;
        most = sp_max32(most, depth);
    }
    return most;
}

static sp_status
execute(call *c, sp_context *context, const sp_options *options, sp_error *error)
{
    size_t bytes = measure(c, options->num_threads);
    size_t stack_bytes = sp_align(sp_mul((size_t)deepest(&c->schedule) + 1, sizeof(entered)));
    SP_TRY(sp_context_workspace(context, sp_add(bytes, stack_bytes), error));
    entered *stack = (entered *)(void *)context->workspace;
    sp_arena arena = {.base = context->workspace + stack_bytes};
    place(c, &arena, options->num_threads);
    SP_TRY(sp_pass_start(&c->pass, options->num_threads, error));
    sp_heads_prepare(&c->heads, c->pass.model);
    sp_status status = run(c, &arena, options, stack, error);
    sp_team_stop(c->pass.team);
    return status;
}

static sp_status
check_losses(const sp_model *model, const sp_losses *losses, sp_error *error)
{
    if (losses->num_entries < 0 || losses->num_cut_tokens < 0
        || (losses->choices != NULL && (losses->num_choices < 0 || losses->num_groups < 0))) {
        return sp_fail(error, SP_INVALID,
                       "a negative number of entries (%d), cut tokens (%d), "
                       "choices (%d) or groups (%d)",
                       losses->num_entries, losses->num_cut_tokens, losses->num_choices,
                       losses->num_groups);
    }
    for (int32_t i = 0; i < losses->num_cut_tokens; i++) {
        if (losses->cut_tokens[i] < 0 || losses->cut_tokens[i] >= model->spec.vocab_size) {
            return sp_fail(error, SP_INVALID, "cut_tokens[%d] = %d: token id is not in [0, %d)", i,
                           losses->cut_tokens[i], model->spec.vocab_size);
        }
    }
    for (int32_t e = 0; e < losses->num_entries; e++) {
        int cut = losses->cut != NULL && losses->cut[e];
        int32_t limit = cut ? losses->num_cut_tokens : model->spec.vocab_size;
        if (losses->targets[e] < 0 || losses->targets[e] >= limit) {
            return sp_fail(error, SP_INVALID, "targets[%d] = %d: target is not in [0, %d)", e,
                           losses->targets[e], limit);
        }
        if (e > 0 && losses->cut != NULL && losses->rows[e] == losses->rows[e - 1]
            && losses->cut[e] != losses->cut[e - 1]) {
            return sp_fail(error, SP_INVALID, "row %d is cut in one entry and not in another",
                           losses->rows[e]);
        }
        if (losses->choices != NULL
            && (losses->choices[e] < 0 || losses->choices[e] >= losses->num_choices)) {
            return sp_fail(error, SP_INVALID, "choices[%d] = %d: choice is not in [0, %d)", e,
                           losses->choices[e], losses->num_choices);
        }
    }
    for (int32_t c = 0; losses->choices != NULL && c < losses->num_choices; c++) {
        if (losses->choice_groups[c] < (c > 0 ? losses->choice_groups[c - 1] : 0)
            || losses->choice_groups[c] >= losses->num_groups) {
            return sp_fail(error, SP_INVALID,
                           "choice_groups[%d] = %d: expected groups below %d, "
                           "not falling",
                           c, losses->choice_groups[c], losses->num_groups);
        }
    }
    for (int32_t g = 0; losses->choices != NULL && g < losses->num_groups; g++) {
        int32_t target = losses->group_targets[g];
        if (target < 0 || target >= losses->num_choices || losses->choice_groups[target] != g) {
            return sp_fail(error, SP_INVALID, "group_targets[%d] = %d is no choice of that group",
                           g, target);
        }
    }
    return SP_OK;
}

sp_status
sp_loss_workspace(sp_context *context, const sp_forest *forest, const sp_losses *losses,
                  int want_grad, const sp_options *options, size_t *bytes, sp_error *error)
{
    call c;
    SP_TRY(check_losses(context->model, losses, error));
    SP_TRY(prepare(&c, context, forest, losses->num_entries, losses->rows, losses, want_grad, NULL,
                   options, error));
    *bytes = measure(&c, options->num_threads);
    sp_schedule_free(&c.schedule);
    return SP_OK;
}

/* There is a place for every part of the gradient. */
static sp_status
check_gradient(const sp_forest *forest, const sp_gradient *grad, sp_error *error)
{
    if (grad != NULL
        && ((forest->num_virtual > 0 && grad->prompt == NULL)
            || (forest->num_prefixes > 0 && grad->prefix == NULL))) {
        return sp_fail(error, SP_INVALID,
                       "no place for the gradient of %d virtual tokens or of %d "
                       "prefixes",
                       forest->num_virtual, forest->num_prefixes);
    }
    return SP_OK;
}

sp_status
sp_loss(sp_context *context, const sp_forest *forest, const sp_losses *losses,
        const sp_options *options, double *log_probs, const sp_gradient *grad, sp_error *error)
{
    call c;
    const sp_spec *spec = &context->model->spec;
    SP_TRY(check_losses(context->model, losses, error));
    SP_TRY(check_gradient(forest, grad, error));
    SP_TRY(prepare(&c, context, forest, losses->num_entries, losses->rows, losses, grad != NULL,
                   grad == NULL ? NULL : grad->prefix, options, error));
    c.heads.log_probs = log_probs;
    if (grad != NULL && forest->num_virtual > 0) {
        c.grad = grad->prompt;
        memset(c.grad, 0, (size_t)forest->num_virtual * (size_t)spec->hidden_size * sizeof *c.grad);
    }
    if (grad != NULL && forest->num_prefixes > 0) {
        size_t rows = (size_t)sp_forest_prefix_rows(forest);
        memset(grad->prefix, 0,
               (size_t)spec->num_layers * 2 * rows * (size_t)context->model->kv_width
                   * sizeof *grad->prefix);
    }
    sp_status status = execute(&c, context, options, error);
    sp_schedule_free(&c.schedule);
    return status;
}

static sp_status
prepare_logits(call *c, const sp_context *context, const sp_forest *forest, int32_t num_rows,
               const int32_t *rows, const sp_options *options, sp_error *error)
{
    if (num_rows < 0) {
        return sp_fail(error, SP_INVALID, "num_rows = %d: expected 0 or more", num_rows);
    }
    SP_TRY(prepare(c, context, forest, num_rows, rows, NULL, 0, NULL, options, error));
    if (c->schedule.num_head_rows != num_rows) {
        sp_schedule_free(&c->schedule);
        return sp_fail(error, SP_INVALID, "rows: expected rising rows, a row stands twice");
    }
    return SP_OK;
}

sp_status
sp_logits_workspace(sp_context *context, const sp_forest *forest, int32_t num_rows,
                    const int32_t *rows, const sp_options *options, size_t *bytes, sp_error *error)
{
    call c;
    SP_TRY(prepare_logits(&c, context, forest, num_rows, rows, options, error));
    *bytes = measure(&c, options->num_threads);
    sp_schedule_free(&c.schedule);
    return SP_OK;
}

sp_status
sp_logits(sp_context *context, const sp_forest *forest, int32_t num_rows, const int32_t *rows,
          const sp_options *options, float *logits, sp_error *error)
{
    call c;
    SP_TRY(prepare_logits(&c, context, forest, num_rows, rows, options, error));
    c.heads.logits = logits;
    sp_status status = execute(&c, context, options, error);
    sp_schedule_free(&c.schedule);
    return status;
}
