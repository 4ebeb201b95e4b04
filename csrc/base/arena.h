/* Memory planned by walking through the placement once without memory (base NULL) and once with
 * it. Takes are released in reverse order by going back to a mark. */
#ifndef SP_BASE_ARENA_H
#define SP_BASE_ARENA_H

#include "size.h"

typedef struct {
    char *base;  /* NULL: only measuring */
    size_t used; /* SIZE_MAX: did not fit */
    size_t peak;
} sp_arena;

/* `count` numbers of 4 bytes, aligned; NULL while measuring. */
static inline float *
sp_arena_take(sp_arena *arena, size_t count)
{
    size_t start = arena->used;
    arena->used = sp_add(start, sp_align(sp_mul(count, sizeof(float))));
    arena->peak = arena->used > arena->peak ? arena->used : arena->peak;
    return arena->base == NULL ? NULL : (float *)(void *)(arena->base + start);
}

static inline void
sp_arena_release(sp_arena *arena, size_t mark)
{
    if (arena->used != SIZE_MAX) {
        arena->used = mark;
    }
}

#endif
