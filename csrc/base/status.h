/* Status and message of a failure. */
#ifndef SP_BASE_STATUS_H
#define SP_BASE_STATUS_H

#include "../softprompt.h"

/* Fills `error` (may be NULL) and returns `status`, so that a failing function ends with
 * `return sp_fail(error, SP_INVALID, "...", ...)`. */
sp_status sp_fail(sp_error *error, sp_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define SP_TRY(call)                       \
    do {                                   \
        sp_status sp_try_status_ = (call); \
        if (sp_try_status_ != SP_OK) {     \
            return sp_try_status_;         \
        }                                  \
    } while (0)

#endif
