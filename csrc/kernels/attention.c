#include "attention.h"

#include <string.h>

#include "../base/blas.h"
#include "../base/size.h"
#include "kernels.h"

enum { MAX_BLOCK_ROWS = 64, MAX_SCORES = 1 << 17, STRAND_TASKS = 6, MAX_STRANDS = 4 };

int32_t
sp_attention_block_rows(int32_t keys, int32_t group)
{
    int64_t rows = MAX_SCORES / ((int64_t)sp_max32(keys, 1) * group);
    return (int32_t)(rows < 1 ? 1 : rows > MAX_BLOCK_ROWS ? MAX_BLOCK_ROWS : rows);
}

int32_t
sp_attention_strands(int32_t num_kv_heads, int32_t num_blocks)
{
    int32_t strands = (STRAND_TASKS + num_kv_heads - 1) / num_kv_heads;
    return sp_max32(1, sp_min32(sp_min32(strands, MAX_STRANDS), num_blocks));
}

static size_t
block_floats(const sp_attention *a, const sp_query_block *block, int backward)
{
    size_t rows = (size_t)block->count * (size_t)(a->num_heads / a->num_kv_heads);
    size_t keys = (size_t)block->ancestor_rows + (size_t)block->own_rows;
    return backward ? rows * (3 * (size_t)a->head_dim + 2 * keys) + keys
                    : rows * (2 * (size_t)a->head_dim + keys);
}

size_t
sp_attention_scratch(const sp_attention *a, int backward)
{
    size_t most = 0;
    for (int32_t b = 0; b < a->num_blocks; b++) {
        size_t floats = block_floats(a, &a->blocks[b], backward);
        most = floats > most ? floats : most;
    }
    return (most + 15) / 16 * 16;
}

size_t
sp_attention_strand_floats(const sp_attention *a)
{
    return (size_t)a->num_strands * (size_t)a->shared_rows * 2 * (size_t)a->num_kv_heads
           * (size_t)a->head_dim;
}

/* A block for one key/value head: its queries' rows stand together, (query, head of the group). */
typedef struct {
    const sp_attention *a;
    const sp_span *spans;
    const sp_query_block *block;
    int32_t kv_head, group, keys;
    int32_t unseen; /* keys at the start of the path that no query of the block sees */
    int kv_width, q_width;
} view;

/* The first key that a query sees which sees `end` keys without a window. */
static int32_t
first_key(const sp_scores *rule, int32_t end)
{
    return rule->window > 0 ? sp_max32(0, end - rule->window) : 0;
}

static view
view_of(const sp_attention *a, const sp_scores *rule, const sp_span *spans, int32_t block,
        int32_t kv_head)
{
    const sp_query_block *b = &a->blocks[block];
    int32_t unseen = 0;
    if (rule->window > 0) {
        unseen = b->ancestor_rows + b->own_rows;
        for (int32_t i = b->first; i < b->first + b->count; i++) {
            unseen = sp_min32(unseen, first_key(rule, b->ancestor_rows + a->queries[i].visible));
        }
    }
    return (view){.a = a,
                  .spans = spans,
                  .block = b,
                  .kv_head = kv_head,
                  .group = a->num_heads / a->num_kv_heads,
                  .keys = b->ancestor_rows + b->own_rows,
                  .unseen = unseen,
                  .kv_width = a->num_kv_heads * a->head_dim,
                  .q_width = a->num_heads * a->head_dim};
}

static void
gather(const view *v, float *rows, const float *matrix, float scale)
{
    size_t width = (size_t)v->group * (size_t)v->a->head_dim;
    const float *from =
        matrix + (int64_t)v->block->first * v->q_width + (int64_t)v->kv_head * (int64_t)width;
    for (int32_t i = 0; i < v->block->count; i++, from += v->q_width, rows += width) {
        for (size_t j = 0; j < width; j++) {
            rows[j] = scale * from[j];
        }
    }
}

static void
scatter(const view *v, float *matrix, const float *rows, float scale, int only_virtual)
{
    size_t width = (size_t)v->group * (size_t)v->a->head_dim;
    float *to =
        matrix + (int64_t)v->block->first * v->q_width + (int64_t)v->kv_head * (int64_t)width;
    const sp_query *query = v->a->queries + v->block->first;
    for (int32_t i = 0; i < v->block->count; i++, to += v->q_width, rows += width) {
        if (!only_virtual || query[i].is_virtual) {
            for (size_t j = 0; j < width; j++) {
                to[j] = scale * rows[j];
            }
        }
    }
}

