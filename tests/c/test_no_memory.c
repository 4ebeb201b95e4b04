/* Every allocation fails once, and from one on for ever: a clean status each time, nothing leaked,
 * and what was made before goes on working. (The way of SQLite's out-of-memory tests.) */
#include "tiny.h"

enum { START = 12 };

typedef struct {
    tiny_model *model;
    tiny_forest *tiny;
    double log_probs[TINY_ENTRIES];
    float *grad, *logits;
} job;

/* Resident segments, grown once. */
static sp_status
generate(job *j, sp_context *context, sp_error *error)
{
    const sp_options options = {.num_threads = 3, .pack_rows = 64};
    const int32_t starts[] = {0, START}, last = START - 1, symbol = 4, one[] = {0, 1}, zero = 0;
    int32_t root = -1, child = -1;
    sp_status status = sp_segment_create(context, -1, START, &root, error);
    if (status == SP_OK) {
        status = sp_segment_extend(context, 1, &root, starts, j->tiny->symbols,
                                   j->tiny->forest.num_virtual, j->tiny->prompt, 1, &last, &options,
                                   j->logits, error);
    }
    if (status == SP_OK) {
        status = sp_segment_create(context, root, 1, &child, error);
    }
    if (status == SP_OK) {
        status = sp_segment_extend(context, 1, &child, one, &symbol, 0, NULL, 1, &zero, &options,
                                   j->logits, error);
    }
    if (child >= 0) {
        CHECK_OK(sp_segment_release(context, child, error)); /* releasing cannot fail */
    }
    if (root >= 0) {
        CHECK_OK(sp_segment_release(context, root, error));
    }
    return status;
}

/* Everything from the model to a generated row. */
static sp_status
everything(job *j, sp_error *error)
{
    const sp_options options = {.num_threads = 3, .pack_rows = 64};
    sp_context *context = NULL;
    const int32_t rows[] = {3, 30};
    size_t bytes = 0;
    sp_status status = tiny_bind(j->model, error);
    if (status == SP_OK) {
        status = sp_context_create(j->model->model, &context, error);
    }
    if (status == SP_OK) {
        status = sp_loss_workspace(context, &j->tiny->forest, &j->tiny->losses, 1, &options, &bytes,
                                   error);
    }
    if (status == SP_OK) {
        status = sp_loss(context, &j->tiny->forest, &j->tiny->losses, &options, j->log_probs,
                         j->grad, error);
    }
    if (status == SP_OK) {
        status = sp_loss(context, &j->tiny->forest, &j->tiny->ranking, &options, j->log_probs,
                         j->grad, error);
    }
    if (status == SP_OK) {
        status = sp_logits(context, &j->tiny->forest, 2, rows, &options, j->logits, error);
    }
    if (status == SP_OK) {
        status = generate(j, context, error);
    }
    sp_context_destroy(context);
    sp_model_destroy(j->model->model);
    j->model->model = NULL;
    return status;
}

static void
fail_everywhere(job *j, int forever)
{
    uint64_t n = 1;
    for (;; n++) {
        sp_error error = {0};
        uint64_t before = sp_memory_now().requests;
        sp_memory_fail_at(n, forever);
        sp_status status = everything(j, &error);
        sp_memory_fail_at(0, 0);
        CHECK(sp_memory_now().live_bytes == 0);
        if (sp_memory_now().requests - before < n) {
            CHECK(status == SP_OK); /* the n-th allocation was never asked for */
            break;
        }
        CHECK(status == SP_NO_MEMORY);
        CHECK(error.status == SP_NO_MEMORY && error.message[0] != '\0');
    }
    CHECK(n > 100); /* there were that many: the loop did not end by accident */
}

/* A step that failed leaves its context usable, and the next step gives the same bits. */
static void
fail_one_step(job *j)
{
    const sp_options options = {.num_threads = 2, .pack_rows = 64};
    const size_t grad_bytes = (size_t)j->tiny->forest.num_virtual
                              * (size_t)j->model->spec.hidden_size * sizeof(float);
    float *expected = malloc(grad_bytes);
    sp_context *context = NULL;
    CHECK(expected != NULL);
    CHECK_OK(tiny_bind(j->model, error));
    CHECK_OK(sp_context_create(j->model->model, &context, error));
    CHECK_OK(sp_loss(context, &j->tiny->forest, &j->tiny->losses, &options, j->log_probs, expected,
                     error));
    int failures = 0;
    for (uint64_t n = 1;; n++) {
        sp_error error = {0};
        size_t live = sp_memory_now().live_bytes;
        sp_memory_fail_at(n, 0);
        sp_status status = sp_loss(context, &j->tiny->forest, &j->tiny->losses, &options,
                                   j->log_probs, j->grad, &error);
        sp_memory_fail_at(0, 0);
        CHECK(sp_memory_now().live_bytes == live);
        if (status == SP_OK) {
            break;
        }
        CHECK(status == SP_NO_MEMORY);
        failures++;
        CHECK_OK(sp_loss(context, &j->tiny->forest, &j->tiny->losses, &options, j->log_probs,
                         j->grad, error));
        CHECK(memcmp(j->grad, expected, grad_bytes) == 0);
    }
    CHECK(failures > 20);
    sp_context_destroy(context);
    sp_model_destroy(j->model->model);
    j->model->model = NULL;
    free(expected);
}

static void
fail_dequantize(void)
{
    uint8_t bytes[18] = {0};
    float numbers[32];
    sp_error error = {0};
    sp_status status;
    int failures = 0;
    for (uint64_t n = 1;; n++) {
        sp_memory_fail_at(n, 0);
        status = sp_dequantize("Q4_0", bytes, sizeof bytes, numbers, 32, 3, &error);
        sp_memory_fail_at(0, 0);
        if (status == SP_OK) {
            break;
        }
        CHECK(status == SP_NO_MEMORY);
        failures++;
    }
    CHECK(failures > 0 && sp_memory_now().live_bytes == 0);
}

int
main(void)
{
    CHECK_OK(sp_initialize(NULL, error));
    for (int kind = 0; kind < TINY_KINDS; kind++) {
        tiny_model model;
        tiny_forest tiny;
        tiny_weights(&model, (tiny_kind)kind);
        tiny_forest_open(&tiny, &model.spec);
        job j = {.model = &model, .tiny = &tiny};
        j.grad = malloc((size_t)tiny.forest.num_virtual * (size_t)model.spec.hidden_size
                        * sizeof *j.grad);
        j.logits = malloc(2 * (size_t)model.spec.vocab_size * sizeof *j.logits);
        CHECK(j.grad != NULL && j.logits != NULL);
        fail_everywhere(&j, 0);
        fail_everywhere(&j, 1);
        fail_one_step(&j);
        free(j.grad);
        free(j.logits);
        tiny_forest_close(&tiny);
        tiny_close(&model);
    }
    fail_dequantize();
    return 0;
}
