/* Resident segments: one row at a time gives what the whole forest gives; equal bits for any
 * number of threads. */
#include <math.h>

#include "tiny.h"

enum { START = 20, STEPS = 24, BRANCHES = 2 };

/* What a resident segment says of its keys and values: its sizes, and numbers in every layer. */
static void
check_key_values(const tiny_model *model, sp_context *context, int32_t segment, int32_t num_rows)
{
    sp_key_values stored;
    CHECK_OK(sp_segment_key_values(context, segment, &stored, error));
    CHECK(stored.num_layers == model->spec.num_layers);
    CHECK(stored.num_rows == num_rows);
    CHECK(stored.kv_width == model->spec.num_kv_heads * model->spec.head_dim);
    size_t floats = (size_t)stored.num_rows * (size_t)stored.kv_width;
    for (size_t l = 0; l < (size_t)stored.num_layers; l++) {
        const float *keys = stored.keys + l * stored.layer_stride;
        const float *values = stored.values + l * stored.layer_stride;
        for (size_t i = 0; i < floats; i++) {
            CHECK(isfinite(keys[i]) && isfinite(values[i]));
        }
    }
}

/* A prompt and a start text in one resident segment, two children that grow greedily. tokens
 * [BRANCHES][STEPS]; logits [BRANCHES][STEPS][V]: those that chose each token. */
static void
generate(const tiny_model *model, const tiny_forest *tiny, int num_threads,
         int32_t tokens[BRANCHES][STEPS], float *logits)
{
    const int32_t vocab = model->spec.vocab_size;
    const sp_options options = {.num_threads = num_threads, .pack_rows = 256};
    sp_context *context = NULL;
    int32_t root = -1, branches[BRANCHES];
    CHECK_OK(sp_context_create(model->model, &context, error));
    CHECK_OK(sp_segment_create(context, -1, START, NULL, &root, error));
    check_key_values(model, context, root, 0);

    float *step_logits = malloc((size_t)vocab * BRANCHES * sizeof *step_logits);
    CHECK(step_logits != NULL);
    const int32_t starts[2] = {0, START}, last = START - 1;
    CHECK_OK(sp_segment_extend(context, 1, &root, starts, tiny->symbols, tiny->forest.num_virtual,
                               tiny->prompt, 1, &last, &options, step_logits, error));
    check_key_values(model, context, root, START);
    memcpy(step_logits + vocab, step_logits, (size_t)vocab * sizeof *step_logits);
    for (int b = 0; b < BRANCHES; b++) {
        CHECK_OK(sp_segment_create(context, root, STEPS, NULL, &branches[b], error));
    }
    sp_error error = {0};
    CHECK(sp_segment_release(context, root, &error) == SP_INVALID); /* has children */
    CHECK(sp_segment_extend(context, 1, &root, starts, tiny->symbols, tiny->forest.num_virtual,
                            tiny->prompt, 0, NULL, &options, NULL, &error)
          == SP_INVALID);
    for (int step = 0; step < STEPS; step++) {
        int32_t symbols[BRANCHES];
        for (int b = 0; b < BRANCHES; b++) {
            const float *now = step_logits + (ptrdiff_t)b * vocab;
            int32_t best = b; /* the first step of a branch takes another token than its sister */
            for (int32_t t = 0; t < vocab && (step > 0 || b == 0); t++) {
                best = now[t] > now[best] ? t : best;
            }
            symbols[b] = tokens[b][step] = best;
            memcpy(logits + ((ptrdiff_t)b * STEPS + step) * vocab, now,
                   (size_t)vocab * sizeof *now);
        }
        const int32_t parts[BRANCHES + 1] = {0, 1, 2}, rows[BRANCHES] = {0, 1};
        CHECK_OK(sp_segment_extend(context, BRANCHES, branches, parts, symbols, 0, NULL, BRANCHES,
                                   rows, &options, step_logits, error));
    }
    CHECK(sp_segment_extend(context, 1, branches, starts, tiny->symbols, 0, NULL, 0, NULL, &options,
                            NULL, &error)
          == SP_INVALID); /* full */
    for (int b = 0; b < BRANCHES; b++) {
        CHECK_OK(sp_segment_release(context, branches[b], error));
    }
    CHECK_OK(sp_segment_release(context, root, error));
    free(step_logits);
    sp_context_destroy(context);
}