/* One product of the block's rows with the keys of one span. */
typedef struct {
    int32_t span;
    int32_t first, count; /* queries in the block */
    int32_t column;       /* of the scores */
    int32_t length;       /* keys */
    int adds;             /* an earlier part has the same queries */
} part;

/* Walks over the parts of a block: its ancestors with all queries, then each own segment with its
 * queries. `state` starts as {0}. */
typedef struct {
    int32_t ancestor, column, query, seen_ancestors;
} walk;

static int
next_part(const view *v, walk *state, part *p)
{
    const sp_query_block *block = v->block;
    p->adds = state->seen_ancestors > 0;
    while (state->ancestor < block->num_ancestors) {
        p->span = v->a->ancestors[block->first_ancestor + state->ancestor++];
        p->first = 0;
        p->count = block->count;
        p->column = state->column;
        p->length = v->spans[p->span].length;
        state->column += p->length;
        if (state->column > v->unseen) {
            state->seen_ancestors++;
            return 1;
        }
    }
    if (state->query == block->count) {
        return 0;
    }
    const sp_query *query = v->a->queries + block->first;
    p->span = query[state->query].own;
    p->first = state->query;
    p->column = block->ancestor_rows;
    p->length = 0;
    while (state->query < block->count && query[state->query].own == p->span) {
        p->length = sp_max32(p->length, query[state->query].visible);
        state->query++;
    }
    p->count = state->query - p->first;
    return 1;
}

static const float *
head_of(const view *v, const float *rows)
{
    return rows + (int64_t)v->kv_head * v->a->head_dim;
}

/* scores [rows, keys] = rows [rows, head_dim] x keys^T (or values^T). */
static void
scores_of(const view *v, float *scores, const float *rows, int of_values)
{
    walk state = {0};
    part p;
    while (next_part(v, &state, &p)) {
        const float *keys = of_values ? v->spans[p.span].v : v->spans[p.span].k;
        int64_t first = (int64_t)p.first * v->group;
        sp_gemm_nt(p.count * v->group, p.length, v->a->head_dim, 1.0f,
                   rows + first * v->a->head_dim, v->a->head_dim, head_of(v, keys), v->kv_width, 0,
                   scores + first * v->keys + p.column, v->keys);
    }
}

/* out [rows, head_dim] = scores x values (or keys). */
static void
mixture_of(const view *v, float *out, const float *scores, int of_keys)
{
    walk state = {0};
    part p;
    while (next_part(v, &state, &p)) {
        const float *values = of_keys ? v->spans[p.span].k : v->spans[p.span].v;
        int64_t first = (int64_t)p.first * v->group;
        sp_gemm_nn(p.count * v->group, v->a->head_dim, p.length, 1.0f,
                   scores + first * v->keys + p.column, v->keys, head_of(v, values), v->kv_width,
                   p.adds, out + first * v->a->head_dim, v->a->head_dim);
    }
}

static void
add_number(float *row, float number, int32_t first, int32_t end)
{
    for (int32_t j = first; j < end; j++) {
        row[j] += number;
    }
}

/* row[j] for the keys first .. end - 1 of a query that stands at `place` among them. */
static void
add_distance_bias(const sp_scores *rule, float *row, int32_t first, int32_t end, int32_t head,
                  int32_t place)
{
    int32_t reach = rule->relative_reach;
    const float *bias = rule->relative + (int64_t)head * (2 * (int64_t)reach + 1);
    int32_t near = sp_min32(end, sp_max32(first, place - reach));
    int32_t far = sp_min32(end, place < INT32_MAX - reach ? place + reach + 1 : INT32_MAX);
    add_number(row, bias[0], first, near);
    if (near < far) {
        sp_kernels_now()->add(row + near, bias + (near - place + reach), far - near);
    }
    add_number(row, bias[2 * (int64_t)reach], sp_max32(near, far), end);
}

/* The row of one query and head: the products first .. end - 1 become scores. Those with a soft
 * cap are also written to `capped`, before the bias; NULL: not wanted. */
static void
finish_scores(const sp_scores *rule, float *row, int32_t first, int32_t end, int32_t head,
              int32_t place, float *capped)
{
    const sp_kernels *kernels = sp_kernels_now();
    if (rule->soft_cap != 0.0f) {
        kernels->soft_cap_forward(row + first, 1.0f, rule->soft_cap, end - first);
        if (capped != NULL) {
            memcpy(capped, row + first, (size_t)(end - first) * sizeof *row);
        }
    }
    if (rule->alibi != NULL) {
        const float *bias = rule->alibi + head * rule->alibi_stride;
        kernels->add_relative(row + first, bias + first, bias[end - 1], end - first);
    }
    if (rule->relative != NULL) {
        add_distance_bias(rule, row, first, end, head, place);
    }
}

