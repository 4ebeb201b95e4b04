/* Segments, and packs: rows of some segments that are computed together. */
#ifndef SP_MODEL_PACK_H
#define SP_MODEL_PACK_H

#include "../kernels/attention.h"
#include "../softprompt.h"

typedef struct {
    int32_t parent;      /* a segment, or -1 */
    int32_t base;        /* rows before it on its path: the position of its first row */
    int32_t length;      /* rows that it has */
    int32_t has_virtual; /* the gradient of its own keys and values is wanted in every layer */
    int32_t needs_grad;  /* it, an ancestor or what it reads holds virtual tokens or is a prefix */
    int32_t memory;      /* SP_ENCODER; the encoder segment that it reads; -1 without an encoder */
    const float *frequencies; /* [num_ropes, rotary_dim / 2] of its tree; NULL: the model's */
    /* Keys and values of layer l start at k + l * stride, v + l * stride; row stride kv_width.
     * Those of a prefix are read only. */
    float *k, *v;
    size_t stride;
    /* Their gradients, likewise (stride 0: one layer at a time); NULL: not wanted. */
    float *dk, *dv;
    size_t dstride;
    /* Of an encoder segment: what layer l of the decoder reads, and its gradients, likewise. */
    float *memory_k, *memory_v, *memory_dk, *memory_dv;
    size_t memory_stride;
} sp_segment;

/* Rows row .. row + count - 1 of a pack are the rows first .. of a segment. */
typedef struct {
    int32_t segment;
    int32_t first;
    int32_t row;
    int32_t count;
} sp_part;

/* What is computed together, and who attends to what. Owns its arrays. */
typedef struct {
    int32_t num_rows; /* n */
    int32_t num_parts;
    int32_t num_head_rows; /* m: rows whose logits are wanted */
    int32_t num_virtual;   /* rows that are virtual tokens */
    int32_t num_spans;     /* segments of the parts, and all their ancestors */
    int32_t num_memories;  /* encoder segments that they read */
    int32_t encoder;       /* its rows are the encoder's */
    int32_t needs_grad;
    const int32_t *symbols;             /* [n], borrowed */
    sp_part *parts;                     /* [num_parts] */
    int32_t *positions;                 /* [n] */
    int32_t *head_rows;                 /* [m], rising */
    int32_t *virtual_rows;              /* [num_virtual], rising */
    int32_t *span_segments;             /* [num_spans] */
    int32_t *memory_segments;           /* [num_memories] */
    sp_attention all;                   /* every row asks */
    sp_attention head;                  /* the head rows ask: the last layer */
    sp_attention cross_all, cross_head; /* the same of what is read; no queries where nothing is */
} sp_pack;

/* Builds a pack from its parts (copied) and head rows (pack rows, copied). span_of
 * [number of segments] holds -1 everywhere, before and after. On failure nothing is left behind.
 */
sp_status sp_pack_build(sp_pack *pack, const sp_spec *spec, const sp_segment *segments,
                        int32_t num_parts, const sp_part *parts, const int32_t *symbols,
                        int32_t num_head_rows, const int32_t *head_rows, int32_t *span_of,
                        sp_error *error);
void sp_pack_free(sp_pack *pack);
/* The spans of one layer; spans [num_spans]. */
void sp_pack_spans(const sp_pack *pack, const sp_attention *attention, const sp_segment *segments,
                   int32_t layer, int only_virtual, sp_span *spans);
/* The spans that one layer of the decoder reads; spans [num_memories]. */
void sp_pack_memories(const sp_pack *pack, const sp_attention *attention,
                      const sp_segment *segments, int32_t layer, sp_span *spans);

#endif
