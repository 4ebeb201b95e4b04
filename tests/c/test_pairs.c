/* Models with an encoder: any number of threads and any cut into packs, resident segments beside
 * one pass, stopping, and every allocation failing once. */
#include "tiny.h"

#include <math.h>

enum {
    VIRTUAL = 5,
    ENCODER = 3,  /* segments */
    SEGMENTS = 8, /* with the decoder's: trees of 3, 1 and 1 segments */
    ENTRIES = 9,
    MAX_ROWS = 200,
    SLOTS = 200,
};

typedef struct {
    sp_spec spec;
    sp_model *model;
    float *weights;
    size_t used, room;
    sp_forest forest;
    sp_losses losses, ranking;
    int32_t starts[SEGMENTS + 1], symbols[MAX_ROWS], rows[ENTRIES], targets[ENTRIES];
    float entry_weights[ENTRIES], *prompt;
    double log_probs[ENTRIES];
    float *grad, *logits;
} pair;

#define SIZES                                                                         \
    .vocab_size = 211, .hidden_size = 52, .num_layers = 3, .num_encoder_layers = 2,   \
    .num_heads = 6, .num_kv_heads = 3, .head_dim = 9, .intermediate_size = 150,       \
    .max_positions = 120, .num_ropes = 1, .norm_eps = 1e-5f, .embedding_scale = 1.3f, \
    .input_scale = 1.0f, .residual_scale = 1.0f, .logit_scale = 0.7f, .attention_scale = 0.3f

static const sp_spec specs[] = {
    {SIZES, .norm = SP_NORM_RMS, .positions = SP_POSITIONS_RELATIVE, .relative_reach = 7,
     .activation = SP_GELU_TANH, .gated = 1, .final_norm = 1},
    {SIZES, .norm = SP_NORM_LAYER, .norm_place = SP_NORM_POST, .positions = SP_POSITIONS_LEARNED,
     .activation = SP_RELU, .embedding_norm = 1, .encoder_vocab_size = 190},
};

static const int32_t parents[SEGMENTS] = {-1, -1, -1, -1, 3, 3, -1, -1};
static const int32_t memories[SEGMENTS] = {SP_ENCODER, SP_ENCODER, SP_ENCODER, 0, 0, 0, 1, 2};
static const int32_t lengths[SEGMENTS] = {40, 17, 9, 6, 11, 3, 20, 1};
static const int32_t choices[ENTRIES] = {0, 1, 1, 0, 2, 3, 3, 3, 3};
static const int32_t choice_groups[] = {0, 0, 1, 1}, group_targets[] = {1, 2};
static const float group_weights[] = {0.4f, 0.6f};

static sp_status
give(pair *p, const char *prefix, const char *slot, int32_t rows, int32_t cols, float mean,
     sp_error *error)
{
    char name[80];
    snprintf(name, sizeof name, "%s%s", prefix, slot);
    size_t count = (size_t)rows * (size_t)cols;
    CHECK(p->used + count <= p->room);
    const float *weights = p->weights + p->used;
    p->used += count;
    tiny_random random = {p->used};
    for (size_t i = 0; i < count; i++) {
        p->weights[p->used - count + i] = mean
                                          + (mean > 0.0f ? 0.1f
                                             : rows == 1 ? 0.2f
                                                         : 0.25f)
                                                * tiny_normal(&random);
    }
    return sp_model_set_weight(p->model, name, weights, rows, cols, error);
}

static sp_status
give_norm(pair *p, const char *prefix, const char *norm, sp_error *error)
{
    char name[64];
    snprintf(name, sizeof name, "%s.weight", norm);
    sp_status status = give(p, prefix, name, 1, p->spec.hidden_size, 1.0f, error);
    if (status == SP_OK && p->spec.norm == SP_NORM_LAYER) {
        snprintf(name, sizeof name, "%s.bias", norm);
        status = give(p, prefix, name, 1, p->spec.hidden_size, 0.0f, error);
    }
    return status;
}

