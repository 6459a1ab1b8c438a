#include "worker/run/intake.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "worker/base/clock.h"

struct item {
    struct item *next;
    struct record *record;
    int32_t max_tokens;
    size_t bytes;
};

struct intake {
    struct intake_options options;
    struct prompt_reader *reader;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t has_items; /* monotonic clock */
    pthread_cond_t has_room;
    struct item *head, *tail;
    uint64_t n_items, n_bytes;
    int64_t n_read;
    double fraction;
    bool is_ended, is_stopping;
    struct failure failure;
};

/* ---- one request ---- */

enum status intake_set_error(struct request *request, const char *code) {
    free(request->error_message);
    request->error_message = strdup(status_message());
    request->error_code = code;
    RETURN_IF(!request->error_message, STATUS_INTERNAL, "out of host memory");
    return STATUS_OK;
}

static enum status merge_sampling(const struct intake_options *options, struct request *request) {
    struct sampling effective;
    sampling_init(&effective);
    if (options->job->mode == MODE_SCORE) { /* nothing is sampled */
        sampling_free(&request->sampling);
        request->sampling = effective;
        return STATUS_OK;
    }
    enum status result = sampling_merge(&effective, options->defaults);
    if (result == STATUS_OK)
        result = sampling_merge(&effective, &options->job->sampling);
    if (result == STATUS_OK)
        result = sampling_merge(&effective, &request->sampling);
    if (result != STATUS_OK) {
        sampling_free(&effective);
        return result;
    }
    /* Only a seed of the record itself makes the key depend on it (DESIGN: numbers). */
    effective.set = (effective.set & ~(uint32_t)SAMPLING_SEED) | (request->sampling.set & SAMPLING_SEED);
    sampling_free(&request->sampling);
    request->sampling = effective;
    return STATUS_OK;
}

static enum status tokenize(const struct intake_options *options, struct tokenizer_scratch *scratch,
                            struct request *request) {
    if (request->has_token_ids)
        return STATUS_OK;
    if (!options->tokenizer)
        return status_fail(STATUS_RECORD, "prompt: the model has no tokenizer.json, so the record must give "
                                          "prompt_token_ids instead of text");
    struct token_list list = {0};
    enum status result =
        tokenizer_encode(options->tokenizer, scratch, request->prompt.bytes, request->prompt.size, &list);
    if (result != STATUS_OK) {
        token_list_free(&list);
        return result;
    }
    if (list.n > INT32_MAX / 2) {
        size_t n = list.n;
        token_list_free(&list);
        return status_fail(STATUS_RECORD, "prompt: %zu tokens are too many", n);
    }
    request->prompt_token_ids = list.ids;
    request->n_prompt_token_ids = (int32_t)list.n;
    /* Nothing reads the text any more, and records wait in their thousands. */
    free(request->prompt.bytes);
    request->prompt = (struct text_span){0};
    return STATUS_OK;
}

static enum status check_values(const struct intake_options *options, const struct request *request) {
    int32_t n_vocab = options->model->n_vocab;
    RETURN_IF(!options->tokenizer && request->sampling.n_stop > 0, STATUS_RECORD,
              "stop: the model has no tokenizer.json, so there is no text to find a stop string in; use "
              "stop_token_ids");
    for (int32_t i = 0; i < request->n_prompt_token_ids; i++) {
        int32_t id = request->prompt_token_ids[i];
        if (id >= 0 && id < n_vocab)
            continue;
        RETURN_IF(request->has_token_ids, STATUS_RECORD,
                  "prompt_token_ids[%d]: %d is outside the vocabulary of %d tokens", i, id, n_vocab);
        return status_fail(STATUS_RECORD,
                           "prompt: token %d of it is %d, outside the model's vocabulary of %d tokens; "
                           "tokenizer.json and config.json do not belong together",
                           i, id, n_vocab);
    }
    for (int32_t i = 0; i < request->sampling.n_stop_token_ids; i++)
        RETURN_IF(request->sampling.stop_token_ids[i] >= n_vocab, STATUS_RECORD,
                  "stop_token_ids[%d]: %d is outside the vocabulary of %d tokens", i,
                  request->sampling.stop_token_ids[i], n_vocab);
    return STATUS_OK;
}

/* Leaves `keep` tokens of the prompt, where it has more. Its text is cut at the beginning; the special tokens
 * that the tokenizer put around it stay, as they do with truncation_side="left" in transformers. */
