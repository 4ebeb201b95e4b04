/* The memory of one caller: workspace and resident segments. */
#ifndef SP_MODEL_CONTEXT_H
#define SP_MODEL_CONTEXT_H

#include "model.h"
#include "pack.h"

typedef struct {
    int32_t in_use;
    int32_t capacity;
    int32_t children; /* of an encoder segment those that read it, too */
    float *block;     /* owned: keys and values [2][L][capacity, kv_width], own frequencies */
} sp_resident;

struct sp_context {
    const sp_model *model; /* borrowed */
    char *workspace;       /* owned, kept between calls */
    size_t workspace_bytes;
    int32_t num_segments; /* length of the two tables */
    sp_segment *segments; /* k, v (of an encoder memory_k, memory_v) in the residents' blocks */
    sp_resident *residents;
    size_t resident_bytes;
};

/* At least `bytes` of workspace; what it held before is lost. */
sp_status sp_context_workspace(sp_context *context, size_t bytes, sp_error *error);
sp_status sp_options_check(const sp_options *options, sp_error *error);
/* The poll function's answer as a status. */
sp_status sp_poll_now(const sp_options *options, sp_error *error);

#endif
