/* softprompt._core.Context: workspace and resident segments of one caller at a time. */
#include "py_engine.h"

#include <string.h>
#include <time.h>

typedef struct {
    PyObject_HEAD sp_context *context; /* owned */
    PyObject *model;                   /* the sp_py_model that the context borrows */
    PyThread_type_lock lock;           /* held while the engine works on the context */
} py_context;

/* ---- the engine without the GIL ---- */

/* Asks Python for signals now and then, so that Ctrl-C stops a long call between two layers. */
typedef struct {
    PyThreadState *thread;
    double last;
} signal_watch;

static double
seconds_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int
watch_signals(void *argument)
{
    signal_watch *watch = argument;
    double now = seconds_now();
    if (now - watch->last < 0.05) {
        return 0;
    }
    watch->last = now;
    PyEval_RestoreThread(watch->thread);
    int stop = PyErr_CheckSignals();
    watch->thread = PyEval_SaveThread();
    return stop != 0;
}

/* Waits for the context without the GIL: whoever works on it asks for the GIL between layers. */
static void
lock_context(py_context *self)
{
    if (!PyThread_acquire_lock(self->lock, NOWAIT_LOCK)) {
        Py_BEGIN_ALLOW_THREADS PyThread_acquire_lock(self->lock, WAIT_LOCK);
        Py_END_ALLOW_THREADS
    }
}

/* Takes the lock and lets go of the GIL; `options` gets the watch. */
static void
enter_engine(py_context *self, signal_watch *watch, sp_options *options)
{
    lock_context(self);
    watch->thread = PyEval_SaveThread();
    watch->last = seconds_now();
    options->poll = watch_signals;
    options->poll_data = watch;
}

static void
leave_engine(py_context *self, signal_watch *watch)
{
    PyThread_release_lock(self->lock);
    PyEval_RestoreThread(watch->thread);
}

/* ---- intake ---- */

static int
take_prompt(PyObject *object, const float **prompt, int32_t *rows)
{
    *prompt = NULL;
    *rows = 0;
    if (object == Py_None) {
        return 1;
    }
    PyArrayObject *array = sp_py_array(object, NPY_FLOAT32, 2, "prompt");
    if (array == NULL || (*rows = sp_py_length(array, 0, "prompt")) < 0) {
        return 0;
    }
    *prompt = PyArray_DATA(array);
    return 1;
}

/* [sets, numbers of a set] as the engine reads them */
static PyArrayObject *
take_frequencies(PyObject *object, const sp_model *model)
{
    return sp_py_sized(object, NPY_FLOAT32, 2, "frequencies", 1, sp_model_num_frequencies(model));
}

/* Keys and values [num_layers, 2, rows, kv_width]; their rows, or -1 and an exception. */
static int32_t
take_key_values(PyObject *object, const sp_model *model, const float **data)
{
    const npy_intp shape[4] = {sp_model_num_layers(model), 2, -1, sp_model_kv_width(model)};
    PyArrayObject *array = sp_py_array(object, NPY_FLOAT32, 4, "prefix");
    for (int axis = 0; axis < 4 && array != NULL; axis++) {
        if (shape[axis] >= 0) {
            array = sp_py_sized(object, NPY_FLOAT32, 4, "prefix", axis, shape[axis]);
        }
    }
    if (array == NULL) {
        return -1;
    }
    *data = PyArray_DATA(array);
    return sp_py_length(array, 2, "prefix");
}

/* prefix = None, or ([num_layers, 2, rows, kv_width] float32, starts int32 of the prefixes' rows and
 * of their end) */
static int
take_prefix(PyObject *object, const sp_model *model, sp_forest *forest)
{
    PyObject *array_object, *starts_object;
    if (object == Py_None) {
        return 1;
    }
    if (!PyTuple_Check(object)) {
        PyErr_Format(PyExc_TypeError, "prefix: expected None or a tuple, got %.100s",
                     Py_TYPE(object)->tp_name);
        return 0;
    }
    if (!PyArg_ParseTuple(object, "OO:prefix", &array_object, &starts_object)) {
        return 0;
    }
    int32_t rows = take_key_values(array_object, model, &forest->prefix);
    PyArrayObject *starts =
        rows < 0 ? NULL : sp_py_array(starts_object, NPY_INT32, 1, "prefix_starts");
    int32_t num_starts = starts == NULL ? -1 : sp_py_length(starts, 0, "prefix_starts");
    if (num_starts < 0) {
        return 0;
    }
    const int32_t *data = PyArray_DATA(starts);
    if (num_starts < 2 || data[num_starts - 1] != rows) {
        PyErr_Format(PyExc_ValueError,
                     "prefix_starts: expected two numbers or more, the last of "
                     "them %d, the rows of the prefixes",
                     rows);
        return 0;
    }
    forest->num_prefixes = num_starts - 1;
    forest->prefix_starts = data;
    return 1;
}

