#include "py_engine.h"

PyArrayObject *
sp_py_array(PyObject *object, int type, int ndim, const char *name)
{
    if (!PyArray_Check(object)) {
        PyErr_Format(PyExc_TypeError, "%s: expected a NumPy array, got %.100s", name,
                     Py_TYPE(object)->tp_name);
        return NULL;
    }
    PyArrayObject *array = (PyArrayObject *)object;
    if (PyArray_TYPE(array) != type || PyArray_NDIM(array) != ndim || !PyArray_ISCARRAY_RO(array)) {
        PyArray_Descr *wanted = PyArray_DescrFromType(type);
        PyErr_Format(PyExc_TypeError,
                     "%s: expected a C-contiguous, aligned array of %S with %d dimensions, got %S "
                     "with %d (numpy.ascontiguousarray makes one)",
                     name, wanted, ndim, PyArray_DESCR(array), PyArray_NDIM(array));
        Py_XDECREF(wanted);
        return NULL;
    }
    return array;
}

PyArrayObject *
sp_py_output(PyObject *object, int type, int ndim, const char *name)
{
    PyArrayObject *array = sp_py_array(object, type, ndim, name);
    if (array != NULL && !PyArray_ISWRITEABLE(array)) {
        PyErr_Format(PyExc_ValueError, "%s: the array is read-only", name);
        return NULL;
    }
    return array;
}

PyArrayObject *
sp_py_sized(PyObject *object, int type, int ndim, const char *name, int axis, npy_intp length)
{
    PyArrayObject *array = sp_py_array(object, type, ndim, name);
    if (array != NULL && PyArray_DIM(array, axis) != length) {
        PyErr_Format(PyExc_ValueError, "%s: length %zd, expected %zd", name,
                     (Py_ssize_t)PyArray_DIM(array, axis), (Py_ssize_t)length);
        return NULL;
    }
    return array;
}

int32_t
sp_py_length(PyArrayObject *array, int axis, const char *name)
{
    npy_intp length = PyArray_DIM(array, axis);
    if (length > INT32_MAX) {
        PyErr_Format(PyExc_OverflowError, "%s: length %zd, expected at most %d", name,
                     (Py_ssize_t)length, INT32_MAX);
        return -1;
    }
    return (int32_t)length;
}
