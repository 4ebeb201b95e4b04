/* The extension module softprompt._core. */
#define SP_PY_IMPORTS_ARRAY
#include "py_engine.h"

static PyObject *
initialize(PyObject *module, PyObject *args)
{
    (void)module;
    const char *name;
    sp_error error;
    if (!PyArg_ParseTuple(args, "z:initialize", &name)) {
        return NULL;
    }
    if (sp_initialize(name, &error) != SP_OK) {
        return sp_py_raise(&error);
    }
    Py_RETURN_NONE;
}

static PyObject *
info(PyObject *module, PyObject *args)
{
    (void)module;
    (void)args;
    return Py_BuildValue("{s:s,s:s,s:s,s:i}", "cpu", sp_cpu_name(), "blas", sp_blas_config(),
                         "blas_core", sp_blas_core(), "available_cpus", sp_available_cpus());
}

static PyObject *
cpu_supported(PyObject *module, PyObject *args)
{
    (void)module;
    const char *name;
    if (!PyArg_ParseTuple(args, "s:cpu_supported", &name)) {
        return NULL;
    }
    int answer = sp_cpu_supported(name);
    if (answer < 0) {
        PyErr_Format(PyExc_ValueError, "cpu = \"%.40s\": expected generic, avx2 or avx512", name);
        return NULL;
    }
    return PyBool_FromLong(answer);
}

static PyObject *
memory(PyObject *module, PyObject *args)
{
    (void)module;
    (void)args;
    sp_memory now = sp_memory_now();
    return Py_BuildValue("{s:n,s:n,s:K}", "live_bytes", (Py_ssize_t)now.live_bytes, "peak_bytes",
                         (Py_ssize_t)now.peak_bytes, "requests", (unsigned long long)now.requests);
}

static PyObject *
dequantize(PyObject *module, PyObject *args)
{
    (void)module;
    const char *type;
    PyObject *source, *target;
    if (!PyArg_ParseTuple(args, "sOO:dequantize", &type, &source, &target)) {
        return NULL;
    }
    PyArrayObject *from = sp_py_array(source, NPY_UINT8, 1, "source");
    PyArrayObject *to = from == NULL ? NULL : sp_py_output(target, NPY_FLOAT32, 1, "target");
    if (to == NULL) {
        return NULL;
    }
    sp_error error;
    sp_status status;
    const uint8_t *bytes = PyArray_DATA(from);
    float *numbers = PyArray_DATA(to);
    size_t num_bytes = (size_t)PyArray_SIZE(from), num_numbers = (size_t)PyArray_SIZE(to);
    Py_BEGIN_ALLOW_THREADS status =
        sp_dequantize(type, bytes, num_bytes, numbers, num_numbers, sp_available_cpus(), &error);
    Py_END_ALLOW_THREADS if (status != SP_OK)
    {
        return sp_py_raise(&error);
    }
    Py_RETURN_NONE;
}

static PyObject *
stored_rows(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *matrix, *indices, *target;
    sp_stored stored;
    if (!PyArg_ParseTuple(args, "OOO:stored_rows", &matrix, &indices, &target)
        || !sp_py_stored(matrix, "matrix", &stored)) {
        return NULL;
    }
    PyArrayObject *rows = sp_py_array(indices, NPY_INT64, 1, "rows");
    PyArrayObject *to = rows == NULL ? NULL : sp_py_output(target, NPY_FLOAT32, 2, "target");
    if (to == NULL) {
        return NULL;
    }
    if (PyArray_DIM(to, 0) != PyArray_DIM(rows, 0) || PyArray_DIM(to, 1) != stored.cols) {
        PyErr_Format(PyExc_ValueError, "target: shape [%zd, %zd], expected [%zd, %lld]",
                     (Py_ssize_t)PyArray_DIM(to, 0), (Py_ssize_t)PyArray_DIM(to, 1),
                     (Py_ssize_t)PyArray_DIM(rows, 0), (long long)stored.cols);
        return NULL;
    }
    sp_error error;
    sp_status status;
    const int64_t *ids = PyArray_DATA(rows);
    float *numbers = PyArray_DATA(to);
    int64_t count = PyArray_DIM(rows, 0);
    Py_BEGIN_ALLOW_THREADS status = sp_stored_rows(&stored, count, ids, numbers, &error);
    Py_END_ALLOW_THREADS if (status != SP_OK)
    {
        return sp_py_raise(&error);
    }
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"initialize", initialize, METH_VARARGS,
     "initialize(cpu, /)\n--\n\nChooses the kernels (None: the best) and tests the BLAS library."},
    {"info", info, METH_NOARGS, "info()\n--\n\nCPU path, BLAS and its core, CPUs of this process."},
    {"cpu_supported", cpu_supported, METH_VARARGS,
     "cpu_supported(name, /)\n--\n\nWhether this CPU has the path `name`."},
    {"memory", memory, METH_NOARGS, "memory()\n--\n\nThe engine's allocations."},
    {"dequantize", dequantize, METH_VARARGS,
     "dequantize(type, source, target, /)\n--\n\n"
     "Converts stored weights (uint8 [bytes]) of a named type into target, float32 [numbers]."},
    {"stored_rows", stored_rows, METH_VARARGS,
     "stored_rows(matrix, rows, target, /)\n--\n\n"
     "Converts rows (int64 [n]) of a stored matrix (see Model) into target, float32 [n, cols]."},
    {NULL, NULL, 0, NULL},
};

static int
module_exec(PyObject *module)
{
    import_array1(-1);
    sp_py_state *state = PyModule_GetState(module);
    state->model_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &sp_py_model_spec, NULL);
    state->context_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &sp_py_context_spec, NULL);
    if (state->model_type == NULL || state->context_type == NULL
        || PyModule_AddType(module, state->model_type) < 0
        || PyModule_AddType(module, state->context_type) < 0) {
        return -1;
    }
    return 0;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    sp_py_state *state = PyModule_GetState(module);
    Py_VISIT(state->model_type);
    Py_VISIT(state->context_type);
    return 0;
}

static int
module_clear(PyObject *module)
{
    sp_py_state *state = PyModule_GetState(module);
    Py_CLEAR(state->model_type);
    Py_CLEAR(state->context_type);
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,         .m_name = "_core",       .m_doc = "The engine of softprompt.",
    .m_size = sizeof(sp_py_state), .m_methods = functions,  .m_slots = slots,
    .m_traverse = module_traverse, .m_clear = module_clear,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&definition);
}