/* ---- forward ---- */

typedef struct {
    const sp_attention *a;
    const sp_scores *rule;
    const sp_span *spans;
    float *out;
    float *lse;
    const float *q;
    float *scratch;
    size_t scratch_floats;
} forward_job;

static void
forward_task(void *argument, int task, int thread)
{
    const forward_job *job = argument;
    const sp_attention *a = job->a;
    const sp_kernels *kernels = sp_kernels_now();
    view v = view_of(a, job->rule, job->spans, task / a->num_kv_heads, task % a->num_kv_heads);
    int32_t rows = v.block->count * v.group;
    float *queries = job->scratch + (size_t)thread * job->scratch_floats;
    float *mixed = queries + (int64_t)rows * a->head_dim;
    float *scores = mixed + (int64_t)rows * a->head_dim;

    gather(&v, queries, job->q, job->rule->scale);
    scores_of(&v, scores, queries, 0);
    for (int32_t r = 0; r < rows; r++) {
        int32_t i = v.block->first + r / v.group, head = v.kv_head * v.group + r % v.group;
        int32_t seen = v.block->ancestor_rows + a->queries[i].visible;
        int32_t first = first_key(job->rule, seen);
        float *row = scores + (int64_t)r * v.keys;
        finish_scores(job->rule, row, first, seen, head,
                      v.block->ancestor_rows + a->queries[i].index, NULL);
        job->lse[(int64_t)i * a->num_heads + head] =
            kernels->softmax_forward(row + first, seen - first);
        memset(row, 0, (size_t)first * sizeof *row);
        memset(row + seen, 0, (size_t)(v.keys - seen) * sizeof *row);
    }
    mixture_of(&v, mixed, scores, 0);
    scatter(&v, job->out, mixed, 1.0f, 0);
}

void
sp_attention_forward(sp_team *team, const sp_attention *a, const sp_scores *rule,
                     const sp_span *spans, float *out, float *lse, const float *q, float *scratch)
{
    forward_job job = {.a = a,
                       .rule = rule,
                       .spans = spans,
                       .out = out,
                       .lse = lse,
                       .q = q,
                       .scratch = scratch,
                       .scratch_floats = sp_attention_scratch(a, 0)};
    sp_team_run(team, a->num_blocks * a->num_kv_heads, forward_task, &job);
}

/* ---- backward ---- */

typedef struct {
    const sp_attention *a;
    const sp_scores *rule;
    const sp_span *spans;
    float *dq;
    const float *dout;
    const float *q;
    const float *lse;
    float *scratch;
    size_t scratch_floats;
    float *strands; /* [num_strands][dk, dv][shared_rows, kv_width] */
    int only_virtual;
} backward_job;

static float *
strand_sums(const backward_job *job, int32_t strand, int values)
{
    size_t floats =
        (size_t)job->a->shared_rows * (size_t)job->a->num_kv_heads * (size_t)job->a->head_dim;
    return job->strands + (size_t)(strand * 2 + values) * floats;
}

/* With P = softmax(S), S = scale q k^T, O = P v:  dv = P^T dO,  dP = dO v^T,
 * dS = P * (dP - sum(P dP)),  dq = scale dS k,  dk = dS^T (scale q). A soft cap has its slope
 * between dS and the products; a bias has none. */
