/* The engine's public interface: a frozen transformer (a decoder, or an encoder and a decoder), its
 * forward pass over a forest of segments, and the gradient of a loss with respect to the virtual
 * tokens (the soft prompt) or to the keys and values that stand before a text in every layer (a
 * prefix).
 *
 * Nothing here knows Python. Every function that can fail returns a status and describes the
 * failure in `error`; nothing aborts, prints or reads the environment.
 *
 * Arrays are row-major; shapes stand in brackets. "Borrowed" memory belongs to the caller and has
 * to outlive the object that borrows it.
 */
#ifndef SOFTPROMPT_H
#define SOFTPROMPT_H

#include <stddef.h>
#include <stdint.h>

/* ---- status ---------------------------------------------------------------------------- */

typedef enum {
    SP_OK = 0,
    SP_INVALID,     /* a value that is out of its range; the message names it */
    SP_OVERFLOW,    /* sizes whose product does not fit */
    SP_NO_MEMORY,   /* an allocation failed */
    SP_CANCELLED,   /* the poll function asked to stop */
    SP_UNSUPPORTED, /* this CPU or this build cannot do it */
} sp_status;

typedef struct {
    sp_status status;
    char message[256];
} sp_error;

/* ---- machine --------------------------------------------------------------------------- */

typedef enum { SP_CPU_GENERIC = 0, SP_CPU_AVX2, SP_CPU_AVX512 } sp_cpu;

/* Picks the kernels for this process and checks the matrix product of the BLAS library against a
 * plain loop. To be called once before anything else, with `name` NULL (the best path of this CPU)
 * or one of "generic", "avx2", "avx512". */
sp_status sp_initialize(const char *name, sp_error *error);
const char *sp_cpu_name(void);          /* the path chosen */
int sp_cpu_supported(const char *name); /* 1, 0, or -1 for an unknown name */
const char *sp_blas_config(void);
const char *sp_blas_core(void);
/* Processors that this process may use: its CPU set and the container's quota. */
int sp_available_cpus(void);

typedef struct {
    size_t live_bytes; /* allocated now, whole process */
    size_t peak_bytes; /* largest value of live_bytes */
    uint64_t requests; /* allocations asked for so far */
} sp_memory;
sp_memory sp_memory_now(void);
/* For tests: the n-th request from now on fails (and all later ones if `forever`); 0 turns it off. */
void sp_memory_fail_at(uint64_t n, int forever);

/* ---- model ----------------------------------------------------------------------------- */

typedef enum { SP_NORM_RMS = 0, SP_NORM_LAYER } sp_norm;
/* Where the norms of a layer's two halves f (attention, MLP) stand. */
typedef enum {
    SP_NORM_PRE = 0,  /* x + f(norm(x)) */
    SP_NORM_OUTPUT,   /* x + norm(f(x)) */
    SP_NORM_SANDWICH, /* x + norm(f(norm(x))) */
    SP_NORM_POST,     /* norm(x + f(x)) */
} sp_norm_place;
/* Norms of queries and keys, before their rotation. */
typedef enum {
    SP_QK_NORM_NONE = 0,
    SP_QK_NORM_HEAD,  /* each head alone, all with the same weights */
    SP_QK_NORM_HEADS, /* each head alone, each with its own weights */
    SP_QK_NORM_WHOLE, /* all heads of a row together */
} sp_qk_norm;
typedef enum {
    SP_POSITIONS_NONE = 0,
    SP_POSITIONS_ROTARY,
    SP_POSITIONS_LEARNED,
    SP_POSITIONS_ALIBI,    /* a bias of the scores, linear in the distance (arXiv 2108.12409) */
    SP_POSITIONS_RELATIVE, /* a bias of the scores by the distance (arXiv 1910.10683, 2.1) */
} sp_positions;
typedef enum {
    SP_SILU = 0,
    SP_GELU_TANH,
    SP_GELU_ERF,
    SP_GELU_QUICK, /* x * sigmoid(1.702 x) */
    SP_RELU,
    SP_RELU_SQUARED,
} sp_activation;

