/* Prefixes: segments whose keys and values are given. Equal bits for any number of threads, the same
 * numbers for any packing and for a resident segment, a gradient that finite differences agree with,
 * and what is refused. */
#include <math.h>

#include "tiny.h"

enum { PREFIXES = 3, ROWS = 9, SEGMENTS = TINY_SEGMENTS + PREFIXES };

/* The tiny forest, its first tree under a prefix of 5 rows and its second under one of 3; the third,
 * of one row, has nothing below it. Rows and losses are the tiny forest's. */
typedef struct {
    sp_forest forest;
    int32_t parents[SEGMENTS], starts[SEGMENTS + 1], prefix_starts[PREFIXES + 1];
    size_t floats, prompt_floats;
    float *prefix; /* owned */
} prefixed;

static void
open_prefixed(prefixed *p, const tiny_model *model, const tiny_forest *tiny)
{
    static const int32_t starts[PREFIXES + 1] = {0, 5, 8, ROWS};
    const sp_spec *spec = &model->spec;
    tiny_random random = {31};
    int32_t s = 0, place[TINY_SEGMENTS], above = -1, num_prefixes = 0;
    for (int32_t t = 0; t < TINY_SEGMENTS; t++) {
        if (tiny->parents[t] == -1) { /* a prefix, of which the last tree is a neighbour */
            p->parents[s] = -1;
            p->starts[s] = tiny->starts[t];
            above = num_prefixes++ < 2 ? s : -1;
            s++;
        }
        place[t] = s;
        p->parents[s] = tiny->parents[t] == -1 ? above : place[tiny->parents[t]];
        p->starts[s++] = tiny->starts[t];
    }
    CHECK(s == SEGMENTS && num_prefixes == PREFIXES);
    p->starts[s] = tiny->starts[TINY_SEGMENTS];
    memcpy(p->prefix_starts, starts, sizeof starts);
    p->floats =
        (size_t)spec->num_layers * 2 * ROWS * (size_t)spec->num_kv_heads * (size_t)spec->head_dim;
    p->prompt_floats = (size_t)tiny->forest.num_virtual * (size_t)spec->hidden_size;
    p->prefix = malloc(p->floats * sizeof *p->prefix);
    CHECK(p->prefix != NULL);
    for (size_t i = 0; i < p->floats; i++) {
        p->prefix[i] = tiny_normal(&random);
    }
    p->forest = tiny->forest;
    p->forest.num_segments = SEGMENTS;
    p->forest.parents = p->parents;
    p->forest.starts = p->starts;
    p->forest.num_prefixes = PREFIXES;
    p->forest.prefix_starts = p->prefix_starts;
    p->forest.prefix = p->prefix;
}

typedef struct {
    double log_probs[TINY_ENTRIES];
    float *prompt, *prefix;
} answer;

static void
ask(answer *out, const tiny_model *model, const prefixed *p, const sp_losses *losses,
    int num_threads, int32_t pack_rows)
{
    sp_context *context = NULL;
    const sp_options options = {.num_threads = num_threads, .pack_rows = pack_rows};
    out->prompt = malloc(p->prompt_floats * sizeof *out->prompt);
    out->prefix = malloc(p->floats * sizeof *out->prefix);
    CHECK(out->prompt != NULL && out->prefix != NULL);
    memset(out->prompt, 0xff, p->prompt_floats * sizeof *out->prompt); /* NaN: to be overwritten */
    memset(out->prefix, 0xff, p->floats * sizeof *out->prefix);
    const sp_gradient grad = {out->prompt, out->prefix};
    CHECK_OK(sp_context_create(model->model, &context, error));
    CHECK_OK(sp_loss(context, &p->forest, losses, &options, out->log_probs, &grad, error));
    size_t planned = 0;
    CHECK_OK(sp_loss_workspace(context, &p->forest, losses, 1, &options, &planned, error));
    /* the context adds some bytes for bookkeeping */
    CHECK(sp_context_bytes(context) >= planned && sp_context_bytes(context) < planned + 8192);
    sp_context_destroy(context);
}

