#include "worker/output/record.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "worker/base/number.h"
#include "worker/text/utf8.h"

void record_free(struct record *record) {
    int32_t n = record->completions ? record->request.sampling.n : 0;
    for (int32_t i = 0; i < n; i++) {
        struct completion *completion = &record->completions[i];
        buffer_free(&completion->text);
        free(completion->token_ids);
        free(completion->logprobs);
        free(completion->top);
    }
    free(record->completions);
    free(record->prompt_logprobs);
    request_free(&record->request);
    *record = (struct record){0};
}

void record_totals(const struct record *record, bool *is_error, int64_t *prompt_tokens,
                   int64_t *completion_tokens) {
    *is_error = record->request.error_code != NULL;
    *prompt_tokens = *is_error ? 0 : record->n_prompt_tokens;
    *completion_tokens = 0;
    for (int32_t i = 0; !*is_error && i < record->request.sampling.n; i++)
        *completion_tokens += record->completions[i].n_tokens;
}

double record_logprob_sum(const struct record *record) {
    double sum = 0;
    for (int32_t i = 0; i < record->n_scored; i++)
        sum += record->prompt_logprobs[i + 1];
    return sum;
}

size_t record_bytes(const struct record *record) {
    const struct request *request = &record->request;
    size_t bytes = sizeof *record + request->custom_id_size + request->prompt.size + request->metadata.size +
                   (size_t)request->n_prompt_token_ids * sizeof *request->prompt_token_ids;
    for (int32_t i = 0; record->completions && i < request->sampling.n; i++) {
        const struct completion *completion = &record->completions[i];
        size_t each = sizeof *completion->token_ids;
        each += completion->logprobs ? sizeof *completion->logprobs : 0;
        each += completion->top ? (size_t)completion->n_top * sizeof *completion->top : 0;
        bytes += sizeof *completion + completion->text.capacity + (size_t)completion->n_tokens * each;
    }
    if (record->prompt_logprobs)
        bytes += (size_t)request->n_prompt_token_ids * sizeof *record->prompt_logprobs;
    return bytes;
}

/* ---- pieces: reserve first, then write through a pointer ---- */

static char *put(char *at, const char *text, size_t size) {
    memcpy(at, text, size);
    return at + size;
}
#define PUT(at, literal) put((at), (literal), sizeof(literal) - 1)

static char *buffer_end(struct buffer *out) {
    return out->data + out->size;
}

static void set_end(struct buffer *out, const char *end) {
    out->size = (size_t)(end - out->data);
}

/* What a byte needs within a JSON string: 0 nothing, 'u' \u00XX, 'x' a look at the UTF-8 it starts, else the
 * letter behind a backslash. */
/* clang-format off */
static const char escapes[256] = {
    [0x00 ... 0x07] = 'u', [0x08] = 'b', [0x09] = 't', [0x0a] = 'n', [0x0b] = 'u', [0x0c] = 'f', [0x0d] = 'r',
    [0x0e ... 0x1f] = 'u', ['"'] = '"', ['\\'] = '\\', [0x80 ... 0xff] = 'x',
};
/* clang-format on */

static enum status append_escape(struct buffer *out, unsigned char byte) {
    static const char hex[] = "0123456789abcdef";
    if (escapes[byte] == 'u') {
        const char text[] = {'\\', 'u', '0', '0', hex[byte >> 4], hex[byte & 15]};
        return buffer_append(out, text, sizeof text);
    }
    if (escapes[byte] == 'x')
        return buffer_append_text(out, "\xef\xbf\xbd");
    const char text[] = {'\\', escapes[byte]};
    return buffer_append(out, text, sizeof text);
}

/* Text as a JSON string. Valid UTF-8 goes through raw; a byte that is none (possible in an error message
 * about bad input, never in an answer) becomes U+FFFD, so that the line stays valid. */
static enum status append_string(struct buffer *out, const char *text, size_t size) {
    TRY(buffer_reserve(out, size + 2));
    TRY(buffer_append_byte(out, '"'));
    size_t start = 0, i = 0;
    while (i < size) {
        unsigned char byte = (unsigned char)text[i];
        size_t length = escapes[byte] == 'x' ? utf8_next(text + i, size - i, NULL) : !escapes[byte];
        if (length > 0) {
            i += length;
            continue;
        }
        TRY(buffer_append(out, text + start, i - start));
        TRY(append_escape(out, byte));
        start = ++i;
    }
    TRY(buffer_append(out, text + start, size - start));
    return buffer_append_byte(out, '"');
}

