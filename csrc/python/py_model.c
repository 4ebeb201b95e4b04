/* softprompt._core.Model: a frozen model that borrows NumPy arrays. */
#include "py_engine.h"

#include <string.h>

typedef struct {
    const char *name;
    int value;
} choice;

static const choice NORMS[] = {{"rms", SP_NORM_RMS}, {"layer", SP_NORM_LAYER}, {NULL, 0}};
static const choice NORM_PLACES[] = {{"pre", SP_NORM_PRE},
                                     {"output", SP_NORM_OUTPUT},
                                     {"sandwich", SP_NORM_SANDWICH},
                                     {"post", SP_NORM_POST},
                                     {NULL, 0}};
static const choice QK_NORMS[] = {{"none", SP_QK_NORM_NONE},
                                  {"head", SP_QK_NORM_HEAD},
                                  {"heads", SP_QK_NORM_HEADS},
                                  {"whole", SP_QK_NORM_WHOLE},
                                  {NULL, 0}};
static const choice POSITIONS[] = {
    {"none", SP_POSITIONS_NONE},         {"rotary", SP_POSITIONS_ROTARY},
    {"learned", SP_POSITIONS_LEARNED},   {"alibi", SP_POSITIONS_ALIBI},
    {"relative", SP_POSITIONS_RELATIVE}, {NULL, 0}};
static const choice ACTIVATIONS[] = {{"silu", SP_SILU},
                                     {"gelu_tanh", SP_GELU_TANH},
                                     {"gelu_erf", SP_GELU_ERF},
                                     {"gelu_quick", SP_GELU_QUICK},
                                     {"relu", SP_RELU},
                                     {"relu_squared", SP_RELU_SQUARED},
                                     {NULL, 0}};

/* A borrowed item of the spec; KeyError becomes ValueError with the name. */
static PyObject *
item(PyObject *spec, const char *name)
{
    PyObject *value = PyDict_GetItemString(spec, name);
    if (value == NULL && !PyErr_Occurred()) {
        PyErr_Format(PyExc_ValueError, "spec: \"%s\" is missing", name);
    }
    return value;
}

static int
take_int(PyObject *spec, const char *name, int32_t *out)
{
    PyObject *value = item(spec, name);
    if (value == NULL) {
        return 0;
    }
    long long number = PyLong_AsLongLong(value);
    if (number == -1 && PyErr_Occurred()) {
        return 0;
    }
    if (number < INT32_MIN || number > INT32_MAX) {
        PyErr_Format(PyExc_ValueError, "spec: %s = %R does not fit into 32 bits", name, value);
        return 0;
    }
    *out = (int32_t)number;
    return 1;
}

static int
take_float(PyObject *spec, const char *name, float *out)
{
    PyObject *value = item(spec, name);
    double number = value == NULL ? -1.0 : PyFloat_AsDouble(value);
    if (PyErr_Occurred()) {
        return 0;
    }
    *out = (float)number;
    return 1;
}

static int
take_flag(PyObject *spec, const char *name, int *out)
{
    PyObject *value = item(spec, name);
    *out = value == NULL ? -1 : PyObject_IsTrue(value);
    return *out >= 0;
}

static int
take_choice(PyObject *spec, const char *name, const choice *choices, int *out)
{
    PyObject *value = item(spec, name);
    const char *text = value == NULL ? NULL : PyUnicode_AsUTF8(value);
    if (text == NULL) {
        return 0;
    }
    for (; choices->name != NULL; choices++) {
        if (strcmp(text, choices->name) == 0) {
            *out = choices->value;
            return 1;
        }
    }
    PyErr_Format(PyExc_ValueError, "spec: %s = %R is not known", name, value);
    return 0;
}

