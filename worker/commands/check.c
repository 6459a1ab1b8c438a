/* pressrun check: is the job good, every prompt included, and what will it take? Needs no GPU. */
#include <stdio.h>
#include <stdlib.h>

#include "worker/base/log.h"
#include "worker/commands/commands.h"
#include "worker/engine/step_bound.h"
#include "worker/run/intake.h"
#include "worker/run/session.h"

enum { MAX_REPORTED = 20 };

/* What the prompts add up to. */
struct totals {
    int64_t n_records, n_errors, n_sequences, n_truncated;
    int64_t prompt_tokens, longest_prompt, scored_tokens, most_completion_tokens;
    struct step_bound steps;
};

static void add_record(struct totals *totals, const struct record *record, int32_t max_tokens) {
    const struct request *request = &record->request;
    totals->n_records++;
    if (request->error_code) {
        totals->n_errors++;
        if (totals->n_errors <= MAX_REPORTED)
            log_warning("line %lld: %s: %s", (long long)request->line, request->error_code,
                        request->error_message);
        return;
    }
    totals->prompt_tokens += record->n_prompt_tokens;
    if (record->n_prompt_tokens > totals->longest_prompt)
        totals->longest_prompt = record->n_prompt_tokens;
    totals->n_truncated += record->n_truncated_tokens > 0;
    if (record->is_scored) {
        bool runs = record->n_prompt_tokens > 1;
        totals->n_sequences += runs;
        totals->scored_tokens += record->n_prompt_tokens - 1;
        if (runs) /* its place is free for another after a step, as if it had one token to sample */
            step_bound_add(&totals->steps, record->n_prompt_tokens, 1, 1);
        return;
    }
    int32_t n = request->sampling.n;
    totals->n_sequences += n;
    totals->most_completion_tokens += (int64_t)n * max_tokens;
    step_bound_add(&totals->steps, record->n_prompt_tokens, max_tokens, n);
}

static enum status read_prompts(const struct intake_options *intake, struct shard shard,
                                struct totals *totals) {
    struct prompt_reader *reader;
    TRY(prompt_reader_open(intake->job, shard, &reader));
    struct tokenizer_scratch *scratch = NULL;
    enum status result = intake->tokenizer ? tokenizer_scratch_new(intake->tokenizer, &scratch) : STATUS_OK;
    bool end = false;
    while (result == STATUS_OK) {
        struct record record = {0};
        int32_t max_tokens = 1;
        result = prompt_reader_next(reader, &record.request, &end);
        if (result != STATUS_OK || end)
            break;
        result = intake_prepare(intake, scratch, &record, &max_tokens);
        if (result == STATUS_OK)
            add_record(totals, &record, max_tokens);
        record_free(&record);
    }
    tokenizer_scratch_free(scratch);
    prompt_reader_close(reader);
    return result;
}

static double mib(size_t bytes) {
    return (double)bytes / (1 << 20);
}

static const char *dtype_name(enum dtype dtype) {
    return dtype == DTYPE_FLOAT32 ? "float32" : "bfloat16";
}

static void print_plan(const struct job *job, const struct plan *plan, const char *device,
                       const struct totals *totals) {
    printf("job            %s\n", job->path);
    printf("model          %s, %s, KV cache %s, at most %d tokens per sequence\n", job->model,
           dtype_name(plan->dtype), dtype_name(plan->kv_dtype), plan->max_model_len);
    printf("device         %s, %.1f MiB may be used\n", device, mib(plan->budget_bytes));
    printf("memory         %.1f MiB: weights %.1f, activations %.1f, KV cache %.1f, other state %.1f\n",
           mib(plan->weight_bytes + plan->activation_bytes + plan->state_bytes), mib(plan->weight_bytes),
           mib(plan->activation_bytes), mib(plan->kv_bytes), mib(plan->state_bytes - plan->kv_bytes));
    printf("batch          %d sequences, %d tokens per step, %d KV pages of %d positions\n",
           plan->max_num_seqs, plan->max_num_batched_tokens, plan->state.n_pages - 1, PAGE_TOKENS);
    printf("prompts        %lld, %lld wrong, %lld sequences, %lld prompt tokens (longest %lld)\n",
           (long long)totals->n_records, (long long)totals->n_errors, (long long)totals->n_sequences,
           (long long)totals->prompt_tokens, (long long)totals->longest_prompt);
    if (totals->n_truncated)
        printf("truncated      %lld prompts (on_too_long: truncate_left)\n", (long long)totals->n_truncated);
    if (job->mode == MODE_SCORE) {
        printf("upper bound    %lld scored tokens, %lld steps\n", (long long)totals->scored_tokens,
               (long long)step_bound_steps(&totals->steps));
        return;
    }
    printf("upper bound    %lld output tokens, %lld steps%s\n", (long long)totals->most_completion_tokens,
           (long long)step_bound_steps(&totals->steps),
           plan->kv_reserve == KV_RESERVE_EXPECTED ? " (kv_reserve: expected may restart some beyond that)"
                                                   : "");
}

