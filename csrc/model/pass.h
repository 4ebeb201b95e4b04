/* One pass over packs: the memory that they share, and the memory of one pack. */
#ifndef SP_MODEL_PASS_H
#define SP_MODEL_PASS_H

#include "../base/arena.h"
#include "../base/team.h"
#include "../kernels/kernels.h"
#include "model.h"
#include "pack.h"

/* The largest sizes among the packs of a pass. */
typedef struct {
    int32_t rows, head_rows, virtual_rows, spans;
    size_t attention_floats; /* scratch of one thread */
    size_t strand_floats;
    int want_grad;
} sp_extent;

/* Shared by the packs of a pass one after the other. n, m, p are the extent's row counts. */
typedef struct {
    const sp_model *model;
    const sp_kernels *kernels;
    sp_team *team;
    sp_segment *segments;
    const float *prompt; /* [num_virtual, d], borrowed, or NULL */
    sp_span *spans;      /* [spans] */
    float *cos, *sin;    /* [num_ropes][n, rotary_dim / 2], of the present pack */
    size_t rope_stride;  /* n * rotary_dim / 2 of the extent */
    float *hidden;       /* [n, d] normalised rows, or their gradient */
    float *branch;       /* [n, d] what a half adds; only where a norm or a scale follows it */
    float *heads;        /* [threads][q_width] one row; only with norms of queries and keys */
    float *wide, *wide2; /* [n, f] activations, gradients of up and gate */
    float *mixed;        /* [n, q_width] attention output; gradient of it and of q */
    float *dx;           /* [n, d] gradient of a layer's output */
    float *few, *top;    /* [m, d] gathered rows; output of the last layer */
    float *attention;    /* [threads][attention_floats] */
    float *strands;
    float *scratch; /* [threads][scratch_floats] for the team; see sp_linear_scratch */
    size_t scratch_floats;
    float *virtual_dh, *virtual_x, *virtual_dx; /* [p, d] */
    float *virtual_dq;                          /* [p, q_width] */
    float *virtual_dk, *virtual_dv;             /* [p, kv_width] */
    float *virtual_stats;                       /* [2, p] */
} sp_pass;

/* How long a pack's memory has to live. */
typedef enum {
    SP_KEEP_NOTHING = 0, /* forward only */
    SP_KEEP_KEYS,        /* forward only, but descendants of other packs read keys and values */
    SP_KEEP_LAYERS,      /* backward follows at once */
    SP_KEEP_ALL,         /* backward follows after other packs have added to the keys' gradients */
    SP_KEEP_RESIDENT,    /* forward only, keys and values go to the segments' own memory */
} sp_keep;

/* The rows of one norm, for its backward. */
typedef struct {
    float *mean, *rstd;
} sp_norm_rows;

/* What one layer keeps for its backward pass; r is n, in the last layer m. */
typedef struct {
    float *x;             /* [n, d] input */
    sp_norm_rows norm1;   /* [n] before attention */
    float *q;             /* [r, q_width], rotated */
    float *q_raw, *k_raw; /* [r, q_width], [n, kv_width] clamped, before their norm; or NULL */
    sp_norm_rows q_norm, k_norm; /* [r, num_heads], [n, num_kv_heads]; or NULL */
    float *lse;                  /* [r, num_heads] */
    float *x_mid;             /* [r, d] what the MLP's half gets: x after attention; with a parallel
                          * residual x itself, in the last layer its head rows */
    sp_norm_rows norm2;       /* [r] before the MLP */
    float *gate, *up;         /* [r, f] before the activation; gate only where gated */
    float *branch1, *branch2; /* [r, d] what the norms after the halves get; or NULL */
    sp_norm_rows out_norm1, out_norm2; /* [r] */
    /* Between the halves, where an encoder is read: */
    float *x_cross;              /* [r, d] what it gets: x after attention */
    sp_norm_rows cross_norm;     /* [r] before it */
    float *cross_q;              /* [r, q_width] */
    float *cross_lse;            /* [r, num_heads] */
    float *cross_branch;         /* [r, d] what the norm after it gets; or NULL */
    sp_norm_rows cross_out_norm; /* [r] */
} sp_saved;

typedef struct {
    sp_keep keep;
    int encoder;
    int32_t n, m;
    float *layers;       /* sp_saved of all layers, or of one in use after the other */
    size_t layer_stride; /* 0: one for all */
    float *k, *v;        /* [L or 1][n, kv_width] k rotated */
    size_t kv_stride;
    float *dk, *dv; /* [L or 1][n, kv_width] */
    size_t dkv_stride;
    float *dtop; /* [m, d] gradient of the last layer's output */
    /* Of the encoder: */
    float *out;                 /* [n, d] the last layer's output */
    sp_norm_rows out_norm;      /* [n] of the final norm */
    float *memory_k, *memory_v; /* [decoder's layers, or 1][n, kv_width] what the decoder reads */
    size_t memory_stride;
    float *memory_dk, *memory_dv; /* [decoder's layers][n, kv_width] or NULL */
} sp_activations;

void sp_extent_add(sp_extent *extent, const sp_pack *pack);
/* A team of threads that have their scratch memory; the pass is placed. */
sp_status sp_pass_start(sp_pass *pass, int num_threads, sp_error *error);
void sp_pass_place(sp_pass *pass, sp_arena *arena, const sp_extent *extent, int num_threads);
void sp_activations_place(sp_activations *act, sp_arena *arena, const sp_model *model,
                          const sp_pack *pack, sp_keep keep);
sp_saved sp_activations_layer(const sp_activations *act, const sp_model *model, int32_t layer);
/* Tells the pack's segments where their keys, values and gradients are. With SP_KEEP_RESIDENT only
 * for an encoder, whose segments keep nothing but what the decoder reads. */
void sp_activations_bind(const sp_activations *act, const sp_pack *pack, const sp_model *model,
                         sp_segment *segments);

/* Calls task over rows in blocks of a fixed size. */
enum { SP_ROW_BLOCK = 16 };
void sp_pass_rows(sp_pass *pass, int32_t rows, sp_task *task, void *job);

#endif