typedef struct {
    int32_t vocab_size;  /* V */
    int32_t hidden_size; /* d */
    int32_t num_layers;  /* L */
    int32_t num_heads;   /* H, a multiple of num_kv_heads */
    int32_t num_kv_heads;
    int32_t head_dim;           /* need not be d / H */
    int32_t intermediate_size;  /* f */
    int32_t max_positions;      /* longest path through the forest */
    int32_t rotary_dim;         /* even, <= head_dim; the rest of a head is not rotated */
    int32_t num_ropes;          /* rotary: sets of frequencies, of which each layer has one */
    int32_t num_encoder_layers; /* 0: a decoder alone. Otherwise positions are learned, relative or
                                 * none, and halves stand one after the other */
    int32_t encoder_vocab_size; /* of the encoder's own embedding; 0: it has the decoder's */
    int32_t relative_reach;     /* relative: keys further away have the bias of this distance */
    sp_norm norm;
    sp_norm_place norm_place;
    sp_qk_norm qk_norm; /* of the kind `norm` */
    sp_positions positions;
    sp_activation activation;
    int gated;             /* activation(gate) * up, otherwise activation(up) */
    int rope_interleaved;  /* rotate pairs (2i, 2i+1), otherwise (i, i + rotary_dim / 2) */
    int parallel_residual; /* x + attention(norm(x)) + MLP(norm(x)), otherwise one after other */
    int embedding_norm;    /* a norm of all input rows */
    int final_norm;        /* a norm before the head, and of what an encoder gives */
    float norm_eps;
    float attention_scale;    /* of the query-key products */
    float attention_soft_cap; /* cap * tanh(score / cap); 0: none */
    float qkv_clip;           /* queries, keys, values to [-clip, clip]; 0: not */
    float embedding_scale;    /* of token embeddings; virtual tokens are taken as they are */
    float input_scale;        /* of all input rows */
    float residual_scale;     /* of what a half of a layer adds */
    float logit_scale;
    float logit_soft_cap; /* after logit_scale; 0: none */
    /* By layer, borrowed for sp_model_create alone. */
    const int32_t *windows; /* [num_layers] rows that a row sees, itself among them; 0: all;
                                * NULL: all in every layer */
    const int32_t *ropes;   /* [num_layers] a set of frequencies, or -1: not rotated;
                                * NULL: set 0 in every layer */
} sp_spec;

typedef struct sp_model sp_model;

sp_status sp_model_create(const sp_spec *spec, sp_model **model, sp_error *error);
void sp_model_destroy(sp_model *model);
/* Gives a slot its borrowed float32 data [rows, cols] (a vector is [1, cols]). Slots:
 *   embedding.weight [V, d]   position.weight [max_positions, d]
 *   rope.inv_freq [num_ropes, rotary_dim/2]   rope.scale [1, num_ropes] of rotated heads (absent: 1)
 *   alibi.bias [num_heads, max_positions] by the position of a key
 *   relative.bias [num_heads, 2 * relative_reach + 1] by the position of a key less the query's
 *   embedding_norm.{weight,bias} [1, d]   final_norm.{weight,bias} [1, d]
 *   layers.N.{attn_norm,mlp_norm}.{weight,bias} [1, d] before the halves of a layer
 *   layers.N.{attn_out_norm,mlp_out_norm}.{weight,bias} [1, d] after them
 *   layers.N.{q_norm,k_norm}.{weight,bias} [1, head_dim], or of all heads [1, heads * head_dim]
 *   layers.N.{q,k,v,o,gate,up,down}.{weight [out, in], bias [1, out]}
 *   head.weight [V, d] (absent: the embedding)   head.bias [1, V]
 * With an encoder also the decoder's attention to what the encoder gives
 *   layers.N.{cross_norm,cross_out_norm}.{weight,bias} [1, d]
 *   layers.N.{cross_q,cross_k,cross_v,cross_o}.{weight [out, in], bias [1, out]}
 * and, with "encoder." before their names, the encoder's own
 *   embedding.weight [encoder_vocab_size, d]   position.weight   relative.bias
 *   embedding_norm.{weight,bias}   final_norm.{weight,bias}   layers.N.* but cross_*
 */
sp_status sp_model_set_weight(sp_model *model, const char *slot, const float *data, int64_t rows,
                              int64_t cols, sp_error *error);
/* A matrix as it lies in a file, [rows, cols] for its slot. The bytes are lines of equal length, as
 * many as fit. Row r is line start + r / run * stride + r % run, so that a matrix may be one of
 * several that stand in one tensor, block by block. Transposed: a line is a column, and row r is
 * that number of every line; for types of single numbers. */
typedef struct {
    const char *type;     /* F32, F16, BF16, or a block type of GGUF by its name */
    const uint8_t *bytes; /* borrowed; any alignment */
    size_t num_bytes;
    int64_t rows, cols;
    int64_t start, run, stride;
    int transposed;
} sp_stored;
/* Gives embedding.weight, position.weight, head.weight or a linear's weight its borrowed bytes,
 * which are converted as they are used. */