/* forest = (parents, starts, symbols) int32; of a model with an encoder with the memories
 * [num_segments] int32; or with frequencies [sets, numbers] float32 and the set of each segment
 * [num_segments] int32 */
static int
take_forest(PyObject *tuple, PyObject *prompt, PyObject *prefix, const sp_model *model,
            sp_forest *forest)
{
    PyObject *parents, *starts, *symbols, *frequencies = NULL, *frequency_of = NULL;
    memset(forest, 0, sizeof *forest);
    if (!PyArg_ParseTuple(tuple, "OOO|OO:forest", &parents, &starts, &symbols, &frequencies,
                          &frequency_of)) {
        return 0;
    }
    PyArrayObject *p = sp_py_array(parents, NPY_INT32, 1, "parents");
    if (p == NULL || (forest->num_segments = sp_py_length(p, 0, "parents")) < 0) {
        return 0;
    }
    PyArrayObject *s = sp_py_sized(starts, NPY_INT32, 1, "starts", 0, PyArray_DIM(p, 0) + 1);
    if (s == NULL) {
        return 0;
    }
    forest->parents = PyArray_DATA(p);
    forest->starts = PyArray_DATA(s);
    PyArrayObject *y =
        sp_py_sized(symbols, NPY_INT32, 1, "symbols", 0, forest->starts[forest->num_segments]);
    if (y == NULL) {
        return 0;
    }
    forest->symbols = PyArray_DATA(y);
    if (frequencies != NULL && frequency_of == NULL) {
        PyArrayObject *memories =
            sp_py_sized(frequencies, NPY_INT32, 1, "memories", 0, PyArray_DIM(p, 0));
        if (memories == NULL) {
            return 0;
        }
        forest->memories = PyArray_DATA(memories);
    }
    else if (frequencies != NULL) {
        PyArrayObject *f = take_frequencies(frequencies, model);
        PyArrayObject *of = f == NULL ? NULL
                                      : sp_py_sized(frequency_of, NPY_INT32, 1, "frequency_of", 0,
                                                    PyArray_DIM(p, 0));
        if (of == NULL || (forest->num_frequencies = sp_py_length(f, 0, "frequencies")) < 0) {
            return 0;
        }
        forest->frequencies = PyArray_DATA(f);
        forest->frequency_of = PyArray_DATA(of);
    }
    return take_prompt(prompt, &forest->prompt, &forest->num_virtual)
           && take_prefix(prefix, model, forest);
}

/* losses = (rows, targets, weights, cut, cut_tokens) or, to rank, (..., choices, choice_groups,
 * group_targets, group_weights) */