static sp_status
give_half(pair *p, const char *prefix, int32_t layer, const char *half, sp_error *error)
{
    char name[64];
    snprintf(name, sizeof name, "layers.%d.%s_%snorm", layer, half,
             p->spec.norm_place == SP_NORM_POST ? "out_" : "");
    return give_norm(p, prefix, name, error);
}

static sp_status
give_linear(pair *p, const char *prefix, int32_t layer, const char *linear, int32_t out, int32_t in,
            sp_error *error)
{
    char name[64];
    snprintf(name, sizeof name, "layers.%d.%s.weight", layer, linear);
    return give(p, prefix, name, out, in, 0.0f, error);
}

#define TRY(call)                \
    do {                         \
        sp_status try_ = (call); \
        if (try_ != SP_OK) {     \
            return try_;         \
        }                        \
    } while (0)

static sp_status
give_stack(pair *p, const char *prefix, int32_t layers, int reads, sp_error *error)
{
    const sp_spec *s = &p->spec;
    int32_t d = s->hidden_size, q = s->num_heads * s->head_dim, f = s->intermediate_size;
    int32_t kv = s->num_kv_heads * s->head_dim;
    if (s->positions == SP_POSITIONS_RELATIVE) {
        TRY(give(p, prefix, "relative.bias", s->num_heads, 2 * s->relative_reach + 1, 0.0f, error));
    }
    else {
        TRY(give(p, prefix, "position.weight", s->max_positions, d, 0.0f, error));
    }
    if (s->embedding_norm) {
        TRY(give_norm(p, prefix, "embedding_norm", error));
    }
    if (s->final_norm) {
        TRY(give_norm(p, prefix, "final_norm", error));
    }
    for (int32_t l = 0; l < layers; l++) {
        TRY(give_half(p, prefix, l, "attn", error));
        TRY(give_half(p, prefix, l, "mlp", error));
        TRY(give_linear(p, prefix, l, "q", q, d, error));
        TRY(give_linear(p, prefix, l, "k", kv, d, error));
        TRY(give_linear(p, prefix, l, "v", kv, d, error));
        TRY(give_linear(p, prefix, l, "o", d, q, error));
        TRY(give_linear(p, prefix, l, "up", f, d, error));
        TRY(give_linear(p, prefix, l, "down", d, f, error));
        if (s->gated) {
            TRY(give_linear(p, prefix, l, "gate", f, d, error));
        }
        if (reads) {
            TRY(give_half(p, prefix, l, "cross", error));
            TRY(give_linear(p, prefix, l, "cross_q", q, d, error));
            TRY(give_linear(p, prefix, l, "cross_k", kv, d, error));
            TRY(give_linear(p, prefix, l, "cross_v", kv, d, error));
            TRY(give_linear(p, prefix, l, "cross_o", d, q, error));
        }
    }
    return SP_OK;
}

static sp_status
bind(pair *p, sp_error *error)
{
    p->used = 0;
    sp_status status = sp_model_create(&p->spec, &p->model, error);
    if (status == SP_OK) {
        status =
            give(p, "", "embedding.weight", p->spec.vocab_size, p->spec.hidden_size, 0.0f, error);
    }
    if (status == SP_OK && p->spec.encoder_vocab_size > 0) {
        status = give(p, "encoder.", "embedding.weight", p->spec.encoder_vocab_size,
                      p->spec.hidden_size, 0.0f, error);
    }
    if (status == SP_OK) {
        status = give_stack(p, "", p->spec.num_layers, 1, error);
    }
    if (status == SP_OK) {
        status = give_stack(p, "encoder.", p->spec.num_encoder_layers, 0, error);
    }
    if (status == SP_OK) {
        status = sp_model_check(p->model, error);
    }
    if (status != SP_OK) {
        sp_model_destroy(p->model);
        p->model = NULL;
    }
    return status;
}

