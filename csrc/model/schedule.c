#include "schedule.h"

#include <string.h>

#include "../base/alloc.h"
#include "../base/size.h"
#include "../base/status.h"

sp_status
sp_symbols_check(const sp_model *model, int encoder, const int32_t *symbols, int32_t first,
                 int32_t end, int32_t num_virtual, const float *prompt, sp_error *error)
{
    int32_t vocab_size = sp_model_stack(model, encoder)->vocab_size;
    if (num_virtual < 0 || (num_virtual > 0 && prompt == NULL)) {
        return sp_fail(error, SP_INVALID, "num_virtual = %d without a prompt", num_virtual);
    }
    for (int32_t r = first; r < end; r++) {
        if (symbols[r] >= vocab_size) {
            return sp_fail(error, SP_INVALID, "row %d: token id %d is not in [0, %d)", r,
                           symbols[r], vocab_size);
        }
        if (symbols[r] < 0 && !encoder && sp_has_encoder(&model->spec)) {
            return sp_fail(error, SP_INVALID,
                           "row %d: virtual token %d in the decoder, expected it in the encoder", r,
                           -1 - symbols[r]);
        }
        if (symbols[r] < -num_virtual) {
            return sp_fail(error, SP_INVALID, "row %d: virtual token %d is not in [0, %d)", r,
                           -1 - symbols[r], num_virtual);
        }
    }
    return SP_OK;
}

static sp_status
check_frequencies(const sp_model *model, const sp_forest *forest, sp_error *error)
{
    if (forest->frequencies == NULL) {
        return SP_OK;
    }
    if (sp_model_num_frequencies(model) == 0) {
        return sp_fail(error, SP_INVALID, "frequencies for a model without rotary positions");
    }
    for (int32_t s = 0; s < forest->num_segments; s++) {
        int32_t set = forest->frequency_of[s], parent = forest->parents[s];
        if (set < 0 || set >= forest->num_frequencies) {
            return sp_fail(error, SP_INVALID, "segment %d: frequencies %d are not in [0, %d)", s,
                           set, forest->num_frequencies);
        }
        if (parent >= 0 && forest->frequency_of[parent] != set) {
            return sp_fail(error, SP_INVALID, "segment %d: frequencies %d, but its parent has %d",
                           s, set, forest->frequency_of[parent]);
        }
    }
    return SP_OK;
}

/* A segment without rows of its own. */
static int
is_prefix(const sp_forest *forest, int32_t segment)
{
    return forest->starts[segment + 1] == forest->starts[segment];
}

int32_t
sp_forest_prefix_rows(const sp_forest *forest)
{
    return forest->num_prefixes > 0 ? forest->prefix_starts[forest->num_prefixes] : 0;
}

static sp_status
check_prefixes(const sp_forest *forest, sp_error *error)
{
    const int32_t *starts = forest->prefix_starts;
    if (forest->num_prefixes == 0) {
        return SP_OK;
    }
    if (forest->memories != NULL) {
        return sp_fail(error, SP_INVALID, "%d prefixes of a model with an encoder",
                       forest->num_prefixes);
    }
    if (forest->prefix == NULL || starts == NULL || starts[0] != 0) {
        return sp_fail(error, SP_INVALID,
                       "%d prefixes without keys and values, or whose rows do "
                       "not start at 0",
                       forest->num_prefixes);
    }
    for (int32_t p = 0; p < forest->num_prefixes; p++) {
        if (starts[p + 1] <= starts[p]) {
            return sp_fail(error, SP_INVALID, "prefix %d has no rows", p);
        }
    }
    return SP_OK;
}

/* Segments of the encoder, which stand first. */
static int32_t
num_encoder_segments(const sp_forest *forest)
{
    int32_t count = 0;
    while (forest->memories != NULL && count < forest->num_segments
           && forest->memories[count] == SP_ENCODER) {
        count++;
    }
    return count;
}