static int
take_losses(PyObject *tuple, sp_losses *losses)
{
    PyObject *o[9] = {NULL};
    memset(losses, 0, sizeof *losses);
    if (!PyArg_ParseTuple(tuple, "OOOOO|OOOO:losses", &o[0], &o[1], &o[2], &o[3], &o[4], &o[5],
                          &o[6], &o[7], &o[8])) {
        return 0;
    }
    PyArrayObject *rows = sp_py_array(o[0], NPY_INT32, 1, "rows");
    if (rows == NULL || (losses->num_entries = sp_py_length(rows, 0, "rows")) < 0) {
        return 0;
    }
    npy_intp num = losses->num_entries;
    PyArrayObject *targets = sp_py_sized(o[1], NPY_INT32, 1, "targets", 0, num);
    PyArrayObject *weights = targets ? sp_py_sized(o[2], NPY_FLOAT32, 1, "weights", 0, num) : NULL;
    PyArrayObject *cut = weights ? sp_py_sized(o[3], NPY_UINT8, 1, "cut", 0, num) : NULL;
    PyArrayObject *tokens = cut ? sp_py_array(o[4], NPY_INT32, 1, "cut_tokens") : NULL;
    if (tokens == NULL || (losses->num_cut_tokens = sp_py_length(tokens, 0, "cut_tokens")) < 0) {
        return 0;
    }
    losses->rows = PyArray_DATA(rows);
    losses->targets = PyArray_DATA(targets);
    losses->weights = PyArray_DATA(weights);
    losses->cut = PyArray_DATA(cut);
    losses->cut_tokens = PyArray_DATA(tokens);
    if (o[5] == NULL) {
        return 1;
    }
    if (o[8] == NULL) {
        PyErr_SetString(PyExc_TypeError, "losses: expected 5 or 9 arrays");
        return 0;
    }
    PyArrayObject *choices = sp_py_sized(o[5], NPY_INT32, 1, "choices", 0, num);
    PyArrayObject *groups = choices ? sp_py_array(o[6], NPY_INT32, 1, "choice_groups") : NULL;
    PyArrayObject *targets_of = groups ? sp_py_array(o[7], NPY_INT32, 1, "group_targets") : NULL;
    if (targets_of == NULL || (losses->num_choices = sp_py_length(groups, 0, "choice_groups")) < 0
        || (losses->num_groups = sp_py_length(targets_of, 0, "group_targets")) < 0) {
        return 0;
    }
    PyArrayObject *group_weights =
        sp_py_sized(o[8], NPY_FLOAT32, 1, "group_weights", 0, losses->num_groups);
    if (group_weights == NULL) {
        return 0;
    }
    losses->choices = PyArray_DATA(choices);
    losses->choice_groups = PyArray_DATA(groups);
    losses->group_targets = PyArray_DATA(targets_of);
    losses->group_weights = PyArray_DATA(group_weights);
    return 1;
}

static const sp_py_model *
model_of(const py_context *self)
{
    return (const sp_py_model *)self->model;
}

/* The prompt's width is the model's; the engine sees only a pointer. */
static int
check_width(PyObject *prompt, int32_t hidden_size)
{
    if (prompt != Py_None && PyArray_DIM((PyArrayObject *)prompt, 1) != hidden_size) {
        PyErr_Format(PyExc_ValueError, "prompt: width %zd, expected %d",
                     (Py_ssize_t)PyArray_DIM((PyArrayObject *)prompt, 1), hidden_size);
        return 0;
    }
    return 1;
}

/* ---- methods ---- */

static PyObject *
context_loss(py_context *self, PyObject *args)
{
    PyObject *forest_tuple, *prompt, *prefix, *losses_tuple;
    int want_grad, threads;
    int pack_rows;
    if (!PyArg_ParseTuple(args, "O!OOO!pii:loss", &PyTuple_Type, &forest_tuple, &prompt, &prefix,
                          &PyTuple_Type, &losses_tuple, &want_grad, &threads, &pack_rows)) {
        return NULL;
    }
    int32_t width = sp_model_hidden_size(model_of(self)->model);
    sp_forest forest;
    sp_losses losses;
    if (!take_forest(forest_tuple, prompt, prefix, model_of(self)->model, &forest)
        || !check_width(prompt, width) || !take_losses(losses_tuple, &losses)) {
        return NULL;
    }
    npy_intp entries = losses.num_entries, shape[2] = {forest.num_virtual, width};
    int of_prefix = want_grad && forest.num_prefixes > 0;
    PyObject *log_probs = PyArray_SimpleNew(1, &entries, NPY_FLOAT64);
    PyObject *grad = want_grad ? PyArray_SimpleNew(2, shape, NPY_FLOAT32) : Py_NewRef(Py_None);
    PyObject *prefix_grad =
        of_prefix ? PyArray_SimpleNew(4, PyArray_DIMS((PyArrayObject *)PyTuple_GET_ITEM(prefix, 0)),
                                      NPY_FLOAT32)
                  : Py_NewRef(Py_None);
    if (log_probs == NULL || grad == NULL || prefix_grad == NULL) {
        Py_XDECREF(log_probs);
        Py_XDECREF(grad);
        Py_XDECREF(prefix_grad);
        return NULL;
    }
    double *log_probs_data = PyArray_DATA((PyArrayObject *)log_probs);
    const sp_gradient gradient = {
        .prompt = want_grad ? PyArray_DATA((PyArrayObject *)grad) : NULL,
        .prefix = of_prefix ? PyArray_DATA((PyArrayObject *)prefix_grad) : NULL,
    };
    sp_options options = {.num_threads = threads, .pack_rows = pack_rows};
    sp_error error;
    signal_watch watch;
    enter_engine(self, &watch, &options);
    sp_status status = sp_loss(self->context, &forest, &losses, &options, log_probs_data,
                               want_grad ? &gradient : NULL, &error);
    leave_engine(self, &watch);
    if (status != SP_OK || PyErr_Occurred()) {
        Py_DECREF(log_probs);
        Py_DECREF(grad);
        Py_DECREF(prefix_grad);
        return sp_py_raise(&error);
    }
    return Py_BuildValue("NNN", log_probs, grad, prefix_grad);
}

