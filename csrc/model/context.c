#include "context.h"

#include "../base/alloc.h"
#include "../base/blas.h"
#include "../base/cpu.h"
#include "../base/size.h"
#include "../base/status.h"
#include "../kernels/kernels.h"

sp_status
sp_initialize(const char *name, sp_error *error)
{
    sp_cpu cpu = sp_cpu_best();
    if (name != NULL) {
        int wanted = sp_cpu_from_name(name);
        if (wanted < 0) {
            return sp_fail(error, SP_INVALID,
                           "SOFTPROMPT_CPU = \"%.40s\": expected generic, avx2 or avx512", name);
        }
        cpu = (sp_cpu)wanted;
        if (!sp_cpu_has(cpu)) {
            return sp_fail(error, SP_UNSUPPORTED, "SOFTPROMPT_CPU = \"%s\": this CPU has no %s",
                           name, name);
        }
    }
    SP_TRY(sp_blas_initialize(error));
    sp_kernels_choose(cpu);
    return SP_OK;
}

const char *
sp_cpu_name(void)
{
    return sp_cpu_to_name(sp_kernels_cpu());
}

sp_status
sp_context_create(const sp_model *model, sp_context **out, sp_error *error)
{
    sp_context *context = sp_alloc_zeroed(1, sizeof *context);
    *out = context;
    if (context == NULL) {
        return sp_fail(error, SP_NO_MEMORY, "no memory for a context");
    }
    context->model = model;
    return SP_OK;
}

void
sp_context_destroy(sp_context *context)
{
    if (context == NULL) {
        return;
    }
    for (int32_t s = 0; s < context->num_segments; s++) {
        sp_free(context->residents[s].block);
    }
    sp_free(context->segments);
    sp_free(context->residents);
    sp_free(context->workspace);
    sp_free(context);
}

size_t
sp_context_bytes(const sp_context *context)
{
    return context->workspace_bytes + context->resident_bytes;
}

sp_status
sp_context_workspace(sp_context *context, size_t bytes, sp_error *error)
{
    if (bytes <= context->workspace_bytes && context->workspace != NULL) {
        return SP_OK;
    }
    sp_free(context->workspace);
    context->workspace_bytes = 0;
    context->workspace = bytes == SIZE_MAX ? NULL : sp_alloc(bytes, 1);
    if (context->workspace == NULL) {
        return sp_fail(error, bytes == SIZE_MAX ? SP_OVERFLOW : SP_NO_MEMORY,
                       "no memory for a workspace of %zu bytes", bytes);
    }
    context->workspace_bytes = bytes;
    return SP_OK;
}

sp_status
sp_options_check(const sp_options *options, sp_error *error)
{
    if (options->num_threads < 1 || options->num_threads > 1024) {
        return sp_fail(error, SP_INVALID, "num_threads = %d: expected 1 to 1024",
                       options->num_threads);
    }
    if (options->pack_rows < 1) {
        return sp_fail(error, SP_INVALID, "pack_rows = %d: expected at least 1",
                       options->pack_rows);
    }
    return SP_OK;
}

sp_status
sp_poll_now(const sp_options *options, sp_error *error)
{
    if (options->poll != NULL && options->poll(options->poll_data) != 0) {
        return sp_fail(error, SP_CANCELLED, "stopped on request");
    }
    return SP_OK;
}
