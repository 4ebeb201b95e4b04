/* Values out of their range: SP_INVALID with a message, nothing read or written out of bounds, and
 * the objects go on working. */
#include "tiny.h"

#include <math.h>

static const sp_options plain = {.num_threads = 2, .pack_rows = 64};

static void
test_spec(const tiny_model *model, const tiny_forest *tiny)
{
    (void)tiny;
    sp_model *made = NULL;
#define REFUSES(field, value)                                          \
    do {                                                               \
        sp_spec spec = model->spec;                                    \
        spec.field = (value);                                          \
        CHECK_FAILS(sp_model_create(&spec, &made, error), SP_INVALID); \
        CHECK(made == NULL);                                           \
    } while (0)
    REFUSES(vocab_size, 0);
    REFUSES(vocab_size, INT32_MAX);
    REFUSES(hidden_size, -1);
    REFUSES(hidden_size, INT32_MAX);
    REFUSES(num_layers, 0);
    REFUSES(num_layers, INT32_MAX);
    REFUSES(num_heads, 0);
    REFUSES(num_heads, INT32_MAX);
    REFUSES(num_kv_heads, 0);
    REFUSES(num_kv_heads, model->spec.num_heads - 1); /* no divisor */
    REFUSES(head_dim, INT32_MIN);
    REFUSES(head_dim, 1 << 20); /* times num_heads */
    REFUSES(intermediate_size, 0);
    REFUSES(max_positions, INT32_MAX);
    REFUSES(norm_eps, -1.0f);
    REFUSES(norm_eps, NAN);
    REFUSES(attention_scale, INFINITY);
    REFUSES(embedding_scale, NAN);
    REFUSES(attention_soft_cap, -1.0f);
    REFUSES(qkv_clip, INFINITY);
    REFUSES(input_scale, NAN);
    REFUSES(residual_scale, INFINITY);
    REFUSES(logit_scale, NAN);
    REFUSES(logit_soft_cap, -1.0f);
    REFUSES(norm, SP_NORM_LAYER + 1);
    REFUSES(norm_place, SP_NORM_POST + 1);
    REFUSES(qk_norm, SP_QK_NORM_WHOLE + 1);
    REFUSES(positions, SP_POSITIONS_ALIBI + 1);
    REFUSES(activation, SP_RELU_SQUARED + 1);
    REFUSES(activation, -1);
    const int32_t low[] = {0, 0, -2}, high[] = {0, 0, model->spec.num_ropes};
    REFUSES(windows, low + (3 - model->spec.num_layers));
    REFUSES(ropes, low + (3 - model->spec.num_layers));
    REFUSES(ropes, high + (3 - model->spec.num_layers));
    if (model->spec.positions == SP_POSITIONS_ROTARY) {
        REFUSES(rotary_dim, 0);
        REFUSES(rotary_dim, 3);
        REFUSES(rotary_dim, model->spec.head_dim + 2);
        REFUSES(num_ropes, 0);
        REFUSES(num_ropes, INT32_MAX);
    }
#undef REFUSES
    sp_spec wide = model->spec; /* each of its sizes may be, their product may not */
    wide.positions = SP_POSITIONS_ROTARY;
    wide.num_heads = wide.num_kv_heads = 1;
    wide.head_dim = wide.rotary_dim = 1 << 20;
    wide.num_ropes = 1 << 12;
    CHECK_FAILS(sp_model_create(&wide, &made, error), SP_INVALID);
}

static void
test_weights(const tiny_model *model, const tiny_forest *tiny)
{
    (void)tiny;
    sp_model *made = NULL;
    const int32_t v = model->spec.vocab_size, d = model->spec.hidden_size;
    const float *w = model->weights;
    CHECK_OK(sp_model_create(&model->spec, &made, error));
    CHECK_FAILS(sp_model_check(made, error), SP_INVALID); /* nothing is there */
    CHECK_OK(sp_model_set_weight(made, "embedding.weight", w, v, d, error));
    CHECK_FAILS(sp_model_check(made, error), SP_INVALID);
    CHECK_FAILS(sp_model_set_weight(made, "embedding.weight", w, d, v, error), SP_INVALID);
    CHECK_FAILS(sp_model_set_weight(made, "head.bias", w, 1, INT64_MAX, error), SP_INVALID);
    static const char *const unknown[] = {"",
                                          "layers.",
                                          "layers..q.weight",
                                          "layers.-1.q.weight",
                                          "layers.0",
                                          "layers.0.",
                                          "layers.0.q",
                                          "layers.0.q.weights",
                                          "layers.0.r.weight",
                                          "layers.0.q.q.weight",
                                          "layers.4096.q.weight",
                                          "layers.99999999999999999999.q.weight",
                                          "embedding.bias"};
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        CHECK_FAILS(sp_model_set_weight(made, unknown[i], w, d, d, error), SP_INVALID);
    }
    sp_model_destroy(made);
    sp_model_destroy(NULL);
}