static PyObject *
context_workspace(py_context *self, PyObject *args)
{
    PyObject *forest_tuple, *prompt, *prefix, *losses_tuple;
    int want_grad, threads, pack_rows;
    if (!PyArg_ParseTuple(args, "O!OOO!pii:loss_workspace", &PyTuple_Type, &forest_tuple, &prompt,
                          &prefix, &PyTuple_Type, &losses_tuple, &want_grad, &threads,
                          &pack_rows)) {
        return NULL;
    }
    sp_forest forest;
    sp_losses losses;
    if (!take_forest(forest_tuple, prompt, prefix, model_of(self)->model, &forest)
        || !take_losses(losses_tuple, &losses)) {
        return NULL;
    }
    sp_options options = {.num_threads = threads, .pack_rows = pack_rows};
    sp_error error;
    size_t bytes;
    lock_context(self);
    sp_status status =
        sp_loss_workspace(self->context, &forest, &losses, want_grad, &options, &bytes, &error);
    PyThread_release_lock(self->lock);
    return status == SP_OK ? PyLong_FromSize_t(bytes) : sp_py_raise(&error);
}

/* A new array [rows, vocab_size] for logits. */
static PyObject *
new_logits(const py_context *self, int32_t rows)
{
    npy_intp shape[2] = {rows, sp_model_vocab_size(model_of(self)->model)};
    return PyArray_SimpleNew(2, shape, NPY_FLOAT32);
}

/* Gives the logits back, or raises and drops them. */
static PyObject *
finish_logits(PyObject *logits, sp_status status, const sp_error *error)
{
    if (status != SP_OK || PyErr_Occurred()) {
        Py_DECREF(logits);
        return sp_py_raise(error);
    }
    return logits;
}

typedef struct {
    sp_forest forest;
    int32_t num_rows;
    const int32_t *rows; /* [num_rows] */
    sp_options options;
} logits_call;

/* args = (forest, prompt, prefix, rows, num_threads, pack_rows) */
static int
take_logits_call(py_context *self, PyObject *args, logits_call *call)
{
    PyObject *forest, *prompt, *prefix, *rows_object;
    memset(call, 0, sizeof *call);
    if (!PyArg_ParseTuple(args, "O!OOOii", &PyTuple_Type, &forest, &prompt, &prefix, &rows_object,
                          &call->options.num_threads, &call->options.pack_rows)) {
        return 0;
    }
    PyArrayObject *rows = sp_py_array(rows_object, NPY_INT32, 1, "rows");
    if (rows == NULL || (call->num_rows = sp_py_length(rows, 0, "rows")) < 0) {
        return 0;
    }
    call->rows = PyArray_DATA(rows);
    return take_forest(forest, prompt, prefix, model_of(self)->model, &call->forest)
           && check_width(prompt, sp_model_hidden_size(model_of(self)->model));
}

static PyObject *
context_logits(py_context *self, PyObject *args)
{
    logits_call call;
    if (!take_logits_call(self, args, &call)) {
        return NULL;
    }
    PyObject *logits = new_logits(self, call.num_rows);
    if (logits == NULL) {
        return NULL;
    }
    float *data = PyArray_DATA((PyArrayObject *)logits);
    sp_error error;
    signal_watch watch;
    enter_engine(self, &watch, &call.options);
    sp_status status = sp_logits(self->context, &call.forest, call.num_rows, call.rows,
                                 &call.options, data, &error);
    leave_engine(self, &watch);
    return finish_logits(logits, status, &error);
}

