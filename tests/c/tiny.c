#include "tiny.h"

#include <math.h>

const char *const tiny_names[TINY_KINDS] = {"llama", "gpt2", "gemma", "bloom"};

/* splitmix64 (Steele, Lea, Flood 2014) */
static uint64_t
next_bits(tiny_random *random)
{
    uint64_t z = random->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

float
tiny_normal(tiny_random *random)
{
    double sum = 0.0;
    for (int i = 0; i < 12; i++) {
        sum += (double)(next_bits(random) >> 11) * 0x1p-53;
    }
    return (float)(sum - 6.0);
}

int32_t
tiny_below(tiny_random *random, int32_t limit)
{
    return (int32_t)(next_bits(random) % (uint64_t)limit);
}

/* ---- models ---- */

#define USUAL                                                                     \
    .num_ropes = 1, .final_norm = 1, .input_scale = 1.0f, .residual_scale = 1.0f, \
    .logit_scale = 1.0f
static const int32_t windows[] = {7, 0, 40}, ropes[] = {1, 0, -1};

static const sp_spec specs[TINY_KINDS] = {
    {.vocab_size = 311,
     .hidden_size = 60,
     .num_layers = 2,
     .num_heads = 6,
     .num_kv_heads = 2,
     .head_dim = 14,
     .intermediate_size = 211,
     .max_positions = 300,
     .rotary_dim = 12,
     .norm = SP_NORM_RMS,
     .positions = SP_POSITIONS_ROTARY,
     .activation = SP_SILU,
     .gated = 1,
     .norm_eps = 1e-5f,
     .attention_scale = 0.267261f,
     .embedding_scale = 1.0f,
     USUAL},
    {.vocab_size = 307,
     .hidden_size = 48,
     .num_layers = 3,
     .num_heads = 4,
     .num_kv_heads = 4,
     .head_dim = 12,
     .intermediate_size = 192,
     .max_positions = 300,
     .norm = SP_NORM_LAYER,
     .positions = SP_POSITIONS_LEARNED,
     .activation = SP_GELU_TANH,
     .norm_eps = 1e-5f,
     .attention_scale = 0.288675f,
     .embedding_scale = 1.0f,
     USUAL},
    {.vocab_size = 293,
     .hidden_size = 56,
     .num_layers = 3,
     .num_heads = 6,
     .num_kv_heads = 3,
     .head_dim = 10,
     .intermediate_size = 170,
     .max_positions = 300,
     .rotary_dim = 10,
     .num_ropes = 2,
     .norm = SP_NORM_RMS,
     .norm_place = SP_NORM_SANDWICH,
     .qk_norm = SP_QK_NORM_HEAD,
     .positions = SP_POSITIONS_ROTARY,
     .activation = SP_GELU_TANH,
     .gated = 1,
     .final_norm = 1,
     .norm_eps = 1e-5f,
     .attention_scale = 0.35f,
     .attention_soft_cap = 3.0f,
     .embedding_scale = 1.7f,
     .input_scale = 0.8f,
     .residual_scale = 0.9f,
     .logit_scale = 0.6f,
     .logit_soft_cap = 5.0f,
     .windows = windows,
     .ropes = ropes},
    {.vocab_size = 301,
     .hidden_size = 52,
     .num_layers = 2,
     .num_heads = 5,
     .num_kv_heads = 1,
     .head_dim = 12,
     .intermediate_size = 190,
     .max_positions = 300,
     .num_ropes = 1,
     .norm = SP_NORM_LAYER,
     .qk_norm = SP_QK_NORM_WHOLE,
     .positions = SP_POSITIONS_ALIBI,
     .activation = SP_GELU_ERF,
     .parallel_residual = 1,
     .embedding_norm = 1,
     .final_norm = 1,
     .norm_eps = 1e-5f,
     .attention_scale = 0.3f,
     .qkv_clip = 4.0f,
     .embedding_scale = 1.0f,
     .input_scale = 1.0f,
     .residual_scale = 1.0f,
     .logit_scale = 1.0f},
};

/* Calls `take` for every slot of a model, in one order. */
typedef sp_status slot_function(void *data, const char *slot, int32_t rows, int32_t cols,
                                float mean, float deviation, sp_error *error);

static sp_status
each_slot(const sp_spec *s, slot_function *take, void *data, sp_error *error)
{
#define TAKE(name, rows, cols, mean, deviation)                                   \
    do {                                                                          \
        sp_status status_ = take(data, name, rows, cols, mean, deviation, error); \
        if (status_ != SP_OK) {                                                   \
            return status_;                                                       \
        }                                                                         \
    } while (0)
#define TAKE_LAYER(part, rows, cols, mean, deviation)      \
    do {                                                   \
        snprintf(name, sizeof name, "layers.%d." part, l); \
        TAKE(name, rows, cols, mean, deviation);           \
    } while (0)
    const int32_t d = s->hidden_size, q = s->num_heads * s->head_dim;
    const int32_t kv = s->num_kv_heads * s->head_dim, f = s->intermediate_size;
    const int biases = s->norm == SP_NORM_LAYER;
    char name[64];
    TAKE("embedding.weight", s->vocab_size, d, 0.0f, 0.5f);
    if (s->positions == SP_POSITIONS_LEARNED) {
        TAKE("position.weight", s->max_positions, d, 0.0f, 0.2f);
        TAKE("head.weight", s->vocab_size, d, 0.0f, 0.5f);
    }
    if (s->positions == SP_POSITIONS_ROTARY) {
        TAKE("rope.inv_freq", s->num_ropes, s->rotary_dim / 2, 0.0f, 0.5f);
    }
    if (s->num_ropes > 1) {
        TAKE("rope.scale", 1, s->num_ropes, 1.0f, 0.1f);
    }
    if (s->positions == SP_POSITIONS_ALIBI) {
        TAKE("alibi.bias", s->num_heads, s->max_positions, 0.0f, 0.5f);
    }
    if (s->embedding_norm) {
        TAKE("embedding_norm.weight", 1, d, 1.0f, 0.1f);
        TAKE("embedding_norm.bias", 1, d, 0.0f, 0.1f);
    }
    TAKE("final_norm.weight", 1, d, 1.0f, 0.1f);
    for (int32_t l = 0; l < s->num_layers; l++) {
        TAKE_LAYER("attn_norm.weight", 1, d, 1.0f, 0.1f);
        TAKE_LAYER("mlp_norm.weight", 1, d, 1.0f, 0.1f);
        if (s->norm_place == SP_NORM_SANDWICH) {
            TAKE_LAYER("attn_out_norm.weight", 1, d, 1.0f, 0.1f);
            TAKE_LAYER("mlp_out_norm.weight", 1, d, 1.0f, 0.1f);
        }
        if (s->qk_norm != SP_QK_NORM_NONE) {
            const int one_head = s->qk_norm == SP_QK_NORM_HEAD;
            TAKE_LAYER("q_norm.weight", 1, one_head ? s->head_dim : q, 1.0f, 0.1f);
            TAKE_LAYER("k_norm.weight", 1, one_head ? s->head_dim : kv, 1.0f, 0.1f);
        }
        TAKE_LAYER("q.weight", q, d, 0.0f, 0.2f);
        TAKE_LAYER("k.weight", kv, d, 0.0f, 0.2f);
        TAKE_LAYER("v.weight", kv, d, 0.0f, 0.2f);
        TAKE_LAYER("o.weight", d, q, 0.0f, 0.1f);
        TAKE_LAYER("up.weight", f, d, 0.0f, 0.2f);
        TAKE_LAYER("down.weight", d, f, 0.0f, 0.1f);
        if (s->gated) {
            TAKE_LAYER("gate.weight", f, d, 0.0f, 0.2f);
        }
        if (biases) {
            TAKE_LAYER("attn_norm.bias", 1, d, 0.0f, 0.1f);
            TAKE_LAYER("mlp_norm.bias", 1, d, 0.0f, 0.1f);
            TAKE_LAYER("q.bias", 1, q, 0.0f, 0.1f);
            TAKE_LAYER("k.bias", 1, kv, 0.0f, 0.1f);
            TAKE_LAYER("v.bias", 1, kv, 0.0f, 0.1f);
            TAKE_LAYER("o.bias", 1, d, 0.0f, 0.1f);
            TAKE_LAYER("up.bias", 1, f, 0.0f, 0.1f);
            TAKE_LAYER("down.bias", 1, d, 0.0f, 0.1f);
        }
    }
    if (biases) {
        TAKE("final_norm.bias", 1, d, 0.0f, 0.1f);
        TAKE("head.bias", 1, s->vocab_size, 0.0f, 0.1f);
    }
#undef TAKE
#undef TAKE_LAYER
    return SP_OK;
}

typedef struct {
    tiny_model *tiny;
    size_t used;
    tiny_random random;
} filling;

static sp_status
count_slot(void *data, const char *slot, int32_t rows, int32_t cols, float mean, float deviation,
           sp_error *error)
{
    (void)slot, (void)mean, (void)deviation, (void)error;
    *(size_t *)data += (size_t)rows * (size_t)cols;
    return SP_OK;
}

static sp_status
fill_slot(void *data, const char *slot, int32_t rows, int32_t cols, float mean, float deviation,
          sp_error *error)
{
    (void)slot, (void)error;
    filling *fill = data;
    for (int32_t i = 0; i < rows * cols; i++) {
        fill->tiny->weights[fill->used++] = mean + deviation * tiny_normal(&fill->random);
    }
    return SP_OK;
}

static sp_status
bind_slot(void *data, const char *slot, int32_t rows, int32_t cols, float mean, float deviation,
          sp_error *error)
{
    (void)mean, (void)deviation;
    filling *fill = data;
    const float *weights = fill->tiny->weights + fill->used;
    fill->used += (size_t)rows * (size_t)cols;
    return sp_model_set_weight(fill->tiny->model, slot, weights, rows, cols, error);
}

void
tiny_weights(tiny_model *tiny, tiny_kind kind)
{
    *tiny = (tiny_model){.spec = specs[kind]};
    CHECK_OK(each_slot(&tiny->spec, count_slot, &tiny->num_weights, error));
    tiny->weights = malloc(tiny->num_weights * sizeof *tiny->weights);
    CHECK(tiny->weights != NULL);
    filling fill = {.tiny = tiny, .random = {kind + 1}};
    CHECK_OK(each_slot(&tiny->spec, fill_slot, &fill, error));
}

sp_status
tiny_bind(tiny_model *tiny, sp_error *error)
{
    filling fill = {.tiny = tiny};
    sp_status status = sp_model_create(&tiny->spec, &tiny->model, error);
    if (status == SP_OK) {
        status = each_slot(&tiny->spec, bind_slot, &fill, error);
    }
    if (status == SP_OK) {
        status = sp_model_check(tiny->model, error);
    }
    if (status != SP_OK) {
        sp_model_destroy(tiny->model);
        tiny->model = NULL;
    }
    return status;
}

void
tiny_open(tiny_model *tiny, tiny_kind kind)
{
    tiny_weights(tiny, kind);
    CHECK_OK(tiny_bind(tiny, error));
}

void
tiny_close(tiny_model *tiny)
{
    sp_model_destroy(tiny->model);
    free(tiny->weights);
}

typedef struct {
    tiny_stored *both;
    size_t used;
} storing;

static sp_status
store_slot(void *data, const char *slot, int32_t rows, int32_t cols, float mean, float deviation,
           sp_error *error)
{
    (void)mean, (void)deviation;
    storing *store = data;
    tiny_stored *both = store->both;
    size_t count = (size_t)rows * (size_t)cols;
    float *weights = both->weights + store->used;
    uint8_t *bytes = both->bytes + 1 + 2 * store->used;
    store->used += count;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &weights[i], sizeof bits);
        bits &= 0xffff0000u;
        memcpy(&weights[i], &bits, sizeof bits);
        bytes[2 * i] = (uint8_t)(bits >> 16);
        bytes[2 * i + 1] = (uint8_t)(bits >> 24);
    }
    sp_status status = sp_model_set_weight(both->plain, slot, weights, rows, cols, error);
    const sp_stored stored = {.type = "BF16",
                              .bytes = bytes,
                              .num_bytes = 2 * count,
                              .rows = rows,
                              .cols = cols,
                              .run = rows,
                              .stride = rows};
    if (status == SP_OK && sp_model_set_stored(both->stored, slot, &stored, error) != SP_OK) {
        status = sp_model_set_weight(both->stored, slot, weights, rows, cols, error); /* a vector */
    }
    return status;
}

