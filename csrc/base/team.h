/* A team of threads that lives as long as one call of the engine. Because no thread outlives the
 * call, a forked child has nothing to repair. */
#ifndef SP_BASE_TEAM_H
#define SP_BASE_TEAM_H

#include <stddef.h>

typedef struct sp_team sp_team;

/* One task. `thread` (0 .. threads - 1) selects scratch memory and nothing else: what a task
 * computes may depend on `task` alone. */
typedef void sp_task(void *job, int task, int thread);

/* A team of up to `threads` threads, the caller among them; NULL: no memory. If the system gives
 * fewer threads, the team is smaller. */
sp_team *sp_team_start(int threads);
void sp_team_stop(sp_team *team);
/* Lends every thread `floats` floats of scratch memory; thread t has those from t * floats on. */
void sp_team_lend(sp_team *team, float *scratch, size_t floats);
/* A thread's own; NULL if none was lent. */
float *sp_team_scratch(const sp_team *team, int thread);
/* Runs tasks 0 .. num_tasks - 1 and returns when all are done. Not to be nested. */
void sp_team_run(sp_team *team, int num_tasks, sp_task *task, void *job);

#endif
