#include "head.h"

#include <math.h>
#include <string.h>

#include "layer.h"

enum { FULL = 0, CUT = 1, MAX_CHUNK_FLOATS = 1 << 22, MIN_CHUNK = 16, MAX_CHUNK = 1024 };

static int32_t
chunk_rows(int32_t tokens, int32_t m)
{
    int32_t rows = MAX_CHUNK_FLOATS / sp_max32(tokens, 1);
    return sp_min32(m, sp_max32(MIN_CHUNK, sp_min32(MAX_CHUNK, rows)));
}

void
sp_heads_place(sp_heads *heads, sp_arena *arena, const sp_model *model, int32_t max_head_rows)
{
    const sp_losses *losses = heads->losses;
    size_t d = (size_t)model->spec.hidden_size, m = (size_t)max_head_rows;
    heads->hidden = sp_arena_take(arena, m * d);
    heads->stats = sp_arena_take(arena, 2 * m);
    if (losses == NULL) {
        return;
    }
    int32_t tokens[2] = {model->spec.vocab_size, losses->num_cut_tokens};
    int32_t needed = 0;
    for (int kind = 0; kind < 2; kind++) {
        heads->chunk[kind] = chunk_rows(tokens[kind], max_head_rows);
        heads->chunk_logits[kind] =
            sp_arena_take(arena, sp_mul((size_t)heads->chunk[kind], (size_t)tokens[kind]));
        needed = sp_max32(needed, heads->chunk[kind]);
    }
    heads->cut_weight = sp_arena_take(arena, sp_mul((size_t)losses->num_cut_tokens, d));
    heads->cut_bias = sp_arena_take(arena, (size_t)losses->num_cut_tokens);
    heads->dhidden = sp_arena_take(arena, heads->want_grad ? m * d : 0);
    heads->rows = sp_arena_take(arena, (size_t)needed * d);
    heads->drows = sp_arena_take(arena, heads->want_grad ? (size_t)needed * d : 0);
    heads->slopes = sp_arena_take(arena, (size_t)losses->num_entries);
    heads->choice_sums = (double *)(void *)sp_arena_take(arena, 2 * (size_t)losses->num_choices);
    heads->row_list = (int32_t *)(void *)sp_arena_take(arena, m);
    heads->lse = (double *)(void *)sp_arena_take(arena, 2 * m);
}

void
sp_heads_prepare(sp_heads *heads, const sp_model *model)
{
    if (heads->losses == NULL || heads->losses->num_cut_tokens == 0) {
        return;
    }
    sp_linear head = sp_model_head(model);
    const sp_losses *losses = heads->losses;
    sp_matrix_gather(heads->cut_weight, &head.weight, losses->cut_tokens, losses->num_cut_tokens);
    if (head.bias != NULL) {
        sp_rows_gather(heads->cut_bias, head.bias, losses->cut_tokens, losses->num_cut_tokens, 1);
    }
}

static sp_linear
head_of_kind(const sp_heads *heads, const sp_model *model, int kind)
{
    sp_linear head = sp_model_head(model);
    if (kind == CUT) {
        head.outputs = heads->losses->num_cut_tokens;
        head.weight =
            (sp_matrix){.numbers = heads->cut_weight, .rows = head.outputs, .cols = head.inputs};
        head.bias = head.bias == NULL ? NULL : heads->cut_bias;
    }
    return head;
}

/* One chunk of head rows of one kind. */
typedef struct {
    sp_heads *heads;
    const sp_kernels *kernels;
    const sp_spec *spec;
    float *logits;
    int32_t tokens;
    int32_t first;       /* head row of the call that pack row 0 has */
    const int32_t *list; /* pack head rows of the chunk */
} chunk_job;

/* Log-probabilities of the entries of one row. */
static void
log_prob_task(void *argument, int task, int thread)
{
    (void)thread;
    const chunk_job *job = argument;
    sp_heads *heads = job->heads;
    int32_t row = job->list[task];
    const float *logits = job->logits + (int64_t)task * job->tokens;
    double lse = job->kernels->log_sum_exp(logits, job->tokens);
    heads->lse[row] = lse;
    const int32_t *starts = heads->entry_starts + job->first + row;
    for (int32_t e = starts[0]; e < starts[1]; e++) {
        heads->log_probs[e] = logits[heads->losses->targets[e]] - lse;
    }
}

