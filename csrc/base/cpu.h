/* What this CPU can do, and how many of them this process may use. */
#ifndef SP_BASE_CPU_H
#define SP_BASE_CPU_H

#include "../softprompt.h"

/* Reads the CPU (and whether the kernel saves its registers). */
int sp_cpu_has(sp_cpu cpu);
sp_cpu sp_cpu_best(void);
/* -1: unknown name. */
int sp_cpu_from_name(const char *name);
const char *sp_cpu_to_name(sp_cpu cpu);

#endif