static sp_status
check_memories(const sp_model *model, const sp_forest *forest, sp_error *error)
{
    if ((forest->memories != NULL) != sp_has_encoder(&model->spec)) {
        return sp_fail(error, SP_INVALID, "memories %s for a model with%s an encoder",
                       forest->memories == NULL ? "are missing" : "are given",
                       sp_has_encoder(&model->spec) ? "" : "out");
    }
    int32_t num_encoder = num_encoder_segments(forest);
    for (int32_t s = 0; s < forest->num_segments && forest->memories != NULL; s++) {
        int32_t memory = forest->memories[s], parent = forest->parents[s];
        if (s < num_encoder && parent != -1) {
            return sp_fail(error, SP_INVALID, "segment %d: parent %d of an encoder segment", s,
                           parent);
        }
        if (s >= num_encoder && (memory < 0 || memory >= num_encoder)) {
            return sp_fail(error, SP_INVALID,
                           "segment %d reads %d, expected one of the %d encoder segments before it",
                           s, memory, num_encoder);
        }
        if (s > num_encoder && memory < forest->memories[s - 1]) {
            return sp_fail(error, SP_INVALID, "segment %d reads %d, but the one before it %d", s,
                           memory, forest->memories[s - 1]);
        }
        if (s >= num_encoder && parent != -1 && forest->memories[parent] != memory) {
            return sp_fail(error, SP_INVALID, "segment %d reads %d, but its parent %d", s, memory,
                           forest->memories[parent]);
        }
    }
    return SP_OK;
}

sp_status
sp_forest_check(const sp_model *model, const sp_forest *forest, sp_error *error)
{
    if (forest->num_segments < 1) {
        return sp_fail(error, SP_INVALID, "num_segments = %d: expected at least 1",
                       forest->num_segments);
    }
    if (forest->starts[0] != 0) {
        return sp_fail(error, SP_INVALID, "starts[0] = %d: expected 0", forest->starts[0]);
    }
    int32_t num_prefixes = 0;
    for (int32_t s = 0; s < forest->num_segments; s++) {
        int32_t parent = forest->parents[s];
        if (forest->starts[s + 1] < forest->starts[s]) {
            return sp_fail(error, SP_INVALID, "segment %d has less than no rows", s);
        }
        if (is_prefix(forest, s)) {
            if (parent != -1 || num_prefixes == forest->num_prefixes) {
                return sp_fail(error, SP_INVALID,
                               "segment %d has no rows, and is none of %d "
                               "prefixes or has a parent",
                               s, forest->num_prefixes);
            }
            num_prefixes++;
        }
        if (parent < -1 || parent >= s) {
            return sp_fail(error, SP_INVALID, "segment %d: parent %d is not an earlier segment", s,
                           parent);
        }
        /* Depth first: the parent is the segment before, or one of that one's ancestors. */
        int32_t ancestor = s - 1;
        while (ancestor > parent) {
            ancestor = forest->parents[ancestor];
        }
        if (ancestor != parent) {
            return sp_fail(error, SP_INVALID, "segment %d: parent %d is not in depth-first order",
                           s, parent);
        }
    }
    if (num_prefixes != forest->num_prefixes) {
        return sp_fail(error, SP_INVALID, "%d prefixes, but %d segments without rows",
                       forest->num_prefixes, num_prefixes);
    }
    SP_TRY(check_prefixes(forest, error));
    SP_TRY(check_frequencies(model, forest, error));
    SP_TRY(check_memories(model, forest, error));
    int32_t first = forest->starts[num_encoder_segments(forest)];
    SP_TRY(sp_symbols_check(model, 1, forest->symbols, 0, first, forest->num_virtual,
                            forest->prompt, error));
    return sp_symbols_check(model, 0, forest->symbols, first, forest->starts[forest->num_segments],
                            forest->num_virtual, forest->prompt, error);
}