/* d loss / d logit_j = sum_e slope_e (1[j = target_e] - p_j), in the logits' place; with a soft cap
 * times its slope, 1 - (logit / cap)^2, and times the scale before it. */
static void
slope_task(void *argument, int task, int thread)
{
    (void)thread;
    const chunk_job *job = argument;
    sp_heads *heads = job->heads;
    int32_t row = job->list[task];
    float *logits = job->logits + (int64_t)task * job->tokens, sum = 0.0f;
    const int32_t *starts = heads->entry_starts + job->first + row;
    for (int32_t e = starts[0]; e < starts[1]; e++) {
        sum += heads->slopes[e];
    }
    float scale = job->spec->logit_scale, cap = job->spec->logit_soft_cap;
    job->kernels->scaled_probabilities(logits, (float)heads->lse[row], -sum * scale, cap,
                                       job->tokens);
    for (int32_t e = starts[0]; e < starts[1]; e++) {
        double t = cap == 0.0f ? 0.0 : (heads->log_probs[e] + heads->lse[row]) / cap;
        logits[heads->losses->targets[e]] += heads->slopes[e] * scale * (float)(1.0 - t * t);
    }
}

/* Scale and soft cap of one row of logits. */
typedef struct {
    const sp_pass *pass;
    float *logits;
    int32_t tokens;
} finish_job;

static void
finish_task(void *argument, int task, int thread)
{
    (void)thread;
    const finish_job *job = argument;
    const sp_spec *spec = &job->pass->model->spec;
    job->pass->kernels->soft_cap_forward(job->logits + (int64_t)task * job->tokens,
                                         spec->logit_scale, spec->logit_soft_cap, job->tokens);
}

/* logits [rows, head->outputs] of hidden rows [rows, d] */
static void
logits_forward(sp_pass *pass, const sp_linear *head, float *logits, const float *hidden,
               int32_t rows)
{
    const sp_spec *spec = &pass->model->spec;
    sp_linear_forward(pass->team, 1, &logits, hidden, &head, rows, NULL);
    if (spec->logit_scale != 1.0f || spec->logit_soft_cap != 0.0f) {
        finish_job job = {pass, logits, head->outputs};
        sp_team_run(pass->team, rows, finish_task, &job);
    }
}

static void
chunk_logits(sp_heads *heads, sp_pass *pass, const sp_linear *head, int kind, const int32_t *list,
             int32_t count)
{
    sp_rows_gather(heads->rows, heads->hidden, list, count, head->inputs);
    logits_forward(pass, head, heads->chunk_logits[kind], heads->rows, count);
}

static void
chunk_backward(sp_heads *heads, sp_pass *pass, const sp_linear *head, int kind, chunk_job *job,
               int32_t count)
{
    sp_team_run(pass->team, count, slope_task, job);
    sp_linear_backward(pass->team, 1, heads->drows, (const float *[]){heads->chunk_logits[kind]},
                       (const sp_linear *[]){head}, count);
    for (int32_t i = 0; i < count; i++) {
        memcpy(heads->dhidden + (int64_t)job->list[i] * head->inputs,
               heads->drows + (int64_t)i * head->inputs, (size_t)head->inputs * sizeof(float));
    }
}

typedef enum { FORWARD, BACKWARD, BOTH } direction;

/* All rows of one kind, chunk by chunk. BACKWARD makes the logits anew, unless one chunk held
 * them all. */
static void
run_kind(sp_heads *heads, sp_pass *pass, int kind, int32_t first, const int32_t *list,
         int32_t count, direction way)
{
    sp_linear head = head_of_kind(heads, pass->model, kind);
    for (int32_t start = 0; start < count; start += heads->chunk[kind]) {
        int32_t now = sp_min32(heads->chunk[kind], count - start);
        chunk_job job = {.heads = heads,
                         .kernels = pass->kernels,
                         .spec = &pass->model->spec,
                         .logits = heads->chunk_logits[kind],
                         .tokens = head.outputs,
                         .first = first,
                         .list = list + start};
        if (way != BACKWARD || now < count) {
            chunk_logits(heads, pass, &head, kind, job.list, now);
        }
        if (way != BACKWARD) {
            sp_team_run(pass->team, now, log_prob_task, &job);
        }
        if (way != FORWARD) {
            chunk_backward(heads, pass, &head, kind, &job, now);
        }
    }
}

typedef struct {
    int32_t begin, end;
} choice_range;

