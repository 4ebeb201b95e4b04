/* Specs of any numbers, weights under any name and of any shape; and where a model comes of it, all
 * that can be asked of it, with weights that may be infinite or no numbers. */
#include "fuzz.h"

enum { MOST_FLOATS = 1 << 14, MOST_SLOTS = 64 };

typedef struct {
    sp_model *model;
    float *weights[MOST_SLOTS];
    int num_weights;
    fuzz_input *input;
} building;

static void
give(building *b, const char *name, int64_t rows, int64_t cols)
{
    sp_error error = {0};
    if (rows < 1 || cols < 1 || rows * cols > MOST_FLOATS || b->num_weights == MOST_SLOTS) {
        return;
    }
    float *weight = fuzz_floats(b->input, (size_t)(rows * cols));
    b->weights[b->num_weights++] = weight;
    fuzz_ok(sp_model_set_weight(b->model, name, weight, rows, cols, &error), &error);
}

/* Every slot of the header, in the shape that the spec asks for. */
static void
give_all(building *b, const sp_spec *s)
{
    const int64_t d = s->hidden_size, v = s->vocab_size, f = s->intermediate_size;
    const int64_t q = (int64_t)s->num_heads * s->head_dim;
    const int64_t kv = (int64_t)s->num_kv_heads * s->head_dim;
    const int one_head = s->qk_norm == SP_QK_NORM_HEAD;
    const struct {
        const char *name;
        int64_t rows, cols;
    } whole[] = {{"embedding.weight", v, d},
                 {"position.weight", s->max_positions, d},
                 {"rope.inv_freq", s->num_ropes, s->rotary_dim / 2},
                 {"rope.scale", 1, s->num_ropes},
                 {"alibi.bias", s->num_heads, s->max_positions},
                 {"embedding_norm.weight", 1, d},
                 {"final_norm.weight", 1, d},
                 {"final_norm.bias", 1, d},
                 {"head.bias", 1, v}},
      layer[] = {{"attn_norm.weight", 1, d},
                 {"attn_norm.bias", 1, d},
                 {"mlp_norm.weight", 1, d},
                 {"attn_out_norm.weight", 1, d},
                 {"mlp_out_norm.weight", 1, d},
                 {"q_norm.weight", 1, one_head ? s->head_dim : q},
                 {"k_norm.weight", 1, one_head ? s->head_dim : kv},
                 {"q.weight", q, d},
                 {"q.bias", 1, q},
                 {"k.weight", kv, d},
                 {"v.weight", kv, d},
                 {"o.weight", d, q},
                 {"gate.weight", f, d},
                 {"up.weight", f, d},
                 {"down.weight", d, f},
                 {"down.bias", 1, d}};
    for (size_t i = 0; i < sizeof whole / sizeof whole[0]; i++) {
        give(b, whole[i].name, whole[i].rows, whole[i].cols);
    }
    for (int32_t l = 0; l < s->num_layers && l < 3; l++) {
        for (size_t i = 0; i < sizeof layer / sizeof layer[0]; i++) {
            char name[64];
            snprintf(name, sizeof name, "layers.%d.%s", l, layer[i].name);
            give(b, name, layer[i].rows, layer[i].cols);
        }
    }
}

