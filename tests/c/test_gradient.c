/* Forward, logits, loss and gradient: equal bits for any number of threads, the same numbers for
 * any packing, and a gradient that finite differences agree with. */
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
    CHECK_OK(sp_loss(context, &tiny->forest, losses, &options, out->log_probs,
                     &(sp_gradient){.prompt = out->grad}, error));

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

/* float32 sums of some hundred terms, in another order: 1e-5 of the value, or of 1. */
static void
check_log_probs(const double *got, const double *expected)
{
    for (int32_t e = 0; e < TINY_ENTRIES; e++) {
        CHECK(fabs(got[e] - expected[e]) < 1e-5 * (1.0 + fabs(expected[e])));
    }
}

static void
threads_and_packing(const tiny_model *model, const tiny_forest *tiny, const sp_losses *losses)
{
    static const int32_t pack_rows[] = {1, 8, 64, 512};
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
        /* what is packed together changes rounding only */
        check_log_probs(one.log_probs, first.log_probs);
        double difference = norm(one.grad, first.grad, one.grad_floats);
        CHECK(difference < 1e-5 * norm(first.grad, NULL, first.grad_floats));
        free(one.grad);
    }
    free(first.grad);
}

static void
test_threads_and_packing(const tiny_model *model, const tiny_forest *tiny)
{
    threads_and_packing(model, tiny, &tiny->losses);
    threads_and_packing(model, tiny, &tiny->ranking);
}

static void
log_probs_alone(double *log_probs, const tiny_model *model, const tiny_forest *tiny,
                const sp_losses *losses, const float *prompt, int32_t pack_rows)
{
    sp_context *context = NULL;
    const sp_options options = {.num_threads = 2, .pack_rows = pack_rows};
    sp_forest forest = tiny->forest;
    forest.prompt = prompt;
    CHECK_OK(sp_context_create(model->model, &context, error));
    CHECK_OK(sp_loss(context, &forest, losses, &options, log_probs, NULL, error));
    sp_context_destroy(context);
}

/* Without a gradient the same packs are computed, and so the same bits; only ranking, whose groups
 * stay together for the gradient alone, may be packed otherwise. */
static void
test_forward_only(const tiny_model *model, const tiny_forest *tiny)
{
    static const int32_t pack_rows[] = {1, 8, 512};
    for (size_t p = 0; p < sizeof pack_rows / sizeof pack_rows[0]; p++) {
        double alone[TINY_ENTRIES];
        answer with;
        ask(&with, model, tiny, &tiny->losses, 2, pack_rows[p]);
        log_probs_alone(alone, model, tiny, &tiny->losses, tiny->prompt, pack_rows[p]);
        CHECK(memcmp(alone, with.log_probs, sizeof alone) == 0);
        free(with.grad);
        ask(&with, model, tiny, &tiny->ranking, 2, pack_rows[p]);
        log_probs_alone(alone, model, tiny, &tiny->ranking, tiny->prompt, pack_rows[p]);
        check_log_probs(alone, with.log_probs);
        free(with.grad);
    }
}

/* The log-probabilities are those of the logits, over all tokens or over the cut ones. */
static void
test_logits(const tiny_model *model, const tiny_forest *tiny)
{
    const int32_t vocab = model->spec.vocab_size;
    int32_t rows[TINY_ENTRIES], num_rows = 0;
    for (int32_t e = 0; e < TINY_ENTRIES; e++) {
        if (num_rows == 0 || rows[num_rows - 1] != tiny->rows[e]) {
            rows[num_rows++] = tiny->rows[e];
        }
    }
    const size_t floats = (size_t)num_rows * (size_t)vocab;
    float *logits[2];
    for (int i = 0; i < 2; i++) {
        sp_context *context = NULL;
        const sp_options options = {.num_threads = 1 + 2 * i, .pack_rows = 64};
        logits[i] = malloc(floats * sizeof *logits[i]);
        CHECK(logits[i] != NULL);
        CHECK_OK(sp_context_create(model->model, &context, error));
        CHECK_OK(sp_logits(context, &tiny->forest, num_rows, rows, &options, logits[i], error));
        sp_context_destroy(context);
    }
    CHECK(memcmp(logits[0], logits[1], floats * sizeof *logits[0]) == 0);

    double log_probs[TINY_ENTRIES], expected[TINY_ENTRIES];
    log_probs_alone(log_probs, model, tiny, &tiny->losses, tiny->prompt, 64);
    for (int32_t e = 0, r = 0; e < TINY_ENTRIES; e++) {
        r += rows[r] != tiny->rows[e];
        const float *row = logits[0] + (ptrdiff_t)r * vocab;
        const int32_t *tokens = tiny->cut[e] ? tiny->cut_tokens : NULL;
        const int32_t count = tiny->cut[e] ? tiny->losses.num_cut_tokens : vocab;
        const int32_t target = tokens ? tokens[tiny->targets[e]] : tiny->targets[e];
        double sum = 0.0;
        for (int32_t t = 0; t < count; t++) {
            sum += exp((double)row[tokens ? tokens[t] : t] - (double)row[target]);
        }
        expected[e] = -log(sum);
    }
    check_log_probs(log_probs, expected);
    free(logits[0]);
    free(logits[1]);
}

static void
finite_differences(const tiny_model *model, const tiny_forest *tiny, const sp_losses *losses)
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
            double log_probs[TINY_ENTRIES];
            log_probs_alone(log_probs, model, tiny, losses, moved, 256);
            losses_at[side] = tiny_loss(losses, log_probs);
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

static void
test_finite_differences(const tiny_model *model, const tiny_forest *tiny)
{
    finite_differences(model, tiny, &tiny->losses);
    finite_differences(model, tiny, &tiny->ranking);
}

int
main(void)
{
    static const tiny_case cases[] = {
        {"gradient: bits of 1 and 3 threads; packs of 1, 8, 64, 512 rows",
         test_threads_and_packing},
        {"log-probabilities without a gradient", test_forward_only},
        {"logits agree with log-probabilities", test_logits},
        {"gradient against finite differences", test_finite_differences},
    };
    TINY_RUN(cases, EVERY_PATH);
    return 0;
}