/* `change` spoils a copy of the good call. */
#define REFUSES(change)                                                                       \
    do {                                                                                      \
        sp_forest forest = tiny->forest;                                                      \
        sp_losses losses = tiny->ranking;                                                     \
        sp_options options = plain;                                                           \
        int32_t parents[TINY_SEGMENTS], starts[TINY_SEGMENTS + 1], symbols[TINY_MAX_ROWS];    \
        int32_t rows[TINY_ENTRIES], targets[TINY_ENTRIES], choices[TINY_ENTRIES];             \
        int32_t cut_tokens[3], choice_groups[TINY_CHOICES], group_targets[TINY_GROUPS];       \
        uint8_t cut[TINY_ENTRIES];                                                            \
        COPY(forest, parents), COPY(forest, starts), COPY(forest, symbols);                   \
        COPY(losses, rows), COPY(losses, targets), COPY(losses, choices),                     \
            COPY(losses, cut_tokens);                                                         \
        COPY(losses, choice_groups), COPY(losses, group_targets), COPY(losses, cut);          \
        change;                                                                               \
        CHECK_FAILS(sp_loss(context, &forest, &losses, &options, log_probs, grad, error),     \
                    SP_INVALID);                                                              \
        CHECK_FAILS(sp_loss(context, &forest, &losses, &options, log_probs, NULL, error),     \
                    SP_INVALID);                                                              \
        CHECK_FAILS(sp_loss_workspace(context, &forest, &losses, 1, &options, &bytes, error), \
                    SP_INVALID);                                                              \
    } while (0)
#define COPY(owner, name) (memcpy(name, tiny->name, sizeof name), owner.name = name)

static void
test_loss(const tiny_model *model, const tiny_forest *tiny)
{
    sp_context *context = NULL;
    double log_probs[TINY_ENTRIES], first[TINY_ENTRIES];
    size_t bytes = 0;
    const int32_t vocab = model->spec.vocab_size, total = tiny->starts[TINY_SEGMENTS];
    float *grad_floats = malloc((size_t)tiny->forest.num_virtual * (size_t)model->spec.hidden_size
                                * sizeof *grad_floats);
    CHECK(grad_floats != NULL);
    const sp_gradient gradient = {.prompt = grad_floats}, *grad = &gradient;
    CHECK_OK(sp_context_create(model->model, &context, error));
    CHECK_OK(sp_loss(context, &tiny->forest, &tiny->ranking, &plain, first, grad, error));

    REFUSES(options.num_threads = 0);
    REFUSES(options.num_threads = 1 << 20);
    REFUSES(options.pack_rows = 0);
    REFUSES(options.pack_rows = INT32_MIN);

    REFUSES(forest.num_segments = 0);
    REFUSES(forest.num_segments = -1);
    REFUSES(forest.num_virtual = -1);
    REFUSES(forest.num_virtual -= 1); /* the last one is used */
    REFUSES(forest.prompt = NULL);
    REFUSES(starts[0] = 1);
    REFUSES(starts[3] = starts[2]);
    REFUSES(starts[3] = -5);
    REFUSES(parents[0] = 0);
    REFUSES(parents[2] = 2);
    REFUSES(parents[2] = 7);
    REFUSES(parents[2] = -2);
    REFUSES(parents[8] = 3); /* not depth first: 5 stands between */
    REFUSES(symbols[20] = vocab);
    REFUSES(symbols[20] = INT32_MAX);
    REFUSES(symbols[20] = -1 - tiny->forest.num_virtual);
    REFUSES(symbols[20] = INT32_MIN);

    /* out of range where there is one set, not its parent's where there are two */
    const int32_t sets[TINY_SEGMENTS] = {0, 0, 0, 0, 1};
    for (int32_t num = 1; num <= 2; num++) {
        REFUSES((forest.num_frequencies = num, forest.frequencies = tiny->prompt,
                 forest.frequency_of = sets));
    }

    REFUSES(losses.num_entries = -1);
    REFUSES(rows[0] = -1);
    REFUSES(rows[TINY_ENTRIES - 1] = total);
    REFUSES(rows[1] = rows[2] + 1);
    REFUSES(targets[0] = -1);
    REFUSES(targets[0] = vocab);
    REFUSES(targets[5] = 3);   /* a cut row: an index into three tokens */
    REFUSES(cut[3] = !cut[4]); /* one row, two ways */
    REFUSES(cut_tokens[1] = vocab);
    REFUSES(cut_tokens[1] = -1);
    REFUSES(losses.num_cut_tokens = 0);
    REFUSES(choices[0] = TINY_CHOICES);
    REFUSES(choices[0] = -1);
    REFUSES(choice_groups[0] = 1);
    REFUSES(choice_groups[TINY_CHOICES - 1] = TINY_GROUPS);
    REFUSES(choice_groups[0] = -1);
    REFUSES(group_targets[0] = TINY_CHOICES - 1); /* of the other group */
    REFUSES(group_targets[0] = -1);

    CHECK_OK(sp_loss(context, &tiny->forest, &tiny->ranking, &plain, log_probs, grad, error));
    CHECK(memcmp(log_probs, first, sizeof first) == 0);
    sp_context_destroy(context);
    sp_context_destroy(NULL);
    free(grad_floats);
}

