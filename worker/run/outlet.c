#include "worker/run/outlet.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "worker/base/clock.h"

static const double TICK_SECONDS = 0.25; /* how often an unsealed remainder's age is looked at */

struct outlet {
    struct outlet_options options;
    struct writer *writer;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t has_work; /* monotonic clock */
    pthread_cond_t has_room; /* monotonic clock */
    struct record **ring;    /* [capacity] record next_index + i lies at (begin + i) % capacity */
    size_t capacity, begin;
    int64_t next_index;
    size_t waiting_bytes;
    bool is_stopping;
    struct failure failure;
    /* the thread's own */
    struct buffer lines;
    struct run_metrics counted;
};

/* Text of a completion whose tokens nobody needed to look at before. */
static enum status render_text(const struct tokenizer *tokenizer, const struct record *record,
                               struct completion *completion) {
    if (completion->text.data || record->request.sampling.n_stop > 0 || !tokenizer)
        return STATUS_OK;
    struct detokenizer detokenizer = {0};
    int32_t n = completion->n_tokens;
    /* The token that ended the sample is counted, but is no text. */
    if (completion->finish_reason == FINISH_STOP)
        n--;
    enum status result = STATUS_OK;
    for (int32_t i = 0; i < n && result == STATUS_OK; i++)
        result = detokenizer_add(&detokenizer, tokenizer, completion->token_ids[i], &completion->text);
    if (result == STATUS_OK)
        result = detokenizer_finish(&detokenizer, &completion->text);
    detokenizer_free(&detokenizer);
    return result;
}

static void count_record(struct run_metrics *counted, const struct record *record, int64_t prompt_tokens,
                         int64_t completion_tokens) {
    counted->n_records++;
    counted->n_errors += record->request.error_code != NULL;
    counted->prompt_tokens += prompt_tokens;
    counted->completion_tokens += completion_tokens;
    if (record->is_scored && !record->request.error_code) {
        counted->scored_tokens += record->n_scored;
        counted->logprob_sum += record_logprob_sum(record);
        double ended_s = record->completions[0].last_token_s;
        histogram_add(&counted->queue_s, record->admitted_s - record->queued_s);
        histogram_add(&counted->prefill_s, ended_s - record->admitted_s);
        histogram_add(&counted->total_s, ended_s - record->queued_s);
        return;
    }
    for (int32_t i = 0; !record->request.error_code && i < record->request.sampling.n; i++) {
        const struct completion *completion = &record->completions[i];
        double decode = completion->last_token_s - completion->first_token_s;
        histogram_add(&counted->queue_s, record->admitted_s - record->queued_s);
        histogram_add(&counted->prefill_s, completion->first_token_s - record->admitted_s);
        histogram_add(&counted->decode_s, decode);
        histogram_add(&counted->total_s, completion->last_token_s - record->queued_s);
        histogram_add(&counted->time_to_first_token_s, completion->first_token_s - record->queued_s);
        if (completion->n_tokens > 1)
            histogram_add(&counted->time_per_output_token_s, decode / (completion->n_tokens - 1));
    }
}

static enum status write_record(struct outlet *outlet, struct record *record) {
    bool is_error;
    int64_t prompt_tokens, completion_tokens;
    record_totals(record, &is_error, &prompt_tokens, &completion_tokens);
    for (int32_t i = 0; !is_error && !record->is_scored && i < record->request.sampling.n; i++)
        TRY(render_text(outlet->options.tokenizer, record, &record->completions[i]));
    buffer_clear(&outlet->lines);
    int32_t n_lines;
    TRY(record_write(record, outlet->options.output_token_ids, &outlet->lines, &n_lines));
    TRY(writer_append(outlet->writer, outlet->lines.data, outlet->lines.size, n_lines, is_error,
                      prompt_tokens, completion_tokens, record->request.input_hash));
    count_record(&outlet->counted, record, prompt_tokens, completion_tokens);
    return STATUS_OK;
}

/* Called with the mutex held; the record that comes next, or NULL. */
static struct record *take_next(struct outlet *outlet) {
    struct record *record = outlet->capacity ? outlet->ring[outlet->begin] : NULL;
    if (!record)
        return NULL;
    outlet->ring[outlet->begin] = NULL;
    outlet->begin = (outlet->begin + 1) % outlet->capacity;
    outlet->next_index++;
    return record;
}

static struct timespec deadline_in(double seconds) {
    double until = clock_seconds() + seconds;
    return (struct timespec){.tv_sec = (time_t)until,
                             .tv_nsec = (long)((until - (double)(time_t)until) * 1e9)};
}

static void *outlet_main(void *argument) {
    struct outlet *outlet = argument;
    pthread_mutex_lock(&outlet->mutex);
    for (;;) {
        struct record *record = take_next(outlet);
        if (!record && outlet->is_stopping)
            break;
        if (!record) {
            struct timespec deadline = deadline_in(TICK_SECONDS);
            pthread_cond_timedwait(&outlet->has_work, &outlet->mutex, &deadline);
        }
        bool failed = outlet->failure.code != STATUS_OK;
        pthread_mutex_unlock(&outlet->mutex);

        enum status result = STATUS_OK;
        size_t bytes = 0;
        if (record) {
            bytes = record_bytes(record);
            if (!failed)
                result = write_record(outlet, record);
            record_free(record);
            free(record);
        } else if (!failed) {
            result = writer_tick(outlet->writer);
        }
        pthread_mutex_lock(&outlet->mutex);
        outlet->waiting_bytes -= bytes;
        pthread_cond_signal(&outlet->has_room);
        failure_note(&outlet->failure, result);
    }
    pthread_mutex_unlock(&outlet->mutex);
    return NULL;
}

