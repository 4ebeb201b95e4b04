/* Conversions of stored numbers for any CPU. */
#define SP_LANES 1
#define SP_CONVERSIONS sp_conversions_generic
#include "dequant_impl.h"
