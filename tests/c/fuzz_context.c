/* A context that is asked whatever comes: losses, gradients and logits of any forests and losses;
 * resident segments that are made, extended, copied and released in any order. Arrays are as long
 * as the header says; what stands in them may be anything. */
#include "fuzz.h"

enum { MOST = 8, MOST_ROWS = 512 };

static void
free_all(void **things, int count)
{
    for (int i = 0; i < count; i++) {
        free(things[i]);
    }
}

/* starts [count + 1], mostly rising by a few; returns the rows that go with them. */
static int32_t *
take_starts(fuzz_input *input, int32_t count, int32_t *rows)
{
    const int any = fuzz_byte(input) % 8 == 7;
    int32_t *starts = fuzz_ints(input, count + 1, 24);
    for (int32_t i = 0; i <= count && !any; i++) {
        starts[i] = i == 0 ? 0 : starts[i - 1] + 1 + (starts[i] & 7);
    }
    *rows = starts[count] < 0 ? 0 : starts[count];
    return starts;
}

static int32_t *
take_symbols(fuzz_input *input, int32_t rows, int32_t vocab_size, int32_t num_virtual)
{
    int32_t *symbols = fuzz_ints(input, rows, vocab_size);
    for (int32_t r = 0; r < rows; r++) {
        if (fuzz_byte(input) % 4 == 3) {
            symbols[r] = -1 - fuzz_byte(input) % (num_virtual + 1);
        }
    }
    return symbols;
}

/* Mostly rising numbers below `limit`. */
static int32_t *
take_rows(fuzz_input *input, int32_t count, int32_t limit)
{
    const int any = fuzz_byte(input) % 8 == 7;
    int32_t *rows = fuzz_ints(input, count, limit > 0 ? limit : 1);
    for (int32_t i = 0; i < count && !any; i++) {
        const int32_t last = i == 0 ? -1 : rows[i - 1];
        rows[i] = last + 1 + (rows[i] & 3);
    }
    return rows;
}

static void
ask_forest(const tiny_model *model, sp_context *context, fuzz_input *input)
{
    const int32_t v = model->spec.vocab_size, d = model->spec.hidden_size;
    const int32_t n = fuzz_byte(input) % MOST, num_virtual = fuzz_byte(input) % 4;
    const int32_t entries = fuzz_byte(input) % MOST, cut_tokens = fuzz_byte(input) % 4;
    const int32_t choices = fuzz_byte(input) % MOST, groups = fuzz_byte(input) % 4;
    const int32_t sets = fuzz_byte(input) % 3;
    int32_t rows = 0;
    int32_t *starts = take_starts(input, n, &rows);
    if (rows > MOST_ROWS) {
        free(starts);
        return;
    }
    int32_t *parents = fuzz_ints(input, n, n > 0 ? n : 1);
    for (int32_t s = 0; s < n && fuzz_byte(input) % 8 != 7; s++) {
        parents[s] = parents[s] >= 0 && s > 0 && parents[s] % 3 < 2 ? s - 1 - parents[s] % s : -1;
    }
    int32_t *symbols = take_symbols(input, rows, v, num_virtual);
    float *prompt =
        fuzz_byte(input) % 8 == 7 ? NULL : fuzz_floats(input, (size_t)num_virtual * (size_t)d);
    const size_t numbers = (size_t)sp_model_num_frequencies(model->model);
    float *frequencies = fuzz_floats(input, (size_t)sets * (numbers > 0 ? numbers : 1));
    int32_t *frequency_of = fuzz_ints(input, n, sets > 0 ? sets : 1);
    const sp_forest forest = {.num_segments = n,
                              .num_virtual = num_virtual,
                              .parents = parents,
                              .starts = starts,
                              .symbols = symbols,
                              .prompt = prompt,
                              .num_frequencies = sets,
                              .frequencies = frequencies,
                              .frequency_of = frequency_of};

    int32_t *loss_rows = take_rows(input, entries, rows);
    int32_t *targets = fuzz_ints(input, entries, cut_tokens > 0 ? cut_tokens : v);
    float *weights = fuzz_floats(input, (size_t)entries);
    uint8_t *cut = entries > 0 && fuzz_byte(input) & 1 ? malloc((size_t)entries) : NULL;
    for (int32_t e = 0; cut != NULL && e < entries; e++) {
        cut[e] = fuzz_byte(input) & 1;
    }
    int32_t *tokens = fuzz_ints(input, cut_tokens, v);
    int32_t *choice_of = fuzz_byte(input) & 1 ? fuzz_ints(input, entries, choices + 1) : NULL;
    int32_t *choice_groups = take_rows(input, choices, groups);
    for (int32_t c = 0; c < choices && groups > 0 && fuzz_byte(input) % 8 != 7; c++) {
        choice_groups[c] = c * groups / choices;
    }
    int32_t *group_targets = fuzz_ints(input, groups, choices > 0 ? choices : 1);
    float *group_weights = fuzz_floats(input, (size_t)groups);
    const sp_losses losses = {.num_entries = fuzz_byte(input) % 16 == 15 ? -1 : entries,
                              .rows = loss_rows,
                              .targets = targets,
                              .weights = weights,
                              .cut = cut,
                              .num_cut_tokens = cut_tokens,
                              .cut_tokens = tokens,
                              .choices = choice_of,
                              .num_choices = choices,
                              .choice_groups = choice_groups,
                              .num_groups = groups,
                              .group_targets = group_targets,
                              .group_weights = group_weights};

    const sp_options options = {.num_threads = 1, .pack_rows = fuzz_int(input, 64)};
    double *log_probs = malloc((size_t)(entries + 1) * sizeof *log_probs);
    float *grad = malloc(((size_t)num_virtual * (size_t)d + 1) * sizeof *grad);
    float *logits = malloc(((size_t)entries * (size_t)v + 1) * sizeof *logits);
    CHECK(log_probs != NULL && grad != NULL && logits != NULL);
    const int want_grad = fuzz_byte(input) & 1;
    sp_error error = {0};
    size_t bytes = 0;
    const sp_status planned =
        sp_loss_workspace(context, &forest, &losses, want_grad, &options, &bytes, &error);
    fuzz_ok(planned, &error);
    const sp_status status = sp_loss(context, &forest, &losses, &options, log_probs,
                                     want_grad ? &(sp_gradient){.prompt = grad} : NULL, &error);
    fuzz_ok(status, &error);
    CHECK(status == planned);
    fuzz_ok(sp_logits_workspace(context, &forest, entries, loss_rows, &options, &bytes, &error),
            &error);
    fuzz_ok(sp_logits(context, &forest, entries, loss_rows, &options, logits, &error), &error);
    free_all((void *[]){starts, parents, symbols, prompt, frequencies, frequency_of, loss_rows,
                        targets, weights, cut, tokens, choice_of, choice_groups, group_targets,
                        group_weights, log_probs, grad, logits},
             18);
}

