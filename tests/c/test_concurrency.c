/* Several threads use one model at once, and a forked child goes on: the bits are those of one
 * caller alone. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tiny.h"

enum { CALLERS = 3, ROUNDS = 3, MAX_GRAD = TINY_PROMPTS * TINY_VIRTUAL * 64 };

typedef struct {
    const tiny_model *model;
    const tiny_forest *tiny;
    int num_threads;
    double log_probs[TINY_ENTRIES];
    float grad[MAX_GRAD];
} caller;

static void *
step(void *argument)
{
    caller *c = argument;
    sp_context *context = NULL;
    const sp_options options = {.num_threads = c->num_threads, .pack_rows = 64};
    CHECK_OK(sp_context_create(c->model->model, &context, error));
    for (int round = 0; round < ROUNDS; round++) {
        CHECK_OK(sp_loss(context, &c->tiny->forest, &c->tiny->ranking, &options, c->log_probs,
                         c->grad, error));
    }
    sp_context_destroy(context);
    return NULL;
}

static void
same(const caller *a, const caller *b)
{
    CHECK(memcmp(a->log_probs, b->log_probs, sizeof a->log_probs) == 0);
    CHECK(memcmp(a->grad, b->grad, sizeof a->grad) == 0);
}

static void
test_callers(const tiny_model *model, const tiny_forest *tiny, const caller *alone)
{
    static caller callers[CALLERS];
    pthread_t threads[CALLERS];
    for (int i = 0; i < CALLERS; i++) {
        callers[i] = (caller){.model = model, .tiny = tiny, .num_threads = i + 1};
        CHECK(pthread_create(&threads[i], NULL, step, &callers[i]) == 0);
    }
    for (int i = 0; i < CALLERS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        same(&callers[i], alone);
    }
}

static void
test_fork(const tiny_model *model, const tiny_forest *tiny, const caller *alone)
{
    pid_t child = fork();
    CHECK(child >= 0);
    static caller again;
    again = (caller){.model = model, .tiny = tiny, .num_threads = 3};
    if (child == 0) {
        step(&again);
        same(&again, alone); /* ends the child with 1 if not */
        _exit(0);
    }
    step(&again);
    same(&again, alone);
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int
main(void)
{
    CHECK_OK(sp_initialize(NULL, error));
    for (int kind = 0; kind < TINY_KINDS; kind++) {
        tiny_model model;
        tiny_forest tiny;
        tiny_open(&model, (tiny_kind)kind);
        tiny_forest_open(&tiny, &model.spec);
        static caller alone;
        alone = (caller){.model = &model, .tiny = &tiny, .num_threads = 2};
        step(&alone);
        test_callers(&model, &tiny, &alone);
        test_fork(&model, &tiny, &alone);
        tiny_forest_close(&tiny);
        tiny_close(&model);
    }
    CHECK(sp_memory_now().live_bytes == 0);
    return 0;
}