static void
ask(const sp_model *model, const sp_spec *spec, fuzz_input *input)
{
    enum { ROWS = 7, ENTRIES = 3 };
    const int32_t parents[] = {-1, 0, 0}, starts[] = {0, 2, 5, ROWS};
    const int32_t v = spec->vocab_size, d = spec->hidden_size;
    int32_t symbols[ROWS] = {-1, -2, 0, v - 1, 0, v / 2, 0};
    float *prompt = fuzz_floats(input, (size_t)d * 2), *grad = malloc((size_t)d * 2 * sizeof *grad);
    float *logits = malloc((size_t)v * 2 * sizeof *logits);
    CHECK(grad != NULL && logits != NULL);
    const sp_forest forest = {.num_segments = 3,
                              .num_virtual = 2,
                              .parents = parents,
                              .starts = starts,
                              .symbols = symbols,
                              .prompt = prompt};
    const int32_t rows[ENTRIES] = {1, 4, 6}, targets[ENTRIES] = {0, v - 1, 0};
    const float weights[ENTRIES] = {1.0f, 0.5f, fuzz_float(input)};
    const sp_losses losses = {
        .num_entries = ENTRIES, .rows = rows, .targets = targets, .weights = weights};
    const sp_options options = {.num_threads = 1, .pack_rows = 1 + fuzz_byte(input) % 9};
    double log_probs[ENTRIES];
    sp_context *context = NULL;
    sp_error error = {0};
    if (fuzz_ok(sp_context_create(model, &context, &error), &error)) {
        fuzz_ok(sp_loss(context, &forest, &losses, &options, log_probs,
                        &(sp_gradient){.prompt = grad}, &error),
                &error);
        fuzz_ok(sp_logits(context, &forest, 2, rows, &options, logits, &error), &error);
        int32_t segment = -1;
        const int32_t parts[] = {0, 2}, last = 1;
        if (fuzz_ok(sp_segment_create(context, -1, 2, NULL, &segment, &error), &error)) {
            fuzz_ok(sp_segment_extend(context, 1, &segment, parts, symbols, 2, prompt, 1, &last,
                                      &options, logits, &error),
                    &error);
        }
    }
    sp_context_destroy(context);
    free(prompt);
    free(grad);
    free(logits);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input input = {data, size};
    fuzz_begin();
    const size_t before = sp_memory_now().live_bytes;
    sp_error error = {0};
    sp_spec spec = {
        .vocab_size = fuzz_int(&input, 12),
        .hidden_size = fuzz_int(&input, 16),
        .num_layers = fuzz_int(&input, 4),
        .num_heads = fuzz_int(&input, 5),
        .num_kv_heads = fuzz_int(&input, 4),
        .head_dim = fuzz_int(&input, 9),
        .intermediate_size = fuzz_int(&input, 12),
        .max_positions = fuzz_int(&input, 40),
        .rotary_dim = fuzz_int(&input, 9),
        .num_ropes = fuzz_int(&input, 4),
        .norm = (sp_norm)fuzz_int(&input, 2),
        .norm_place = (sp_norm_place)fuzz_int(&input, 4),
        .qk_norm = (sp_qk_norm)fuzz_int(&input, 4),
        .positions = (sp_positions)fuzz_int(&input, 4),
        .activation = (sp_activation)fuzz_int(&input, 6),
        .gated = fuzz_byte(&input) & 1,
        .rope_interleaved = fuzz_byte(&input) & 1,
        .parallel_residual = fuzz_byte(&input) & 1,
        .embedding_norm = fuzz_byte(&input) & 1,
        .final_norm = fuzz_byte(&input) & 1,
        .norm_eps = fuzz_float(&input),
        .attention_scale = fuzz_float(&input),
        .attention_soft_cap = fuzz_float(&input),
        .qkv_clip = fuzz_float(&input),
        .embedding_scale = fuzz_float(&input),
        .input_scale = fuzz_float(&input),
        .residual_scale = fuzz_float(&input),
        .logit_scale = fuzz_float(&input),
        .logit_soft_cap = fuzz_float(&input),
    };
    const int32_t layers = spec.num_layers > 0 && spec.num_layers <= 4096 ? spec.num_layers : 0;
    int32_t *windows = fuzz_byte(&input) & 1 ? fuzz_ints(&input, layers, 6) : NULL;
    int32_t *ropes = fuzz_byte(&input) & 1 ? fuzz_ints(&input, layers, 3) : NULL;
    spec.windows = windows;
    spec.ropes = ropes;
    building b = {.input = &input};
    if (fuzz_ok(sp_model_create(&spec, &b.model, &error), &error)) {
        char name[24] = {0};
        for (size_t i = 0; i < sizeof name - 1; i++) {
            name[i] = (char)fuzz_byte(&input);
        }
        give(&b, name, fuzz_int(&input, 16), fuzz_int(&input, 16));
        CHECK(sp_model_num_frequencies(b.model) >= 0);
        give_all(&b, &spec);
        if (fuzz_ok(sp_model_check(b.model, &error), &error)) {
            ask(b.model, &spec, &input);
        }
    }
    sp_model_destroy(b.model);
    for (int i = 0; i < b.num_weights; i++) {
        free(b.weights[i]);
    }
    free(windows);
    free(ropes);
    CHECK(sp_memory_now().live_bytes == before);
    return 0;
}
