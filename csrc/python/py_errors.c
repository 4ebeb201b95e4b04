#include "py_engine.h"

PyObject *
sp_py_raise(const sp_error *error)
{
    if (PyErr_Occurred()) {
        return NULL; /* an exception from a signal handler goes first */
    }
    PyObject *type = PyExc_RuntimeError;
    switch (error->status) {
    case SP_INVALID:
        type = PyExc_ValueError;
        break;
    case SP_OVERFLOW:
        type = PyExc_OverflowError;
        break;
    case SP_OK:
    case SP_NO_MEMORY: /* a size that is too large for this machine is no crash */
    case SP_CANCELLED:
    case SP_UNSUPPORTED:
        break;
    }
    PyErr_SetString(type, error->message);
    return NULL;
}
