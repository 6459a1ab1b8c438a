/* output_verify: the whole file once through our own eyes, with NAME alone: every seal, every compressed
 * byte, and every JSON line, whose records are counted anew and compared with what the seals say. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "worker/output/walk.h"
#include "worker/output/writer.h"

enum { TEXT_BLOCK = 256 << 10 };

struct verifier {
    const char *name;
    struct walk walk;
    z_stream inflate;
    struct buffer text; /* of the current member: what is not yet a whole line, and a block behind it */
    struct output_counts counts; /* by the JSON lines so far */
    int64_t line;                /* of the last record; 0 before the first */
    int64_t sample;              /* of the last JSON line */
    bool line_failed;            /* the last JSON line was an error */
    uint64_t text_bytes;
    int64_t n_scored_records, scored_tokens;
    double logprob_sum;
};

static enum status fail_corrupt(const struct verifier *verifier, uint64_t offset, const char *reason) {
    return status_fail(STATUS_CORRUPT,
                       "%s is damaged in the member at byte %llu: %s; restore it from a copy, or run the job "
                       "again with --restart",
                       verifier->name, (unsigned long long)offset, reason);
}

/* A count is a real number here (see take_lines); those of one record are far below 2^53. */
static bool get_count(const json_t *object, const char *key, int64_t *out) {
    const json_t *value = json_object_get(object, key);
    double number = json_number_value(value);
    bool is_count = json_is_number(value) && number >= 0 && number < 9007199254740992.0;
    *out = is_count ? (int64_t)number : 0;
    return is_count && (double)*out == number;
}

/* The prompt_logprobs of a scored record: null for the first token, a number for each other. */
static bool count_scores(struct verifier *verifier, const json_t *logprobs, int64_t prompt_tokens) {
    size_t n = json_array_size(logprobs);
    if (n == 0 || (int64_t)n != prompt_tokens || !json_is_null(json_array_get(logprobs, 0)))
        return false;
    for (size_t i = 1; i < n; i++) {
        const json_t *logprob = json_array_get(logprobs, i);
        if (!json_is_number(logprob))
            return false;
        verifier->logprob_sum += json_number_value(logprob);
    }
    verifier->n_scored_records++;
    verifier->scored_tokens += (int64_t)n - 1;
    return true;
}

/* One JSON line into the counts. NULL when good, else the reason. */
static const char *count_line(struct verifier *verifier, const json_t *object) {
    struct output_counts *counts = &verifier->counts;
    const json_t *usage = json_object_get(object, "usage");
    const json_t *scores = json_object_get(object, "prompt_logprobs");
    int64_t line, sample = 0, prompt_tokens = 0, completion_tokens = 0;
    bool failed = json_object_get(object, "error") != NULL;
    if (!json_is_object(object) || !get_count(object, "line", &line) || line < 1)
        return "a line of the text is no record";
    if (line < verifier->line)
        return "records are not in input order";
    bool is_new = line != verifier->line;
    if (!failed && (!get_count(usage, "prompt_tokens", &prompt_tokens) ||
                    !get_count(usage, "completion_tokens", &completion_tokens)))
        return "a line of the text is no record";
    if (!failed && scores && !count_scores(verifier, scores, prompt_tokens))
        return "a scored record has not as many log-probabilities as prompt tokens";
    if (!failed && !scores &&
        (!get_count(object, "sample", &sample) || !json_is_string(json_object_get(object, "text"))))
        return "a line of the text is no record";
    if (is_new ? sample != 0 : failed || verifier->line_failed || sample != verifier->sample + 1)
        return "the samples of a record do not follow each other";
    verifier->line = line;
    verifier->sample = sample;
    verifier->line_failed = failed;
    counts->n_lines++;
    counts->n_records += is_new;
    counts->n_errors += failed;
    if (!failed) {
        bool fits =
            !__builtin_add_overflow(counts->prompt_tokens, is_new ? prompt_tokens : 0,
                                    &counts->prompt_tokens) &&
            !__builtin_add_overflow(counts->completion_tokens, completion_tokens, &counts->completion_tokens);
        if (!fits)
            return "the token counts are out of range";
    }
    return NULL;
}

/* Takes the whole lines off verifier->text. */
static const char *take_lines(struct verifier *verifier) {
    struct buffer *text = &verifier->text;
    const char *at = text->data, *end = text->data + text->size, *newline;
    while (at < end && (newline = memchr(at, '\n', (size_t)(end - at)))) {
        json_error_t error;
        /* Integers of any size may stand in metadata, which is copied through; jansson reads them as reals.
         */
        size_t flags = JSON_DECODE_INT_AS_REAL | JSON_ALLOW_NUL;
        json_t *object = json_loadb(at, (size_t)(newline - at), flags, &error);
        if (!object)
            return "a line of the text is not valid JSON";
        const char *reason = count_line(verifier, object);
        json_decref(object);
        if (reason)
            return reason;
        at = newline + 1;
    }
    if (at > text->data && at < end)
        memmove(text->data, at, (size_t)(end - at));
    text->size = (size_t)(end - at);
    return NULL;
}

