/* Weights that stay as a file stores them: where a matrix lies in its bytes, what does not fit, and
 * that a model of them computes what it computes with the same numbers in float32. */
#include <math.h>

#include "tiny.h"

enum { ROWS = 12, COLS = 64, LINES = 40 };

/* A block of exactly these bytes at an odd address, so that a sanitizer sees what is read too
 * much. */
typedef struct {
    uint8_t *block, *bytes;
    size_t size;
} odd_bytes;

static odd_bytes
odd_open(size_t size)
{
    odd_bytes odd = {.block = malloc(size + 1), .size = size};
    CHECK(odd.block != NULL);
    odd.bytes = odd.block + 1;
    for (size_t i = 0; i < size; i++) {
        odd.bytes[i] = (uint8_t)(i * 37 % 97 % 60); /* scales of any type are finite */
    }
    return odd;
}

static const struct {
    const char *name;
    size_t numbers, bytes;
} types[] = {
    {"F32", 1, 4},        {"F16", 1, 2},      {"BF16", 1, 2},       {"Q4_0", 32, 18},
    {"Q4_1", 32, 20},     {"Q5_0", 32, 22},   {"Q5_1", 32, 24},     {"Q8_0", 32, 34},
    {"Q2_K", 256, 84},    {"Q3_K", 256, 110}, {"Q4_K", 256, 144},   {"Q5_K", 256, 176},
    {"Q6_K", 256, 210},   {"IQ4_NL", 32, 18}, {"IQ4_XS", 256, 136}, {"IQ3_S", 256, 110},
    {"IQ3_XXS", 256, 98}, {"IQ2_S", 256, 82}, {"IQ2_XS", 256, 74},  {"IQ2_XXS", 256, 66},
    {"IQ1_M", 256, 56},   {"IQ1_S", 256, 50}, {"TQ1_0", 256, 54},   {"TQ2_0", 256, 66},
    {"MXFP4", 32, 17},    {"NVFP4", 64, 36},
};

static void
test_rows_of_every_type(const tiny_model *model, const tiny_forest *forest)
{
    (void)model, (void)forest;
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        size_t cols = types[t].numbers == 256 ? 512 : COLS;
        size_t line = cols / types[t].numbers * types[t].bytes;
        odd_bytes odd = odd_open(LINES * line);
        float *all = malloc(LINES * cols * sizeof *all), *some = malloc(3 * cols * sizeof *some);
        CHECK(all != NULL && some != NULL);
        CHECK_OK(sp_dequantize(types[t].name, odd.bytes, odd.size, all, LINES * cols, 1, error));
        /* three runs of four lines, of every thirteen from the second on: to the last line */
        sp_stored stored = {.type = types[t].name,
                            .bytes = odd.bytes,
                            .num_bytes = odd.size,
                            .rows = ROWS,
                            .cols = (int64_t)cols,
                            .start = 10,
                            .run = 4,
                            .stride = 13};
        const int64_t rows[3] = {11, 3, 4}, lines[3] = {10 + 26 + 3, 10 + 3, 10 + 13};
        CHECK_OK(sp_stored_rows(&stored, 3, rows, some, error));
        for (int r = 0; r < 3; r++) {
            CHECK(
                memcmp(some + (size_t)r * cols, all + (size_t)lines[r] * cols, cols * sizeof *some)
                == 0);
        }
        if (types[t].numbers == 1) { /* LINES columns of COLS numbers each */
            stored.transposed = 1;
            stored.cols = LINES;
            stored.start = 27; /* 27 + 26 + 3 = 56 of 64 */
            float turned[LINES];
            const int64_t row = 11;
            CHECK_OK(sp_stored_rows(&stored, 1, &row, turned, error));
            for (int c = 0; c < LINES; c++) {
                CHECK(turned[c] == all[(size_t)c * cols + 56]);
            }
        }
        free(all);
        free(some);
        free(odd.block);
    }
}