static PyObject *
context_logits_workspace(py_context *self, PyObject *args)
{
    logits_call call;
    if (!take_logits_call(self, args, &call)) {
        return NULL;
    }
    sp_error error;
    size_t bytes;
    lock_context(self);
    sp_status status = sp_logits_workspace(self->context, &call.forest, call.num_rows, call.rows,
                                           &call.options, &bytes, &error);
    PyThread_release_lock(self->lock);
    return status == SP_OK ? PyLong_FromSize_t(bytes) : sp_py_raise(&error);
}

static PyObject *
context_segment_create(py_context *self, PyObject *args)
{
    int parent, capacity;
    PyObject *object = Py_None;
    if (!PyArg_ParseTuple(args, "ii|O:segment_create", &parent, &capacity, &object)) {
        return NULL;
    }
    const float *frequencies = NULL;
    if (object != Py_None) {
        PyArrayObject *array = take_frequencies(object, model_of(self)->model);
        if (array == NULL || sp_py_sized(object, NPY_FLOAT32, 2, "frequencies", 0, 1) == NULL) {
            return NULL;
        }
        frequencies = PyArray_DATA(array);
    }
    int32_t segment;
    sp_error error;
    lock_context(self);
    sp_status status =
        sp_segment_create(self->context, parent, capacity, frequencies, &segment, &error);
    PyThread_release_lock(self->lock);
    return status == SP_OK ? PyLong_FromLong(segment) : sp_py_raise(&error);
}

static PyObject *
context_segment_fill(py_context *self, PyObject *args)
{
    int segment;
    PyObject *object;
    if (!PyArg_ParseTuple(args, "iO:segment_fill", &segment, &object)) {
        return NULL;
    }
    const float *prefix;
    int32_t rows = take_key_values(object, model_of(self)->model, &prefix);
    if (rows < 0) {
        return NULL;
    }
    sp_error error;
    lock_context(self);
    sp_status status = sp_segment_fill(self->context, segment, rows, prefix, &error);
    PyThread_release_lock(self->lock);
    return status == SP_OK ? Py_NewRef(Py_None) : sp_py_raise(&error);
}

static PyObject *
context_memory_create(py_context *self, PyObject *args)
{
    int capacity;
    if (!PyArg_ParseTuple(args, "i:memory_create", &capacity)) {
        return NULL;
    }
    int32_t segment;
    sp_error error;
    lock_context(self);
    sp_status status = sp_memory_create(self->context, capacity, &segment, &error);
    PyThread_release_lock(self->lock);
    return status == SP_OK ? PyLong_FromLong(segment) : sp_py_raise(&error);
}

static PyObject *
context_segment_release(py_context *self, PyObject *args)
{
    int segment;
    if (!PyArg_ParseTuple(args, "i:segment_release", &segment)) {
        return NULL;
    }
    sp_error error;
    lock_context(self);
    sp_status status = sp_segment_release(self->context, segment, &error);
    PyThread_release_lock(self->lock);
    return status == SP_OK ? Py_NewRef(Py_None) : sp_py_raise(&error);
}

static PyObject *
context_segment_copy(py_context *self, PyObject *args)
{
    int source, target, num_equal;
    if (!PyArg_ParseTuple(args, "iii:segment_copy", &source, &target, &num_equal)) {
        return NULL;
    }
    sp_error error;
    sp_status status;
    lock_context(self);
    Py_BEGIN_ALLOW_THREADS status =
        sp_segment_copy(self->context, source, target, num_equal, &error);
    Py_END_ALLOW_THREADS PyThread_release_lock(self->lock);
    return status == SP_OK ? Py_NewRef(Py_None) : sp_py_raise(&error);
}

