#include "worker/run/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/base/background.h"
#include "worker/base/clock.h"
#include "worker/base/file.h"
#include "worker/base/log.h"
#include "worker/model/safetensors.h"

/* More weights than this are loaded when the tokenizer is open, fewer beside its opening. */
static const size_t TOKENIZER_FIRST_BYTES = (size_t)4 << 30;

enum status session_open_device(const struct config *config, struct backend *backend, bool *is_gpu) {
    struct backend_options options = {.n_threads = config->threads,
                                      .cpu_isa = config->cpu_isa,
                                      .cuda_device = config->cuda_device,
                                      .no_graphs = !config->cuda_graphs,
                                      .no_network = !config->cuda_network};
    *is_gpu = false;
    if (config->device != DEVICE_CPU) {
        enum status result = backend_open("cuda", &options, backend);
        if (result == STATUS_OK)
            *is_gpu = true;
        else if (config->device == DEVICE_CUDA || result != STATUS_NO_DEVICE)
            return result;
        else
            log_info("device auto: cpu (%s)", status_message());
    }
    if (!*is_gpu)
        TRY(backend_open("cpu", &options, backend));
    else if (config->device == DEVICE_AUTO)
        log_info("device auto: %s", backend->device);
    return STATUS_OK;
}

enum status session_open_tokenizer(const char *folder, struct tokenizer **out) {
    *out = NULL;
    char *path = path_join(folder, "tokenizer.json");
    RETURN_IF(!path, STATUS_INTERNAL, "out of host memory");
    bool has_tokenizer = file_exists(path);
    free(path);
    return has_tokenizer ? tokenizer_open(folder, out) : STATUS_OK;
}

enum status session_load_shape(const char *shape, struct model_config *config, char **path) {
    *path = file_is_directory(shape) ? path_join(shape, "config.json") : strdup(shape);
    RETURN_IF(!*path, STATUS_INTERNAL, "out of host memory");
    return model_config_load_file(*path, config);
}

/* Where a session's weights come from: the job's model directory, or nowhere. */
struct origin {
    const char *shape; /* NULL: the model directory */
    const struct synthesis *synthesis;
};

static enum status load_config(const struct job *job, const struct origin *from, struct session *session) {
    if (!from->shape)
        return model_config_load(job->model, &session->model_config, &session->defaults);
    char *path;
    enum status result = session_load_shape(from->shape, &session->model_config, &path);
    free(path);
    return result;
}

/* What needs no device, and goes on in threads while the device is opened and weights are taken to it. */
struct preparation {
    struct safetensors *files;   /* their contents are being hashed; NULL: weights are made up */
    struct background tokenizer; /* being opened */
    struct session *session;
    const char *folder;
};

static enum status open_tokenizer(void *argument) {
    struct preparation *preparation = argument;
    return session_open_tokenizer(preparation->folder, &preparation->session->tokenizer);
}

static enum status prepare(const struct job *job, const struct origin *from, struct session *session,
                           struct preparation *out) {
    *out = (struct preparation){.session = session, .folder = job->model};
    TRY(load_config(job, from, session));
    if (from->shape)
        return STATUS_OK;
    TRY(safetensors_open_folder(job->model, &out->files));
    safetensors_hash_begin(out->files);
    background_begin(&out->tokenizer, open_tokenizer, out);
    return STATUS_OK;
}

static enum status load_weights(const struct job *job, const struct origin *from,
                                struct preparation *preparation, struct session *session) {
    struct backend *backend = &session->backend;
    enum dtype dtype = session->plan.dtype;
    if (from->shape) {
        snprintf(session->fingerprint, sizeof session->fingerprint, "random-%llu",
                 (unsigned long long)from->synthesis->seed);
        return model_synthesize(&session->model_config, from->synthesis, dtype, backend, &session->model);
    }
    return model_load_files(job->model, preparation->files, &session->model_config, dtype, backend,
                            session->fingerprint, &session->model);
}

static enum status load(const struct job *job, const struct config *config, const struct origin *from,
                        struct preparation *preparation, struct session *session) {
    double began = clock_seconds();
    bool is_gpu;
    TRY(prepare(job, from, session, preparation));
    TRY(session_open_device(config, &session->backend, &is_gpu));
    session->device_s = clock_seconds() - began;

    struct backend *backend = &session->backend;
    struct plan_device device = {.is_gpu = is_gpu};
    TRY(backend->memory_info(backend->context, &device.free_bytes, &device.total_bytes));
    TRY(plan_make(job, config, &session->model_config, &device, &session->plan));

    began = clock_seconds();
    /* A tokenizer that is refused says so before weights that may take minutes to read. */
    if (session->plan.weight_bytes > TOKENIZER_FIRST_BYTES)
        TRY(background_join(&preparation->tokenizer));
    TRY(load_weights(job, from, preparation, session));
    session->weights_s = clock_seconds() - began;
    TRY(model_prepare(session->model, &session->plan.model));
    TRY(backend->state_init(backend->context, &session->plan.state));
    session->load_s = clock_seconds() - began;
    return background_join(&preparation->tokenizer);
}

/* Releases what is left of the preparation, and passes on the result and its message. */
static enum status prepared(enum status result, struct preparation *preparation) {
    struct failure failure = {0};
    failure_note(&failure, result);
    background_join(&preparation->tokenizer);
    safetensors_close(preparation->files);
    return failure_result(&failure);
}

static enum status open_from(const struct job *job, const struct config *config, const struct origin *from,
                             struct session *session) {
    memset(session, 0, sizeof *session);
    sampling_init(&session->defaults);
    struct preparation preparation;
    enum status result = prepared(load(job, config, from, &preparation, session), &preparation);
    if (result != STATUS_OK)
        session_close(session);
    return result;
}

enum status session_open(const struct job *job, const struct config *config, struct session *session) {
    return open_from(job, config, &(struct origin){0}, session);
}

enum status session_open_synthetic(const struct job *job, const struct config *config, const char *shape,
                                   const struct synthesis *synthesis, struct session *session) {
    return open_from(job, config, &(struct origin){shape, synthesis}, session);
}

void session_close(struct session *session) {
    if (session->model)
        model_close(session->model);
    if (session->backend.close)
        session->backend.close(session->backend.context);
    if (session->tokenizer)
        tokenizer_close(session->tokenizer);
    sampling_free(&session->defaults);
    memset(session, 0, sizeof *session);
}

struct scheduler_limits session_scheduler_limits(const struct plan *plan) {
    const struct state_limits *state = &plan->state;
    return (struct scheduler_limits){.n_slots = state->n_slots,
                                     .n_pages = state->n_pages,
                                     .max_pages_per_slot = state->max_pages_per_slot,
                                     .max_rows = state->max_rows,
                                     .max_samples = state->max_samples,
                                     .reserves_expected = plan->kv_reserve == KV_RESERVE_EXPECTED};
}