static sp_status
make_segments(sp_schedule *schedule, const sp_model *model, const sp_forest *forest, float *grad,
              sp_error *error)
{
    size_t width = (size_t)model->kv_width, prefix_rows = (size_t)sp_forest_prefix_rows(forest);
    int32_t next_prefix = 0;
    for (int32_t s = 0; s < forest->num_segments; s++) {
        sp_segment *segment = &schedule->segments[s];
        int32_t parent = forest->parents[s];
        int32_t memory = forest->memories == NULL ? -1 : forest->memories[s];
        *segment = (sp_segment){.parent = parent,
                                .memory = memory,
                                .length = forest->starts[s + 1] - forest->starts[s]};
        if (is_prefix(forest, s)) {
            const int32_t *rows = &forest->prefix_starts[next_prefix++];
            segment->length = rows[1] - rows[0];
            segment->has_virtual = 1;
            segment->stride = segment->dstride = 2 * prefix_rows * width;
            segment->k = (float *)forest->prefix + (size_t)rows[0] * width;
            segment->v = segment->k + prefix_rows * width;
            if (grad != NULL) {
                segment->dk = grad + (size_t)rows[0] * width;
                segment->dv = segment->dk + prefix_rows * width;
            }
        }
        for (int32_t r = forest->starts[s]; r < forest->starts[s + 1]; r++) {
            segment->has_virtual |= forest->symbols[r] < 0;
        }
        segment->needs_grad =
            segment->has_virtual || (memory >= 0 && schedule->segments[memory].needs_grad);
        if (forest->frequencies != NULL) {
            segment->frequencies =
                forest->frequencies
                + (int64_t)forest->frequency_of[s] * sp_model_num_frequencies(model);
        }
        if (parent >= 0) {
            segment->base = schedule->segments[parent].base + schedule->segments[parent].length;
            segment->needs_grad |= schedule->segments[parent].needs_grad;
        }
        if (segment->length > model->spec.max_positions - segment->base) {
            return sp_fail(error, SP_INVALID,
                           "a sequence of %lld rows is longer than the model's context of %d",
                           (long long)segment->base + segment->length, model->spec.max_positions);
        }
    }
    return SP_OK;
}

/* Distinct rows of the entries. */
static sp_status
find_head_rows(sp_schedule *schedule, const sp_forest *forest, int32_t num_entries,
               const int32_t *rows, sp_error *error)
{
    int32_t count = 0, num_rows = forest->starts[forest->num_segments];
    int32_t first = forest->starts[num_encoder_segments(forest)];
    for (int32_t e = 0; e < num_entries; e++) {
        if (rows[e] < first || rows[e] >= num_rows || (e > 0 && rows[e] < rows[e - 1])) {
            return sp_fail(error, SP_INVALID,
                           "rows[%d] = %d: expected rows of the decoder (%d to %d), not falling", e,
                           rows[e], first, num_rows - 1);
        }
        if (e == 0 || rows[e] != rows[e - 1]) {
            schedule->head_rows[count] = rows[e];
            schedule->entry_starts[count++] = e;
        }
    }
    schedule->entry_starts[count] = num_entries;
    schedule->num_head_rows = count;
    return SP_OK;
}

/* The segment that `row` is in. */
static int32_t
segment_of(const sp_forest *forest, int32_t row)
{
    int32_t low = 0, high = forest->num_segments - 1;
    while (low < high) {
        int32_t middle = low + (high - low + 1) / 2;
        if (forest->starts[middle] <= row) {
            low = middle;
        }
        else {
            high = middle - 1;
        }
    }
    return low;
}

/* What stands above a segment: its parent, over a root of the decoder the segment that it reads. */
static int32_t
above(const sp_forest *forest, int32_t s)
{
    int32_t parent = forest->parents[s];
    return parent >= 0 || forest->memories == NULL ? parent : sp_max32(forest->memories[s], -1);
}

/* whole[s]: the subtree of s holds a ranking group that its parts do not hold, so that it must be
 * one pack. The lowest common ancestor is found by walking up from both sides. A group in several
 * trees has none: then all trees are one pack. */