/* A number for each layer: int32 [num_layers], or [0] for none. Borrowed from the dict. */
static int
take_layers(PyObject *spec, const char *name, int32_t num_layers, const int32_t **out)
{
    PyObject *value = item(spec, name);
    PyArrayObject *array = value == NULL ? NULL : sp_py_array(value, NPY_INT32, 1, name);
    *out = NULL;
    if (array == NULL || PyArray_DIM(array, 0) == 0) {
        return array != NULL;
    }
    if (sp_py_sized(value, NPY_INT32, 1, name, 0, num_layers) == NULL) {
        return 0;
    }
    *out = PyArray_DATA(array);
    return 1;
}

static int
take_spec(PyObject *dict, sp_spec *spec)
{
    int norm = 0, place = 0, qk_norm = 0, positions = 0, activation = 0;
    memset(spec, 0, sizeof *spec);
    int good = take_int(dict, "vocab_size", &spec->vocab_size)
               && take_int(dict, "hidden_size", &spec->hidden_size)
               && take_int(dict, "num_layers", &spec->num_layers)
               && take_int(dict, "num_heads", &spec->num_heads)
               && take_int(dict, "num_kv_heads", &spec->num_kv_heads)
               && take_int(dict, "head_dim", &spec->head_dim)
               && take_int(dict, "intermediate_size", &spec->intermediate_size)
               && take_int(dict, "max_positions", &spec->max_positions)
               && take_int(dict, "rotary_dim", &spec->rotary_dim)
               && take_int(dict, "num_ropes", &spec->num_ropes)
               && take_int(dict, "num_encoder_layers", &spec->num_encoder_layers)
               && take_int(dict, "encoder_vocab_size", &spec->encoder_vocab_size)
               && take_int(dict, "relative_reach", &spec->relative_reach)
               && take_choice(dict, "norm", NORMS, &norm)
               && take_choice(dict, "norm_place", NORM_PLACES, &place)
               && take_choice(dict, "qk_norm", QK_NORMS, &qk_norm)
               && take_choice(dict, "positions", POSITIONS, &positions)
               && take_choice(dict, "activation", ACTIVATIONS, &activation)
               && take_flag(dict, "gated", &spec->gated)
               && take_flag(dict, "rope_interleaved", &spec->rope_interleaved)
               && take_flag(dict, "parallel_residual", &spec->parallel_residual)
               && take_flag(dict, "embedding_norm", &spec->embedding_norm)
               && take_flag(dict, "final_norm", &spec->final_norm)
               && take_float(dict, "norm_eps", &spec->norm_eps)
               && take_float(dict, "attention_scale", &spec->attention_scale)
               && take_float(dict, "attention_soft_cap", &spec->attention_soft_cap)
               && take_float(dict, "qkv_clip", &spec->qkv_clip)
               && take_float(dict, "embedding_scale", &spec->embedding_scale)
               && take_float(dict, "input_scale", &spec->input_scale)
               && take_float(dict, "residual_scale", &spec->residual_scale)
               && take_float(dict, "logit_scale", &spec->logit_scale)
               && take_float(dict, "logit_soft_cap", &spec->logit_soft_cap)
               && take_layers(dict, "windows", spec->num_layers, &spec->windows)
               && take_layers(dict, "ropes", spec->num_layers, &spec->ropes);
    spec->norm = (sp_norm)norm;
    spec->norm_place = (sp_norm_place)place;
    spec->qk_norm = (sp_qk_norm)qk_norm;
    spec->positions = (sp_positions)positions;
    spec->activation = (sp_activation)activation;
    return good;
}

