/* Vector kernels for any CPU. */
#define SP_TABLE sp_kernels_generic
#include "vector_impl.h"
