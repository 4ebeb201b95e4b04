/* Forward, loss and gradient: equal bits for any number of threads, the same numbers for any
 * packing, and a gradient that finite differences agree with. */
#include <math.h>

#include "tiny.h"

typedef struct {
    double log_probs[TINY_ENTRIES];
    float *grad;
    size_t grad_floats;
} answer;

static void
ask(answer *out, const tiny_model *model, const tiny_forest *tiny, const sp_losses *losses,
    int num_threads, int32_t pack_rows)
{
    sp_context *context = NULL;
    const sp_options options = {.num_threads = num_threads, .pack_rows = pack_rows};
    out->grad_floats = (size_t)tiny->forest.num_virtual * (size_t)model->spec.hidden_size;
    out->grad = malloc(out->grad_floats * sizeof *out->grad);
    CHECK(out->grad != NULL);
    memset(out->grad, 0xff, out->grad_floats * sizeof *out->grad); /* NaN: has to be overwritten */
    CHECK_OK(sp_context_create(model->model, &context, error));
    CHECK_OK(sp_loss(context, &tiny->forest, losses, &options, out->log_probs, out->grad, error));

    size_t planned = 0;
    CHECK_OK(sp_loss_workspace(context, &tiny->forest, losses, 1, &options, &planned, error));
    /* the context adds some bytes for bookkeeping */
    CHECK(sp_context_bytes(context) >= planned && sp_context_bytes(context) < planned + 8192);
    sp_context_destroy(context);
}

static double
norm(const float *x, const float *minus, size_t n)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        double value = (double)x[i] - (minus == NULL ? 0.0 : (double)minus[i]);
        sum += value * value;
    }
    return sqrt(sum);
}

static void
test_threads_and_packing(const tiny_model *model, const tiny_forest *tiny, const sp_losses *losses)
{
    static const int32_t pack_rows[] = {1, 20, 64, 100000};
    answer first = {0};
    for (size_t p = 0; p < sizeof pack_rows / sizeof pack_rows[0]; p++) {
        answer one, three;
        ask(&one, model, tiny, losses, 1, pack_rows[p]);
        ask(&three, model, tiny, losses, 3, pack_rows[p]);
        CHECK(memcmp(one.log_probs, three.log_probs, sizeof one.log_probs) == 0);
        CHECK(memcmp(one.grad, three.grad, one.grad_floats * sizeof *one.grad) == 0);
        free(three.grad);
        if (p == 0) {
            first = one;
            continue;
        }
        /* what is packed together changes rounding only: float32 sums of some hundred terms */
        for (int32_t e = 0; e < TINY_ENTRIES; e++) {
            CHECK(fabs(one.log_probs[e] - first.log_probs[e]) < 1e-5 * (1.0 + fabs(first.log_probs[e])));
        }
        double difference = norm(one.grad, first.grad, one.grad_floats);
        CHECK(difference < 1e-5 * norm(first.grad, NULL, first.grad_floats));
        free(one.grad);
    }
    free(first.grad);
}

/* The loss alone (no gradient wanted) gives the same log-probabilities up to rounding: it skips
 * other rows. */
static double
loss_at(const tiny_model *model, const tiny_forest *tiny, const sp_losses *losses,
        const float *prompt)
{
    sp_context *context = NULL;
    const sp_options options = {.num_threads = 2, .pack_rows = 256};
    double log_probs[TINY_ENTRIES];
    sp_forest forest = tiny->forest;
    forest.prompt = prompt;
    CHECK_OK(sp_context_create(model->model, &context, error));
    CHECK_OK(sp_loss(context, &forest, losses, &options, log_probs, NULL, error));
    sp_context_destroy(context);
    return tiny_loss(losses, log_probs);
}

static void
test_finite_differences(const tiny_model *model, const tiny_forest *tiny, const sp_losses *losses)
{
    answer exact;
    ask(&exact, model, tiny, losses, 1, 256);
    const size_t n = exact.grad_floats;
    const double length = norm(exact.grad, NULL, n);
    CHECK(length > 1e-3 && isfinite(length));
    tiny_random random = {5};
    float *moved = malloc(n * sizeof *moved), *direction = malloc(n * sizeof *direction);
    CHECK(moved != NULL && direction != NULL);
    for (int trial = 0; trial < 4; trial++) {
        /* the gradient itself first, where the slope is largest; then random directions */
        for (size_t i = 0; i < n; i++) {
            direction[i] = trial == 0 ? exact.grad[i] : tiny_normal(&random);
        }
        const double scale = norm(direction, NULL, n);
        double slope = 0.0, losses_at[2];
        for (size_t i = 0; i < n; i++) {
            slope += (double)exact.grad[i] * (double)direction[i] / scale;
        }
        const double step = 1e-2;
        for (int side = 0; side < 2; side++) {
            for (size_t i = 0; i < n; i++) {
                double delta = (side == 0 ? step : -step) * (double)direction[i] / scale;
                moved[i] = (float)((double)tiny->prompt[i] + delta);
            }
            losses_at[side] = loss_at(model, tiny, losses, moved);
        }
        double measured = (losses_at[0] - losses_at[1]) / (2.0 * step);
        /* float32 losses of about 10 differ by 1e-6 from exact ones: 1e-4 of slope; the rest is the
         * curvature over a step */
        CHECK(fabs(measured - slope) < 2e-3 * length + 2e-4);
    }
    free(moved);
    free(direction);
    free(exact.grad);
}

static int
stop_at_third(void *calls)
{
    return ++*(int *)calls == 3;
}

static void
test_cancel(const tiny_model *model, const tiny_forest *tiny)
{
    sp_context *context = NULL;
    sp_error error = {0};
    int calls = 0;
    double log_probs[TINY_ENTRIES], again[TINY_ENTRIES];
    sp_options options = {.num_threads = 3, .pack_rows = 64};
    CHECK_OK(sp_context_create(model->model, &context, error));
    CHECK_OK(sp_loss(context, &tiny->forest, &tiny->losses, &options, log_probs, NULL, error));
    options.poll = stop_at_third;
    options.poll_data = &calls;
    CHECK(sp_loss(context, &tiny->forest, &tiny->losses, &options, again, NULL, &error)
          == SP_CANCELLED);
    CHECK(error.status == SP_CANCELLED && error.message[0] != '\0' && calls == 3);
    options.poll = NULL;
    CHECK_OK(sp_loss(context, &tiny->forest, &tiny->losses, &options, again, NULL, error));
    CHECK(memcmp(log_probs, again, sizeof again) == 0);
    sp_context_destroy(context);
}

int
main(void)
{
    CHECK_OK(sp_initialize(NULL, error));
    for (int kind = 0; kind < TINY_KINDS; kind++) {
        tiny_model model;
        tiny_forest tiny;
        tiny_open(&model, (tiny_kind)kind);
        tiny_forest_open(&tiny, &model.spec);
        test_threads_and_packing(&model, &tiny, &tiny.losses);
        test_threads_and_packing(&model, &tiny, &tiny.ranking);
        test_finite_differences(&model, &tiny, &tiny.losses);
        test_finite_differences(&model, &tiny, &tiny.ranking);
        test_cancel(&model, &tiny);
        tiny_forest_close(&tiny);
        tiny_close(&model);
    }
    CHECK(sp_memory_now().live_bytes == 0);
    return 0;
}