void
tiny_stored_open(tiny_stored *stored, const tiny_model *model)
{
    *stored = (tiny_stored){.weights = malloc(model->num_weights * sizeof(float)),
                            .bytes = malloc(model->num_weights * 2 + 1)};
    CHECK(stored->weights != NULL && stored->bytes != NULL);
    memcpy(stored->weights, model->weights, model->num_weights * sizeof(float));
    CHECK_OK(sp_model_create(&model->spec, &stored->plain, error));
    CHECK_OK(sp_model_create(&model->spec, &stored->stored, error));
    storing store = {.both = stored};
    CHECK_OK(each_slot(&model->spec, store_slot, &store, error));
    CHECK_OK(sp_model_check(stored->plain, error));
    CHECK_OK(sp_model_check(stored->stored, error));
}

void
tiny_stored_close(tiny_stored *stored)
{
    sp_model_destroy(stored->plain);
    sp_model_destroy(stored->stored);
    free(stored->weights);
    free(stored->bytes);
}

/* ---- forests ---- */

void
tiny_forest_open(tiny_forest *tiny, const sp_spec *spec)
{
    static const struct {
        int32_t parent, prompt, tokens; /* prompt: rows of this one stand first; -1: none */
    } plan[TINY_SEGMENTS] = {{-1, 0, 1}, {0, -1, 3},  {1, -1, 9},  {1, -1, 4}, {0, -1, 150},
                             {-1, 1, 0}, {5, -1, 17}, {5, -1, 60}, {-1, -1, 8}};
    tiny_random random = {77};
    memset(tiny, 0, sizeof *tiny);
    int32_t row = 0;
    for (int32_t s = 0; s < TINY_SEGMENTS; s++) {
        tiny->parents[s] = plan[s].parent;
        for (int32_t i = 0; plan[s].prompt >= 0 && i < TINY_VIRTUAL; i++) {
            tiny->symbols[row++] = -1 - (plan[s].prompt * TINY_VIRTUAL + i);
        }
        for (int32_t i = 0; i < plan[s].tokens; i++) {
            tiny->symbols[row++] = tiny_below(&random, spec->vocab_size);
        }
        tiny->starts[s + 1] = row;
    }
    CHECK(row <= TINY_MAX_ROWS);

    const int32_t num_virtual = TINY_PROMPTS * TINY_VIRTUAL;
    const size_t floats = (size_t)num_virtual * (size_t)spec->hidden_size;
    tiny->prompt = malloc(floats * sizeof *tiny->prompt);
    CHECK(tiny->prompt != NULL);
    for (size_t i = 0; i < floats; i++) {
        tiny->prompt[i] = 0.5f * tiny_normal(&random);
    }
    tiny->forest = (sp_forest){.num_segments = TINY_SEGMENTS,
                               .num_virtual = num_virtual,
                               .parents = tiny->parents,
                               .starts = tiny->starts,
                               .symbols = tiny->symbols,
                               .prompt = tiny->prompt};

    /* (segment, rows before its end); two entries on one row, and one row inside the prompt */
    static const int32_t places[TINY_ENTRIES][2] = {{0, 3}, {1, 0},  {2, 5},   {2, 0}, {2, 0},
                                                    {3, 1}, {3, 0},  {4, 100}, {4, 2}, {4, 0},
                                                    {6, 0}, {7, 30}, {7, 0},   {8, 0}};
    static const int32_t choice_of[TINY_ENTRIES] = {0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 3, 4, 4, 3};
    for (int32_t i = 0; i < 3; i++) {
        tiny->cut_tokens[i] = 5 + 40 * i;
    }
    for (int32_t e = 0; e < TINY_ENTRIES; e++) {
        tiny->rows[e] = tiny->starts[places[e][0] + 1] - 1 - places[e][1];
        tiny->cut[e] = places[e][0] == 3;
        tiny->targets[e] = tiny_below(&random, tiny->cut[e] ? 3 : spec->vocab_size);
        tiny->weights[e] = 0.25f + (float)tiny_below(&random, 4) * 0.25f;
        tiny->choices[e] = choice_of[e];
    }
    tiny->losses = (sp_losses){.num_entries = TINY_ENTRIES,
                               .rows = tiny->rows,
                               .targets = tiny->targets,
                               .weights = tiny->weights,
                               .cut = tiny->cut,
                               .num_cut_tokens = 3,
                               .cut_tokens = tiny->cut_tokens};
    /* group 0 lies under the first prompt, group 1 in two trees */
    const int32_t groups[TINY_CHOICES] = {0, 0, 0, 1, 1};
    memcpy(tiny->choice_groups, groups, sizeof groups);
    tiny->group_targets[0] = 1;
    tiny->group_targets[1] = 4;
    tiny->group_weights[0] = 0.75f;
    tiny->group_weights[1] = 0.25f;
    tiny->ranking = tiny->losses;
    tiny->ranking.choices = tiny->choices;
    tiny->ranking.num_choices = TINY_CHOICES;
    tiny->ranking.choice_groups = tiny->choice_groups;
    tiny->ranking.num_groups = TINY_GROUPS;
    tiny->ranking.group_targets = tiny->group_targets;
    tiny->ranking.group_weights = tiny->group_weights;
}

