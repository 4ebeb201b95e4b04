#include "pack.h"

#include <string.h>

#include "../base/alloc.h"
#include "../base/size.h"
#include "../base/status.h"

/* Spans of the parts' segments and of their ancestors; span_of is filled for all of them. */
static int
find_spans(sp_pack *pack, const sp_segment *segments, int32_t *span_of)
{
    int32_t count = 0;
    for (int pass = 0; pass < 2; pass++) {
        count = 0;
        for (int32_t p = 0; p < pack->num_parts; p++) {
            for (int32_t s = pack->parts[p].segment; s >= 0 && span_of[s] < 0;
                 s = segments[s].parent) {
                if (pass == 1) {
                    pack->span_segments[count] = s;
                }
                span_of[s] = count++;
            }
        }
        if (pass == 0) {
            for (int32_t p = 0; p < pack->num_parts; p++) {
                for (int32_t s = pack->parts[p].segment; s >= 0 && span_of[s] >= 0;
                     s = segments[s].parent) {
                    span_of[s] = -1;
                }
            }
            pack->span_segments = sp_alloc((size_t)count, sizeof(int32_t));
            if (pack->span_segments == NULL) {
                return 0;
            }
        }
    }
    pack->num_spans = count;
    return 1;
}

/* The encoder segments that the parts read; span_of is filled for them. */
static int
find_memories(sp_pack *pack, const sp_segment *segments, int32_t *span_of)
{
    if (segments[pack->parts[0].segment].memory < 0) {
        return 1;
    }
    pack->memory_segments = sp_alloc((size_t)pack->num_parts, sizeof(int32_t));
    if (pack->memory_segments == NULL) {
        return 0;
    }
    for (int32_t p = 0; p < pack->num_parts; p++) {
        int32_t memory = segments[pack->parts[p].segment].memory;
        if (memory >= 0 && span_of[memory] < 0) {
            span_of[memory] = pack->num_memories;
            pack->memory_segments[pack->num_memories++] = memory;
        }
    }
    return 1;
}

/* Parts that queries belong to stand in order; queries of one block have siblings as segments. */
static int32_t
cut_blocks(sp_query_block *blocks, const sp_query *queries, int32_t num_queries,
           const int32_t *span_segments, const sp_segment *segments, int32_t group)
{
    int32_t count = 0, parent = -2;
    sp_query_block *block = NULL;
    for (int32_t i = 0; i < num_queries; i++) {
        const sp_segment *segment = &segments[span_segments[queries[i].own]];
        int32_t own = queries[i].visible;
        int fits = 0;
        if (block != NULL && segment->parent == parent) {
            int32_t keys = block->ancestor_rows + sp_max32(block->own_rows, own);
            fits = block->count < sp_attention_block_rows(keys, group);
        }
        if (!fits) {
            block = &blocks[count++];
            parent = segment->parent;
            *block = (sp_query_block){.first = i, .ancestor_rows = segment->base};
        }
        block->count++;
        block->own_rows = sp_max32(block->own_rows, own);
    }
    return count;
}

/* Ancestor spans of every block, root first. */
static int
list_ancestors(sp_attention *a, sp_query_block *blocks, const int32_t *span_segments,
               const sp_segment *segments, const int32_t *span_of)
{
    size_t total = 0;
    for (int32_t b = 0; b < a->num_blocks; b++) {
        int32_t depth = 0;
        int32_t s = segments[span_segments[a->queries[blocks[b].first].own]].parent;
        for (; s >= 0; s = segments[s].parent) {
            depth++;
        }
        blocks[b].num_ancestors = depth;
        total += (size_t)depth;
        if (total > INT32_MAX) {
            return 0;
        }
    }
    int32_t *ancestors = sp_alloc(total, sizeof *ancestors);
    if (ancestors == NULL) {
        return 0;
    }
    int32_t end = 0;
    for (int32_t b = 0; b < a->num_blocks; b++) {
        blocks[b].first_ancestor = end;
        end += blocks[b].num_ancestors;
        int32_t at = end;
        int32_t s = segments[span_segments[a->queries[blocks[b].first].own]].parent;
        for (; s >= 0; s = segments[s].parent) {
            ancestors[--at] = span_of[s];
        }
    }
    a->ancestors = ancestors;
    return 1;
}

/* Who asks: `rows` of the pack (NULL: all) ask their own path, or what their segments read. */
typedef struct {
    const int32_t *rows;
    int32_t num_queries;
    int32_t num_spans;
    const int32_t *span_segments;
    int cross;
} question;

