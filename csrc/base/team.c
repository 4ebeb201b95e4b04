#define _POSIX_C_SOURCE 200809L
#include "team.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "alloc.h"

#if defined(__x86_64__) || defined(__i386__)
#define SP_PAUSE() __builtin_ia32_pause()
#else
#define SP_PAUSE() ((void)0)
#endif

/* How often a waiting thread looks before it sleeps: some microseconds, the gap between two
 * operations of a layer. */
enum { SPINS = 2000 };

typedef struct {
    sp_team *team;
    int thread;
} member;

struct sp_team {
    pthread_mutex_t mutex;
    pthread_cond_t work_there; /* a new round, or the end */
    pthread_cond_t work_done;
    atomic_uint round; /* grows with every sp_team_run; the last value means "stop" */
    atomic_int next;   /* first task that nobody has taken */
    atomic_int busy;   /* workers that are still in this round */
    atomic_int stopping;
    sp_task *task;
    void *job;
    int num_tasks;
    int size;       /* threads, with the caller */
    float *scratch; /* [threads][scratch_floats], lent, or NULL */
    size_t scratch_floats;
    pthread_t *threads; /* [size - 1] */
    member *members;    /* [size - 1] */
};

static void
take_tasks(sp_team *team, int thread)
{
    for (;;) {
        int task = atomic_fetch_add_explicit(&team->next, 1, memory_order_relaxed);
        if (task >= team->num_tasks) {
            return;
        }
        team->task(team->job, task, thread);
    }
}

static void *
work(void *argument)
{
    member *self = argument;
    sp_team *team = self->team;
    unsigned seen = 0;
    for (;;) {
        int spins = 0;
        while (atomic_load_explicit(&team->round, memory_order_acquire) == seen && spins < SPINS) {
            SP_PAUSE();
            spins++;
        }
        if (spins == SPINS) {
            pthread_mutex_lock(&team->mutex);
            while (atomic_load_explicit(&team->round, memory_order_acquire) == seen) {
                pthread_cond_wait(&team->work_there, &team->mutex);
            }
            pthread_mutex_unlock(&team->mutex);
        }
        seen = atomic_load_explicit(&team->round, memory_order_acquire);
        if (atomic_load_explicit(&team->stopping, memory_order_acquire)) {
            return NULL;
        }
        take_tasks(team, self->thread);
        if (atomic_fetch_sub_explicit(&team->busy, 1, memory_order_acq_rel) == 1) {
            pthread_mutex_lock(&team->mutex);
            pthread_cond_signal(&team->work_done);
            pthread_mutex_unlock(&team->mutex);
        }
    }
}

static void
next_round(sp_team *team)
{
    pthread_mutex_lock(&team->mutex);
    atomic_fetch_add_explicit(&team->round, 1, memory_order_release);
    pthread_cond_broadcast(&team->work_there);
    pthread_mutex_unlock(&team->mutex);
}

sp_team *
sp_team_start(int threads)
{
    if (threads < 1) {
        threads = 1;
    }
    sp_team *team = sp_alloc_zeroed(1, sizeof *team);
    if (team == NULL) {
        return NULL;
    }
    team->size = 1;
    pthread_mutex_init(&team->mutex, NULL);
    pthread_cond_init(&team->work_there, NULL);
    pthread_cond_init(&team->work_done, NULL);
    if (threads == 1) {
        return team;
    }
    team->threads = sp_alloc((size_t)threads - 1, sizeof *team->threads);
    team->members = sp_alloc((size_t)threads - 1, sizeof *team->members);
    if (team->threads == NULL || team->members == NULL) {
        sp_team_stop(team);
        return NULL;
    }
    /* Signals belong to the caller's threads: a worker never runs a handler. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int i = 0; i < threads - 1; i++) {
        team->members[i] = (member){.team = team, .thread = i + 1};
        if (pthread_create(&team->threads[i], NULL, work, &team->members[i]) != 0) {
            break;
        }
        team->size++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return team;
}

void
sp_team_stop(sp_team *team)
{
    if (team == NULL) {
        return;
    }
    atomic_store_explicit(&team->stopping, 1, memory_order_release);
    next_round(team);
    for (int i = 0; i < team->size - 1; i++) {
        pthread_join(team->threads[i], NULL);
    }
    pthread_cond_destroy(&team->work_done);
    pthread_cond_destroy(&team->work_there);
    pthread_mutex_destroy(&team->mutex);
    sp_free(team->members);
    sp_free(team->threads);
    sp_free(team);
}

void
sp_team_lend(sp_team *team, float *scratch, size_t floats)
{
    team->scratch = floats == 0 ? NULL : scratch;
    team->scratch_floats = floats;
}

float *
sp_team_scratch(const sp_team *team, int thread)
{
    return team->scratch == NULL ? NULL : team->scratch + (size_t)thread * team->scratch_floats;
}

void
sp_team_run(sp_team *team, int num_tasks, sp_task *task, void *job)
{
    if (team->size == 1 || num_tasks <= 1) {
        for (int i = 0; i < num_tasks; i++) {
            task(job, i, 0);
        }
        return;
    }
    team->task = task;
    team->job = job;
    team->num_tasks = num_tasks;
    atomic_store_explicit(&team->next, 0, memory_order_relaxed);
    atomic_store_explicit(&team->busy, team->size - 1, memory_order_relaxed);
    next_round(team);
    take_tasks(team, 0);
    int spins = 0;
    while (atomic_load_explicit(&team->busy, memory_order_acquire) > 0 && spins < SPINS) {
        SP_PAUSE();
        spins++;
    }
    if (spins == SPINS) {
        pthread_mutex_lock(&team->mutex);
        while (atomic_load_explicit(&team->busy, memory_order_acquire) > 0) {
            pthread_cond_wait(&team->work_done, &team->mutex);
        }
        pthread_mutex_unlock(&team->mutex);
    }
}
