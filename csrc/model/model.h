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
    sp_norm_weights attn_norm, mlp_norm;
    sp_linear q, k, v, o, gate, up, down;
} sp_layer;

struct sp_model {
    sp_spec spec;
    int32_t q_width;           /* num_heads * head_dim */
    int32_t kv_width;          /* num_kv_heads * head_dim */
    const float *embedding;    /* [V, d], borrowed */
    const float *position;     /* [max_positions, d], borrowed, or NULL */
    const float *inv_freq;     /* [rotary_dim / 2], borrowed, or NULL */
    sp_norm_weights final_norm;
    sp_linear head;            /* its weight is NULL if the head is tied to the embedding */
    sp_layer *layers;          /* [num_layers], owned */
};

/* The output head, tied or not. */
sp_linear sp_model_head(const sp_model *model);

#endif
