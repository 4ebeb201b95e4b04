/* A poll function stops a call at every place where it is asked: a clean status, and the context
 * goes on with the same bits, resident segments included. */
#include "tiny.h"

enum { START = 20 };

typedef struct {
    int calls, stop_at;
} countdown;

static int
poll(void *data)
{
    countdown *c = data;
    return ++c->calls == c->stop_at;
}

/* One context with a resident segment of START rows and an empty child. */
typedef struct {
    const tiny_forest *tiny;
    sp_context *context;
    int32_t root, child;
    size_t logits_bytes, grad_bytes;
    double log_probs[TINY_ENTRIES];
    float *grad, *logits;
} job;

typedef sp_status call(job *j, const sp_options *options, sp_error *error);

static sp_status
call_loss(job *j, const sp_options *options, sp_error *error)
{
    return sp_loss(j->context, &j->tiny->forest, &j->tiny->ranking, options, j->log_probs,
                   &(sp_gradient){.prompt = j->grad}, error);
}

static sp_status
call_forward(job *j, const sp_options *options, sp_error *error)
{
    return sp_loss(j->context, &j->tiny->forest, &j->tiny->losses, options, j->log_probs, NULL,
                   error);
}

static sp_status
call_logits(job *j, const sp_options *options, sp_error *error)
{
    const int32_t row = 30;
    return sp_logits(j->context, &j->tiny->forest, 1, &row, options, j->logits, error);
}

/* Extends a child made for the call, so that the call can be repeated. */
static sp_status
call_extend(job *j, const sp_options *options, sp_error *error)
{
    const int32_t starts[] = {0, 3}, symbols[] = {7, 8, 9}, last = 2;
    sp_status status = sp_segment_extend(j->context, 1, &j->child, starts, symbols, 0, NULL, 1,
                                         &last, options, j->logits, error);
    if (status == SP_OK) {
        CHECK_OK(sp_segment_release(j->context, j->child, error));
        CHECK_OK(sp_segment_create(j->context, j->root, 3, NULL, &j->child, error));
    }
    return status;
}

static void
stop_everywhere(job *j, call *run)
{
    double log_probs[TINY_ENTRIES];
    float *grad = malloc(j->grad_bytes), *logits = malloc(j->logits_bytes);
    CHECK(grad != NULL && logits != NULL);
    sp_options options = {.num_threads = 3, .pack_rows = 20};
    CHECK_OK(run(j, &options, error));
    memcpy(log_probs, j->log_probs, sizeof log_probs);
    memcpy(grad, j->grad, j->grad_bytes);
    memcpy(logits, j->logits, j->logits_bytes);

    int stops = 0;
    for (;; stops++) {
        countdown c = {.stop_at = stops + 1};
        options.poll = poll;
        options.poll_data = &c;
        sp_error error = {0};
        sp_status status = run(j, &options, &error);
        if (status == SP_OK) {
            CHECK(c.calls == stops); /* it was asked no more often than it was stopped */
            break;
        }
        CHECK(status == SP_CANCELLED && error.status == SP_CANCELLED && error.message[0]);
        CHECK(c.calls == c.stop_at);
        options.poll = NULL;
        CHECK_OK(run(j, &options, error));
        CHECK(memcmp(j->log_probs, log_probs, sizeof log_probs) == 0);
        CHECK(memcmp(j->grad, grad, j->grad_bytes) == 0);
        CHECK(memcmp(j->logits, logits, j->logits_bytes) == 0);
    }
    CHECK(stops > 1); /* at least once a layer */
    free(grad);
    free(logits);
}

static void
test_stop(const tiny_model *model, const tiny_forest *tiny)
{
    job j = {.tiny = tiny,
             .grad_bytes =
                 (size_t)tiny->forest.num_virtual * (size_t)model->spec.hidden_size * sizeof(float),
             .logits_bytes = (size_t)model->spec.vocab_size * sizeof(float)};
    j.grad = calloc(1, j.grad_bytes);
    j.logits = calloc(1, j.logits_bytes);
    CHECK(j.grad != NULL && j.logits != NULL);
    const sp_options options = {.num_threads = 2, .pack_rows = 20};
    const int32_t starts[] = {0, START};
    CHECK_OK(sp_context_create(model->model, &j.context, error));
    CHECK_OK(sp_segment_create(j.context, -1, START, NULL, &j.root, error));
    CHECK_OK(sp_segment_extend(j.context, 1, &j.root, starts, tiny->symbols,
                               tiny->forest.num_virtual, tiny->prompt, 0, NULL, &options, NULL,
                               error));
    CHECK_OK(sp_segment_create(j.context, j.root, 3, NULL, &j.child, error));
    stop_everywhere(&j, call_loss);
    stop_everywhere(&j, call_forward);
    stop_everywhere(&j, call_logits);
    stop_everywhere(&j, call_extend);
    sp_context_destroy(j.context);
    free(j.grad);
    free(j.logits);
}

int
main(void)
{
    static const tiny_case cases[] = {
        {"stopped at every poll of loss, gradient, logits, extension", test_stop},
    };
    /* every path is asked at the same places */
    TINY_RUN(cases, BEST_PATH);
    return 0;
}