sp_status sp_model_set_stored(sp_model *model, const char *slot, const sp_stored *stored,
                              sp_error *error);
/* numbers [num_rows, cols] = the rows `rows` of a stored matrix */
sp_status sp_stored_rows(const sp_stored *stored, int64_t num_rows, const int64_t *rows,
                         float *numbers, sp_error *error);
/* Every slot that the spec needs is there. */
sp_status sp_model_check(const sp_model *model, sp_error *error);
int32_t sp_model_hidden_size(const sp_model *model);
int32_t sp_model_vocab_size(const sp_model *model);
int32_t sp_model_num_frequencies(const sp_model *model); /* num_ropes * rotary_dim/2, or 0 */
int32_t sp_model_num_layers(const sp_model *model);
int32_t sp_model_kv_width(const sp_model *model); /* of a row of keys: num_kv_heads * head_dim */
int sp_model_has_encoder(const sp_model *model);

/* Stored weights (F16, BF16, or a block type of GGUF by its name) to float32. num_bytes has to be
 * what num_numbers take in that type. */
sp_status sp_dequantize(const char *type, const uint8_t *bytes, size_t num_bytes, float *numbers,
                        size_t num_numbers, int num_threads, sp_error *error);

/* ---- forest ---------------------------------------------------------------------------- */

/* Segments in depth-first order: a parent stands before its children, and a subtree is a run of
 * neighbours. Segment s has the rows starts[s] .. starts[s + 1].
 *
 * A segment without rows is a prefix: keys and values that are given and never computed. It has no
 * parent, and its children's positions begin behind it. The p-th of them, in the forest's order, is
 * the rows prefix_starts[p] .. prefix_starts[p + 1] of `prefix`.
 *
 * With an encoder its segments stand first. They have no parents, each row sees its whole segment,
 * and they alone hold virtual tokens; there are no prefixes. The decoder's trees follow in the order
 * of the encoder segments that they read. */
enum { SP_ENCODER = -2 };
typedef struct {
    int32_t num_segments;
    int32_t num_virtual;          /* rows of `prompt` */
    const int32_t *parents;       /* [num_segments] an earlier segment, or -1 */
    const int32_t *starts;        /* [num_segments + 1] */
    const int32_t *symbols;       /* [rows] a token id, or -1 - r for row r of `prompt` */
    const float *prompt;          /* [num_virtual, d]; NULL if there are none */
    int32_t num_prefixes;         /* segments without rows */
    const int32_t *prefix_starts; /* [num_prefixes + 1], rising from 0 */
    /* [num_layers][keys, values][prefix rows, kv_width]; keys as they are compared, rotated where
     * the model rotates them. NULL if there are none. */
    const float *prefix;
    const int32_t *memories; /* [num_segments] SP_ENCODER, or the encoder segment that a decoder
                              * segment reads, its parent's; NULL for a decoder alone */
    /* Frequencies that depend on the length of a text: */
    int32_t num_frequencies;
    const float *frequencies;    /* [num_frequencies, num_ropes, rotary_dim/2]; NULL: the model's */
    const int32_t *frequency_of; /* [num_segments] a parent's and its children's are the same */
} sp_forest;

/* Losses hang on rows. Entry e asks for the log-probability of targets[e] after row rows[e].
 *
 * Cross-entropy (choices NULL): loss = - sum_e weights[e] * log p_e.
 * Ranking (choices given): choice c has the log-likelihood s_c = sum of weights[e] * log p_e over
 * its entries, and loss = - sum_g group_weights[g] * log softmax(s over the choices of g)[target].
 *
 * A row whose entries have cut[e] = 1 is normalised over the tokens of `cut_tokens` alone, and its
 * targets are indices into that list. */
typedef struct {
    int32_t num_entries;
    const int32_t *rows;    /* [num_entries], not falling */
    const int32_t *targets; /* [num_entries] */
    const float *weights;   /* [num_entries] */
    const uint8_t *cut;     /* [num_entries], or NULL: none */
    int32_t num_cut_tokens;
    const int32_t *cut_tokens; /* [num_cut_tokens] */
    const int32_t *choices;    /* [num_entries] the choice of an entry, or NULL */
    int32_t num_choices;
    const int32_t *choice_groups; /* [num_choices], not falling */
    int32_t num_groups;
    const int32_t *group_targets; /* [num_groups] a choice of that group */
    const float *group_weights;   /* [num_groups] */
} sp_losses;