/* A path may fill the context, and not go one row beyond it. */
static void
test_context_length(const tiny_model *model, const tiny_forest *tiny)
{
    enum { MOST = 301 };
    const int32_t limit = model->spec.max_positions, parents[] = {-1, 0};
    int32_t starts[] = {0, 200, limit}, symbols[MOST] = {0}, row = limit - 1;
    CHECK(limit < MOST);
    sp_forest forest = {
        .num_segments = 2, .parents = parents, .starts = starts, .symbols = symbols};
    sp_context *context = NULL;
    float *logits = malloc((size_t)model->spec.vocab_size * sizeof *logits);
    CHECK(logits != NULL);
    (void)tiny;
    CHECK_OK(sp_context_create(model->model, &context, error));
    CHECK_OK(sp_logits(context, &forest, 1, &row, &plain, logits, error));
    starts[2] = limit + 1;
    CHECK_FAILS(sp_logits(context, &forest, 1, &row, &plain, logits, error), SP_INVALID);
    const int32_t twice[] = {3, 3};
    starts[2] = limit;
    CHECK_FAILS(sp_logits(context, &forest, 2, twice, &plain, logits, error), SP_INVALID);
    CHECK_FAILS(sp_logits(context, &forest, -1, twice, &plain, logits, error), SP_INVALID);
    sp_context_destroy(context);
    free(logits);
}

