#include "dequant.h"

#include <string.h>

#include "kernels.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "stored weights are little-endian; this host is not"
#endif

#define TYPE(name, size, bytes, convert) name##_INDEX,
enum { SP_EACH_STORED_TYPE(TYPE) NUM_TYPES };
#undef TYPE

#define TYPE(name, size, bytes, convert) {#name, size, bytes, name##_INDEX},
static const sp_stored_type types[NUM_TYPES] = {SP_EACH_STORED_TYPE(TYPE)};
#undef TYPE

const sp_stored_type *
sp_stored_type_find(const char *name)
{
    for (int i = 0; i < NUM_TYPES; i++) {
        if (strcmp(types[i].name, name) == 0) {
            return &types[i];
        }
    }
    return NULL;
}

sp_conversion
sp_conversion_now(const sp_stored_type *type)
{
    switch (sp_kernels_cpu()) {
#if defined(__x86_64__)
    case SP_CPU_AVX2:
        return sp_conversions_avx2[type->index];
    case SP_CPU_AVX512:
        return sp_conversions_avx512[type->index];
#endif
    default:
        return sp_conversions_generic[type->index];
    }
}
