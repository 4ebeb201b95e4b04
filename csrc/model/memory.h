/* What an encoder gives to the decoder's layers: the keys and values that they attend to. */
#ifndef SP_MODEL_MEMORY_H
#define SP_MODEL_MEMORY_H

#include "pass.h"

/* act->out [n, d], normed, to the keys and values of every layer of the decoder. */
void sp_memory_forward(sp_pass *pass, const sp_pack *pack, const sp_activations *act);
/* pass->dx [n, d] is overwritten: the gradient of act->out from those of the keys and values. */
void sp_memory_backward(sp_pass *pass, const sp_pack *pack, const sp_activations *act);

#endif