typedef struct {
    int num_threads;
    int32_t pack_rows;   /* rows computed together; more only where one segment is longer */
    int (*poll)(void *); /* called between layers; not zero: stop. NULL: never asked */
    void *poll_data;
} sp_options;

/* ---- context --------------------------------------------------------------------------- */

/* Workspace and resident segments of one caller at a time; the model may be shared by many. */
typedef struct sp_context sp_context;

sp_status sp_context_create(const sp_model *model, sp_context **context, sp_error *error);
void sp_context_destroy(sp_context *context);

/* Bytes of workspace that the same call of sp_loss (want_grad) would take. */
sp_status sp_loss_workspace(sp_context *context, const sp_forest *forest, const sp_losses *losses,
                            int want_grad, const sp_options *options, size_t *bytes,
                            sp_error *error);
/* Where the gradient goes; overwritten. */
typedef struct {
    float *prompt; /* as the forest's prompt; NULL if it has none */
    float *prefix; /* as the forest's prefix; NULL if it has none */
} sp_gradient;
/* log_probs [num_entries]; grad NULL: forward only. */
sp_status sp_loss(sp_context *context, const sp_forest *forest, const sp_losses *losses,
                  const sp_options *options, double *log_probs, const sp_gradient *grad,
                  sp_error *error);
/* Bytes of workspace that the same call of sp_logits would take. */
sp_status sp_logits_workspace(sp_context *context, const sp_forest *forest, int32_t num_rows,
                              const int32_t *rows, const sp_options *options, size_t *bytes,
                              sp_error *error);
/* logits [num_rows, V] after each of `rows` (rising). */
sp_status sp_logits(sp_context *context, const sp_forest *forest, int32_t num_rows,
                    const int32_t *rows, const sp_options *options, float *logits, sp_error *error);

/* Resident segments keep their keys and values between calls. A segment is made empty, with room
 * for `capacity` rows, under a resident parent or none (-1). Its position follows from its parent's
 * length when it gets its first rows; once it has rows and children it cannot grow.
 * frequencies [num_ropes, rotary_dim/2] (copied) are those of a segment without a parent, and of
 * all below it; NULL: the model's. */
sp_status sp_segment_create(sp_context *context, int32_t parent, int32_t capacity,
                            const float *frequencies, int32_t *segment, sp_error *error);
/* A resident segment of the encoder. It gets all its rows in one call, which computes what every
 * layer of the decoder reads of them; only that stays. A segment that is created under it begins a
 * text of the decoder that reads it. */
sp_status sp_memory_create(sp_context *context, int32_t capacity, int32_t *segment,
                           sp_error *error);
/* Appends rows: part p adds the symbols starts[p] .. starts[p + 1] to segments[p] (no segment
 * twice, parents before children; all of the encoder, or none). logits [num_rows, V] after each of
 * the call's `rows`, none where they are the encoder's. */
sp_status sp_segment_extend(sp_context *context, int32_t num_parts, const int32_t *segments,
                            const int32_t *starts, const int32_t *symbols, int32_t num_virtual,
                            const float *prompt, int32_t num_rows, const int32_t *rows,
                            const sp_options *options, float *logits, sp_error *error);
/* Makes the rows of `target` those of `source`, its sibling: a text that goes on from another one.
 * Its first `num_equal` rows are those of `source` already and stay; what it had after them is
 * lost. `target` may be empty, and has no children. */
sp_status sp_segment_copy(sp_context *context, int32_t source, int32_t target, int32_t num_equal,
                          sp_error *error);
/* Gives a segment without a parent and without rows its first num_rows rows as keys and values
 * [num_layers][keys, values][num_rows, kv_width], copied: a prefix. */
sp_status sp_segment_fill(sp_context *context, int32_t segment, int32_t num_rows,
                          const float *prefix, sp_error *error);
/* What a segment's rows left for those after them: keys as they are compared, rotated where the
 * model rotates them. Layer l's keys [num_rows, kv_width] stand at keys + l * layer_stride, its
 * values likewise; of an encoder's segment those that layer l of the decoder reads. Borrowed, until
 * the segment grows or is released. */
typedef struct {
    int32_t num_layers, num_rows, kv_width;
    size_t layer_stride;
    const float *keys, *values;
} sp_key_values;
sp_status sp_segment_key_values(const sp_context *context, int32_t segment,
                                sp_key_values *key_values, sp_error *error);
/* Releases a segment; its children have to be released before it. */
sp_status sp_segment_release(sp_context *context, int32_t segment, sp_error *error);
/* Bytes held by resident segments and by the workspace. */
size_t sp_context_bytes(const sp_context *context);

#endif
