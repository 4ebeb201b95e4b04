/* Every allocation fails once, and from one on for ever: a clean status each time, nothing leaked,
 * and what was made before goes on working. (The way of SQLite's out-of-memory tests.) Packs of 64
 * rows, so that segments whose subtrees are larger are entered and left. */
#include "tiny.h"

enum { START = 12 };

typedef struct {
    tiny_model model; /* borrows the weights of the case's model */
    const tiny_forest *tiny;
    double log_probs[TINY_ENTRIES];
    float *grad, *logits;
    size_t grad_bytes, logits_bytes;
} job;

/* Resident segments, grown once. */
static sp_status
generate(job *j, sp_context *context, sp_error *error)
{
    const sp_options options = {.num_threads = 2, .pack_rows = 64};
    const int32_t starts[] = {0, START}, last = START - 1, symbol = 4, one[] = {0, 1}, zero = 0;
    int32_t root = -1, child = -1;
    sp_status status = sp_segment_create(context, -1, START, NULL, &root, error);
    if (status == SP_OK) {
        status = sp_segment_extend(context, 1, &root, starts, j->tiny->symbols,
                                   j->tiny->forest.num_virtual, j->tiny->prompt, 1, &last, &options,
                                   j->logits, error);
    }
    if (status == SP_OK) {
        status = sp_segment_create(context, root, 1, NULL, &child, error);
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
    const sp_options options = {.num_threads = 2, .pack_rows = 64};
    sp_context *context = NULL;
    const int32_t rows[] = {3, 30};
    size_t bytes = 0;
    sp_status status = tiny_bind(&j->model, error);
    if (status == SP_OK) {
        status = sp_context_create(j->model.model, &context, error);
    }
    if (status == SP_OK) {
        status = sp_loss_workspace(context, &j->tiny->forest, &j->tiny->losses, 1, &options, &bytes,
                                   error);
    }
    if (status == SP_OK) {
        status = sp_loss(context, &j->tiny->forest, &j->tiny->ranking, &options, j->log_probs,
                         &(sp_gradient){.prompt = j->grad}, error);
    }
    if (status == SP_OK) {
        status = sp_logits(context, &j->tiny->forest, 2, rows, &options, j->logits, error);
    }
    if (status == SP_OK) {
        status = generate(j, context, error);
    }
    sp_context_destroy(context);
    sp_model_destroy(j->model.model);
    j->model.model = NULL;
    return status;
}

static void
fail_everywhere(job *j, int forever)
{
    uint64_t n = 1;
    const size_t live = sp_memory_now().live_bytes;
    for (;; n++) {
        sp_error error = {0};
        uint64_t before = sp_memory_now().requests;
        sp_memory_fail_at(n, forever);
        sp_status status = everything(j, &error);
        sp_memory_fail_at(0, 0);
        CHECK(sp_memory_now().live_bytes == live);
        if (sp_memory_now().requests - before < n) {
            CHECK(status == SP_OK); /* the n-th allocation was never asked for */
            break;
        }
        CHECK(status == SP_NO_MEMORY);
        CHECK(error.status == SP_NO_MEMORY && error.message[0] != '\0');
    }
    CHECK(n > 100); /* there were that many: the loop did not end by accident */
}

typedef sp_status call(job *j, sp_context *context, sp_error *error);

static sp_status
call_loss(job *j, sp_context *context, sp_error *error)
{
    const sp_options options = {.num_threads = 2, .pack_rows = 64};
    return sp_loss(context, &j->tiny->forest, &j->tiny->ranking, &options, j->log_probs,
                   &(sp_gradient){.prompt = j->grad}, error);
}

static sp_status
call_logits(job *j, sp_context *context, sp_error *error)
{
    const sp_options options = {.num_threads = 2, .pack_rows = 64};
    const int32_t rows[] = {3, 30};
    return sp_logits(context, &j->tiny->forest, 2, rows, &options, j->logits, error);
}

/* A call that failed leaves its context usable: the next one gives the same bits. The context is
 * new each time, so that its workspace is among what cannot be had. */
static void
fail_in_context(job *j, call *run, int forever)
{
    float *grad = malloc(j->grad_bytes), *logits = malloc(j->logits_bytes);
    double log_probs[TINY_ENTRIES];
    CHECK(grad != NULL && logits != NULL);
    const size_t live = sp_memory_now().live_bytes;
    sp_status status = SP_OK;
    int n = 0; /* round 0 fails nowhere, the last one asks for fewer than n blocks */
    for (; n < 2 || status != SP_OK; n++) {
        sp_context *context = NULL;
        sp_error error = {0};
        CHECK_OK(sp_context_create(j->model.model, &context, error));
        sp_memory_fail_at((uint64_t)n, forever);
        status = run(j, context, &error);
        sp_memory_fail_at(0, 0);
        CHECK(sp_context_bytes(context) <= sp_memory_now().live_bytes - live);
        if (n == 0) {
            CHECK(status == SP_OK);
            memcpy(log_probs, j->log_probs, sizeof log_probs);
            memcpy(grad, j->grad, j->grad_bytes);
            memcpy(logits, j->logits, j->logits_bytes);
        }
        else if (status != SP_OK) {
            CHECK(status == SP_NO_MEMORY && error.status == SP_NO_MEMORY && error.message[0]);
            CHECK_OK(run(j, context, error));
        }
        CHECK(memcmp(j->log_probs, log_probs, sizeof log_probs) == 0);
        CHECK(memcmp(j->grad, grad, j->grad_bytes) == 0);
        CHECK(memcmp(j->logits, logits, j->logits_bytes) == 0);
        sp_context_destroy(context);
        CHECK(sp_memory_now().live_bytes == live);
    }
    CHECK(n > 10);
    free(grad);
    free(logits);
}

static void
test_dequantize(const tiny_model *model, const tiny_forest *tiny)
{
    (void)model, (void)tiny;
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
    CHECK(failures > 0);
}

static void
open_job(job *j, const tiny_model *model, const tiny_forest *tiny)
{
    *j = (job){.model = *model, .tiny = tiny};
    j->grad_bytes =
        (size_t)tiny->forest.num_virtual * (size_t)model->spec.hidden_size * sizeof *j->grad;
    j->logits_bytes = 2 * (size_t)model->spec.vocab_size * sizeof *j->logits;
    j->grad = calloc(1, j->grad_bytes);
    j->logits = calloc(1, j->logits_bytes);
    CHECK(j->grad != NULL && j->logits != NULL);
}

static void
close_job(job *j)
{
    free(j->grad);
    free(j->logits);
}

static void
test_everything(const tiny_model *model, const tiny_forest *tiny)
{
    job j;
    open_job(&j, model, tiny);
    fail_everywhere(&j, 0);
    fail_everywhere(&j, 1);
    close_job(&j);
}

static void
test_context(const tiny_model *model, const tiny_forest *tiny)
{
    static call *const calls[] = {call_loss, call_logits, generate};
    job j;
    open_job(&j, model, tiny);
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        fail_in_context(&j, calls[i], 0);
        fail_in_context(&j, calls[i], 1);
    }
    close_job(&j);
}

int
main(void)
{
    static const tiny_case cases[] = {
        {"model, context, loss, gradient, logits, segments: each allocation", test_everything},
        {"a context after a failure: the same bits", test_context},
        {"stored weights: each allocation", test_dequantize},
    };
    /* no path allocates otherwise than another */
    TINY_RUN(cases, BEST_PATH);
    return 0;
}