static enum status cut_left(const struct intake_options *options, struct record *record, int32_t keep) {
    struct request *request = &record->request;
    int32_t n = request->n_prompt_token_ids, n_before = 0, n_behind = 0;
    if (n <= keep)
        return STATUS_OK;
    if (!request->has_token_ids)
        tokenizer_n_around(options->tokenizer, &n_before, &n_behind);
    RETURN_IF(keep <= n_before + n_behind, STATUS_RECORD,
              "prompt: max_model_len %d has no room for a prompt%s", options->max_model_len,
              n_before + n_behind ? " beside the tokenizer's special tokens" : "");
    int32_t n_cut = n - keep;
    int32_t *text = request->prompt_token_ids + n_before;
    memmove(text, text + n_cut, (size_t)(keep - n_before) * sizeof *text);
    record->n_truncated_tokens = n_cut;
    request->n_prompt_token_ids = keep;
    return STATUS_OK;
}

/* Cuts prompt and max_tokens to the model's length as on_too_long says. */
static enum status fit_length(const struct intake_options *options, struct record *record,
                              int32_t *max_tokens) {
    struct request *request = &record->request;
    int32_t length = options->max_model_len, n = request->n_prompt_token_ids;
    if (record->is_scored) {
        RETURN_IF(n > length && options->job->on_too_long == ON_TOO_LONG_ERROR, STATUS_RECORD,
                  "prompt: %d tokens are more than the %d positions of the model; shorten it, or set "
                  "on_too_long: truncate_left",
                  n, length);
        return cut_left(options, record, length);
    }
    if (n >= length) {
        RETURN_IF(options->job->on_too_long == ON_TOO_LONG_ERROR, STATUS_RECORD,
                  "prompt: %d tokens leave no room in the %d positions of the model; shorten it, or set "
                  "on_too_long: truncate_left",
                  n, length);
        /* Room for max_tokens, but never more than half of the length is given up. */
        int32_t room = request->sampling.max_tokens < length / 2 ? request->sampling.max_tokens : length / 2;
        TRY(cut_left(options, record, length - (room > 0 ? room : 1)));
        n = request->n_prompt_token_ids;
    }
    *max_tokens = request->sampling.max_tokens < length - n ? request->sampling.max_tokens : length - n;
    return STATUS_OK;
}

enum status intake_prepare(const struct intake_options *options, struct tokenizer_scratch *scratch,
                           struct record *record, int32_t *max_tokens) {
    struct request *request = &record->request;
    *max_tokens = 1;
    record->is_scored = options->job->mode == MODE_SCORE;
    if (request->error_code)
        return STATUS_OK;
    TRY(merge_sampling(options, request));
    enum status result = tokenize(options, scratch, request);
    if (result == STATUS_RECORD)
        return intake_set_error(request, "invalid_prompt");
    TRY(result);
    if (request->n_prompt_token_ids == 0) {
        status_fail(STATUS_RECORD, "the prompt is empty, and the tokenizer puts no token in front of it; "
                                   "expected at least one character");
        return intake_set_error(request, "empty_prompt");
    }
    if (check_values(options, request) != STATUS_OK)
        return intake_set_error(request, "invalid_value");
    if (fit_length(options, record, max_tokens) != STATUS_OK)
        return intake_set_error(request, "prompt_too_long");
    record->n_prompt_tokens = request->n_prompt_token_ids;
    return STATUS_OK;
}

/* ---- the thread ---- */

static void fail(struct intake *intake, enum status status) {
    pthread_mutex_lock(&intake->mutex);
    failure_note(&intake->failure, status);
    intake->is_ended = true;
    pthread_cond_signal(&intake->has_items);
    pthread_mutex_unlock(&intake->mutex);
}

/* Waits for room; false when the intake is being stopped. */
static bool push(struct intake *intake, struct item *item) {
    const struct config *config = intake->options.config;
    pthread_mutex_lock(&intake->mutex);
    while (!intake->is_stopping && intake->n_items > 0 &&
           (intake->n_items >= config->read_ahead_records ||
            intake->n_bytes + item->bytes > config->read_ahead_bytes))
        pthread_cond_wait(&intake->has_room, &intake->mutex);
    bool good = !intake->is_stopping;
    if (good) {
        if (intake->tail)
            intake->tail->next = item;
        else
            intake->head = item;
        intake->tail = item;
        intake->n_items++;
        intake->n_bytes += item->bytes;
        intake->n_read++;
        uint64_t read, total;
        prompt_reader_progress(intake->reader, &read, &total);
        intake->fraction = total > 0 ? (double)read / (double)total : -1;
        pthread_cond_signal(&intake->has_items);
    }
    pthread_mutex_unlock(&intake->mutex);
    return good;
}