int
sp_py_stored(PyObject *value, const char *name, sp_stored *stored)
{
    PyObject *bytes;
    long long rows, cols, start, run, stride;
    if (!PyTuple_Check(value)) {
        PyErr_Format(PyExc_TypeError, "%s: expected an array or a tuple, got %.100s", name,
                     Py_TYPE(value)->tp_name);
        return 0;
    }
    if (!PyArg_ParseTuple(value, "sOLLLLLp:stored weight", &stored->type, &bytes, &rows, &cols,
                          &start, &run, &stride, &stored->transposed)) {
        return 0;
    }
    PyArrayObject *array = sp_py_array(bytes, NPY_UINT8, 1, name);
    if (array == NULL) {
        return 0;
    }
    stored->bytes = PyArray_DATA(array);
    stored->num_bytes = (size_t)PyArray_SIZE(array);
    stored->rows = rows;
    stored->cols = cols;
    stored->start = start;
    stored->run = run;
    stored->stride = stride;
    return 1;
}

static int
take_stored(sp_model *model, const char *slot, PyObject *value)
{
    sp_stored stored;
    sp_error error;
    if (!sp_py_stored(value, slot, &stored)) {
        return 0;
    }
    if (sp_model_set_stored(model, slot, &stored, &error) != SP_OK) {
        sp_py_raise(&error);
        return 0;
    }
    return 1;
}

static int
take_weight(sp_model *model, PyObject *name, PyObject *value)
{
    const char *slot = PyUnicode_AsUTF8(name);
    if (slot == NULL) {
        return 0;
    }
    if (PyTuple_Check(value)) {
        return take_stored(model, slot, value);
    }
    int ndim = PyArray_Check(value) ? PyArray_NDIM((PyArrayObject *)value) : 2;
    PyArrayObject *array = sp_py_array(value, NPY_FLOAT32, ndim == 1 ? 1 : 2, slot);
    if (array == NULL) {
        return 0;
    }
    sp_error error;
    int64_t rows = ndim == 1 ? 1 : PyArray_DIM(array, 0);
    if (sp_model_set_weight(model, slot, PyArray_DATA(array), rows, PyArray_DIM(array, ndim - 1),
                            &error)
        != SP_OK) {
        sp_py_raise(&error);
        return 0;
    }
    return 1;
}

static PyObject *
model_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"spec", "weights", NULL};
    PyObject *spec_dict, *weights;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!O!:Model", names, &PyDict_Type, &spec_dict,
                                     &PyDict_Type, &weights)) {
        return NULL;
    }
    sp_spec spec;
    sp_error error;
    if (!take_spec(spec_dict, &spec)) {
        return NULL;
    }
    sp_py_model *self = (sp_py_model *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    if (sp_model_create(&spec, &self->model, &error) != SP_OK) {
        sp_py_raise(&error);
        goto fail;
    }
    PyObject *values = PyDict_Values(weights);
    self->weights = values == NULL ? NULL : PyList_AsTuple(values);
    Py_XDECREF(values);
    if (self->weights == NULL) {
        goto fail;
    }
    PyObject *name, *value;
    Py_ssize_t at = 0;
    while (PyDict_Next(weights, &at, &name, &value)) {
        if (!take_weight(self->model, name, value)) {
            goto fail;
        }
    }
    if (sp_model_check(self->model, &error) != SP_OK) {
        sp_py_raise(&error);
        goto fail;
    }
    return (PyObject *)self;

fail:
    Py_DECREF(self);
    return NULL;
}

static int
model_traverse(sp_py_model *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->weights);
    return 0;
}

static void
model_dealloc(sp_py_model *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    sp_model_destroy(self->model);
    Py_CLEAR(self->weights);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyType_Slot model_slots[] = {
    {Py_tp_doc, "Model(spec, weights)\n--\n\n"
                "A frozen model. `weights` maps slots to float32 arrays, or to stored matrices\n"
                "(type, uint8 [bytes], rows, cols, start, run, stride, transposed); both are\n"
                "borrowed."},
    {Py_tp_new, model_new},
    {Py_tp_traverse, model_traverse},
    {Py_tp_dealloc, model_dealloc},
    {0, NULL},
};

PyType_Spec sp_py_model_spec = {
    .name = "softprompt._core.Model",
    .basicsize = sizeof(sp_py_model),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = model_slots,
};