/* Vocabularies that do not fit one another need not be a mistake: Gemma 3's text models lack the token of an
 * image, which their tokenizers have. */
static void warn_of_missing_tokens(const struct job *job, const struct model_config *model,
                                   const struct tokenizer *tokenizer) {
    int32_t n_ids = tokenizer ? tokenizer_n_vocab(tokenizer) : 0;
    if (n_ids > model->n_vocab)
        log_warning(
            "%s: tokenizer.json has ids up to %d, but the vocabulary of config.json ends at %d; a prompt "
            "that needs one beyond it is a record error",
            job->model, n_ids - 1, model->n_vocab - 1);
}

static enum status check(const struct command_options *options, struct job *job, struct config *config,
                         struct sampling *defaults, struct tokenizer **tokenizer, struct totals *totals) {
    TRY(job_load(options->target, options->overrides, options->n_overrides, job, config));
    struct model_config model;
    TRY(model_config_load(job->model, &model, defaults));
    char fingerprint[33];
    TRY(model_fingerprint(job->model, fingerprint)); /* reads and so checks every weight file */
    TRY(session_open_tokenizer(job->model, tokenizer));
    warn_of_missing_tokens(job, &model, *tokenizer);

    struct plan_device device = {
        .is_gpu = true, .free_bytes = options->device_memory, .total_bytes = options->device_memory};
    char device_name[160];
    snprintf(device_name, sizeof device_name, "a GPU with %.1f GiB (--device-memory)",
             (double)options->device_memory / (1 << 30));
    if (options->device_memory == 0) {
        struct backend backend;
        TRY(session_open_device(config, &backend, &device.is_gpu));
        enum status result = backend.memory_info(backend.context, &device.free_bytes, &device.total_bytes);
        snprintf(device_name, sizeof device_name, "%s", backend.device);
        backend.close(backend.context);
        TRY(result);
    }
    struct plan plan;
    TRY(plan_make(job, config, &model, &device, &plan));
    if (model.is_float16)
        log_info("%s/config.json: float16 is computed in %s", job->model, dtype_name(plan.dtype));
    struct scheduler_limits limits = session_scheduler_limits(&plan);
    TRY(step_bound_init(&totals->steps, &limits));
    struct intake_options intake = {.job = job,
                                    .config = config,
                                    .model = &model,
                                    .defaults = defaults,
                                    .tokenizer = *tokenizer,
                                    .max_model_len = plan.max_model_len};
    TRY(read_prompts(&intake, options->shard, totals));
    print_plan(job, &plan, device_name, totals);
    RETURN_IF(options->strict && totals->n_errors > 0, STATUS_RECORD,
              "%lld of %lld prompts are wrong (--strict)", (long long)totals->n_errors,
              (long long)totals->n_records);
    return STATUS_OK;
}

enum status command_check(const struct command_options *options) {
    struct job job = {0};
    struct config config = {0};
    struct sampling defaults;
    sampling_init(&defaults);
    struct tokenizer *tokenizer = NULL;
    struct totals totals = {0};
    enum status result = check(options, &job, &config, &defaults, &tokenizer, &totals);
    step_bound_free(&totals.steps);
    if (tokenizer)
        tokenizer_close(tokenizer);
    sampling_free(&defaults);
    job_free(&job);
    config_free(&config);
    return result;
}