static int
find_whole(uint8_t *whole, int32_t *group_top, const sp_forest *forest, const sp_losses *losses)
{
    enum { NONE = -2 };
    int all = 0;
    for (int32_t g = 0; g < losses->num_groups; g++) {
        group_top[g] = NONE;
    }
    for (int32_t e = 0; e < losses->num_entries; e++) {
        int32_t *top = &group_top[losses->choice_groups[losses->choices[e]]];
        int32_t s = segment_of(forest, losses->rows[e]);
        if (*top == NONE) {
            *top = s;
        }
        while (*top != s) {
            if (s > *top) {
                s = above(forest, s);
            }
            else {
                *top = above(forest, *top);
            }
        }
    }
    for (int32_t g = 0; g < losses->num_groups; g++) {
        if (group_top[g] == -1) {
            all = 1;
        }
        else if (group_top[g] >= 0) {
            whole[group_top[g]] = 1;
        }
    }
    return all;
}

/* first head row at or after `row`. */
static int32_t
head_at(const sp_schedule *schedule, int32_t row)
{
    int32_t low = 0, high = schedule->num_head_rows;
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (schedule->head_rows[middle] < row) {
            low = middle + 1;
        }
        else {
            high = middle;
        }
    }
    return low;
}

typedef struct {
    int32_t *subtree_rows; /* [num_segments] */
    int32_t *subtree_end;  /* [num_segments] */
    int32_t *span_of;      /* [num_segments], -1 */
    int32_t *group_top;    /* [num_groups] */
    int32_t *stack;        /* [num_segments] packs that are entered and not left */
    int32_t *stack_end;    /* [num_segments] first segment after their subtree */
    int32_t *heads;        /* [head rows] pack rows */
    sp_part *parts;        /* [num_segments] */
    uint8_t *whole;        /* [num_segments] */
} workbench;

static int
open_workbench(workbench *w, size_t segments, size_t groups, size_t heads)
{
    w->subtree_rows = sp_alloc(segments, sizeof(int32_t));
    w->subtree_end = sp_alloc(segments, sizeof(int32_t));
    w->span_of = sp_alloc(segments, sizeof(int32_t));
    w->group_top = sp_alloc(groups, sizeof(int32_t));
    w->stack = sp_alloc(segments, sizeof(int32_t));
    w->stack_end = sp_alloc(segments, sizeof(int32_t));
    w->heads = sp_alloc(heads, sizeof(int32_t));
    w->parts = sp_alloc(segments, sizeof(sp_part));
    w->whole = sp_alloc_zeroed(segments, 1);
    return w->subtree_rows && w->subtree_end && w->span_of && w->group_top && w->stack
           && w->stack_end && w->heads && w->parts && w->whole;
}

static void
close_workbench(workbench *w)
{
    sp_free(w->subtree_rows);
    sp_free(w->subtree_end);
    sp_free(w->span_of);
    sp_free(w->group_top);
    sp_free(w->stack);
    sp_free(w->stack_end);
    sp_free(w->heads);
    sp_free(w->parts);
    sp_free(w->whole);
}

/* Adds a pack of the segments begin .. end - 1, and the operation on it; nothing for prefixes, which
 * are not computed. */
static sp_status
add_pack(sp_schedule *schedule, const sp_model *model, const sp_forest *forest, workbench *w,
         int32_t begin, int32_t end, sp_op_kind kind, sp_error *error)
{
    int32_t first_row = forest->starts[begin], num_parts = 0;
    for (int32_t s = begin; s < end; s++) {
        if (!is_prefix(forest, s)) {
            w->parts[num_parts++] = (sp_part){.segment = s,
                                              .row = forest->starts[s] - first_row,
                                              .count = schedule->segments[s].length};
        }
    }
    if (num_parts == 0) {
        return SP_OK;
    }
    int32_t first_head = head_at(schedule, first_row);
    int32_t num_heads = head_at(schedule, forest->starts[end]) - first_head;
    for (int32_t h = 0; h < num_heads; h++) {
        w->heads[h] = schedule->head_rows[first_head + h] - first_row;
    }
    int32_t pack = schedule->num_packs;
    SP_TRY(sp_pack_build(&schedule->packs[pack], &model->spec, schedule->segments, num_parts,
                         w->parts, forest->symbols + first_row, num_heads, w->heads, w->span_of,
                         error));
    schedule->first_head[pack] = first_head;
    schedule->num_packs++;
    schedule->ops[schedule->num_ops++] = (sp_op){kind, pack};
    return SP_OK;
}

