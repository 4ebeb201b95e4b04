/* What the files of the extension module share. Include before anything else. */
#ifndef SP_PY_ENGINE_H
#define SP_PY_ENGINE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL softprompt_array_api
#ifndef SP_PY_IMPORTS_ARRAY
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>

#include "../softprompt.h"

/* ---- errors (py_errors.c) ---- */

/* Sets the exception for a failure, unless one is already set. Returns NULL. */
PyObject *sp_py_raise(const sp_error *error);

/* ---- arrays (py_array.c) ---- */

/* A borrowed view of an array that the engine reads as it is: C-contiguous, aligned, native byte
 * order, exactly this type and number of dimensions. Otherwise NULL and TypeError. */
PyArrayObject *sp_py_array(PyObject *object, int type, int ndim, const char *name);
/* The same, writeable. */
PyArrayObject *sp_py_output(PyObject *object, int type, int ndim, const char *name);
/* The same as sp_py_array, and dimension `axis` has `length`; otherwise ValueError. */
PyArrayObject *sp_py_sized(PyObject *object, int type, int ndim, const char *name, int axis,
                           npy_intp length);
/* A length as int32; -1 and OverflowError if it does not fit. */
int32_t sp_py_length(PyArrayObject *array, int axis, const char *name);

/* ---- stored matrices (py_model.c) ---- */

/* Takes a tuple (type, uint8 [bytes], rows, cols, start, run, stride, transposed), which stays the
 * owner of what `stored` points to. 0 and an exception if it is none. */
int sp_py_stored(PyObject *value, const char *name, sp_stored *stored);

/* ---- types ---- */

typedef struct {
    PyObject_HEAD sp_model *model; /* owned */
    PyObject *weights; /* tuple of the arrays (and of tuples with one) that the model borrows */
} sp_py_model;

extern PyType_Spec sp_py_model_spec;
extern PyType_Spec sp_py_context_spec;

typedef struct {
    PyTypeObject *model_type;
    PyTypeObject *context_type;
} sp_py_state;

#endif
