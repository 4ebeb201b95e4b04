#include "alloc.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "../softprompt.h"
#include "size.h"

/* Counters of the whole process; what they count never steers a computation. */
static atomic_size_t live_bytes;
static atomic_size_t peak_bytes;
static atomic_uint_least64_t requests;
static atomic_uint_least64_t fail_at; /* request number that fails, 0: none */
static atomic_int fail_forever;

/* In front of every block, so that sp_free can count down. */
typedef struct {
    size_t bytes;
    void *start;
} header;

static int
must_fail(void)
{
    uint64_t number = atomic_fetch_add(&requests, 1) + 1;
    uint64_t first = atomic_load(&fail_at);
    return first != 0 && (number == first || (number > first && atomic_load(&fail_forever)));
}

static void
count(size_t bytes)
{
    size_t now = atomic_fetch_add(&live_bytes, bytes) + bytes;
    size_t peak = atomic_load(&peak_bytes);
    while (now > peak && !atomic_compare_exchange_weak(&peak_bytes, &peak, now)) {
    }
}

void *
sp_alloc(size_t number, size_t size)
{
    size_t bytes = sp_mul(number, size);
    if (bytes == 0) {
        bytes = 1;
    }
    size_t total = sp_add(bytes, SP_ALIGNMENT + sizeof(header));
    if (must_fail() || total == SIZE_MAX) {
        return NULL;
    }
    char *start = malloc(total);
    if (start == NULL) {
        return NULL;
    }
    uintptr_t address = (uintptr_t)start + sizeof(header) + SP_ALIGNMENT - 1;
    char *block = start + (address / SP_ALIGNMENT * SP_ALIGNMENT - (uintptr_t)start);
    header *head = (header *)(block - sizeof(header));
    head->bytes = bytes;
    head->start = start;
    count(bytes);
    return block;
}

void *
sp_alloc_zeroed(size_t number, size_t size)
{
    void *block = sp_alloc(number, size);
    if (block != NULL) {
        memset(block, 0, number * size);
    }
    return block;
}

void
sp_free(void *block)
{
    if (block != NULL) {
        header *head = (header *)((char *)block - sizeof(header));
        atomic_fetch_sub(&live_bytes, head->bytes);
        free(head->start);
    }
}

sp_memory
sp_memory_now(void)
{
    return (sp_memory){
        .live_bytes = atomic_load(&live_bytes),
        .peak_bytes = atomic_load(&peak_bytes),
        .requests = atomic_load(&requests),
    };
}

void
sp_memory_fail_at(uint64_t n, int forever)
{
    atomic_store(&fail_forever, forever);
    atomic_store(&fail_at, n == 0 ? 0 : atomic_load(&requests) + n);
}