/* Packs of the trees begin .. end - 1. */
static sp_status
cut_trees(sp_schedule *schedule, const sp_model *model, const sp_forest *forest, workbench *w,
          int32_t begin, int32_t end_of_trees, int32_t pack_rows, sp_error *error)
{
    int32_t s = begin, depth = 0;
    while (s < end_of_trees || depth > 0) {
        if (depth > 0 && (s == end_of_trees || w->stack_end[depth - 1] <= s)) {
            schedule->ops[schedule->num_ops++] = (sp_op){SP_LEAVE, w->stack[--depth]};
            continue;
        }
        int32_t limit = depth > 0 ? w->stack_end[depth - 1] : end_of_trees;
        int32_t rows = 0, end = s;
        while (end < limit) {
            int32_t more = w->subtree_rows[end];
            int indivisible = w->whole[end] || w->subtree_end[end] == end + 1;
            if ((more > pack_rows && !indivisible) || (rows > 0 && more > pack_rows - rows)) {
                break;
            }
            rows += more;
            end = w->subtree_end[end];
        }
        if (end > s) {
            SP_TRY(add_pack(schedule, model, forest, w, s, end, SP_RUN, error));
            s = end;
        }
        else {
            w->stack_end[depth] = w->subtree_end[s];
            w->stack[depth++] = schedule->num_packs;
            SP_TRY(add_pack(schedule, model, forest, w, s, s + 1, SP_ENTER, error));
            s++;
        }
    }
    return SP_OK;
}

/* Trees that have to be one pack, because a ranking group lies in several of them and not in one:
 * those that read encoder segment e become one. */
static void
join_trees(workbench *w, const sp_forest *forest, int32_t num_encoder)
{
    int32_t first = -1;
    for (int32_t s = num_encoder; s < forest->num_segments; s = w->subtree_end[s]) {
        int32_t memory = forest->memories[s];
        if (!w->whole[memory]) {
            continue;
        }
        if (first >= 0 && forest->memories[first] == memory) {
            w->subtree_rows[first] += w->subtree_rows[s];
            w->subtree_end[first] = w->subtree_end[s];
        }
        else {
            first = s;
            w->whole[first] = 1;
        }
    }
}

/* Whole examples after each other: some segments of the encoder, what reads them, and back. */
static sp_status
cut_examples(sp_schedule *schedule, const sp_model *model, const sp_forest *forest, workbench *w,
             int all_together, int32_t pack_rows, sp_error *error)
{
    int32_t num = forest->num_segments, num_encoder = num_encoder_segments(forest);
    join_trees(w, forest, num_encoder);
    int32_t s = num_encoder, e = 0;
    while (e < num_encoder) {
        int32_t end = e, rows = 0;
        while (
            end < num_encoder
            && (all_together || end == e || schedule->segments[end].length <= pack_rows - rows)) {
            rows += schedule->segments[end++].length;
        }
        int32_t last = s, pack = schedule->num_packs;
        while (last < num && forest->memories[last] < end) {
            last++;
        }
        SP_TRY(add_pack(schedule, model, forest, w, e, end, SP_ENTER, error));
        if (!all_together) {
            SP_TRY(cut_trees(schedule, model, forest, w, s, last, pack_rows, error));
        }
        else if (last > s) {
            SP_TRY(add_pack(schedule, model, forest, w, s, last, SP_RUN, error));
        }
        schedule->ops[schedule->num_ops++] = (sp_op){SP_LEAVE, pack};
        s = last;
        e = end;
    }
    return SP_OK;
}