static enum status read_one(struct intake *intake, struct tokenizer_scratch *scratch, bool *end) {
    struct item *item = calloc(1, sizeof *item);
    struct record *record = calloc(1, sizeof *record);
    enum status result = item && record ? STATUS_OK : status_fail(STATUS_INTERNAL, "out of host memory");
    if (result == STATUS_OK)
        result = prompt_reader_next(intake->reader, &record->request, end);
    if (result == STATUS_OK && !*end) {
        record->queued_s = clock_seconds() - intake->options.start_s;
        result = intake_prepare(&intake->options, scratch, record, &item->max_tokens);
    }
    if (result == STATUS_OK && !*end) {
        item->record = record;
        item->bytes = record_bytes(record);
        if (push(intake, item))
            return STATUS_OK;
        *end = true; /* being stopped */
    }
    if (record)
        record_free(record);
    free(record);
    free(item);
    return result;
}

static void *intake_main(void *argument) {
    struct intake *intake = argument;
    struct tokenizer_scratch *scratch = NULL;
    enum status result = STATUS_OK;
    if (intake->options.tokenizer)
        result = tokenizer_scratch_new(intake->options.tokenizer, &scratch);
    bool end = false;
    while (result == STATUS_OK && !end)
        result = read_one(intake, scratch, &end);
    if (result != STATUS_OK)
        fail(intake, result);
    pthread_mutex_lock(&intake->mutex);
    intake->is_ended = true;
    pthread_cond_signal(&intake->has_items);
    pthread_mutex_unlock(&intake->mutex);
    tokenizer_scratch_free(scratch);
    return NULL;
}

enum status intake_start(const struct intake_options *options, struct prompt_reader *reader,
                         struct intake **out) {
    struct intake *intake = calloc(1, sizeof *intake);
    RETURN_IF(!intake, STATUS_INTERNAL, "out of host memory");
    intake->options = *options;
    intake->reader = reader;
    intake->fraction = -1;
    pthread_mutex_init(&intake->mutex, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&intake->has_items, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_cond_init(&intake->has_room, NULL);
    int error = pthread_create(&intake->thread, NULL, intake_main, intake);
    if (error != 0) {
        free(intake);
        return status_fail(STATUS_INTERNAL, "the reading thread cannot be started: %s", strerror(error));
    }
    *out = intake;
    return STATUS_OK;
}

enum intake_event intake_take(struct intake *intake, double wait_s, struct record **record,
                              int32_t *max_tokens, enum status *failure) {
    pthread_mutex_lock(&intake->mutex);
    if (!intake->head && !intake->is_ended && wait_s > 0) {
        double until = clock_seconds() + wait_s;
        struct timespec deadline = {.tv_sec = (time_t)until,
                                    .tv_nsec = (long)((until - (double)(time_t)until) * 1e9)};
        while (!intake->head && !intake->is_ended &&
               pthread_cond_timedwait(&intake->has_items, &intake->mutex, &deadline) == 0)
            continue;
    }
    enum intake_event event = INTAKE_NONE_YET;
    struct item *item = intake->head;
    if (item) {
        intake->head = item->next;
        if (!intake->head)
            intake->tail = NULL;
        intake->n_items--;
        intake->n_bytes -= item->bytes;
        pthread_cond_signal(&intake->has_room);
        event = INTAKE_RECORD;
    } else if (intake->failure.code != STATUS_OK) {
        *failure = failure_result(&intake->failure);
        event = INTAKE_FAILED;
    } else if (intake->is_ended) {
        event = INTAKE_END;
    }
    pthread_mutex_unlock(&intake->mutex);
    if (item) {
        *record = item->record;
        *max_tokens = item->max_tokens;
        free(item);
    }
    return event;
}

void intake_progress(struct intake *intake, int64_t *n_read, bool *ended, double *fraction) {
    pthread_mutex_lock(&intake->mutex);
    *n_read = intake->n_read;
    *ended = intake->is_ended;
    *fraction = intake->fraction;
    pthread_mutex_unlock(&intake->mutex);
}

void intake_stop(struct intake *intake) {
    if (!intake)
        return;
    prompt_reader_stop(intake->reader);
    pthread_mutex_lock(&intake->mutex);
    intake->is_stopping = true;
    pthread_cond_signal(&intake->has_room);
    pthread_mutex_unlock(&intake->mutex);
    pthread_join(intake->thread, NULL);
    while (intake->head) {
        struct item *item = intake->head;
        intake->head = item->next;
        record_free(item->record);
        free(item->record);
        free(item);
    }
    prompt_reader_close(intake->reader);
    pthread_mutex_destroy(&intake->mutex);
    pthread_cond_destroy(&intake->has_items);
    pthread_cond_destroy(&intake->has_room);
    free(intake);
}
