#define _GNU_SOURCE
#include "cpu.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#include <sched.h>
#endif

static const char *const NAMES[] = {"generic", "avx2", "avx512"};
enum { NUM_NAMES = sizeof NAMES / sizeof NAMES[0] };

int
sp_cpu_has(sp_cpu cpu)
{
    if (cpu == SP_CPU_GENERIC) {
        return 1;
    }
#if defined(__x86_64__)
    /* __builtin_cpu_supports also asks XGETBV whether the registers are saved. */
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
               && __builtin_cpu_supports("f16c");
    if (cpu == SP_CPU_AVX2) {
        return avx2 != 0;
    }
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
           && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
    return 0;
#endif
}

sp_cpu
sp_cpu_best(void)
{
    for (int cpu = NUM_NAMES - 1; cpu > 0; cpu--) {
        if (sp_cpu_has((sp_cpu)cpu)) {
            return (sp_cpu)cpu;
        }
    }
    return SP_CPU_GENERIC;
}

int
sp_cpu_from_name(const char *name)
{
    for (int cpu = 0; cpu < NUM_NAMES; cpu++) {
        if (strcmp(name, NAMES[cpu]) == 0) {
            return cpu;
        }
    }
    return -1;
}

const char *
sp_cpu_to_name(sp_cpu cpu)
{
    return NAMES[cpu];
}

int
sp_cpu_supported(const char *name)
{
    int cpu = sp_cpu_from_name(name);
    return cpu < 0 ? -1 : sp_cpu_has((sp_cpu)cpu);
}

/* The container's quota in whole CPUs, rounded up; 0: none. */
static int
container_quota(void)
{
    long long quota = 0, period = 0;
    FILE *file =
        fopen("/sys/fs/cgroup/cpu.max", "r"); /* cgroup v2: "max 100000" or "200000 100000" */
    if (file != NULL) {
        if (fscanf(file, "%lld %lld", &quota, &period) != 2) {
            quota = 0;
        }
        fclose(file);
    }
    else if ((file = fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r")) != NULL) { /* cgroup v1 */
        int got = fscanf(file, "%lld", &quota);
        fclose(file);
        FILE *period_file = fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r");
        if (period_file != NULL) {
            got += fscanf(period_file, "%lld", &period);
            fclose(period_file);
        }
        if (got != 2) {
            quota = 0;
        }
    }
    if (quota <= 0 || period <= 0 || quota > (1LL << 40)) {
        return 0;
    }
    return (int)((quota + period - 1) / period);
}

int
sp_available_cpus(void)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) {
        cpus = CPU_COUNT(&set);
    }
#endif
    int quota = container_quota();
    if (quota > 0 && quota < cpus) {
        cpus = quota;
    }
    return cpus < 1 ? 1 : (int)cpus;
}