static void
open_pair(pair *p, const sp_spec *spec)
{
    *p = (pair){.spec = *spec, .room = 1 << 20};
    p->weights = malloc(p->room * sizeof *p->weights);
    tiny_random random = {77};
    for (int s = 0; s < SEGMENTS; s++) {
        p->starts[s + 1] = p->starts[s] + lengths[s];
        for (int32_t r = p->starts[s]; r < p->starts[s + 1]; r++) {
            int virtual = s != 1 && s < ENCODER && r - p->starts[s] < VIRTUAL;
            p->symbols[r] = virtual ? -1 - (r - p->starts[s]) : tiny_below(&random, 190);
        }
    }
    static const int32_t segments[ENTRIES] = {3, 3, 4, 5, 6, 6, 6, 7, 7};
    for (int e = 0; e < ENTRIES; e++) {
        int32_t length = lengths[segments[e]], first = p->starts[segments[e]];
        p->rows[e] = first + (e % 3 == 0 ? 0 : length - 1);
        p->rows[e] = e > 0 && p->rows[e] < p->rows[e - 1] ? p->rows[e - 1] : p->rows[e];
        p->targets[e] = tiny_below(&random, spec->vocab_size);
        p->entry_weights[e] = 0.05f + 0.01f * (float)e;
    }
    size_t width = (size_t)spec->hidden_size;
    p->prompt = malloc(VIRTUAL * width * sizeof *p->prompt);
    p->grad = calloc(VIRTUAL * width, sizeof *p->grad);
    p->logits = calloc(4 * (size_t)spec->vocab_size, sizeof *p->logits);
    CHECK(p->weights != NULL && p->prompt != NULL && p->grad != NULL && p->logits != NULL);
    for (size_t i = 0; i < VIRTUAL * width; i++) {
        p->prompt[i] = 0.3f * tiny_normal(&random);
    }
    p->forest = (sp_forest){.num_segments = SEGMENTS,
                            .num_virtual = VIRTUAL,
                            .parents = parents,
                            .starts = p->starts,
                            .symbols = p->symbols,
                            .prompt = p->prompt,
                            .memories = memories};
    p->losses = (sp_losses){.num_entries = ENTRIES,
                            .rows = p->rows,
                            .targets = p->targets,
                            .weights = p->entry_weights};
    p->ranking = p->losses;
    p->ranking.choices = choices;
    p->ranking.num_choices = 4;
    p->ranking.choice_groups = choice_groups;
    p->ranking.num_groups = 2;
    p->ranking.group_targets = group_targets;
    p->ranking.group_weights = group_weights;
    CHECK_OK(bind(p, error));
}

static void
close_pair(pair *p)
{
    sp_model_destroy(p->model);
    free(p->weights);
    free(p->prompt);
    free(p->grad);
    free(p->logits);
}

static sp_context *
open_context(const pair *p)
{
    sp_context *context = NULL;
    CHECK_OK(sp_context_create(p->model, &context, error));
    return context;
}

static void
test_threads_and_packs(pair *p)
{
    size_t floats = VIRTUAL * (size_t)p->spec.hidden_size;
    float *first = malloc(floats * sizeof *first);
    CHECK(first != NULL);
    for (int kind = 0; kind < 2; kind++) {
        const sp_losses *losses = kind ? &p->ranking : &p->losses;
        double size = 0.0;
        for (int32_t pack_rows = 512; pack_rows > 0; pack_rows = pack_rows == 512 ? 12 : 0) {
            for (int threads = 1; threads <= 3; threads += 2) {
                const sp_options options = {.num_threads = threads, .pack_rows = pack_rows};
                sp_context *context = open_context(p);
                size_t bytes = 0;
                CHECK_OK(
                    sp_loss_workspace(context, &p->forest, losses, 1, &options, &bytes, error));
                CHECK_OK(sp_loss(context, &p->forest, losses, &options, p->log_probs,
                                 &(sp_gradient){.prompt = p->grad}, error));
                /* and a few bytes for the list of packs that are entered */
                CHECK(sp_context_bytes(context) >= bytes
                      && sp_context_bytes(context) <= bytes + 4096);
                sp_context_destroy(context);
                if (pack_rows == 512 && threads == 1) {
                    memcpy(first, p->grad, floats * sizeof *first);
                    for (size_t i = 0; i < floats; i++) {
                        size += fabs((double)first[i]);
                    }
                    CHECK(size > 1e-3);
                }
                double off = 0.0;
                for (size_t i = 0; i < floats; i++) {
                    off += fabs((double)p->grad[i] - (double)first[i]);
                }
                /* equal bits where the packs are equal */
                CHECK(off <= (pack_rows == 512 ? 0.0 : 1e-4 * size));
            }
        }
    }
    free(first);
}

