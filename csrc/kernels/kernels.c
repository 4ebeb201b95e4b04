#include "kernels.h"

#include <stdatomic.h>

/* Set once by sp_initialize; the generic table serves until then. */
static atomic_int chosen = SP_CPU_GENERIC;

const sp_kernels *
sp_kernels_for(sp_cpu cpu)
{
    switch (cpu) {
#if defined(__x86_64__)
    case SP_CPU_AVX2:
        return &sp_kernels_avx2;
    case SP_CPU_AVX512:
        return &sp_kernels_avx512;
#endif
    default:
        return &sp_kernels_generic;
    }
}

const sp_kernels *
sp_kernels_now(void)
{
    return sp_kernels_for((sp_cpu)atomic_load_explicit(&chosen, memory_order_relaxed));
}

sp_cpu
sp_kernels_cpu(void)
{
    return (sp_cpu)atomic_load_explicit(&chosen, memory_order_relaxed);
}

void
sp_kernels_choose(sp_cpu cpu)
{
    atomic_store_explicit(&chosen, (int)cpu, memory_order_relaxed);
}
