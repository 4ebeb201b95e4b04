/* A frozen model: what its layers are, and where its weights lie. Read-only once it is made. */
#ifndef SP_MODEL_MODEL_H
#define SP_MODEL_MODEL_H

#include "../kernels/linear.h"
#include "../softprompt.h"

typedef struct {
    const float *weight; /* [d], borrowed */
    const float *bias;   /* [d], borrowed, or NULL */
} sp_norm_weights;

typedef struct {
    sp_norm_weights attn_norm, mlp_norm;         /* before the halves */
    sp_norm_weights attn_out_norm, mlp_out_norm; /* after them */
    sp_norm_weights q_norm, k_norm;              /* [head_dim] or [heads * head_dim] */
    sp_linear q, k, v, o, gate, up, down;
    /* Attention to an encoder, between the halves: a decoder's that has one. */
    sp_norm_weights cross_norm, cross_out_norm;
    sp_linear cross_q, cross_k, cross_v, cross_o;
    int32_t window; /* 0: none */
    int32_t rope;   /* set of frequencies, or -1 */
} sp_layer;

/* A run of layers from input rows to output rows: the decoder, or the encoder. */
typedef struct {
    int32_t num_layers;
    int32_t vocab_size;
    sp_matrix embedding;   /* [vocab_size, d]; none: it has the decoder's */
    sp_matrix position;    /* [max_positions, d], or none */
    const float *relative; /* [num_heads, 2 * relative_reach + 1], borrowed, or NULL */
    sp_norm_weights embedding_norm, final_norm;
    sp_layer *layers; /* [num_layers], owned */
} sp_stack;

struct sp_model {
    sp_spec spec;              /* without the lists by layer, which the layers have */
    int32_t q_width;           /* num_heads * head_dim */
    int32_t kv_width;          /* num_kv_heads * head_dim */
    const float *inv_freq;     /* [num_ropes, rotary_dim / 2], borrowed, or NULL */
    const float *rope_scale;   /* [num_ropes], borrowed, or NULL */
    const float *alibi;        /* [num_heads, max_positions], borrowed, or NULL */
    sp_linear head;            /* it has no weight if the head is tied to the embedding */
    sp_stack decoder, encoder; /* the encoder's without layers where there is none */
};

static inline const sp_stack *
sp_model_stack(const sp_model *model, int encoder)
{
    return encoder ? &model->encoder : &model->decoder;
}

/* Checks a stored matrix: everything that a row of it is lies inside its bytes. */
sp_status sp_matrix_of_stored(sp_matrix *matrix, const sp_stored *stored, sp_error *error);
/* The output head, tied or not. */
sp_linear sp_model_head(const sp_model *model);
/* Floats of scratch that each thread needs for weights that are not float32. */
size_t sp_model_scratch(const sp_model *model);

/* Which norms a layer has, and whether queries and keys are kept as they were before clamp or norm
 * (their backward needs them). */
static inline int
sp_norms_before(const sp_spec *spec)
{
    return spec->norm_place == SP_NORM_PRE || spec->norm_place == SP_NORM_SANDWICH;
}

static inline int
sp_norms_after(const sp_spec *spec)
{
    return spec->norm_place != SP_NORM_PRE;
}

static inline int
sp_has_encoder(const sp_spec *spec)
{
    return spec->num_encoder_layers > 0;
}

static inline int
sp_keeps_raw(const sp_spec *spec)
{
    return spec->qk_norm != SP_QK_NORM_NONE || spec->qkv_clip > 0.0f;
}

#endif