static void
test_segments(const tiny_model *model, const tiny_forest *tiny)
{
    enum { ROOM = 4 };
    const int32_t vocab = model->spec.vocab_size, limit = model->spec.max_positions;
    const int32_t symbols[] = {1, 2, 3, 4, 5}, last = ROOM - 1;
    int32_t root = -1, child = -1, other = -1, empty = -1;
    sp_context *context = NULL;
    float *logits = malloc((size_t)vocab * sizeof *logits);
    CHECK(logits != NULL);
    (void)tiny;
    CHECK_OK(sp_context_create(model->model, &context, error));
#define EXTEND(parts, ids, starts, symbols, rows_asked, row)                                  \
    sp_segment_extend(context, parts, ids, starts, symbols, 0, NULL, rows_asked, row, &plain, \
                      logits, error)
    const int32_t one[] = {0, 1}, four[] = {0, ROOM}, five[] = {0, ROOM + 1}, none[] = {0, 0};
    const int32_t two[] = {0, 2}, late[] = {1, 2}, wild[] = {INT32_MAX, INT32_MIN};
    CHECK_FAILS(EXTEND(1, &root, one, symbols, 0, NULL), SP_INVALID); /* before any is made */
    sp_key_values key_values;
    CHECK_FAILS(sp_segment_release(context, 0, error), SP_INVALID);
    CHECK_FAILS(sp_segment_key_values(context, 0, &key_values, error), SP_INVALID);
    CHECK_FAILS(sp_segment_key_values(context, INT32_MIN, &key_values, error), SP_INVALID);
    CHECK_FAILS(sp_segment_create(context, 0, ROOM, NULL, &root, error), SP_INVALID);
    CHECK_FAILS(sp_segment_create(context, -2, ROOM, NULL, &root, error), SP_INVALID);
    CHECK_FAILS(sp_segment_create(context, -1, 0, NULL, &root, error), SP_INVALID);
    CHECK_FAILS(sp_segment_create(context, -1, limit + 1, NULL, &root, error), SP_INVALID);

    if (sp_model_num_frequencies(model->model) == 0) {
        const float some[1] = {1.0f};
        CHECK_FAILS(sp_segment_create(context, -1, ROOM, some, &root, error), SP_INVALID);
    }

    CHECK_OK(sp_segment_create(context, -1, ROOM, NULL, &root, error));
    CHECK_FAILS(EXTEND(0, &root, one, symbols, 0, NULL), SP_INVALID);
    CHECK_FAILS(EXTEND(-1, &root, one, symbols, 0, NULL), SP_INVALID);
    CHECK_FAILS(EXTEND(1, &root, none, symbols, 0, NULL), SP_INVALID);
    CHECK_FAILS(EXTEND(1, &root, late, symbols, 0, NULL), SP_INVALID);
    CHECK_FAILS(EXTEND(1, &root, wild, symbols, 0, NULL), SP_INVALID);
    CHECK_FAILS(EXTEND(1, &root, five, symbols, 0, NULL), SP_INVALID); /* no room */
    CHECK_FAILS(EXTEND(1, &root, one, &vocab, 0, NULL), SP_INVALID);
    CHECK_FAILS(EXTEND(1, &root, one, &(int32_t){-1}, 0, NULL), SP_INVALID);
    CHECK_FAILS(EXTEND(1, &root, one, symbols, 1, &last), SP_INVALID); /* a row beyond */
    CHECK_FAILS(EXTEND(1, &root, one, symbols, 1, &(int32_t){-1}), SP_INVALID);
    CHECK_FAILS(EXTEND(1, &root, one, symbols, -1, &last), SP_INVALID);

    const float few[1] = {1.0f}; /* not looked at: a child has its parent's */
    CHECK_FAILS(sp_segment_create(context, root, ROOM, few, &child, error), SP_INVALID);

    /* a segment's place follows from its parent's rows: without any there is none */
    CHECK_OK(sp_segment_create(context, root, ROOM, NULL, &child, error));
    CHECK_FAILS(EXTEND(1, &child, one, symbols, 0, NULL), SP_INVALID);
    const int32_t two_parts[] = {0, 1, 2};
    CHECK_FAILS(EXTEND(2, ((int32_t[]){child, root}), two_parts, symbols, 0, NULL), SP_INVALID);
    CHECK_FAILS(EXTEND(2, ((int32_t[]){root, root}), two_parts, symbols, 0, NULL), SP_INVALID);
    CHECK_FAILS(EXTEND(2, ((int32_t[]){root, 99}), two_parts, symbols, 0, NULL), SP_INVALID);
    CHECK_OK(EXTEND(2, ((int32_t[]){root, child}), two_parts, symbols, 0, NULL));
    CHECK_FAILS(EXTEND(1, &root, one, symbols, 0, NULL), SP_INVALID); /* has a child */
    CHECK_FAILS(sp_segment_release(context, root, error), SP_INVALID);
    CHECK_OK(sp_segment_release(context, child, error));
    CHECK_FAILS(sp_segment_release(context, child, error), SP_INVALID);
    CHECK_FAILS(sp_segment_key_values(context, child, &key_values, error), SP_INVALID);
    CHECK_FAILS(sp_segment_create(context, child, ROOM, NULL, &other, error), SP_INVALID);
    CHECK_OK(EXTEND(1, &root, one, symbols, 0, NULL)); /* may grow again */

    /* copies: of siblings, with room, without children, of rows that are there */
    CHECK_OK(sp_segment_create(context, root, ROOM, NULL, &child, error));
    CHECK_OK(sp_segment_create(context, root, 1, NULL, &other, error));
    CHECK_OK(EXTEND(1, &child, two, symbols, 0, NULL));
    CHECK_FAILS(sp_segment_copy(context, child, other, 0, error), SP_INVALID); /* no room */
    CHECK_FAILS(sp_segment_copy(context, child, child, 0, error), SP_INVALID);
    CHECK_FAILS(sp_segment_copy(context, root, child, 0, error), SP_INVALID);
    CHECK_FAILS(sp_segment_copy(context, child, root, 0, error), SP_INVALID);
    CHECK_FAILS(sp_segment_copy(context, 99, child, 0, error), SP_INVALID);
    CHECK_FAILS(sp_segment_copy(context, child, INT32_MIN, 0, error), SP_INVALID);
    CHECK_FAILS(sp_segment_copy(context, other, child, -1, error), SP_INVALID);
    CHECK_FAILS(sp_segment_copy(context, other, child, 1, error), SP_INVALID);
    CHECK_OK(EXTEND(1, &other, one, symbols, 0, NULL));
    CHECK_FAILS(sp_segment_copy(context, other, child, 2, error), SP_INVALID);
    CHECK_OK(sp_segment_create(context, child, 1, NULL, &empty, error));
    CHECK_FAILS(sp_segment_copy(context, other, child, 1, error), SP_INVALID); /* has a child */
    CHECK_OK(sp_segment_release(context, empty, error));
    CHECK_OK(sp_segment_copy(context, other, child, 1, error));
    CHECK_OK(sp_segment_key_values(context, child, &key_values, error));
    CHECK(key_values.num_rows == 1);
    const int32_t num_frequencies = sp_model_num_frequencies(model->model);
    if (num_frequencies > 0) { /* two trees with frequencies of their own */
        float *turned = calloc((size_t)num_frequencies, sizeof *turned);
        int32_t first = -1, second = -1, third = -1;
        CHECK(turned != NULL);
        CHECK_OK(sp_segment_create(context, -1, ROOM, turned, &first, error));
        turned[num_frequencies - 1] = 0.5f;
        CHECK_OK(sp_segment_create(context, -1, ROOM, turned, &second, error));
        CHECK_OK(sp_segment_create(context, -1, ROOM, turned, &third, error));
        CHECK_FAILS(sp_segment_copy(context, first, second, 0, error), SP_INVALID);
        CHECK_FAILS(sp_segment_copy(context, first, root, 0, error), SP_INVALID);
        CHECK_OK(sp_segment_copy(context, second, third, 0, error));
        free(turned);
    }
    CHECK_OK(sp_segment_release(context, child, error));
    CHECK_OK(sp_segment_release(context, other, error));

    /* longer than the model's context */
    int32_t *long_text = calloc((size_t)limit, sizeof *long_text);
    CHECK(long_text != NULL);
    CHECK_OK(sp_segment_create(context, root, limit, NULL, &empty, error));
    const int32_t whole[] = {0, limit};
    CHECK_FAILS(EXTEND(1, &empty, whole, long_text, 0, NULL), SP_INVALID);
    CHECK_OK(EXTEND(1, &empty, four, long_text, 1, &last)); /* and it is as before */
    free(long_text);
#undef EXTEND
    sp_context_destroy(context); /* with its segments */
    free(logits);
}