/* The choices of the group that `choice` belongs to: neighbours. */
static choice_range
group_of(const sp_losses *losses, int32_t choice)
{
    int32_t group = losses->choice_groups[choice];
    choice_range range = {choice, choice + 1};
    while (range.begin > 0 && losses->choice_groups[range.begin - 1] == group) {
        range.begin--;
    }
    while (range.end < losses->num_choices && losses->choice_groups[range.end] == group) {
        range.end++;
    }
    return range;
}

/* Entries e0 .. e1: slopes of the ranking loss from the choices' log-likelihoods. The entries of a
 * group stand in one pack, but not side by side; sums run over entries in their order. */
static void
ranking_slopes(sp_heads *heads, int32_t e0, int32_t e1)
{
    const sp_losses *losses = heads->losses;
    double *sums = heads->choice_sums;
    for (int32_t e = e0; e < e1; e++) {
        choice_range range = group_of(losses, losses->choices[e]);
        for (int32_t c = range.begin; c < range.end; c++) {
            sums[c] = 0.0;
        }
    }
    for (int32_t e = e0; e < e1; e++) {
        sums[losses->choices[e]] += (double)losses->weights[e] * heads->log_probs[e];
    }
    for (int32_t e = e0; e < e1; e++) {
        int32_t choice = losses->choices[e], group = losses->choice_groups[choice];
        choice_range range = group_of(losses, choice);
        double top = sums[range.begin], total = 0.0;
        for (int32_t c = range.begin; c < range.end; c++) {
            top = sums[c] > top ? sums[c] : top;
        }
        for (int32_t c = range.begin; c < range.end; c++) {
            total += exp(sums[c] - top);
        }
        double p = exp(sums[choice] - top) / total;
        heads->slopes[e] = (float)((double)losses->group_weights[group] * losses->weights[e]
                                   * (p - (choice == losses->group_targets[group])));
    }
}

void
sp_heads_run(sp_heads *heads, sp_pass *pass, int32_t first, int32_t m, float *dtop)
{
    const sp_model *model = pass->model;
    const sp_losses *losses = heads->losses;
    int32_t d = model->spec.hidden_size;
    sp_norm_rows stats = {heads->stats, heads->stats + m};
    if (m == 0) {
        return;
    }
    if (model->spec.final_norm) {
        sp_norm_forward(pass, &model->decoder.final_norm, heads->hidden, stats, pass->top, m);
    }
    else {
        memcpy(heads->hidden, pass->top, (size_t)m * (size_t)d * sizeof(float));
    }
    if (losses == NULL) {
        sp_linear head = sp_model_head(model);
        logits_forward(pass, &head, heads->logits + (int64_t)first * head.outputs, heads->hidden,
                       m);
        return;
    }
    int32_t counts[2] = {0, 0};
    int32_t *lists[2] = {heads->row_list, NULL};
    for (int kind = FULL; kind <= CUT; kind++) {
        lists[kind] = heads->row_list + counts[FULL] * kind;
        for (int32_t r = 0; r < m; r++) {
            int is_cut = losses->cut != NULL && losses->cut[heads->entry_starts[first + r]];
            if (is_cut == kind) {
                lists[kind][counts[kind]++] = r;
            }
        }
    }
    int32_t e0 = heads->entry_starts[first], e1 = heads->entry_starts[first + m];
    int ranking = losses->choices != NULL;
    int want_grad = dtop != NULL; /* no virtual token precedes these rows: none */
    if (want_grad && !ranking) {
        for (int32_t e = e0; e < e1; e++) {
            heads->slopes[e] = -losses->weights[e];
        }
    }
    direction way = want_grad && !ranking ? BOTH : FORWARD;
    for (int kind = FULL; kind <= CUT; kind++) {
        run_kind(heads, pass, kind, first, lists[kind], counts[kind], way);
    }
    if (want_grad) {
        if (ranking) {
            ranking_slopes(heads, e0, e1);
            for (int kind = FULL; kind <= CUT; kind++) {
                run_kind(heads, pass, kind, first, lists[kind], counts[kind], BACKWARD);
            }
        }
        size_t bytes = (size_t)m * (size_t)d * sizeof *dtop;
        if (model->spec.final_norm) {
            memset(dtop, 0, bytes);
            sp_norm_backward(pass, &model->decoder.final_norm, dtop, heads->dhidden, pass->top,
                             stats, m);
        }
        else {
            memcpy(dtop, heads->dhidden, bytes);
        }
    }
}
