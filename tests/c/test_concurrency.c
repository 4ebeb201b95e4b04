/* Several threads use one model at once, and a forked child goes on: the bits are those of one
 * caller alone. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/blas.h"
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
                         &(sp_gradient){.prompt = c->grad}, error));
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
test_callers(const tiny_model *model, const tiny_forest *tiny)
{
    static caller alone, callers[CALLERS];
    alone = (caller){.model = model, .tiny = tiny, .num_threads = 2};
    step(&alone);
    pthread_t threads[CALLERS];
    for (int i = 0; i < CALLERS; i++) {
        callers[i] = (caller){.model = model, .tiny = tiny, .num_threads = i + 1};
        CHECK(pthread_create(&threads[i], NULL, step, &callers[i]) == 0);
    }
    for (int i = 0; i < CALLERS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        same(&callers[i], &alone);
    }
}

/* A child that takes a step. It ends with 0 if it has the same bits. */
static pid_t
fork_step(const tiny_model *model, const tiny_forest *tiny, const caller *alone)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(60); /* a lock that another thread held would keep the child waiting for ever */
        static caller again;
        again = (caller){.model = model, .tiny = tiny, .num_threads = 3};
        step(&again);
        same(&again, alone); /* ends the child with 1 if not */
        _exit(0);
    }
    return child;
}

static void
wait_for(pid_t child)
{
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void
test_fork(const tiny_model *model, const tiny_forest *tiny)
{
    static caller alone, again;
    alone = (caller){.model = model, .tiny = tiny, .num_threads = 2};
    again = (caller){.model = model, .tiny = tiny, .num_threads = 3};
    step(&alone);
    pid_t child = fork_step(model, tiny, &alone);
    step(&again);
    same(&again, &alone);
    wait_for(child);
}

#ifndef __SANITIZE_THREAD__ /* which does not follow a fork of several threads */
typedef struct {
    const tiny_model *model;
    const tiny_forest *tiny;
    atomic_int polls; /* of the worker; it works while they grow */
    atomic_int stop;
} worker;

static int
poll(void *data)
{
    worker *w = data;
    atomic_fetch_add(&w->polls, 1);
    return atomic_load(&w->stop);
}

static void *
work(void *argument)
{
    worker *w = argument;
    sp_context *context = NULL;
    const sp_options options = {.num_threads = 2, .pack_rows = 64, .poll = poll, .poll_data = w};
    float *grad = malloc(MAX_GRAD * sizeof *grad);
    double log_probs[TINY_ENTRIES];
    sp_status status = SP_OK;
    CHECK(grad != NULL);
    CHECK_OK(sp_context_create(w->model->model, &context, error));
    while (status == SP_OK) {
        status = sp_loss(context, &w->tiny->forest, &w->tiny->losses, &options, log_probs,
                         &(sp_gradient){.prompt = grad}, NULL);
    }
    CHECK(status == SP_CANCELLED);
    sp_context_destroy(context);
    free(grad);
    return NULL;
}

static void
test_busy_fork(const tiny_model *model, const tiny_forest *tiny)
{
    enum { FORKS = 5 };
    static caller alone;
    worker w = {.model = model, .tiny = tiny};
    pthread_t thread;
    pid_t children[FORKS];
    alone = (caller){.model = model, .tiny = tiny, .num_threads = 2};
    step(&alone);
    CHECK(pthread_create(&thread, NULL, work, &w) == 0);
    for (int i = 0; i < FORKS; i++) {
        int seen = atomic_load(&w.polls);
        while (atomic_load(&w.polls)
               < seen + 1 + i) { /* in the middle, at another place each time */
            sched_yield();
        }
        children[i] = fork_step(model, tiny, &alone);
    }
    for (int i = 0; i < FORKS; i++) {
        wait_for(children[i]);
    }
    atomic_store(&w.stop, 1);
    CHECK(pthread_join(thread, NULL) == 0);
}

/* One product after another: nearly three of a hundred forks found the lock of the library's
 * buffers taken, before forks waited for products. */
static void *
multiply(void *argument)
{
    atomic_int *stop = argument;
    float a[20 * 30] = {0}, b[20 * 30] = {0}, c[20 * 20];
    while (!atomic_load(stop)) {
        sp_gemm_nt(20, 20, 30, 1.0f, a, 30, b, 30, 0, c, 20);
    }
    return NULL;
}

static void
test_fork_in_products(const tiny_model *model, const tiny_forest *tiny)
{
    enum { FORKS = 150 };
    (void)model;
    (void)tiny;
    pthread_t thread;
    atomic_int stop = 0;
    CHECK(pthread_create(&thread, NULL, multiply, &stop) == 0);
    for (int i = 0; i < FORKS; i++) {
        float a[20 * 30] = {0}, b[20 * 30] = {0}, c[20 * 20];
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(60);
            sp_gemm_nt(20, 20, 30, 1.0f, a, 30, b, 30, 0, c, 20);
            _exit(0);
        }
        wait_for(child);
    }
    atomic_store(&stop, 1);
    CHECK(pthread_join(thread, NULL) == 0);
}
#endif

int
main(void)
{
    static const tiny_case cases[] = {
        {"3 callers of one model: the bits of one", test_callers},
        {"a forked child: the same bits", test_fork},
#ifndef __SANITIZE_THREAD__
        {"children forked in the middle of a thread's work: the same bits", test_busy_fork},
        {"children forked between matrix products", test_fork_in_products},
#endif
    };
#ifdef __SANITIZE_THREAD__
    printf(
        "        forking in the middle of work: not run, the thread sanitizer cannot follow it\n");
#endif
    TINY_RUN(cases, EVERY_PATH);
    return 0;
}
