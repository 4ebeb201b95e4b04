#include "memory.h"

#include <string.h>

#include "layer.h"

void
sp_memory_forward(sp_pass *pass, const sp_pack *pack, const sp_activations *act)
{
    const sp_model *model = pass->model;
    int32_t n = pack->num_rows;
    const float *in = act->out;
    if (model->spec.final_norm) {
        sp_norm_forward(pass, &model->encoder.final_norm, pass->hidden, act->out_norm, act->out, n);
        in = pass->hidden;
    }
    for (int32_t l = 0; l < model->decoder.num_layers; l++) {
        const sp_layer *layer = &model->decoder.layers[l];
        float *k = act->memory_k + (size_t)l * act->memory_stride;
        float *v = act->memory_v + (size_t)l * act->memory_stride;
        sp_linear_forward(pass->team, 2, (float *[]){k, v}, in,
                          (const sp_linear *[]){&layer->cross_k, &layer->cross_v}, n, NULL);
        if (act->keep == SP_KEEP_RESIDENT) {
            sp_store_resident(pass, pack, k, v, l);
        }
    }
}

void
sp_memory_backward(sp_pass *pass, const sp_pack *pack, const sp_activations *act)
{
    const sp_model *model = pass->model;
    int32_t n = pack->num_rows;
    size_t bytes = (size_t)n * (size_t)model->spec.hidden_size * sizeof *pass->dx;
    memset(pass->dx, 0, bytes);
    for (int32_t l = model->decoder.num_layers - 1; l >= 0; l--) {
        const sp_layer *layer = &model->decoder.layers[l];
        const float *dk = act->memory_dk + (size_t)l * act->memory_stride;
        const float *dv = act->memory_dv + (size_t)l * act->memory_stride;
        sp_linear_backward(pass->team, 2, pass->hidden, (const float *[]){dk, dv},
                           (const sp_linear *[]){&layer->cross_k, &layer->cross_v}, n);
        sp_rows_add(pass, pass->dx, pass->dx, pass->hidden, 1.0f, n);
    }
    if (model->spec.final_norm) {
        memcpy(pass->hidden, pass->dx, bytes);
        memset(pass->dx, 0, bytes);
        sp_norm_backward(pass, &model->encoder.final_norm, pass->dx, pass->hidden, act->out,
                         act->out_norm, n);
    }
}
