/* upload_queue: threads that carry matrices to a device, slice by slice of whole rows, beside the caller, who
 * allocates the next matrix meanwhile. Private to kernels/; here and not in cuda/ so that it is tested
 * without a GPU. Valid C11 and C++17. */
#ifndef PRESSRUN_KERNELS_UPLOAD_QUEUE_H
#define PRESSRUN_KERNELS_UPLOAD_QUEUE_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A matrix to carry. */
struct upload {
    struct row_source rows;
    int64_t n_rows;
    int64_t slice_rows;    /* rows of a slice, from 1 on; the last has what is left */
    struct tensor *weight; /* for the carrier: where it goes, */
    int placement;         /* and how */
};

/* Carries rows [first, first + n). Calls with the same thread, in [0, n_threads), come one after another and
 * from one thread. */
typedef enum status upload_carrier(void *argument, int thread, const struct upload *upload, int64_t first,
                                   int64_t n);

struct upload_queue;
/* With n_threads of 1 there is no thread beside the caller's: upload_queue_add carries. So it is also where
 * threads cannot be started. */
enum status upload_queue_open(int n_threads, upload_carrier *carry, void *argument,
                              struct upload_queue **out);
/* Queues a matrix behind the others. Fails like the first slice that failed, or with STATUS_INTERNAL; the
 * matrix is then not carried. */
enum status upload_queue_add(struct upload_queue *queue, const struct upload *upload);
/* Returns when nothing is queued or carried any more, with the first failure since the last call. A failure
 * drops what is queued behind it. */
enum status upload_queue_wait(struct upload_queue *queue);
/* Waits for the slices that are being carried, and drops the others; NULL is fine. */
void upload_queue_close(struct upload_queue *queue);

#ifdef __cplusplus
}
#endif
#endif