static PyObject *
context_segment_extend(py_context *self, PyObject *args)
{
    PyObject *segments_object, *starts_object, *symbols_object, *prompt, *rows_object;
    int threads;
    if (!PyArg_ParseTuple(args, "OOOOOi:segment_extend", &segments_object, &starts_object,
                          &symbols_object, &prompt, &rows_object, &threads)) {
        return NULL;
    }
    PyArrayObject *segments = sp_py_array(segments_object, NPY_INT32, 1, "segments");
    int32_t num_parts = segments == NULL ? -1 : sp_py_length(segments, 0, "segments");
    PyArrayObject *rows = num_parts < 0 ? NULL : sp_py_array(rows_object, NPY_INT32, 1, "rows");
    int32_t num_rows = rows == NULL ? -1 : sp_py_length(rows, 0, "rows");
    if (num_rows < 0) {
        return NULL;
    }
    PyArrayObject *starts = sp_py_sized(starts_object, NPY_INT32, 1, "starts", 0, num_parts + 1);
    if (starts == NULL) {
        return NULL;
    }
    const int32_t *starts_data = PyArray_DATA(starts);
    PyArrayObject *symbols =
        sp_py_sized(symbols_object, NPY_INT32, 1, "symbols", 0, starts_data[num_parts]);
    const float *prompt_data;
    int32_t num_virtual;
    if (symbols == NULL || !take_prompt(prompt, &prompt_data, &num_virtual)
        || !check_width(prompt, sp_model_hidden_size(model_of(self)->model))) {
        return NULL;
    }
    PyObject *logits = new_logits(self, num_rows);
    if (logits == NULL) {
        return NULL;
    }
    float *data = PyArray_DATA((PyArrayObject *)logits);
    sp_options options = {.num_threads = threads, .pack_rows = 1};
    sp_error error;
    signal_watch watch;
    enter_engine(self, &watch, &options);
    sp_status status = sp_segment_extend(
        self->context, num_parts, PyArray_DATA(segments), starts_data, PyArray_DATA(symbols),
        num_virtual, prompt_data, num_rows, PyArray_DATA(rows), &options, data, &error);
    leave_engine(self, &watch);
    return finish_logits(logits, status, &error);
}

/* A new array [num_layers, num_rows, kv_width] of a segment's keys, or of its values. */
static PyObject *
copy_layers(const sp_key_values *stored, const float *first)
{
    npy_intp shape[3] = {stored->num_layers, stored->num_rows, stored->kv_width};
    PyObject *copy = PyArray_SimpleNew(3, shape, NPY_FLOAT32);
    if (copy == NULL) {
        return NULL;
    }
    float *data = PyArray_DATA((PyArrayObject *)copy);
    size_t floats = (size_t)stored->num_rows * (size_t)stored->kv_width;
    for (size_t l = 0; l < (size_t)stored->num_layers; l++) {
        memcpy(data + l * floats, first + l * stored->layer_stride, floats * sizeof *data);
    }
    return copy;
}

static PyObject *
context_segment_key_values(py_context *self, PyObject *args)
{
    int segment;
    if (!PyArg_ParseTuple(args, "i:segment_key_values", &segment)) {
        return NULL;
    }
    sp_key_values stored;
    sp_error error;
    PyObject *keys = NULL, *values = NULL;
    lock_context(self);
    sp_status status = sp_segment_key_values(self->context, segment, &stored, &error);
    if (status == SP_OK) {
        keys = copy_layers(&stored, stored.keys);
        values = keys == NULL ? NULL : copy_layers(&stored, stored.values);
    }
    PyThread_release_lock(self->lock);
    if (status != SP_OK) {
        return sp_py_raise(&error);
    }
    if (values == NULL) {
        Py_XDECREF(keys);
        return NULL;
    }
    return Py_BuildValue("NN", keys, values);
}

static PyObject *
context_bytes(py_context *self, void *closure)
{
    (void)closure;
    return PyLong_FromSize_t(sp_context_bytes(self->context));
}

/* ---- type ---- */

static PyObject *
context_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"model", NULL};
    PyObject *model;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Context", names, &model)) {
        return NULL;
    }
    PyObject *module = PyType_GetModule(type);
    sp_py_state *state = module == NULL ? NULL : PyModule_GetState(module);
    if (state == NULL) {
        return NULL;
    }
    if (!Py_IS_TYPE(model, state->model_type)) {
        PyErr_Format(PyExc_TypeError, "model: expected softprompt._core.Model, got %.100s",
                     Py_TYPE(model)->tp_name);
        return NULL;
    }
    py_context *self = (py_context *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    sp_error error;
    self->model = Py_NewRef(model);
    self->lock = PyThread_allocate_lock();
    if (self->lock == NULL
        || sp_context_create(((sp_py_model *)model)->model, &self->context, &error) != SP_OK) {
        Py_DECREF(self);
        PyErr_SetString(PyExc_RuntimeError, "no memory for a context");
        return NULL;
    }
    return (PyObject *)self;
}

