#include "status.h"

#include <stdarg.h>
#include <stdio.h>

sp_status
sp_fail(sp_error *error, sp_status status, const char *format, ...)
{
    if (error != NULL) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(error->message, sizeof error->message, format, arguments);
        va_end(arguments);
        error->status = status;
    }
    return status;
}
