/* weight_rows: one tensor, stored or made up, as the rows of a matrix [n_out, n_in] of a compute dtype, which
 * threads read in runs, each straight to where it is wanted. A matrix that is transposed on reading takes
 * memory meanwhile: its own size. Private to worker/model. */
#ifndef PRESSRUN_WORKER_MODEL_WEIGHT_ROWS_H
#define PRESSRUN_WORKER_MODEL_WEIGHT_ROWS_H

#include <pthread.h>
#include <stdatomic.h>

#include "kernels/backend.h"
#include "worker/model/safetensors.h"
#include "worker/model/synthesis.h"

enum weight_layout {
    WEIGHT_OUT_IN, /* stored as [n_out, n_in] */
    WEIGHT_IN_OUT  /* stored as [n_in, n_out] (GPT-2's Conv1D): transposed on reading */
};

/* The image of a matrix that is stored transposed, from the first row that is asked for to the last. */
struct staged_matrix {
    pthread_mutex_t mutex; /* of what follows */
    pthread_cond_t is_read;
    void *image;     /* [n_out, n_in] of dtype; NULL while no row is asked for */
    int64_t n_taken; /* rows of the file that some thread reads or has read */
    int64_t n_read;
    int64_t n_rows_left; /* rows of the matrix that nobody has asked for */
};

struct weight_rows {
    const struct stored_tensor *tensor; /* NULL: made up */
    const struct synthesis *synthesis;  /* how */
    struct synthetic_tensor made;       /* what */
    enum dtype made_dtype;              /* that its values are rounded to first */
    enum weight_layout layout;
    enum dtype dtype;
    int64_t n_out;
    int64_t n_in;
    atomic_int_fast64_t n_bad;   /* elements read so far that are NaN or infinite in dtype */
    atomic_int error;            /* errno of the first read that failed; 0: none */
    struct staged_matrix staged; /* with WEIGHT_IN_OUT of a stored tensor */
};

/* Makes rows of a stored tensor. STATUS_DATA when it is no float, STATUS_INTERNAL when it is not n_out x n_in
 * elements. */
enum status weight_rows_stored(struct weight_rows *rows, const struct stored_tensor *tensor,
                               enum weight_layout layout, int64_t n_out, int64_t n_in, enum dtype dtype);
/* Writes rows [first, first + n), dense, each element rounded to nearest even. Any threads, each row once:
 * what a matrix is transposed in is given back behind its last row, and rows asked for later are refused. */
void weight_rows_read(struct weight_rows *rows, int64_t first, int64_t n, void *to);
/* What reading met: STATUS_IO, STATUS_DATA for values that are not finite, or STATUS_INTERNAL for rows of a
 * transposed matrix that were asked for again. */
enum status weight_rows_check(struct weight_rows *rows);
/* Releases what rows that nobody asked for would have needed. */
void weight_rows_close(struct weight_rows *rows);

#endif