enum status outlet_start(const struct outlet_options *options, struct writer *writer, struct outlet **out) {
    struct outlet *outlet = calloc(1, sizeof *outlet);
    RETURN_IF(!outlet, STATUS_INTERNAL, "out of host memory");
    outlet->options = *options;
    outlet->writer = writer;
    outlet->next_index = options->first_index;
    pthread_mutex_init(&outlet->mutex, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&outlet->has_work, &attributes);
    pthread_cond_init(&outlet->has_room, &attributes);
    pthread_condattr_destroy(&attributes);
    int error = pthread_create(&outlet->thread, NULL, outlet_main, outlet);
    if (error != 0) {
        free(outlet);
        return status_fail(STATUS_INTERNAL, "the writing thread cannot be started: %s", strerror(error));
    }
    *out = outlet;
    return STATUS_OK;
}

/* Makes place for a record `ahead` places behind the next one. Called with the mutex held. */
static enum status grow_ring(struct outlet *outlet, size_t ahead) {
    if (ahead < outlet->capacity)
        return STATUS_OK;
    size_t capacity = outlet->capacity ? outlet->capacity : 1024;
    while (capacity <= ahead)
        capacity *= 2;
    struct record **ring = calloc(capacity, sizeof *ring);
    RETURN_IF(!ring, STATUS_INTERNAL, "out of host memory for %zu waiting records", capacity);
    for (size_t i = 0; i < outlet->capacity; i++)
        ring[i] = outlet->ring[(outlet->begin + i) % outlet->capacity];
    free(outlet->ring);
    outlet->ring = ring;
    outlet->capacity = capacity;
    outlet->begin = 0;
    return STATUS_OK;
}

enum status outlet_put(struct outlet *outlet, struct record *record) {
    size_t bytes = record_bytes(record);
    pthread_mutex_lock(&outlet->mutex);
    size_t ahead = (size_t)(record->request.index - outlet->next_index);
    enum status result = grow_ring(outlet, ahead);
    if (result == STATUS_OK) {
        /* Text that is still to be rendered does not count; the thread takes off the same. */
        outlet->waiting_bytes += bytes;
        outlet->ring[(outlet->begin + ahead) % outlet->capacity] = record;
        result = failure_result(&outlet->failure);
        pthread_cond_signal(&outlet->has_work);
    } else {
        record_free(record);
        free(record);
    }
    pthread_mutex_unlock(&outlet->mutex);
    return result;
}

size_t outlet_waiting_bytes(struct outlet *outlet) {
    pthread_mutex_lock(&outlet->mutex);
    size_t bytes = outlet->waiting_bytes;
    pthread_mutex_unlock(&outlet->mutex);
    return bytes;
}

void outlet_wait_below(struct outlet *outlet, size_t bytes, double wait_s) {
    struct timespec deadline = deadline_in(wait_s);
    pthread_mutex_lock(&outlet->mutex);
    while (outlet->waiting_bytes >= bytes && outlet->failure.code == STATUS_OK &&
           pthread_cond_timedwait(&outlet->has_room, &outlet->mutex, &deadline) == 0)
        continue;
    pthread_mutex_unlock(&outlet->mutex);
}

enum status outlet_stop(struct outlet *outlet, struct run_metrics *metrics) {
    if (!outlet)
        return STATUS_OK;
    pthread_mutex_lock(&outlet->mutex);
    outlet->is_stopping = true;
    pthread_cond_signal(&outlet->has_work);
    pthread_mutex_unlock(&outlet->mutex);
    pthread_join(outlet->thread, NULL);
    for (size_t i = 0; i < outlet->capacity; i++) {
        if (outlet->ring[i])
            record_free(outlet->ring[i]);
        free(outlet->ring[i]);
    }
    metrics->n_records = outlet->counted.n_records;
    metrics->n_errors = outlet->counted.n_errors;
    metrics->prompt_tokens = outlet->counted.prompt_tokens;
    metrics->completion_tokens = outlet->counted.completion_tokens;
    metrics->scored_tokens = outlet->counted.scored_tokens;
    metrics->logprob_sum = outlet->counted.logprob_sum;
    metrics->queue_s = outlet->counted.queue_s;
    metrics->prefill_s = outlet->counted.prefill_s;
    metrics->decode_s = outlet->counted.decode_s;
    metrics->total_s = outlet->counted.total_s;
    metrics->time_to_first_token_s = outlet->counted.time_to_first_token_s;
    metrics->time_per_output_token_s = outlet->counted.time_per_output_token_s;
    enum status result = failure_result(&outlet->failure);
    free(outlet->ring);
    buffer_free(&outlet->lines);
    pthread_mutex_destroy(&outlet->mutex);
    pthread_cond_destroy(&outlet->has_work);
    pthread_cond_destroy(&outlet->has_room);
    free(outlet);
    return result;
}
