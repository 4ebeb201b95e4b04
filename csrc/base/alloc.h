/* The only allocator. Counts live bytes and can be told to fail, for tests. */
#ifndef SP_BASE_ALLOC_H
#define SP_BASE_ALLOC_H

#include <stddef.h>

/* `count * size` bytes, aligned to SP_ALIGNMENT, not initialised; NULL if it cannot be had or the
 * product overflows. Never zero bytes: a request of none gets one. Freed by sp_free. */
void *sp_alloc(size_t count, size_t size);
/* The same, filled with zeros. */
void *sp_alloc_zeroed(size_t count, size_t size);
void sp_free(void *block);

#endif