/* Moving the prompt along the gradient changes the loss by its square. */
static void
test_gradient_is_the_slope(pair *p)
{
    const sp_options options = {.num_threads = 2, .pack_rows = 64};
    sp_context *context = open_context(p);
    size_t floats = VIRTUAL * (size_t)p->spec.hidden_size;
    double losses[2], square = 0.0, step = 2e-3;
    float *start = malloc(floats * sizeof *start);
    CHECK(start != NULL);
    memcpy(start, p->prompt, floats * sizeof *start);
    CHECK_OK(sp_loss(context, &p->forest, &p->losses, &options, p->log_probs,
                     &(sp_gradient){.prompt = p->grad}, error));
    for (size_t i = 0; i < floats; i++) {
        square += (double)p->grad[i] * (double)p->grad[i];
    }
    step /= sqrt(square);
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < floats; i++) {
            p->prompt[i] = start[i] + (float)((side ? step : -step) * (double)p->grad[i]);
        }
        CHECK_OK(sp_loss(context, &p->forest, &p->losses, &options, p->log_probs, NULL, error));
        losses[side] = tiny_loss(&p->losses, p->log_probs);
    }
    memcpy(p->prompt, start, floats * sizeof *start);
    double slope = (losses[1] - losses[0]) / (2.0 * step);
    CHECK(fabs(slope - square) < 2e-2 * square);
    free(start);
    sp_context_destroy(context);
}

/* Two texts that read one encoder segment, grown row by row, beside one pass over all rows. */
static sp_status
grow(pair *p, sp_context *context, sp_error *error)
{
    const sp_options options = {.num_threads = 2, .pack_rows = 64};
    const int32_t whole[] = {0, lengths[0]}, ones[] = {0, 1, 2}, both[] = {0, 1};
    int32_t memory = -1, texts[2] = {-1, -1};
    sp_status status = sp_memory_create(context, lengths[0], &memory, error);
    if (status == SP_OK) {
        status = sp_segment_extend(context, 1, &memory, whole, p->symbols, VIRTUAL, p->prompt, 0,
                                   NULL, &options, NULL, error);
    }
    for (int t = 0; t < 2 && status == SP_OK; t++) {
        status = sp_segment_create(context, memory, lengths[3], NULL, &texts[t], error);
    }
    for (int32_t r = 0; r < lengths[3] && status == SP_OK; r++) {
        int32_t symbol = p->symbols[p->starts[3] + r], symbols[] = {symbol, (symbol + r) % 190};
        status = sp_segment_extend(context, 2, texts, ones, symbols, 0, NULL, 2, both, &options,
                                   p->logits, error);
    }
    for (int t = 0; t < 2; t++) {
        if (texts[t] >= 0) {
            CHECK_OK(sp_segment_release(context, texts[t], error));
        }
    }
    if (memory >= 0) {
        CHECK_OK(sp_segment_release(context, memory, error));
    }
    return status;
}