/* ---- fields ---- */

static enum status append_start(struct buffer *out, const struct request *request) {
    TRY(buffer_reserve(out, 64));
    char *at = PUT(buffer_end(out), "{\"line\":");
    at = number_write_int(at, request->line);
    if (request->custom_id)
        at = PUT(at, ",\"custom_id\":");
    set_end(out, at);
    return request->custom_id ? append_string(out, request->custom_id, request->custom_id_size) : STATUS_OK;
}

/* start: the field's name and what stands in front of the first id. */
static enum status append_ids(struct buffer *out, const char *start, const int32_t *ids, int32_t n) {
    TRY(buffer_reserve(out, 32 + (size_t)n * (NUMBER_MAX_BYTES + 1)));
    char *at = put(buffer_end(out), start, strlen(start));
    for (int32_t i = 0; i < n; i++) {
        if (i)
            *at++ = ',';
        at = number_write_int(at, ids[i]);
    }
    *at++ = ']';
    set_end(out, at);
    return STATUS_OK;
}

static enum status append_token_ids(struct buffer *out, const struct completion *completion) {
    return append_ids(out, ",\"token_ids\":[", completion->token_ids, completion->n_tokens);
}

/* The first token has nothing in front of it that it could follow from. */
static enum status append_prompt_logprobs(struct buffer *out, const struct record *record) {
    TRY(buffer_reserve(out, 96 + (size_t)record->n_scored * (NUMBER_MAX_BYTES + 1)));
    char *at = PUT(buffer_end(out), ",\"prompt_logprobs\":[null");
    for (int32_t i = 0; i < record->n_scored; i++) {
        *at++ = ',';
        at = number_write_float(at, record->prompt_logprobs[i + 1]);
    }
    at = PUT(at, "],\"perplexity\":");
    if (record->n_scored > 0)
        at = number_write_float(at, (float)exp(-record_logprob_sum(record) / record->n_scored));
    else
        at = PUT(at, "null");
    set_end(out, at);
    return STATUS_OK;
}

static char *put_top(char *at, const struct top_logprob *top, int32_t n) {
    *at++ = '[';
    for (int32_t i = 0; i < n; i++) {
        if (i)
            *at++ = ',';
        *at++ = '[';
        at = number_write_int(at, top[i].token);
        *at++ = ',';
        at = number_write_float(at, top[i].logprob);
        *at++ = ']';
    }
    *at++ = ']';
    return at;
}

static enum status append_logprobs(struct buffer *out, const struct completion *completion) {
    size_t n_tokens = (size_t)completion->n_tokens;
    size_t n_top = completion->top ? (size_t)completion->n_top : 0;
    TRY(buffer_reserve(out, 64 + n_tokens * (NUMBER_MAX_BYTES + 4 + n_top * (2 * NUMBER_MAX_BYTES + 4))));
    char *at = PUT(buffer_end(out), ",\"logprobs\":{\"token_logprobs\":[");
    for (size_t i = 0; i < n_tokens; i++) {
        if (i)
            *at++ = ',';
        at = number_write_float(at, completion->logprobs[i]);
    }
    *at++ = ']';
    if (n_top) {
        at = PUT(at, ",\"top\":[");
        for (size_t i = 0; i < n_tokens; i++) {
            if (i)
                *at++ = ',';
            at = put_top(at, completion->top + i * n_top, completion->n_top);
        }
        *at++ = ']';
    }
    *at++ = '}';
    set_end(out, at);
    return STATUS_OK;
}

static enum status append_usage(struct buffer *out, const struct record *record,
                                const struct completion *completion) {
    TRY(buffer_reserve(out, 256));
    char *at = PUT(buffer_end(out), ",\"usage\":{\"prompt_tokens\":");
    at = number_write_int(at, record->n_prompt_tokens);
    at = PUT(at, ",\"completion_tokens\":");
    at = number_write_int(at, completion->n_tokens);
    if (record->n_truncated_tokens > 0) {
        at = PUT(at, ",\"truncated_tokens\":");
        at = number_write_int(at, record->n_truncated_tokens);
    }
    *at++ = '}';
    set_end(out, at);
    return STATUS_OK;
}

static enum status append_metadata(struct buffer *out, const struct request *request) {
    if (!request->metadata.bytes)
        return STATUS_OK;
    TRY(buffer_append_text(out, ",\"metadata\":"));
    return buffer_append(out, request->metadata.bytes, request->metadata.size);
}

