#include "kernels/upload_queue.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

struct carrier_thread {
    struct upload_queue *queue;
    pthread_t thread;
    int number;
};

struct upload_queue {
    upload_carrier *carry;
    void *argument;
    int n_threads; /* started */
    struct carrier_thread *threads;

    pthread_mutex_t mutex;  /* of what follows */
    pthread_cond_t work;    /* something is queued, or stops is set */
    pthread_cond_t idle;    /* nothing is queued or carried */
    struct upload *uploads; /* [n_uploads]; those before first are carried or taken whole */
    size_t first;
    size_t n_uploads;
    size_t capacity;
    int64_t next_row; /* of uploads[first]: the first that nobody has taken */
    int n_busy;       /* threads that carry a slice */
    bool stops;
    struct failure failure;
};

/* Takes the next slice; false when there is none. The mutex is held. */
static bool take_slice(struct upload_queue *queue, struct upload *upload, int64_t *first, int64_t *n) {
    if (queue->first == queue->n_uploads)
        return false;
    *upload = queue->uploads[queue->first];
    *first = queue->next_row;
    *n = upload->n_rows - *first;
    if (*n > upload->slice_rows)
        *n = upload->slice_rows;
    queue->next_row += *n;
    if (queue->next_row == upload->n_rows) {
        queue->first++;
        queue->next_row = 0;
    }
    return true;
}

/* Keeps the first failure and drops what is queued. The mutex is held; the message is this thread's. */
static void note_failure(struct upload_queue *queue, enum status status) {
    failure_note(&queue->failure, status);
    queue->first = queue->n_uploads;
    queue->next_row = 0;
}

/* Carries slices until none is left. The mutex is held, but for the carrying. */
static void carry_slices(struct upload_queue *queue, int thread) {
    struct upload upload;
    int64_t first, n;
    while (!queue->stops && take_slice(queue, &upload, &first, &n)) {
        queue->n_busy++;
        pthread_mutex_unlock(&queue->mutex);
        enum status status = queue->carry(queue->argument, thread, &upload, first, n);
        pthread_mutex_lock(&queue->mutex);
        queue->n_busy--;
        if (status != STATUS_OK)
            note_failure(queue, status);
    }
    if (queue->n_busy == 0)
        pthread_cond_broadcast(&queue->idle);
}

static void *thread_main(void *argument) {
    struct carrier_thread *self = argument;
    struct upload_queue *queue = self->queue;
    pthread_mutex_lock(&queue->mutex);
    while (!queue->stops) {
        carry_slices(queue, self->number);
        if (!queue->stops && queue->first == queue->n_uploads)
            pthread_cond_wait(&queue->work, &queue->mutex);
    }
    pthread_mutex_unlock(&queue->mutex);
    return NULL;
}

enum status upload_queue_open(int n_threads, upload_carrier *carry, void *argument,
                              struct upload_queue **out) {
    *out = NULL;
    struct upload_queue *queue = calloc(1, sizeof *queue);
    struct carrier_thread *threads = calloc((size_t)n_threads, sizeof *threads);
    if (!queue || !threads) {
        free(queue);
        free(threads);
        return status_fail(STATUS_INTERNAL, "out of host memory for %d threads", n_threads);
    }
    queue->carry = carry;
    queue->argument = argument;
    queue->threads = threads;
    pthread_mutex_init(&queue->mutex, NULL);
    pthread_cond_init(&queue->work, NULL);
    pthread_cond_init(&queue->idle, NULL);
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* the caller's threads take the signals */
    for (int i = 0; n_threads > 1 && i < n_threads; i++) {
        threads[i] = (struct carrier_thread){.queue = queue, .number = i};
        if (pthread_create(&threads[i].thread, NULL, thread_main, &threads[i]) != 0)
            break;
        queue->n_threads++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    *out = queue;
    return STATUS_OK;
}

/* Room for one more. The mutex is held. */
static bool reserve(struct upload_queue *queue) {
    if (queue->n_uploads < queue->capacity)
        return true;
    size_t capacity = queue->capacity ? 2 * queue->capacity : 64;
    struct upload *uploads = realloc(queue->uploads, capacity * sizeof *uploads);
    if (!uploads)
        return false;
    queue->uploads = uploads;
    queue->capacity = capacity;
    return true;
}

enum status upload_queue_add(struct upload_queue *queue, const struct upload *upload) {
    pthread_mutex_lock(&queue->mutex);
    enum status status = failure_result(&queue->failure);
    if (status == STATUS_OK && !reserve(queue))
        status = status_fail(STATUS_INTERNAL, "out of host memory for %zu matrices", queue->n_uploads + 1);
    else if (status == STATUS_OK && upload->n_rows > 0)
        queue->uploads[queue->n_uploads++] = *upload;
    if (status == STATUS_OK && queue->n_threads == 0) {
        carry_slices(queue, 0);
        status = failure_result(&queue->failure);
    }
    pthread_cond_broadcast(&queue->work);
    pthread_mutex_unlock(&queue->mutex);
    return status;
}

enum status upload_queue_wait(struct upload_queue *queue) {
    pthread_mutex_lock(&queue->mutex);
    while (queue->first < queue->n_uploads || queue->n_busy > 0)
        pthread_cond_wait(&queue->idle, &queue->mutex);
    enum status status = failure_result(&queue->failure);
    queue->failure = (struct failure){0};
    queue->first = 0;
    queue->n_uploads = 0;
    pthread_mutex_unlock(&queue->mutex);
    return status;
}

void upload_queue_close(struct upload_queue *queue) {
    if (!queue)
        return;
    pthread_mutex_lock(&queue->mutex);
    queue->stops = true;
    pthread_cond_broadcast(&queue->work);
    pthread_mutex_unlock(&queue->mutex);
    for (int i = 0; i < queue->n_threads; i++)
        pthread_join(queue->threads[i].thread, NULL);
    pthread_cond_destroy(&queue->idle);
    pthread_cond_destroy(&queue->work);
    pthread_mutex_destroy(&queue->mutex);
    free(queue->uploads);
    free(queue->threads);
    free(queue);
}