static void
backward_block(const backward_job *job, int32_t strand, int32_t block, int32_t kv_head,
               float *scratch)
{
    const sp_attention *a = job->a;
    const sp_kernels *kernels = sp_kernels_now();
    view v = view_of(a, job->rule, job->spans, block, kv_head);
    int32_t rows = v.block->count * v.group, head_dim = a->head_dim;
    float *queries = scratch;
    float *dmixed = queries + (int64_t)rows * head_dim;
    float *dqueries = dmixed + (int64_t)rows * head_dim;
    float *p = dqueries + (int64_t)rows * head_dim;
    float *ds = p + (int64_t)rows * v.keys;
    float *capped = ds + (int64_t)rows * v.keys;
    float scale = job->rule->scale, soft_cap = job->rule->soft_cap;

    gather(&v, queries, job->q, scale);
    gather(&v, dmixed, job->dout, 1.0f);
    scores_of(&v, p, queries, 0);
    scores_of(&v, ds, dmixed, 1);
    int want_dq = !job->only_virtual;
    for (int32_t r = 0; r < rows; r++) {
        int32_t i = v.block->first + r / v.group, head = v.kv_head * v.group + r % v.group;
        int32_t seen = v.block->ancestor_rows + a->queries[i].visible;
        int32_t first = first_key(job->rule, seen), n = seen - first;
        float *row = p + (int64_t)r * v.keys, *drow = ds + (int64_t)r * v.keys;
        finish_scores(job->rule, row, first, seen, head,
                      v.block->ancestor_rows + a->queries[i].index, capped);
        kernels->softmax_again(row + first, job->lse[(int64_t)i * a->num_heads + head], n);
        kernels->softmax_backward(drow + first, row + first, n);
        if (soft_cap != 0.0f) {
            kernels->soft_cap_backward(drow + first, capped, soft_cap, n);
        }
        memset(row, 0, (size_t)first * sizeof *row);
        memset(drow, 0, (size_t)first * sizeof *drow);
        memset(row + seen, 0, (size_t)(v.keys - seen) * sizeof *row);
        memset(drow + seen, 0, (size_t)(v.keys - seen) * sizeof *drow);
        want_dq |= a->queries[i].is_virtual;
    }
    walk state = {0};
    part t;
    while (next_part(&v, &state, &t)) {
        const sp_span *span = &job->spans[t.span];
        if (span->dk == NULL) {
            continue;
        }
        float *dk = span->dk, *dv = span->dv;
        if (span->shared >= 0) {
            dk = strand_sums(job, strand, 0) + (int64_t)span->shared * v.kv_width;
            dv = strand_sums(job, strand, 1) + (int64_t)span->shared * v.kv_width;
        }
        int64_t first = (int64_t)t.first * v.group;
        int64_t at = first * v.keys + t.column, head = (int64_t)kv_head * head_dim;
        sp_gemm_tn(t.length, head_dim, t.count * v.group, 1.0f, p + at, v.keys,
                   dmixed + first * head_dim, head_dim, 1, dv + head, v.kv_width);
        sp_gemm_tn(t.length, head_dim, t.count * v.group, 1.0f, ds + at, v.keys,
                   queries + first * head_dim, head_dim, 1, dk + head, v.kv_width);
    }
    if (want_dq) {
        mixture_of(&v, dqueries, ds, 1);
        scatter(&v, job->dq, dqueries, scale, job->only_virtual);
    }
}

/* One strand and one head: blocks in order, so that sums have a fixed order. */
static void
backward_task(void *argument, int task, int thread)
{
    const backward_job *job = argument;
    const sp_attention *a = job->a;
    int32_t strand = task / a->num_kv_heads, kv_head = task % a->num_kv_heads;
    for (int32_t b = a->strand_starts[strand]; b < a->strand_starts[strand + 1]; b++) {
        backward_block(job, strand, b, kv_head,
                       job->scratch + (size_t)thread * job->scratch_floats);
    }
}

static void
add_strands_task(void *argument, int task, int thread)
{
    (void)thread;
    const backward_job *job = argument;
    const sp_span *span = &job->spans[task];
    if (span->shared < 0 || span->dk == NULL) {
        return;
    }
    const sp_kernels *kernels = sp_kernels_now();
    int64_t width = (int64_t)job->a->num_kv_heads * job->a->head_dim;
    for (int32_t strand = 0; strand < job->a->num_strands; strand++) {
        kernels->add(span->dk, strand_sums(job, strand, 0) + span->shared * width,
                     span->length * width);
        kernels->add(span->dv, strand_sums(job, strand, 1) + span->shared * width,
                     span->length * width);
    }
}

void
sp_attention_backward(sp_team *team, const sp_attention *a, const sp_scores *rule,
                      const sp_span *spans, float *dq, const float *dout, const float *q,
                      const float *lse, float *scratch, float *strands, int only_virtual)
{
    backward_job job = {.a = a,
                        .rule = rule,
                        .spans = spans,
                        .dq = dq,
                        .dout = dout,
                        .q = q,
                        .lse = lse,
                        .scratch = scratch,
                        .scratch_floats = sp_attention_scratch(a, 1),
                        .strands = strands,
                        .only_virtual = only_virtual};
    memset(strands, 0, sp_attention_strand_floats(a) * sizeof *strands);
    sp_team_run(team, a->num_strands * a->num_kv_heads, backward_task, &job);
    if (a->shared_rows > 0) {
        sp_team_run(team, a->num_spans, add_strands_task, &job);
    }
}