static enum status append_timing(struct buffer *out, const struct record *record,
                                 const struct completion *completion) {
    TRY(buffer_reserve(out, 384));
    char *at = PUT(buffer_end(out), ",\"timing\":{\"queue_s\":");
    at = number_write_seconds(at, record->admitted_s - record->queued_s);
    if (record->is_scored && completion) {
        at = PUT(at, ",\"prefill_s\":");
        at = number_write_seconds(at, completion->last_token_s - record->admitted_s);
        at = PUT(at, ",\"total_s\":");
        at = number_write_seconds(at, completion->last_token_s - record->queued_s);
    } else if (completion) {
        double decode_s = completion->last_token_s - completion->first_token_s;
        at = PUT(at, ",\"prefill_s\":");
        at = number_write_seconds(at, completion->first_token_s - record->admitted_s);
        at = PUT(at, ",\"decode_s\":");
        at = number_write_seconds(at, decode_s);
        at = PUT(at, ",\"total_s\":");
        at = number_write_seconds(at, completion->last_token_s - record->queued_s);
        at = PUT(at, ",\"time_to_first_token_s\":");
        at = number_write_seconds(at, completion->first_token_s - record->queued_s);
        at = PUT(at, ",\"time_per_output_token_s\":");
        at = number_write_seconds(at, completion->n_tokens > 1 ? decode_s / (completion->n_tokens - 1) : 0);
    }
    at = PUT(at, "}}\n");
    set_end(out, at);
    return STATUS_OK;
}

/* ---- lines ---- */

static enum status append_error_line(struct buffer *out, const struct record *record) {
    const struct request *request = &record->request;
    const char *message = request->error_message ? request->error_message : request->error_code;
    TRY(append_start(out, request));
    TRY(buffer_append_text(out, ",\"error\":{\"code\":"));
    TRY(append_string(out, request->error_code, strlen(request->error_code)));
    TRY(buffer_append_text(out, ",\"message\":"));
    TRY(append_string(out, message, strlen(message)));
    TRY(buffer_append_byte(out, '}'));
    TRY(append_metadata(out, request));
    return append_timing(out, record, NULL);
}

static enum status append_sample_line(struct buffer *out, const struct record *record, int32_t sample,
                                      bool token_ids) {
    const struct completion *completion = &record->completions[sample];
    TRY(append_start(out, &record->request));
    TRY(buffer_reserve(out, 64));
    char *at = PUT(buffer_end(out), ",\"sample\":");
    at = number_write_int(at, sample);
    set_end(out, PUT(at, ",\"text\":"));
    TRY(append_string(out, completion->text.data, completion->text.size));
    bool stopped = completion->finish_reason == FINISH_STOP;
    TRY(buffer_append_text(out, stopped ? ",\"finish_reason\":\"stop\"" : ",\"finish_reason\":\"length\""));
    if (token_ids || completion->logprobs)
        TRY(append_token_ids(out, completion));
    if (completion->logprobs)
        TRY(append_logprobs(out, completion));
    TRY(append_usage(out, record, completion));
    TRY(append_metadata(out, &record->request));
    return append_timing(out, record, completion);
}

static enum status append_scored_line(struct buffer *out, const struct record *record, bool token_ids) {
    const struct request *request = &record->request;
    TRY(append_start(out, request));
    if (token_ids)
        TRY(append_ids(out, ",\"prompt_token_ids\":[", request->prompt_token_ids, record->n_prompt_tokens));
    TRY(append_prompt_logprobs(out, record));
    TRY(append_usage(out, record, &record->completions[0]));
    TRY(append_metadata(out, request));
    return append_timing(out, record, &record->completions[0]);
}

enum status record_write(const struct record *record, bool token_ids, struct buffer *out, int32_t *n_lines) {
    *n_lines = 0;
    if (record->request.error_code) {
        *n_lines = 1;
        return append_error_line(out, record);
    }
    RETURN_IF(!record->completions || record->request.sampling.n < 1, STATUS_INTERNAL,
              "line %lld has neither an answer nor an error", (long long)record->request.line);
    if (record->is_scored) {
        RETURN_IF(record->n_scored != record->n_prompt_tokens - 1, STATUS_INTERNAL,
                  "line %lld: %d of %d prompt tokens are scored", (long long)record->request.line,
                  record->n_scored, record->n_prompt_tokens - 1);
        *n_lines = 1;
        return append_scored_line(out, record, token_ids);
    }
    for (int32_t i = 0; i < record->request.sampling.n; i++)
        TRY(append_sample_line(out, record, i, token_ids));
    *n_lines = record->request.sampling.n;
    return STATUS_OK;
}