static void
test_resident_segments(pair *p)
{
    const sp_options options = {.num_threads = 1, .pack_rows = 64};
    sp_context *context = open_context(p);
    CHECK_OK(grow(p, context, error));
    size_t vocab = (size_t)p->spec.vocab_size;
    float *expected = malloc(vocab * sizeof *expected);
    CHECK(expected != NULL);
    int32_t last = p->starts[4] - 1;
    CHECK_OK(sp_logits(context, &p->forest, 1, &last, &options, expected, error));
    for (size_t i = 0; i < vocab; i++) {
        CHECK(fabsf(p->logits[i] - expected[i]) < 1e-3f);
    }
    free(expected);
    sp_context_destroy(context);
}

static int
stop_at(void *data)
{
    int *left = data;
    return (*left)-- == 0;
}

static void
test_stopping(pair *p)
{
    sp_context *context = open_context(p);
    int steps = 0;
    for (int stopped = 1; stopped; steps++) {
        int left = steps;
        const sp_options options = {
            .num_threads = 2, .pack_rows = 30, .poll = stop_at, .poll_data = &left};
        sp_error error = {0};
        sp_status status = sp_loss(context, &p->forest, &p->losses, &options, p->log_probs,
                                   &(sp_gradient){.prompt = p->grad}, &error);
        CHECK(status == SP_OK || status == SP_CANCELLED);
        stopped = status == SP_CANCELLED;
    }
    CHECK(steps > 10);
    CHECK_OK(grow(p, context, error));
    sp_context_destroy(context);
}

static sp_status
everything(pair *p, sp_error *error)
{
    const sp_options options = {.num_threads = 2, .pack_rows = 30};
    sp_context *context = NULL;
    sp_model *model = p->model;
    p->model = NULL;
    sp_status status = bind(p, error);
    if (status == SP_OK) {
        status = sp_context_create(p->model, &context, error);
    }
    if (status == SP_OK) {
        status = sp_loss(context, &p->forest, &p->ranking, &options, p->log_probs,
                         &(sp_gradient){.prompt = p->grad}, error);
    }
    if (status == SP_OK) {
        status = sp_logits(context, &p->forest, 2, p->rows + 1, &options, p->logits, error);
    }
    if (status == SP_OK) {
        status = grow(p, context, error);
    }
    sp_context_destroy(context);
    sp_model_destroy(p->model);
    p->model = model;
    return status;
}

static void
test_failing_allocations(pair *p)
{
    const size_t live = sp_memory_now().live_bytes;
    uint64_t n = 1;
    for (;; n++) {
        sp_error error = {0};
        uint64_t before = sp_memory_now().requests;
        sp_memory_fail_at(n, 0);
        sp_status status = everything(p, &error);
        sp_memory_fail_at(0, 0);
        CHECK(sp_memory_now().live_bytes == live);
        if (sp_memory_now().requests - before < n) {
            CHECK(status == SP_OK);
            break;
        }
        CHECK(status == SP_NO_MEMORY && error.status == SP_NO_MEMORY && error.message[0]);
    }
    CHECK(n > 100);
}

int
main(void)
{
    static const struct {
        const char *name;
        void (*run)(pair *);
    } cases[] = {
        {"threads and packs", test_threads_and_packs},     {"gradient", test_gradient_is_the_slope},
        {"resident segments", test_resident_segments},     {"stopping", test_stopping},
        {"failing allocations", test_failing_allocations},
    };
    static const char *const paths[] = {"generic", "avx2", "avx512"};
    for (size_t path = 0; path < sizeof paths / sizeof paths[0]; path++) {
        if (sp_cpu_supported(paths[path]) != 1) {
            printf("NOT RUN on %s: this CPU has none\n", paths[path]);
            continue;
        }
        CHECK_OK(sp_initialize(paths[path], error));
        for (size_t m = 0; m < sizeof specs / sizeof specs[0]; m++) {
            for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
                const size_t live = sp_memory_now().live_bytes;
                pair p;
                open_pair(&p, &specs[m]);
                cases[c].run(&p);
                close_pair(&p);
                CHECK(sp_memory_now().live_bytes == live);
            }
        }
        printf("%zu cases on %s\n", sizeof cases / sizeof cases[0], paths[path]);
    }
    return 0;
}