static int
build_attention(sp_attention *a, const sp_pack *pack, const sp_spec *spec,
                const sp_segment *segments, const int32_t *span_of, const question *ask)
{
    int32_t num_queries = ask->num_queries;
    sp_query *queries = sp_alloc((size_t)num_queries, sizeof *queries);
    sp_query_block *blocks = sp_alloc((size_t)num_queries, sizeof *blocks);
    a->queries = queries;
    a->blocks = blocks;
    if (queries == NULL || blocks == NULL) {
        return 0;
    }
    a->num_heads = spec->num_heads;
    a->num_kv_heads = spec->num_kv_heads;
    a->head_dim = spec->head_dim;
    a->num_queries = num_queries;
    a->num_spans = ask->num_spans;
    int32_t p = 0;
    for (int32_t i = 0; i < num_queries; i++) {
        int32_t row = ask->rows == NULL ? i : ask->rows[i];
        while (row >= pack->parts[p].row + pack->parts[p].count) {
            p++;
        }
        const sp_part *part = &pack->parts[p];
        const sp_segment *segment = &segments[part->segment];
        int32_t index = part->first + (row - part->row);
        int32_t own = ask->cross ? segment->memory : part->segment;
        queries[i] =
            (sp_query){.own = span_of[own],
                       .visible = ask->cross || pack->encoder ? segments[own].length : index + 1,
                       .index = index,
                       .is_virtual = segment->has_virtual};
    }
    a->num_blocks = cut_blocks(blocks, queries, num_queries, ask->span_segments, segments,
                               spec->num_heads / spec->num_kv_heads);
    if (!list_ancestors(a, blocks, ask->span_segments, segments, span_of)) {
        return 0;
    }
    a->num_strands = sp_attention_strands(spec->num_kv_heads, a->num_blocks);
    int32_t *starts = sp_alloc((size_t)a->num_strands + 1, sizeof *starts);
    a->strand_starts = starts;
    if (starts == NULL) {
        return 0;
    }
    for (int32_t s = 0; s <= a->num_strands; s++) {
        starts[s] = (int32_t)((int64_t)a->num_blocks * s / a->num_strands);
    }
    return 1;
}

/* shared[span]: row of the strands' own sums, or -1. A span gets such rows if several strands add
 * to it. */
static int
find_shared(sp_attention *a, int32_t *shared, const int32_t *span_segments,
            const sp_segment *segments)
{
    enum { NOBODY = -1, SEVERAL = -2 };
    for (int32_t s = 0; s < a->num_spans; s++) {
        shared[s] = NOBODY;
    }
    for (int32_t strand = 0; strand < a->num_strands; strand++) {
        for (int32_t b = a->strand_starts[strand]; b < a->strand_starts[strand + 1]; b++) {
            const sp_query_block *block = &a->blocks[b];
            for (int32_t i = 0; i < block->num_ancestors + block->count; i++) {
                int32_t span = i < block->num_ancestors
                                   ? a->ancestors[block->first_ancestor + i]
                                   : a->queries[block->first + i - block->num_ancestors].own;
                if (shared[span] != strand) {
                    shared[span] = shared[span] == NOBODY ? strand : SEVERAL;
                }
            }
        }
    }
    int64_t rows = 0;
    for (int32_t s = 0; s < a->num_spans; s++) {
        int several = shared[s] == SEVERAL;
        shared[s] = several ? (int32_t)rows : -1;
        rows += several ? segments[span_segments[s]].length : 0;
        if (rows > INT32_MAX) {
            return 0;
        }
    }
    a->shared_rows = (int32_t)rows;
    return 1;
}

