/* The output head: logits or losses of head rows, and the gradient that comes back from them. */
#ifndef SP_MODEL_HEAD_H
#define SP_MODEL_HEAD_H

#include "pass.h"

/* What a whole call wants of its head rows. `losses` NULL: the logits themselves. */
typedef struct {
    const sp_losses *losses;
    int want_grad;
    const int32_t *entry_starts; /* [head rows + 1] entries of each row that has some */
    double *log_probs;           /* [num_entries] out */
    float *logits;               /* [head rows, V] out, where losses is NULL */
    /* Scratch, placed by sp_heads_place. */
    int32_t chunk[2];             /* rows at a time: full head, cut head */
    float *chunk_logits[2];       /* [chunk, V], [chunk, num_cut_tokens] */
    float *cut_weight, *cut_bias; /* [num_cut_tokens, d], [num_cut_tokens] */
    float *hidden, *dhidden;      /* [m, d] */
    float *stats;                 /* [2, m] */
    float *rows, *drows;          /* [largest chunk, d] */
    float *slopes;                /* [num_entries] d loss / d log_prob */
    double *choice_sums;          /* [num_choices] log-likelihoods */
    int32_t *row_list;            /* [m] */
    double *lse;                  /* [m] */
} sp_heads;

void sp_heads_place(sp_heads *heads, sp_arena *arena, const sp_model *model, int32_t max_head_rows);
/* Gathers the cut head; once a call, after placing. */
void sp_heads_prepare(sp_heads *heads, const sp_model *model);
/* Head rows first .. first + m - 1 of the call, whose last-layer outputs are pass->top [m, d].
 * dtop [m, d] is overwritten with the gradient of them; NULL: not wanted. */
void sp_heads_run(sp_heads *heads, sp_pass *pass, int32_t first, int32_t m, float *dtop);

#endif
