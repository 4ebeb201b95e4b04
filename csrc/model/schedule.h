/* Cuts a forest into packs and puts them in depth-first order. */
#ifndef SP_MODEL_SCHEDULE_H
#define SP_MODEL_SCHEDULE_H

#include "model.h"
#include "pack.h"

typedef enum {
    SP_RUN,   /* whole subtrees: forward, and backward at once */
    SP_ENTER, /* one segment, or some of an encoder: forward, stays while what depends on it runs */
    SP_LEAVE, /* its backward */
} sp_op_kind;

typedef struct {
    sp_op_kind kind;
    int32_t pack;
} sp_op;

/* Owns its arrays; borrows the forest. */
typedef struct {
    int32_t num_ops, num_packs, num_segments;
    sp_op *ops;
    sp_pack *packs;
    int32_t *first_head; /* [num_packs] head row of the call that the pack's first one is */
    sp_segment *segments;
    int32_t num_head_rows;
    int32_t *head_rows;    /* [num_head_rows] forest rows, rising */
    int32_t *entry_starts; /* [num_head_rows + 1] */
} sp_schedule;

/* rows [num_entries], not falling: rows with entries (or wanted logits). Ranking groups of
 * `losses` (may be NULL) stay in one pack if want_grad. Prefixes add their gradients to prefix_grad
 * (borrowed, as the forest's prefix), or NULL: not wanted, or not yet. */
sp_status sp_schedule_build(sp_schedule *schedule, const sp_model *model, const sp_forest *forest,
                            int32_t num_entries, const int32_t *rows, const sp_losses *losses,
                            int want_grad, float *prefix_grad, int32_t pack_rows, sp_error *error);
void sp_schedule_free(sp_schedule *schedule);

/* Every index and length of the forest is in its range, and paths fit into the context. */
sp_status sp_forest_check(const sp_model *model, const sp_forest *forest, sp_error *error);
/* Rows of a checked forest's prefixes. */
int32_t sp_forest_prefix_rows(const sp_forest *forest);
/* symbols[first] .. symbols[end - 1] are token ids, of the encoder or the decoder, or rows of the
 * prompt. */
sp_status sp_symbols_check(const sp_model *model, int encoder, const int32_t *symbols,
                           int32_t first, int32_t end, int32_t num_virtual, const float *prompt,
                           sp_error *error);

#endif