static void
test_names(const tiny_model *model, const tiny_forest *tiny)
{
    (void)model, (void)tiny;
    uint8_t bytes[18] = {0};
    float numbers[32];
    const char *path = sp_cpu_name();
    CHECK(sp_cpu_supported("sse9") == -1);
    CHECK_FAILS(sp_initialize("sse9", error), SP_INVALID);
    CHECK(strcmp(sp_cpu_name(), path) == 0);
    CHECK_OK(sp_dequantize("Q4_0", bytes, sizeof bytes, numbers, 32, 1, error));
    CHECK_FAILS(sp_dequantize("Q9_9", bytes, sizeof bytes, numbers, 32, 1, error), SP_UNSUPPORTED);
    CHECK_FAILS(sp_dequantize("Q4_0", bytes, sizeof bytes, numbers, 31, 1, error), SP_INVALID);
    CHECK_FAILS(sp_dequantize("Q4_0", bytes, 17, numbers, 32, 1, error), SP_INVALID);
    CHECK_FAILS(sp_dequantize("F16", bytes, sizeof bytes, numbers, SIZE_MAX, 1, error), SP_INVALID);
    CHECK_FAILS(sp_dequantize("Q4_0", bytes, 0, numbers, SIZE_MAX / 32 * 32, 1, error), SP_INVALID);
}

int
main(void)
{
    static const tiny_case cases[] = {
        {"specs out of range", test_spec},
        {"weights of other names and shapes", test_weights},
        {"forests, losses and options out of range", test_loss},
        {"paths as long as the context and longer", test_context_length},
        {"resident segments used wrongly", test_segments},
        {"unknown names, wrong sizes of stored weights", test_names},
    };
    TINY_RUN(cases, EVERY_PATH);
    return 0;
}