sp_status
sp_pack_build(sp_pack *pack, const sp_spec *spec, const sp_segment *segments, int32_t num_parts,
              const sp_part *parts, const int32_t *symbols, int32_t num_head_rows,
              const int32_t *head_rows, int32_t *span_of, sp_error *error)
{
    memset(pack, 0, sizeof *pack);
    const sp_part *last = &parts[num_parts - 1];
    pack->num_rows = last->row + last->count;
    pack->num_parts = num_parts;
    pack->encoder = segments[parts[0].segment].memory == SP_ENCODER;
    pack->num_head_rows = num_head_rows;
    pack->symbols = symbols;
    for (int32_t r = 0; r < pack->num_rows; r++) {
        pack->num_virtual += symbols[r] < 0;
    }
    pack->parts = sp_alloc((size_t)num_parts, sizeof *parts);
    pack->positions = sp_alloc((size_t)pack->num_rows, sizeof(int32_t));
    pack->head_rows = sp_alloc((size_t)num_head_rows, sizeof(int32_t));
    pack->virtual_rows = sp_alloc((size_t)pack->num_virtual, sizeof(int32_t));
    int good = pack->parts != NULL && pack->positions != NULL && pack->head_rows != NULL
               && pack->virtual_rows != NULL;
    if (good) {
        memcpy(pack->parts, parts, (size_t)num_parts * sizeof *parts);
        if (num_head_rows > 0) { /* head_rows may be NULL otherwise */
            memcpy(pack->head_rows, head_rows, (size_t)num_head_rows * sizeof *head_rows);
        }
        int32_t next = 0;
        for (int32_t r = 0; r < pack->num_rows; r++) {
            if (symbols[r] < 0) {
                pack->virtual_rows[next++] = r;
            }
        }
        for (int32_t p = 0; p < num_parts; p++) {
            const sp_segment *segment = &segments[parts[p].segment];
            pack->needs_grad |= segment->needs_grad;
            for (int32_t i = 0; i < parts[p].count; i++) {
                pack->positions[parts[p].row + i] = segment->base + parts[p].first + i;
            }
        }
        good = find_spans(pack, segments, span_of) && find_memories(pack, segments, span_of);
    }
    const question asks[] = {
        {NULL, pack->num_rows, pack->num_spans, pack->span_segments, 0},
        {pack->head_rows, num_head_rows, pack->num_spans, pack->span_segments, 0},
        {NULL, pack->num_rows, pack->num_memories, pack->memory_segments, 1},
        {pack->head_rows, num_head_rows, pack->num_memories, pack->memory_segments, 1},
    };
    sp_attention *built[] = {&pack->all, &pack->head, &pack->cross_all, &pack->cross_head};
    int num_built = pack->num_memories > 0 ? 4 : 2;
    for (int which = 0; which < num_built && good; which++) {
        good = build_attention(built[which], pack, spec, segments, span_of, &asks[which]);
    }
    for (int32_t s = 0; s < pack->num_spans; s++) {
        span_of[pack->span_segments[s]] = -1;
    }
    for (int32_t s = 0; s < pack->num_memories; s++) {
        span_of[pack->memory_segments[s]] = -1;
    }
    for (int which = 0; which < num_built && good && pack->needs_grad; which++) {
        int32_t *shared = sp_alloc((size_t)asks[which].num_spans, sizeof *shared);
        built[which]->shared = shared;
        good = shared != NULL
               && find_shared(built[which], shared, asks[which].span_segments, segments);
    }
    if (!good) {
        int32_t rows = pack->num_rows;
        sp_pack_free(pack);
        return sp_fail(error, SP_NO_MEMORY, "no memory for the plan of %d rows", rows);
    }
    return SP_OK;
}

static void
free_attention(sp_attention *a)
{
    sp_free((void *)a->queries);
    sp_free((void *)a->blocks);
    sp_free((void *)a->ancestors);
    sp_free((void *)a->strand_starts);
    sp_free((void *)a->shared);
}

void
sp_pack_free(sp_pack *pack)
{
    free_attention(&pack->all);
    free_attention(&pack->head);
    free_attention(&pack->cross_all);
    free_attention(&pack->cross_head);
    sp_free(pack->parts);
    sp_free(pack->positions);
    sp_free(pack->head_rows);
    sp_free(pack->virtual_rows);
    sp_free(pack->span_segments);
    sp_free(pack->memory_segments);
    memset(pack, 0, sizeof *pack);
}

void
sp_pack_spans(const sp_pack *pack, const sp_attention *attention, const sp_segment *segments,
              int32_t layer, int only_virtual, sp_span *spans)
{
    for (int32_t s = 0; s < pack->num_spans; s++) {
        const sp_segment *segment = &segments[pack->span_segments[s]];
        size_t at = (size_t)layer * segment->stride, dat = (size_t)layer * segment->dstride;
        int wanted = segment->dk != NULL && (!only_virtual || segment->has_virtual);
        spans[s] = (sp_span){
            .k = segment->k + at,
            .v = segment->v + at,
            .dk = wanted ? segment->dk + dat : NULL,
            .dv = wanted ? segment->dv + dat : NULL,
            .length = segment->length,
            .shared = attention->shared == NULL ? -1 : attention->shared[s],
        };
    }
}

void
sp_pack_memories(const sp_pack *pack, const sp_attention *attention, const sp_segment *segments,
                 int32_t layer, sp_span *spans)
{
    for (int32_t s = 0; s < pack->num_memories; s++) {
        const sp_segment *segment = &segments[pack->memory_segments[s]];
        size_t at = (size_t)layer * segment->memory_stride;
        spans[s] = (sp_span){
            .k = segment->memory_k + at,
            .v = segment->memory_v + at,
            .dk = segment->memory_dk == NULL ? NULL : segment->memory_dk + at,
            .dv = segment->memory_dv == NULL ? NULL : segment->memory_dv + at,
            .length = segment->length,
            .shared = attention->shared == NULL ? -1 : attention->shared[s],
        };
    }
}
