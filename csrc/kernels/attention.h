/* Attention over a forest: a query sees whole ancestor segments and a prefix of its own segment
 * (causal), all of its own segment (an encoder), or all of another one (an encoder's, read by a
 * decoder).
 *
 * Queries of sibling segments that stand side by side form a block, so that the keys and values
 * of their common ancestors are read once per block and not once per segment.
 */
#ifndef SP_KERNELS_ATTENTION_H
#define SP_KERNELS_ATTENTION_H

#include <stddef.h>
#include <stdint.h>

#include "../base/team.h"

/* Keys and values of one segment in the present layer, row stride num_kv_heads * head_dim. */
typedef struct {
    const float *k; /* [length, kv_width] */
    const float *v;
    float *dk; /* [length, kv_width], += ; NULL: not wanted */
    float *dv;
    int32_t length;
    int32_t shared; /* row in the strands' own sums, or -1: one strand alone adds to it */
} sp_span;

typedef struct {
    int32_t own;        /* span of its segment, or of the one that it reads */
    int32_t visible;    /* rows of that span that it sees: causal its index in the segment + 1 */
    int32_t index;      /* in its own segment */
    int32_t is_virtual; /* its segment holds virtual tokens */
} sp_query;

typedef struct {
    int32_t first, count;                  /* queries */
    int32_t first_ancestor, num_ancestors; /* in the list of ancestor spans */
    int32_t ancestor_rows;
    int32_t own_rows; /* largest `visible` */
} sp_query_block;

typedef struct {
    int32_t num_heads, num_kv_heads, head_dim;
    int32_t num_queries, num_blocks, num_strands;
    const sp_query *queries;
    const sp_query_block *blocks;
    const int32_t *ancestors;     /* spans, root first, of all blocks one after the other */
    const int32_t *strand_starts; /* [num_strands + 1] blocks of one strand of the backward pass */
    int32_t shared_rows;          /* rows of all spans that several strands add to */
    const int32_t *shared;        /* [num_spans] see sp_span, or NULL: forward only */
    int32_t num_spans;
} sp_attention;

/* How the products of queries and keys become scores; layers may differ in it. A key's place on its
 * path is its position, so that a window and a bias need nothing else. */
typedef struct {
    float scale;        /* of the products */
    float soft_cap;     /* then cap * tanh(score / cap); 0: none */
    int32_t window;     /* keys that a query sees, its own among them; 0: all before it */
    const float *alibi; /* [num_heads, alibi_stride] bias of a key by its position; NULL: none */
    int64_t alibi_stride;
    const float *relative; /* [num_heads, 2 * relative_reach + 1] bias of a key by its distance, its
                            * place on the path less the query's; NULL: none */
    int32_t relative_reach; /* larger distances have the bias of this one */
} sp_scores;

/* Queries of one block at most, so that its scores stay in the cache. */
int32_t sp_attention_block_rows(int32_t keys, int32_t group);
/* Strands of the backward pass: enough work for some threads where there are few heads. */
int32_t sp_attention_strands(int32_t num_kv_heads, int32_t num_blocks);
/* Floats of scratch for one thread, and (backward) for all strands together. */
size_t sp_attention_scratch(const sp_attention *attention, int backward);
size_t sp_attention_strand_floats(const sp_attention *attention);

/* q [num_queries, num_heads * head_dim], rotated; out the same shape (it may be q itself);
 * lse [num_queries, num_heads]: log-sum-exp of the scaled scores, for backward.
 * scratch [threads][sp_attention_scratch]. */
void sp_attention_forward(sp_team *team, const sp_attention *attention, const sp_scores *rule,
                          const sp_span *spans, float *out, float *lse, const float *q,
                          float *scratch);
/* dq [num_queries, num_heads * head_dim] is overwritten, with `only_virtual` in the rows of such
 * queries alone; spans' dk, dv +=. dout may be dq itself. strands [sp_attention_strand_floats]. */
void sp_attention_backward(sp_team *team, const sp_attention *attention, const sp_scores *rule,
                           const sp_span *spans, float *dq, const float *dout, const float *q,
                           const float *lse, float *scratch, float *strands, int only_virtual);

#endif
