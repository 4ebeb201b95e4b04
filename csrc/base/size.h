/* Sizes whose overflow is noticed. */
#ifndef SP_BASE_SIZE_H
#define SP_BASE_SIZE_H

#include <stddef.h>
#include <stdint.h>

/* a * b and a + b, or SIZE_MAX where that does not fit; SIZE_MAX stays SIZE_MAX, so that a chain
 * is checked once at its end. */
static inline size_t
sp_mul(size_t a, size_t b)
{
    size_t product;
    if (a == SIZE_MAX || b == SIZE_MAX || __builtin_mul_overflow(a, b, &product)) {
        return SIZE_MAX;
    }
    return product;
}

static inline size_t
sp_add(size_t a, size_t b)
{
    size_t sum;
    if (a == SIZE_MAX || b == SIZE_MAX || __builtin_add_overflow(a, b, &sum)) {
        return SIZE_MAX;
    }
    return sum;
}

#define SP_ALIGNMENT ((size_t)64)

static inline size_t
sp_align(size_t bytes)
{
    size_t padded = sp_add(bytes, SP_ALIGNMENT - 1);
    return padded == SIZE_MAX ? SIZE_MAX : padded / SP_ALIGNMENT * SP_ALIGNMENT;
}

static inline int32_t
sp_min32(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static inline int32_t
sp_max32(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

#endif