/* Decompresses the member in walk->member and counts its lines. */
static enum status read_text(struct verifier *verifier, const char **reason) {
    const struct seal *seal = &verifier->walk.seal;
    const struct buffer *member = &verifier->walk.member;
    z_stream *stream = &verifier->inflate;
    size_t start = SEAL_HEADER_BYTES + seal->identity_bytes;
    size_t end = member->size - SEAL_TRAILER_BYTES;
    const uint8_t *trailer = (const uint8_t *)member->data + end;
    uint64_t text_bytes = 0;
    uint32_t crc = 0;
    int code = Z_OK;
    buffer_clear(&verifier->text);
    inflateReset(stream);
    stream->avail_in = 0;
    while (code != Z_STREAM_END) {
        if (stream->avail_in == 0) {
            size_t part = end - start < 1u << 30 ? end - start : 1u << 30;
            stream->next_in = (z_const Bytef *)member->data + start;
            stream->avail_in = (uInt)part;
            start += part;
        }
        TRY(buffer_reserve(&verifier->text, TEXT_BLOCK));
        stream->next_out = (Bytef *)verifier->text.data + verifier->text.size;
        stream->avail_out = TEXT_BLOCK;
        code = inflate(stream, Z_NO_FLUSH);
        RETURN_IF(code == Z_MEM_ERROR, STATUS_INTERNAL, "out of host memory");
        size_t made = TEXT_BLOCK - stream->avail_out;
        if ((code != Z_OK && code != Z_STREAM_END) || made > seal->text_bytes - text_bytes) {
            *reason = "its compressed data is broken";
            return STATUS_OK;
        }
        crc = (uint32_t)crc32_z(crc, (const Bytef *)verifier->text.data + verifier->text.size, made);
        verifier->text.size += made;
        text_bytes += made;
        *reason = take_lines(verifier);
        if (*reason)
            return STATUS_OK;
    }
    if (stream->avail_in != 0 || start != end || text_bytes != seal->text_bytes || verifier->text.size != 0 ||
        seal_unpack_u32(trailer) != crc || seal_unpack_u32(trailer + 4) != (uint32_t)text_bytes)
        *reason = "its text differs from its seal or its gzip trailer";
    verifier->text_bytes += text_bytes;
    return STATUS_OK;
}

static const char *compare_counts(const struct verifier *verifier) {
    const struct output_counts *seal = &verifier->walk.seal.counts, *text = &verifier->counts;
    if (seal->n_records != text->n_records || seal->n_lines != text->n_lines)
        return "the seal counts other records than the text holds";
    if (seal->n_errors != text->n_errors)
        return "the seal counts other errors than the text holds";
    if (seal->prompt_tokens != text->prompt_tokens || seal->completion_tokens != text->completion_tokens)
        return "the seal counts other tokens than the text holds";
    return NULL;
}

static enum status verify_members(struct verifier *verifier) {
    struct walk *walk = &verifier->walk;
    enum walk_step step = WALK_MEMBER;
    while (step == WALK_MEMBER) {
        uint64_t offset = walk->offset;
        const char *reason = NULL;
        TRY(walk_next(walk, true, &step));
        if (step == WALK_DAMAGED)
            return fail_corrupt(verifier, offset, walk->reason);
        if (step == WALK_END)
            break;
        TRY(read_text(verifier, &reason));
        if (!reason)
            reason = compare_counts(verifier);
        if (reason)
            return fail_corrupt(verifier, offset, reason);
    }
    RETURN_IF(!walk->has_head, STATUS_CORRUPT, "%s is empty", verifier->name);
    RETURN_IF(walk->seal.kind != SEAL_TOTALS, STATUS_INCOMPLETE,
              "%s is well formed but not complete: %lld records so far; the same command goes on with it",
              verifier->name, (long long)walk->seal.counts.n_records);
    return STATUS_OK;
}

enum status output_verify(const char *name, struct verify_report *report) {
    struct verifier verifier = {.name = name};
    struct stat info;
    *report = (struct verify_report){0};
    int fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    RETURN_IF(fd < 0, STATUS_NO_INPUT, "%s: %s", name, strerror(errno));
    enum status result = STATUS_OK;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode))
        result = status_fail(STATUS_NO_INPUT, "%s is not a regular file", name);
    if (result == STATUS_OK)
        result = walk_open(&verifier.walk, fd, name);
    if (result == STATUS_OK && inflateInit2(&verifier.inflate, -MAX_WBITS) != Z_OK)
        result = status_fail(STATUS_INTERNAL, "out of host memory");
    if (result == STATUS_OK)
        result = verify_members(&verifier);
    report->counts = verifier.walk.seal.counts;
    report->is_complete = result == STATUS_OK;
    report->file_bytes = verifier.walk.file_bytes;
    report->text_bytes = verifier.text_bytes;
    report->n_scored_records = verifier.n_scored_records;
    report->scored_tokens = verifier.scored_tokens;
    report->logprob_sum = verifier.logprob_sum;
    report->identity = verifier.walk.identity;
    verifier.walk.identity = (struct buffer){0};
    inflateEnd(&verifier.inflate);
    buffer_free(&verifier.text);
    walk_close(&verifier.walk);
    close(fd);
    return result;
}

void verify_report_free(struct verify_report *report) {
    buffer_free(&report->identity);
    *report = (struct verify_report){0};
}