static void
extend(const tiny_model *model, sp_context *context, fuzz_input *input)
{
    const int32_t v = model->spec.vocab_size, d = model->spec.hidden_size;
    const int32_t parts = fuzz_byte(input) % 4, num_virtual = fuzz_byte(input) % 3;
    const int32_t asked = fuzz_byte(input) % 4;
    int32_t rows = 0;
    int32_t *starts = take_starts(input, parts, &rows);
    if (rows > MOST_ROWS) {
        free(starts);
        return;
    }
    int32_t *segments = fuzz_ints(input, parts, MOST);
    int32_t *symbols = take_symbols(input, rows, v, num_virtual);
    float *prompt = fuzz_floats(input, (size_t)num_virtual * (size_t)d);
    int32_t *wanted = take_rows(input, asked, rows);
    float *logits = malloc(((size_t)asked * (size_t)v + 1) * sizeof *logits);
    CHECK(logits != NULL);
    const sp_options options = {.num_threads = 1, .pack_rows = 1};
    sp_error error = {0};
    fuzz_ok(sp_segment_extend(context, parts, segments, starts, symbols, num_virtual, prompt, asked,
                              wanted, &options, logits, &error),
            &error);
    free_all((void *[]){starts, segments, symbols, prompt, wanted, logits}, 6);
}

static void
create(const tiny_model *model, sp_context *context, fuzz_input *input)
{
    const int32_t numbers = sp_model_num_frequencies(model->model);
    const int32_t parent = fuzz_int(input, MOST + 1), capacity = fuzz_int(input, 24);
    float *frequencies =
        fuzz_byte(input) % 4 == 3 ? fuzz_floats(input, numbers > 0 ? (size_t)numbers : 1) : NULL;
    int32_t segment = -1;
    sp_error error = {0};
    fuzz_ok(sp_segment_create(context, parent == MOST ? -1 : parent, capacity, frequencies,
                              &segment, &error),
            &error);
    free(frequencies);
}

/* Reads all that a segment says it has. */
static void
read_rows(sp_context *context, fuzz_input *input)
{
    sp_key_values stored;
    sp_error error = {0};
    if (fuzz_ok(sp_segment_key_values(context, fuzz_int(input, MOST), &stored, &error), &error)) {
        const size_t floats = (size_t)stored.num_rows * (size_t)stored.kv_width;
        volatile float sum = 0.0f;
        for (size_t l = 0; l < (size_t)stored.num_layers; l++) {
            for (size_t i = 0; i < floats; i++) {
                sum = sum + stored.keys[l * stored.layer_stride + i]
                      + stored.values[l * stored.layer_stride + i];
            }
        }
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static tiny_model models[TINY_KINDS];
    fuzz_input input = {data, size};
    fuzz_begin();
    const int kind = fuzz_byte(&input) % TINY_KINDS;
    if (models[kind].model == NULL) {
        tiny_open(&models[kind], (tiny_kind)kind); /* stays for the next input */
    }
    const tiny_model *model = &models[kind];
    const size_t before = sp_memory_now().live_bytes;
    sp_context *context = NULL;
    sp_error error = {0};
    CHECK(fuzz_ok(sp_context_create(model->model, &context, &error), &error));
    for (int step = 0; step < 24 && input.size > 0; step++) {
        const int32_t copied[] = {fuzz_int(&input, MOST), fuzz_int(&input, MOST)};
        switch (fuzz_byte(&input) % 8) {
        case 0:
            ask_forest(model, context, &input);
            break;
        case 1:
        case 2:
            create(model, context, &input);
            break;
        case 3:
            fuzz_ok(sp_segment_release(context, copied[0], &error), &error);
            break;
        case 4:
            fuzz_ok(sp_segment_copy(context, copied[0], copied[1], fuzz_int(&input, 8), &error),
                    &error);
            break;
        case 5:
            read_rows(context, &input);
            break;
        default:
            extend(model, context, &input);
        }
    }
    sp_context_destroy(context);
    CHECK(sp_memory_now().live_bytes == before);
    return 0;
}
