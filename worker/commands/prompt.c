/* pressrun prompt: one prompt, its answer streamed to the terminal. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/base/clock.h"
#include "worker/base/log.h"
#include "worker/commands/commands.h"
#include "worker/run/intake.h"
#include "worker/run/session.h"
#include "worker/text/stop.h"

/* The text that is out already. */
struct stream {
    const struct tokenizer *tokenizer;
    struct detokenizer detokenizer;
    struct buffer text;
    size_t n_printed;
    enum status failure;
};

static void print_up_to(struct stream *stream, size_t end) {
    if (end > stream->n_printed)
        fwrite(stream->text.data + stream->n_printed, 1, end - stream->n_printed, stdout);
    fflush(stdout);
    if (end > stream->n_printed)
        stream->n_printed = end;
}

/* With stop strings the engine keeps the text; what could begin one is held back. */
static void on_token(void *argument, const struct sequence *sequence, int32_t token) {
    struct stream *stream = argument;
    const struct sampling *sampling = &sequence->group->record->request.sampling;
    if (stream->failure != STATUS_OK)
        return;
    if (sampling->n_stop > 0) {
        buffer_clear(&stream->text);
        stream->failure = buffer_append(&stream->text, sequence->text.data, sequence->text.size);
        if (stream->failure == STATUS_OK)
            print_up_to(stream, stream->text.size - stop_held_back(sampling->stop, sampling->n_stop,
                                                                   stream->text.data, stream->text.size));
        return;
    }
    stream->failure = detokenizer_add(&stream->detokenizer, stream->tokenizer, token, &stream->text);
    if (stream->failure == STATUS_OK)
        print_up_to(stream, stream->text.size);
}

static enum status make_job(const struct command_options *options, struct job *job, struct config *config) {
    TRY(job_from_values(options->target, options->overrides, options->n_overrides, job, config));
    RETURN_IF(job->sampling.n != 1, STATUS_USAGE,
              "n: %d answers cannot be streamed at once; ask with several seeds", job->sampling.n);
    job->on_too_long = ON_TOO_LONG_TRUNCATE_LEFT;
    config->max_num_seqs = 1;
    return STATUS_OK;
}

static enum status generate(struct session *session, const struct job *job, const struct config *config,
                            const char *prompt, struct stream *stream, double start_s) {
    struct record *record = calloc(1, sizeof *record);
    RETURN_IF(!record, STATUS_INTERNAL, "out of host memory");
    record->request.line = 1;
    sampling_init(&record->request.sampling);
    record->request.prompt = (struct text_span){.bytes = strdup(prompt), .size = strlen(prompt)};
    struct intake_options intake = {.job = job,
                                    .config = config,
                                    .model = &session->model_config,
                                    .defaults = &session->defaults,
                                    .tokenizer = session->tokenizer,
                                    .max_model_len = session->plan.max_model_len,
                                    .start_s = start_s};
    struct tokenizer_scratch *scratch = NULL;
    int32_t max_tokens = 1;
    enum status result =
        record->request.prompt.bytes ? STATUS_OK : status_fail(STATUS_INTERNAL, "out of host memory");
    if (result == STATUS_OK)
        result = tokenizer_scratch_new(session->tokenizer, &scratch);
    if (result == STATUS_OK)
        result = intake_prepare(&intake, scratch, record, &max_tokens);
    tokenizer_scratch_free(scratch);
    if (result == STATUS_OK && record->request.error_code)
        result = status_fail(STATUS_DATA, "%s", record->request.error_message);

    struct engine_options options = {.limits = session_scheduler_limits(&session->plan),
                                     .job_seed = job->seed,
                                     .start_s = start_s,
                                     .on_token = on_token,
                                     .on_token_argument = stream};
    struct engine *engine = NULL;
    if (result == STATUS_OK)
        result = engine_open(&session->backend, session->model, &session->model_config, session->tokenizer,
                             &options, &engine);
    if (result == STATUS_OK)
        result = engine_submit(engine, record, max_tokens);
    if (result != STATUS_OK) {
        record_free(record);
        free(record);
        engine_close(engine);
        return result;
    }
    struct run_metrics *metrics = calloc(1, sizeof *metrics);
    struct record *done = NULL;
    if (!metrics)
        result = status_fail(STATUS_INTERNAL, "out of host memory");
    while (result == STATUS_OK && stream->failure == STATUS_OK && !(done = engine_take(engine)))
        result = engine_step(engine, false, true, metrics);
    free(metrics);
    if (done && done->request.error_code)
        result = status_fail(STATUS_INTERNAL, "%s", done->request.error_message);
    else if (done) {
        const struct completion *completion = &done->completions[0];
        if (completion->text.data) { /* what was held back and turned out to be text */
            buffer_clear(&stream->text);
            result = buffer_append(&stream->text, completion->text.data, completion->text.size);
        } else {
            result = detokenizer_finish(&stream->detokenizer, &stream->text);
        }
        print_up_to(stream, stream->text.size);
        putchar('\n');
        double decode = completion->last_token_s - completion->first_token_s;
        log_info("%d prompt tokens, %d tokens, first token after %.3f s, %.1f tokens/s",
                 done->n_prompt_tokens, completion->n_tokens, completion->first_token_s,
                 decode > 0 ? (completion->n_tokens - 1) / decode : 0.0);
    }
    if (done) {
        record_free(done);
        free(done);
    }
    engine_close(engine);
    return result != STATUS_OK ? result : stream->failure;
}

enum status command_prompt(const struct command_options *options) {
    struct job job = {0};
    struct config config = {0};
    struct session session = {0};
    enum status result = make_job(options, &job, &config);
    if (result == STATUS_OK)
        result = session_open(&job, &config, &session);
    if (result == STATUS_OK) {
        struct stream stream = {.tokenizer = session.tokenizer};
        if (!session.tokenizer)
            result =
                status_fail(STATUS_NO_INPUT,
                            "%s: has no tokenizer.json, which a prompt in text needs; transformers writes "
                            "one: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
                            options->target);
        else
            result = generate(&session, &job, &config, options->prompt, &stream, options->start_s);
        buffer_free(&stream.text);
        detokenizer_free(&stream.detokenizer);
        session_close(&session);
    }
    job_free(&job);
    config_free(&config);
    return result;
}