void
tiny_forest_close(tiny_forest *tiny)
{
    free(tiny->prompt);
}

double
tiny_loss(const sp_losses *losses, const double *log_probs)
{
    double loss = 0.0, scores[TINY_CHOICES] = {0.0};
    for (int32_t e = 0; e < losses->num_entries; e++) {
        if (losses->choices == NULL) {
            loss -= (double)losses->weights[e] * log_probs[e];
        }
        else {
            scores[losses->choices[e]] += (double)losses->weights[e] * log_probs[e];
        }
    }
    for (int32_t g = 0; losses->choices != NULL && g < losses->num_groups; g++) {
        double target = scores[losses->group_targets[g]], sum = 0.0;
        for (int32_t c = 0; c < losses->num_choices; c++) {
            if (losses->choice_groups[c] == g) {
                sum += exp(scores[c] - target);
            }
        }
        loss += (double)losses->group_weights[g] * log(sum);
    }
    return loss;
}

/* ---- programs ---- */

static void
run_path(const tiny_case *cases, size_t num_cases)
{
    for (int kind = 0; kind < TINY_KINDS; kind++) {
        tiny_model model;
        tiny_forest tiny;
        tiny_open(&model, (tiny_kind)kind);
        tiny_forest_open(&tiny, &model.spec);
        for (size_t c = 0; c < num_cases; c++) {
            size_t live = sp_memory_now().live_bytes;
            cases[c].run(&model, &tiny);
            CHECK(sp_memory_now().live_bytes == live);
            printf("        %-7s %-5s %s\n", sp_cpu_name(), tiny_names[kind], cases[c].name);
            fflush(stdout); /* before a fork, or a crash */
        }
        tiny_forest_close(&tiny);
        tiny_close(&model);
    }
    CHECK(sp_memory_now().live_bytes == 0);
}

void
tiny_run(const tiny_case *cases, size_t num_cases, tiny_paths which)
{
    static const char *const paths[] = {"generic", "avx2", "avx512"};
    CHECK_OK(sp_initialize(NULL, error));
    printf("        kernels by default: %s\n", sp_cpu_name());
    fflush(stdout);
    if (which == BEST_PATH) {
        run_path(cases, num_cases);
        return;
    }
    for (size_t p = 0; p < sizeof paths / sizeof paths[0]; p++) {
        if (sp_cpu_supported(paths[p]) != 1) {
            printf("        %s: not run, this CPU has none\n", paths[p]);
            continue;
        }
        CHECK_OK(sp_initialize(paths[p], error));
        CHECK(strcmp(sp_cpu_name(), paths[p]) == 0);
        run_path(cases, num_cases);
    }
}
