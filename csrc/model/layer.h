/* The one layer, of an encoder or a decoder: forward and backward over a pack. */
#ifndef SP_MODEL_LAYER_H
#define SP_MODEL_LAYER_H

#include "pass.h"

/* Input rows of the first layer, and the rotation of the pack's positions. */
void sp_embed_forward(sp_pass *pass, const sp_pack *pack, const sp_activations *act);
/* The rotation alone, before a backward pass. */
void sp_rotation_prepare(sp_pass *pass, const sp_pack *pack);
/* Reads the saved x of `layer`; writes x of the next one, from the last layer pass->top [m, d], or
 * of an encoder act->out [n, d]. */
void sp_layer_forward(sp_pass *pass, const sp_pack *pack, const sp_activations *act, int32_t layer);
/* pass->dx (the last layer: act->dtop) holds the gradient of the layer's output and becomes that of
 * its input; the first layer adds to grad [num_virtual, d] instead. */
void sp_layer_backward(sp_pass *pass, const sp_pack *pack, const sp_activations *act, int32_t layer,
                       float *grad);

/* One norm over n rows: y and the rows' statistics overwritten; backward dx +=. */
void sp_norm_forward(sp_pass *pass, const sp_norm_weights *norm, float *y, sp_norm_rows rows,
                     const float *x, int32_t n);
void sp_norm_backward(sp_pass *pass, const sp_norm_weights *norm, float *dx, const float *dy,
                      const float *x, sp_norm_rows rows, int32_t n);

/* y = x + scale * z, n rows of d; y may be x. */
void sp_rows_add(sp_pass *pass, float *y, const float *x, const float *z, float scale, int32_t n);
/* Keys and values [n, kv_width] of one layer go to the pack's resident segments. */
void sp_store_resident(const sp_pass *pass, const sp_pack *pack, const float *k, const float *v,
                       int32_t layer);

/* to[i] = from[rows[i]], and to[rows[i]] += from[i]; count rows of `width` floats. */
void sp_rows_gather(float *to, const float *from, const int32_t *rows, int32_t count,
                    int32_t width);
void sp_rows_scatter_add(float *to, const float *from, const int32_t *rows, int32_t count,
                         int32_t width);

#endif