static void
forget(answer *a)
{
    free(a->prompt);
    free(a->prefix);
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
threads_and_packing(const tiny_model *model, const prefixed *p, const sp_losses *losses)
{
    static const int32_t pack_rows[] = {1, 8, 64, 512};
    answer first = {0};
    for (size_t i = 0; i < sizeof pack_rows / sizeof pack_rows[0]; i++) {
        answer one, three;
        ask(&one, model, p, losses, 1, pack_rows[i]);
        ask(&three, model, p, losses, 3, pack_rows[i]);
        CHECK(memcmp(one.log_probs, three.log_probs, sizeof one.log_probs) == 0);
        CHECK(memcmp(one.prompt, three.prompt, p->prompt_floats * sizeof(float)) == 0);
        CHECK(memcmp(one.prefix, three.prefix, p->floats * sizeof(float)) == 0);
        forget(&three);
        if (i == 0) {
            first = one;
            continue;
        }
        /* what is packed together changes rounding only: 1e-5 */
        for (int32_t e = 0; e < TINY_ENTRIES; e++) {
            CHECK(fabs(one.log_probs[e] - first.log_probs[e])
                  < 1e-5 * (1.0 + fabs(first.log_probs[e])));
        }
        CHECK(norm(one.prompt, first.prompt, p->prompt_floats)
              < 1e-5 * norm(first.prompt, NULL, p->prompt_floats));
        CHECK(norm(one.prefix, first.prefix, p->floats)
              < 1e-5 * norm(first.prefix, NULL, p->floats));
        forget(&one);
    }
    /* nothing reads the third prefix */
    size_t width = (size_t)model->spec.num_kv_heads * (size_t)model->spec.head_dim;
    for (size_t block = 0; block < (size_t)model->spec.num_layers * 2; block++) {
        const float *row = first.prefix + (block * ROWS + 8) * width;
        CHECK(norm(row, NULL, width) == 0.0 && norm(row - width, NULL, width) > 0.0);
    }
    forget(&first);
}

static void
test_threads_and_packing(const tiny_model *model, const tiny_forest *tiny)
{
    prefixed p;
    open_prefixed(&p, model, tiny);
    threads_and_packing(model, &p, &tiny->losses);
    threads_and_packing(model, &p, &tiny->ranking);
    free(p.prefix);
}

/* The log-probabilities with another prefix; equal bits where it is the same. */
static void
log_probs_alone(double *log_probs, const tiny_model *model, const prefixed *p,
                const sp_losses *losses, const float *prefix)
{
    sp_context *context = NULL;
    const sp_options options = {.num_threads = 2, .pack_rows = 256};
    sp_forest forest = p->forest;
    forest.prefix = prefix;
    CHECK_OK(sp_context_create(model->model, &context, error));
    CHECK_OK(sp_loss(context, &forest, losses, &options, log_probs, NULL, error));
    sp_context_destroy(context);
}

static void
finite_differences(const tiny_model *model, const prefixed *p, const sp_losses *losses)
{
    answer exact;
    ask(&exact, model, p, losses, 1, 256);
    const double length = norm(exact.prefix, NULL, p->floats);
    CHECK(length > 1e-3 && isfinite(length));
    tiny_random random = {5};
    float *moved = malloc(p->floats * sizeof *moved);
    float *direction = malloc(p->floats * sizeof *direction);
    CHECK(moved != NULL && direction != NULL);
    for (int trial = 0; trial < 4; trial++) {
        /* the gradient itself first, where the slope is largest; then random directions */
        for (size_t i = 0; i < p->floats; i++) {
            direction[i] = trial == 0 ? exact.prefix[i] : tiny_normal(&random);
        }
        const double scale = norm(direction, NULL, p->floats), step = 1e-2;
        double slope = 0.0, losses_at[2];
        for (size_t i = 0; i < p->floats; i++) {
            slope += (double)exact.prefix[i] * (double)direction[i] / scale;
        }
        for (int side = 0; side < 2; side++) {
            for (size_t i = 0; i < p->floats; i++) {
                double delta = (side == 0 ? step : -step) * (double)direction[i] / scale;
                moved[i] = (float)((double)p->prefix[i] + delta);
            }
            double log_probs[TINY_ENTRIES];
            log_probs_alone(log_probs, model, p, losses, moved);
            losses_at[side] = tiny_loss(losses, log_probs);
        }
        double measured = (losses_at[0] - losses_at[1]) / (2.0 * step);
        /* float32 losses of about 10 differ by 1e-6 from exact ones: 1e-4 of slope; the rest is the
         * curvature over a step */
        CHECK(fabs(measured - slope) < 2e-3 * length + 2e-4);
    }
    free(moved);
    free(direction);
    forget(&exact);
}

static void
test_finite_differences(const tiny_model *model, const tiny_forest *tiny)
{
    prefixed p;
    open_prefixed(&p, model, tiny);
    finite_differences(model, &p, &tiny->losses);
    finite_differences(model, &p, &tiny->ranking);
    free(p.prefix);
}

/* A resident segment that is filled gives the logits of a forest's prefix. */
static void
test_resident(const tiny_model *model, const tiny_forest *tiny)
{
    enum { TEXT = 12 };
    prefixed p;
    open_prefixed(&p, model, tiny);
    const int32_t vocab = model->spec.vocab_size;
    int32_t symbols[TEXT], parents[2] = {-1, 0}, starts[3] = {0, 0, TEXT};
    int32_t prefix_starts[2] = {0, ROWS}, last = TEXT - 1, root = -1, child = -1;
    tiny_random random = {3};
    for (int32_t i = 0; i < TEXT; i++) {
        symbols[i] = tiny_below(&random, vocab);
    }
    const sp_forest forest = {.num_segments = 2,
                              .parents = parents,
                              .starts = starts,
                              .symbols = symbols,
                              .num_prefixes = 1,
                              .prefix_starts = prefix_starts,
                              .prefix = p.prefix};
    const sp_options options = {.num_threads = 2, .pack_rows = 64};
    float *logits[2];
    sp_context *context = NULL;
    CHECK_OK(sp_context_create(model->model, &context, error));
    for (int i = 0; i < 2; i++) {
        logits[i] = malloc((size_t)vocab * sizeof *logits[i]);
        CHECK(logits[i] != NULL);
    }
    CHECK_OK(sp_logits(context, &forest, 1, &last, &options, logits[0], error));

    CHECK_OK(sp_segment_create(context, -1, ROWS, NULL, &root, error));
    CHECK_FAILS(sp_segment_fill(context, root, 0, p.prefix, error), SP_INVALID);
    CHECK_FAILS(sp_segment_fill(context, root, ROWS + 1, p.prefix, error), SP_INVALID);
    CHECK_FAILS(sp_segment_fill(context, root + 1, ROWS, p.prefix, error), SP_INVALID);
    CHECK_OK(sp_segment_fill(context, root, ROWS, p.prefix, error));
    CHECK_FAILS(sp_segment_fill(context, root, ROWS, p.prefix, error), SP_INVALID); /* has rows */
    sp_key_values stored;
    CHECK_OK(sp_segment_key_values(context, root, &stored, error));
    size_t floats = (size_t)ROWS * (size_t)stored.kv_width;
    for (size_t l = 0; l < (size_t)stored.num_layers; l++) {
        const float *keys = p.prefix + 2 * l * floats;
        CHECK(memcmp(stored.keys + l * stored.layer_stride, keys, floats * sizeof *keys) == 0);
        CHECK(memcmp(stored.values + l * stored.layer_stride, keys + floats, floats * sizeof *keys)
              == 0);
    }
    CHECK_OK(sp_segment_create(context, root, TEXT, NULL, &child, error));
    CHECK_FAILS(sp_segment_fill(context, child, 1, p.prefix, error), SP_INVALID); /* has a parent */
    for (int32_t i = 0; i < TEXT; i++) {
        const int32_t part[2] = {0, 1}, row = 0;
        CHECK_OK(sp_segment_extend(context, 1, &child, part, symbols + i, 0, NULL, 1, &row,
                                   &options, logits[1], error));
    }
    double size = 1.0, difference = 0.0;
    for (int32_t t = 0; t < vocab; t++) {
        size = fmax(size, fabs((double)logits[0][t]));
        difference = fmax(difference, fabs((double)logits[0][t] - (double)logits[1][t]));
    }
    CHECK(difference < 1e-5 * size); /* float32 products of other shapes */
    sp_context_destroy(context);
    free(logits[0]);
    free(logits[1]);
    free(p.prefix);
}

/* `change` spoils a copy of the good call. */
#define REFUSES(change)                                                                            \
    do {                                                                                           \
        prefixed q = p;                                                                            \
        sp_gradient grad = {prompt, prefix};                                                       \
        q.forest.parents = q.parents;                                                              \
        q.forest.starts = q.starts;                                                                \
        q.forest.prefix_starts = q.prefix_starts;                                                  \
        change;                                                                                    \
        CHECK_FAILS(sp_loss(context, &q.forest, &tiny->losses, &options, log_probs, &grad, error), \
                    SP_INVALID);                                                                   \
    } while (0)

static void
test_invalid(const tiny_model *model, const tiny_forest *tiny)
{
    prefixed p;
    open_prefixed(&p, model, tiny);
    const sp_options options = {.num_threads = 1, .pack_rows = 64};
    double log_probs[TINY_ENTRIES];
    sp_context *context = NULL;
    float *prompt = malloc(p.prompt_floats * sizeof *prompt);
    float *prefix = malloc(p.floats * sizeof *prefix);
    CHECK(prompt != NULL && prefix != NULL);
    CHECK_OK(sp_context_create(model->model, &context, error));
    REFUSES(q.forest.num_prefixes = 0);
    REFUSES(q.forest.num_prefixes = PREFIXES - 1);
    REFUSES(q.forest.num_prefixes = PREFIXES + 1);
    REFUSES(q.forest.num_prefixes = -1);
    REFUSES(q.forest.prefix = NULL);
    REFUSES(q.forest.prefix_starts = NULL);
    REFUSES(q.prefix_starts[0] = 1);
    REFUSES(q.prefix_starts[1] = 0);
    REFUSES(q.prefix_starts[2] = INT32_MIN);
    REFUSES(q.prefix_starts[3] = model->spec.max_positions * 2);
    REFUSES(q.starts[1] = -1);
    REFUSES(q.parents[6] = 1); /* a prefix with a parent */
    REFUSES(grad.prefix = NULL);
    REFUSES(grad.prompt = NULL);
    sp_context_destroy(context);
    free(prompt);
    free(prefix);
    free(p.prefix);
}

int
main(void)
{
    static const tiny_case cases[] = {
        {"prefixes: bits of 1 and 3 threads; packs of 1, 8, 64, 512 rows",
         test_threads_and_packing},
        {"gradient of prefixes against finite differences", test_finite_differences},
        {"a prefix in a resident segment", test_resident},
        {"what is refused", test_invalid},
    };
    TINY_RUN(cases, EVERY_PATH);
    return 0;
}