static sp_status
cut(sp_schedule *schedule, const sp_model *model, const sp_forest *forest, workbench *w,
    int all_together, int32_t pack_rows, sp_error *error)
{
    int32_t num = forest->num_segments;
    for (int32_t s = num - 1; s >= 0; s--) {
        w->span_of[s] = -1;
        w->subtree_rows[s] = forest->starts[s + 1] - forest->starts[s];
        w->subtree_end[s] = s + 1;
    }
    /* Children stand behind their parents. What stands under a prefix is cut as trees of their own,
     * unless it has to stay together: a prefix is there for every pack. */
    for (int32_t s = num - 1; s >= 0; s--) {
        int32_t parent = forest->parents[s];
        if (parent >= 0 && (!is_prefix(forest, parent) || w->whole[parent])) {
            w->subtree_rows[parent] += w->subtree_rows[s];
            w->subtree_end[parent] = sp_max32(w->subtree_end[parent], w->subtree_end[s]);
        }
    }
    if (forest->memories != NULL) {
        return cut_examples(schedule, model, forest, w, all_together, pack_rows, error);
    }
    if (all_together) {
        return add_pack(schedule, model, forest, w, 0, num, SP_RUN, error);
    }
    return cut_trees(schedule, model, forest, w, 0, num, pack_rows, error);
}

sp_status
sp_schedule_build(sp_schedule *schedule, const sp_model *model, const sp_forest *forest,
                  int32_t num_entries, const int32_t *rows, const sp_losses *losses, int want_grad,
                  float *prefix_grad, int32_t pack_rows, sp_error *error)
{
    memset(schedule, 0, sizeof *schedule);
    size_t num = (size_t)forest->num_segments;
    int ranking = want_grad && losses != NULL && losses->choices != NULL;
    workbench w = {0};
    schedule->num_segments = forest->num_segments;
    schedule->segments = sp_alloc(num, sizeof *schedule->segments);
    schedule->ops = sp_alloc(num * 2, sizeof *schedule->ops);
    schedule->packs = sp_alloc(num, sizeof *schedule->packs);
    schedule->first_head = sp_alloc(num, sizeof(int32_t));
    schedule->head_rows = sp_alloc((size_t)num_entries, sizeof(int32_t));
    schedule->entry_starts = sp_alloc((size_t)num_entries + 1, sizeof(int32_t));
    sp_status status = SP_OK;
    if (schedule->segments == NULL || schedule->ops == NULL || schedule->packs == NULL
        || schedule->first_head == NULL || schedule->head_rows == NULL
        || schedule->entry_starts == NULL
        || !open_workbench(&w, num, ranking ? (size_t)losses->num_groups : 0,
                           (size_t)num_entries)) {
        status = sp_fail(error, SP_NO_MEMORY, "no memory for the schedule of %d segments",
                         forest->num_segments);
    }
    if (status == SP_OK) {
        status = make_segments(schedule, model, forest, prefix_grad, error);
    }
    if (status == SP_OK) {
        status = find_head_rows(schedule, forest, num_entries, rows, error);
    }
    if (status == SP_OK) {
        int all = ranking && find_whole(w.whole, w.group_top, forest, losses);
        status = cut(schedule, model, forest, &w, all, pack_rows, error);
    }
    close_workbench(&w);
    if (status != SP_OK) {
        sp_schedule_free(schedule);
    }
    return status;
}

void
sp_schedule_free(sp_schedule *schedule)
{
    for (int32_t p = 0; p < schedule->num_packs; p++) {
        sp_pack_free(&schedule->packs[p]);
    }
    sp_free(schedule->ops);
    sp_free(schedule->packs);
    sp_free(schedule->first_head);
    sp_free(schedule->segments);
    sp_free(schedule->head_rows);
    sp_free(schedule->entry_starts);
    memset(schedule, 0, sizeof *schedule);
}