/* The same sequence as a forest of three segments; its logits agree up to rounding. */
static void
compare_with_forest(const tiny_model *model, const tiny_forest *tiny,
                    const int32_t tokens[BRANCHES][STEPS], const float *logits)
{
    const int32_t vocab = model->spec.vocab_size;
    int32_t parents[] = {-1, 0, 0}, starts[] = {0, START, START + STEPS, START + 2 * STEPS};
    int32_t symbols[START + BRANCHES * STEPS], rows[BRANCHES * (STEPS - 1)];
    memcpy(symbols, tiny->symbols, START * sizeof *symbols);
    int32_t num_rows = 0;
    for (int b = 0; b < BRANCHES; b++) {
        for (int step = 0; step < STEPS; step++) {
            symbols[START + b * STEPS + step] = tokens[b][step];
            if (step < STEPS - 1) {
                rows[num_rows++] = START + b * STEPS + step;
            }
        }
    }
    sp_forest forest = tiny->forest;
    forest.num_segments = 1 + BRANCHES;
    forest.parents = parents;
    forest.starts = starts;
    forest.symbols = symbols;
    float *whole = malloc((size_t)num_rows * (size_t)vocab * sizeof *whole);
    CHECK(whole != NULL);
    sp_context *context = NULL;
    const sp_options options = {.num_threads = 2, .pack_rows = 256};
    CHECK_OK(sp_context_create(model->model, &context, error));
    CHECK_OK(sp_logits(context, &forest, num_rows, rows, &options, whole, error));
    sp_context_destroy(context);
    for (int32_t r = 0; r < num_rows; r++) {
        int32_t b = r / (STEPS - 1), step = r % (STEPS - 1) + 1;
        const float *expected = whole + (ptrdiff_t)r * vocab;
        const float *got = logits + ((ptrdiff_t)b * STEPS + step) * vocab;
        float largest = 0.0f;
        for (int32_t t = 0; t < vocab; t++) {
            largest = fmaxf(largest, fabsf(expected[t]));
        }
        for (int32_t t = 0; t < vocab; t++) {
            /* float32 sums in another order; near zero the terms of a logit cancel */
            CHECK(fabsf(got[t] - expected[t]) < 1e-5f * largest);
        }
    }
    free(whole);
}

static void
test_steps(const tiny_model *model, const tiny_forest *tiny)
{
    size_t floats = (size_t)BRANCHES * STEPS * (size_t)model->spec.vocab_size;
    float *one = malloc(floats * sizeof *one), *three = malloc(floats * sizeof *three);
    CHECK(one != NULL && three != NULL);
    int32_t tokens[BRANCHES][STEPS], again[BRANCHES][STEPS];
    generate(model, tiny, 1, tokens, one);
    generate(model, tiny, 3, again, three);
    CHECK(memcmp(tokens, again, sizeof tokens) == 0);
    CHECK(memcmp(one, three, floats * sizeof *one) == 0);
    compare_with_forest(model, tiny, (const int32_t (*)[STEPS])tokens, one);
    free(one);
    free(three);
}

/* A segment that becomes another one's copy, from its first differing row on, goes on as that one
 * does, bit for bit; the other one stays as it is. */
static void
test_copies(const tiny_model *model, const tiny_forest *tiny)
{
    enum { EQUAL = 5, REST = 7, OTHER = 3 };
    const sp_options options = {.num_threads = 2, .pack_rows = 256};
    const size_t bytes = (size_t)model->spec.vocab_size * sizeof(float);
    float *expected = malloc(bytes), *got = malloc(bytes);
    CHECK(expected != NULL && got != NULL);
    int32_t root = -1, source = -1, target = -1, empty = -1;
    sp_context *context = NULL;
    CHECK_OK(sp_context_create(model->model, &context, error));
    CHECK_OK(sp_segment_create(context, -1, START, NULL, &root, error));
    const int32_t starts[] = {0, START}, one[] = {0, 1}, zero = 0;
    CHECK_OK(sp_segment_extend(context, 1, &root, starts, tiny->symbols, tiny->forest.num_virtual,
                               tiny->prompt, 0, NULL, &options, NULL, error));
    CHECK_OK(sp_segment_create(context, root, STEPS, NULL, &source, error));
    CHECK_OK(sp_segment_create(context, root, EQUAL + REST + 1, NULL, &target, error));
    CHECK_OK(sp_segment_create(context, root, EQUAL + REST + 1, NULL, &empty, error));
    int32_t symbols[EQUAL + REST];
    for (int32_t i = 0; i < EQUAL + REST; i++) {
        symbols[i] = 3 + 2 * i;
    }
    /* a product's rounding depends on its shape: the equal rows come by equal calls */
    const int32_t equal[] = {0, EQUAL}, rest[] = {0, REST}, other[] = {0, OTHER};
    CHECK_OK(sp_segment_extend(context, 1, &source, equal, symbols, 0, NULL, 0, NULL, &options,
                               NULL, error));
    CHECK_OK(sp_segment_extend(context, 1, &target, equal, symbols, 0, NULL, 0, NULL, &options,
                               NULL, error));
    CHECK_OK(sp_segment_extend(context, 1, &source, rest, symbols + EQUAL, 0, NULL, 0, NULL,
                               &options, NULL, error));
    CHECK_OK(sp_segment_extend(context, 1, &target, other, symbols + EQUAL + 1, 0, NULL, 0, NULL,
                               &options, NULL, error));
    CHECK_OK(sp_segment_copy(context, source, target, EQUAL, error));
    CHECK_OK(sp_segment_copy(context, source, empty, 0, error));
    const int32_t copies[] = {target, empty, source};
    for (int i = 0; i < 3; i++) {
        check_key_values(model, context, copies[i], EQUAL + REST);
        CHECK_OK(sp_segment_extend(context, 1, &copies[i], one, &(int32_t){42}, 0, NULL, 1, &zero,
                                   &options, i == 0 ? expected : got, error));
        CHECK(i == 0 || memcmp(expected, got, bytes) == 0);
    }
    sp_context_destroy(context);
    free(expected);
    free(got);
}

int
main(void)
{
    static const tiny_case cases[] = {
        {"generation: bits of 1 and 3 threads; logits of the whole forest", test_steps},
        {"copies of segments go on as what they are copies of", test_copies},
    };
    TINY_RUN(cases, EVERY_PATH);
    return 0;
}