static int
context_traverse(py_context *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->model);
    return 0;
}

static void
context_dealloc(py_context *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    sp_context_destroy(self->context);
    if (self->lock != NULL) {
        PyThread_free_lock(self->lock);
    }
    Py_CLEAR(self->model);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyMethodDef context_methods[] = {
    {"loss", (PyCFunction)context_loss, METH_VARARGS,
     "loss($self, forest, prompt, prefix, losses, want_grad, num_threads, pack_rows, /)\n--\n\n"
     "Log-probabilities [num_entries] float64; gradient [num_virtual, d] float32 or None;\n"
     "gradient of the prefixes' keys and values, float32 of their shape, or None."},
    {"loss_workspace", (PyCFunction)context_workspace, METH_VARARGS,
     "loss_workspace($self, forest, prompt, prefix, losses, want_grad, num_threads, pack_rows,"
     " /)\n--\n\n"
     "Bytes of workspace that the same call of loss takes."},
    {"logits", (PyCFunction)context_logits, METH_VARARGS,
     "logits($self, forest, prompt, prefix, rows, num_threads, pack_rows, /)\n--\n\n"
     "Logits [len(rows), vocab_size] float32 after each of the rising rows."},
    {"logits_workspace", (PyCFunction)context_logits_workspace, METH_VARARGS,
     "logits_workspace($self, forest, prompt, prefix, rows, num_threads, pack_rows, /)\n--\n\n"
     "Bytes of workspace that the same call of logits takes."},
    {"segment_create", (PyCFunction)context_segment_create, METH_VARARGS,
     "segment_create($self, parent, capacity, frequencies=None, /)\n--\n\n"
     "A new resident segment; without a parent it may have its own frequencies [1, numbers]."},
    {"segment_copy", (PyCFunction)context_segment_copy, METH_VARARGS,
     "segment_copy($self, source, target, num_equal, /)\n--\n\n"
     "Makes a resident segment's rows after the first num_equal those of its sibling source."},
    {"memory_create", (PyCFunction)context_memory_create, METH_VARARGS,
     "memory_create($self, capacity, /)\n--\n\n"
     "A new resident segment of the encoder; segments of the decoder under it read it."},
    {"segment_extend", (PyCFunction)context_segment_extend, METH_VARARGS,
     "segment_extend($self, segments, starts, symbols, prompt, rows, num_threads, /)\n--\n\n"
     "Appends rows to resident segments; logits [len(rows), vocab_size] after the rows."},
    {"segment_fill", (PyCFunction)context_segment_fill, METH_VARARGS,
     "segment_fill($self, segment, prefix, /)\n--\n\n"
     "Gives an empty segment without a parent keys and values, float32\n"
     "[num_layers, 2, num_rows, kv_width]."},
    {"segment_key_values", (PyCFunction)context_segment_key_values, METH_VARARGS,
     "segment_key_values($self, segment, /)\n--\n\n"
     "Keys (rotated) and values of a resident segment's rows, each float32\n"
     "[num_layers, num_rows, kv_width]."},
    {"segment_release", (PyCFunction)context_segment_release, METH_VARARGS,
     "segment_release($self, segment, /)\n--\n\nGives a resident segment's memory back."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef context_getset[] = {
    {"bytes", (getter)context_bytes, NULL, "Bytes of workspace and resident segments.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot context_slots[] = {
    {Py_tp_doc, "Context(model)\n--\n\nWorkspace and resident segments of one caller at a time."},
    {Py_tp_new, context_new},
    {Py_tp_traverse, context_traverse},
    {Py_tp_dealloc, context_dealloc},
    {Py_tp_methods, context_methods},
    {Py_tp_getset, context_getset},
    {0, NULL},
};

PyType_Spec sp_py_context_spec = {
    .name = "softprompt._core.Context",
    .basicsize = sizeof(py_context),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = context_slots,
};