static void
test_what_does_not_fit(const tiny_model *model, const tiny_forest *forest)
{
    (void)model, (void)forest;
    odd_bytes odd = odd_open(LINES * 40); /* Q4_1, 64 columns */
    const sp_stored good = {.type = "Q4_1",
                            .bytes = odd.bytes,
                            .num_bytes = odd.size,
                            .rows = ROWS,
                            .cols = COLS,
                            .start = 10,
                            .run = 4,
                            .stride = 13};
    float row[COLS];
    int64_t first = 0;
    CHECK_OK(sp_stored_rows(&good, 1, &first, row, error));
    sp_stored bad[14];
    sp_status wanted[14];
    int n = 0;
#define BAD(field, value, status) (bad[n] = good, bad[n].field = (value), wanted[n] = (status), n++)
    BAD(type, "Q4_9", SP_UNSUPPORTED);
    BAD(num_bytes, odd.size - 1, SP_INVALID);
    BAD(num_bytes, odd.size - 40, SP_INVALID);
    BAD(num_bytes, 0, SP_INVALID);
    BAD(rows, 0, SP_INVALID);
    BAD(rows, 13, SP_INVALID);
    BAD(rows, INT64_MAX, SP_INVALID);
    BAD(cols, 48, SP_INVALID);
    BAD(cols, INT32_MAX - 31, SP_INVALID);
    BAD(start, 11, SP_INVALID);
    BAD(start, -1, SP_INVALID);
    BAD(run, 0, SP_INVALID);
    BAD(stride, INT32_MAX, SP_INVALID);
    BAD(transposed, 1, SP_UNSUPPORTED);
#undef BAD
    for (int i = 0; i < n; i++) {
        CHECK_FAILS(sp_stored_rows(&bad[i], 1, &first, row, error), wanted[i]);
    }
    const int64_t beyond[] = {-1, ROWS, INT64_MAX};
    for (size_t i = 0; i < sizeof beyond / sizeof beyond[0]; i++) {
        CHECK_FAILS(sp_stored_rows(&good, 1, &beyond[i], row, error), SP_INVALID);
    }
    CHECK_FAILS(sp_model_set_stored(model->model, "final_norm.weight",
                                    &(sp_stored){.type = "Q4_1",
                                                 .bytes = odd.bytes,
                                                 .num_bytes = odd.size,
                                                 .rows = 1,
                                                 .cols = model->spec.hidden_size,
                                                 .run = 1,
                                                 .stride = 1},
                                    error),
                SP_INVALID);
    CHECK_FAILS(sp_model_set_stored(model->model, "embedding.weight", &good, error), SP_INVALID);
    free(odd.block);
}

/* Loss and gradient on one and on several threads, in packs of two sizes. */
static void
compare(const sp_model *plain, const sp_model *stored, const tiny_forest *forest, float *grads[3],
        size_t floats)
{
    const int32_t packs[] = {512, 40};
    for (int p = 0; p < 2; p++) {
        double log_probs[3][TINY_ENTRIES];
        for (int i = 0; i < 3; i++) {
            sp_context *context;
            sp_options options = {.num_threads = i == 2 ? 3 : 1, .pack_rows = packs[p]};
            CHECK_OK(sp_context_create(i == 0 ? plain : stored, &context, error));
            CHECK_OK(sp_loss(context, &forest->forest, &forest->losses, &options, log_probs[i],
                             &(sp_gradient){.prompt = grads[i]}, error));
            sp_context_destroy(context);
        }
        /* Threads change no bit; neither does the form, as far as the BLAS library gives the same
         * bits whatever the alignment of its operands: a little is allowed for that. */
        CHECK(memcmp(log_probs[1], log_probs[2], sizeof log_probs[1]) == 0);
        CHECK(memcmp(grads[1], grads[2], floats * sizeof(float)) == 0);
        double apart = 0.0, size = 0.0;
        for (size_t i = 0; i < floats; i++) {
            double difference = (double)grads[0][i] - grads[1][i];
            apart += difference * difference;
            size += (double)grads[0][i] * grads[0][i];
        }
        CHECK(sqrt(apart) <= 1e-6 * sqrt(size));
        for (int e = 0; e < TINY_ENTRIES; e++) {
            CHECK(fabs(log_probs[0][e] - log_probs[1][e]) <= 1e-5 * fabs(log_probs[0][e]) + 1e-6);
        }
    }
}

static void
test_a_model_of_bfloat16(const tiny_model *model, const tiny_forest *forest)
{
    size_t floats = (size_t)forest->forest.num_virtual * (size_t)model->spec.hidden_size;
    float *grads[3];
    for (int i = 0; i < 3; i++) {
        grads[i] = malloc(floats * sizeof(float));
        CHECK(grads[i] != NULL);
    }
    tiny_stored stored;
    tiny_stored_open(&stored, model);
    compare(stored.plain, stored.stored, forest, grads, floats);
    tiny_stored_close(&stored);
    for (int i = 0; i < 3; i++) {
        free(grads[i]);
    }
}

int
main(void)
{
    static const tiny_case cases[] = {
        {"rows of every type", test_rows_of_every_type},
        {"what does not fit", test_what_does_not_fit},
        {"a model of bfloat16", test_a_model_of_bfloat16},
    };
    TINY_RUN(cases, EVERY_PATH);
    return 0;
}
