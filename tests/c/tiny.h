/* Tiny random models and forests for the C tests, and how the tests check. */
#ifndef TESTS_C_TINY_H
#define TESTS_C_TINY_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "softprompt.h"

/* Ends the test program with the place and the reason. */
#define CHECK(condition)                                                            \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                                \
        }                                                                           \
    } while (0)

#define CHECK_OK(call)                                                                     \
    do {                                                                                   \
        sp_error check_error_ = {0};                                                       \
        sp_error *error = &check_error_;                                                   \
        if ((call) != SP_OK) {                                                             \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, error->message); \
            exit(1);                                                                       \
        }                                                                                  \
    } while (0)

/* ---- models ---- */

typedef enum { TINY_LLAMA, TINY_GPT2, TINY_GEMMA, TINY_BLOOM, TINY_KINDS } tiny_kind;
extern const char *const tiny_names[TINY_KINDS];

/* A model and the weights that it borrows. Wide enough that an operation is cut into several tasks,
 * with sizes that are no multiples of a vector. Llama: rotary positions, RMS norms, gated SiLU,
 * grouped heads, tied head. GPT-2: learned positions, layer norms, GELU, biases, own head. Gemma:
 * norms on both sides and of every head, soft caps, windows, two sets of frequencies, scales. BLOOM:
 * a bias by distance, a parallel residual, a norm of the input rows, clamped queries and keys. */
typedef struct {
    sp_spec spec;
    sp_model *model;
    float *weights; /* one block, owned */
    size_t num_weights;
} tiny_model;

/* Fills `tiny`, weights included; the model itself is made by tiny_bind. */
void tiny_weights(tiny_model *tiny, tiny_kind kind);
/* Makes the model of the weights. On failure tiny->model is NULL. */
sp_status tiny_bind(tiny_model *tiny, sp_error *error);
void tiny_open(tiny_model *tiny, tiny_kind kind);
void tiny_close(tiny_model *tiny);

/* The same model twice, with weights that bfloat16 holds: in float32, and with all matrices as
 * stored bfloat16 at odd addresses. */
typedef struct {
    sp_model *plain, *stored;
    float *weights; /* owned */
    uint8_t *bytes; /* owned */
} tiny_stored;

void tiny_stored_open(tiny_stored *stored, const tiny_model *model);
void tiny_stored_close(tiny_stored *stored);

/* ---- random numbers: the same on every machine ---- */

typedef struct {
    uint64_t state;
} tiny_random;
float tiny_normal(tiny_random *random); /* mean 0, deviation 1, by twelve uniform numbers */
int32_t tiny_below(tiny_random *random, int32_t limit);

/* ---- forests ---- */

enum {
    TINY_VIRTUAL = 6, /* virtual tokens of one prompt; there are two prompts */
    TINY_PROMPTS = 2,
    TINY_SEGMENTS = 9,
    TINY_MAX_ROWS = 400,
    TINY_ENTRIES = 14,
    TINY_CHOICES = 5,
    TINY_GROUPS = 2,
};

/* Two prompts; under the first a shared text with two ends, and a long text; under the second two
 * texts; and a text that no prompt precedes. Losses stand in leaves and in shared segments. */
typedef struct {
    sp_forest forest;
    sp_losses losses;  /* cross-entropy, some rows over a cut vocabulary */
    sp_losses ranking; /* the same entries as choices of two groups */
    int32_t parents[TINY_SEGMENTS], starts[TINY_SEGMENTS + 1], symbols[TINY_MAX_ROWS];
    int32_t rows[TINY_ENTRIES], targets[TINY_ENTRIES], choices[TINY_ENTRIES];
    uint8_t cut[TINY_ENTRIES];
    float weights[TINY_ENTRIES];
    int32_t cut_tokens[3], choice_groups[TINY_CHOICES], group_targets[TINY_GROUPS];
    float group_weights[TINY_GROUPS];
    float *prompt; /* [num_virtual, d], owned */
} tiny_forest;

void tiny_forest_open(tiny_forest *tiny, const sp_spec *spec);
void tiny_forest_close(tiny_forest *tiny);
/* The loss that the header promises, from the log-probabilities. */
double tiny_loss(const sp_losses *losses, const double *log_probs);

/* ---- programs ---- */

typedef void tiny_test(const tiny_model *model, const tiny_forest *forest);

typedef struct {
    const char *name;
    tiny_test *run;
} tiny_case;

/* Runs the cases on every model, on each kernel path that this CPU has or on the best one alone,
 * and says so in a line each. A case has to give back all memory of the engine. A failed check ends
 * the program with 1. */
typedef enum { BEST_PATH, EVERY_PATH } tiny_paths;
void tiny_run(const tiny_case *cases, size_t num_cases, tiny_paths which);
#define TINY_RUN(cases, which) tiny_run(cases, sizeof(cases) / sizeof((cases)[0]), which)

/* Statuses other than SP_OK come with themselves and a message in the error. */
#define CHECK_FAILS(call, wanted)                                                            \
    do {                                                                                     \
        sp_error check_error_ = {0};                                                         \
        sp_error *error = &check_error_;                                                     \
        sp_status check_status_ = (call);                                                    \
        if (check_status_ != (wanted) || error->status != (wanted) || !error->message[0]) {  \
            fprintf(stderr, "%s:%d: %s: status %d, expected %s; message \"%s\"\n", __FILE__, \
                    __LINE__, #call, (int)check_status_, #wanted, error->message);           \
            exit(1);                                                                         \
        }                                                                                    \
    } while (0)

#endif
