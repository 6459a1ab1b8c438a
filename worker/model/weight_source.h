/* weight_source: takes weights into backend memory, by name and shape. They come out of tensor files: it
 * checks the shape, converts to the compute dtype, transposes where a checkpoint stores [n_in, n_out],
 * refuses NaN and infinity. Or they are made up (synthesis.h): every tensor that is asked for is there.
 * Matrices go from the file to where the backend wants them, without host memory of their own; they may be on
 * their way until weight_source_finish. Private to worker/model. */
#ifndef PRESSRUN_WORKER_MODEL_WEIGHT_SOURCE_H
#define PRESSRUN_WORKER_MODEL_WEIGHT_SOURCE_H

#include "kernels/backend.h"
#include "worker/base/buffer.h"
#include "worker/model/safetensors.h"
#include "worker/model/synthesis.h"
#include "worker/model/weight_rows.h"

struct weight_matrix;

struct weight_source {
    struct safetensors *files;         /* NULL: weights are made up */
    const struct synthesis *synthesis; /* how; NULL with files */
    struct synthetic_list *asked;      /* gets what was asked for, when not NULL; then nothing is made */
    struct backend *backend;
    enum dtype dtype;
    float offset;                   /* that the reader of the next vector adds: made-up norms are 1 with it */
    struct weight_matrix *matrices; /* that the backend may still read, the last one first */
    struct buffer scratch;          /* one vector */
};

/* Ends the loading whose result this is, which it returns unless the backend failed later, or a matrix turns
 * out to be unreadable (STATUS_IO) or to hold values that are not finite (STATUS_DATA). Always call it: waits
 * for the backend and releases what the source holds, files excepted. */
enum status weight_source_finish(struct weight_source *source, enum status result);

/* The stored tensor, for a family that must look at it; NULL when there is none, and where weights are
 * made up. */
struct stored_tensor *weight_source_find(struct weight_source *source, const char *name);
/* The tensor itself as [n_out, n_in] of dtype into out, which has room for it, at once. STATUS_DATA also for
 * values that are not finite. A vector is n_dims 1, n_out 1, n_in n. */
enum status weight_source_read(struct weight_source *source, const char *name, int32_t n_dims,
                               enum weight_layout layout, int64_t n_out, int64_t n_in, enum dtype dtype,
                               void *out);
/* Says once, for people, when files hold matrices as F16, or as F32 that bfloat16 is computed from. */
void weight_source_report(const struct weight_source *source);

/* A matrix [n_out, n_in] in the source's dtype. STATUS_DATA when it is missing or has another shape or dtype.
 */
enum status weight_source_matrix(struct weight_source *source, const char *name, enum weight_layout layout,
                                 int64_t n_out, int64_t n_in, struct tensor **out);
/* Tensors that become one matrix, stored as [n_out, n_in]. */
struct weight_part {
    const char *name;
    int64_t n_out;
};
/* One matrix of the parts' rows in order. */
enum status weight_source_stack(struct weight_source *source, const struct weight_part *parts,
                                int32_t n_parts, int64_t n_in, struct tensor **out);
/* A weight pair of two tensors [n_out, n_in], for a gated activation. */
enum status weight_source_pair(struct weight_source *source, const char *gate, const char *up, int64_t n_out,
                               int64_t n_in, struct tensor **out);
/* The token embedding [n_vocab, n_embd] and the head. Tied, *head is the same tensor, and the files hold one
 * of the two, or both with equal bytes: where the two differ, the model was not trained as its config.json
 * says. */
enum status weight_source_embedding(struct weight_source *source, const char *table_name,
                                    const char *head_name, bool is_tied, int64_t n_vocab, int64_t n_embd,
                                    struct tensor **table, struct tensor **head);
/* prefix where some tensor's name begins with it (the checkpoint of a model with its head), "" where none
 * does (that of the body alone). Made-up weights have their heads. */
const char *weight_source_prefix(const struct weight_source *source, const char *prefix);
/* A float32 vector [n], offset added to each element in float32: 1 for norms that are stored as w of 1 + w.
 */
enum status weight_source_vector(struct weight_source *source, const char *name, int64_t n, float offset,
                                 struct tensor **out);
/* One float32 vector of the parts' elements in order (biases of matrices that become one). */
enum status weight_source_vector_stack(struct weight_source *source, const struct weight_part *parts,
                                       int32_t n_parts, struct tensor **out);

#endif
