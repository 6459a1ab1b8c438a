#include "worker/job/prompt_reader.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "worker/base/buffer.h"
#include "worker/job/input_stream.h"
#include "worker/text/utf8.h"

enum {
    CHUNK_BYTES = 256 << 10,
    NUMBER_BYTES = 8,      /* the line number, in front of the line's bytes: both are hashed at once */
    PIECE_BYTES = 64 << 10 /* a line beyond the limit is hashed in pieces of this size */
};

struct prompt_reader {
    struct input_stream *input;
    const char *name; /* for messages; the job's */
    char *prompt_field;
    enum prompt_format format;
    struct shard shard;
    size_t max_line_bytes;
    int64_t line;  /* last line that was read, 1-based */
    int64_t index; /* of the next selected line */
    struct hash128 hash;
    struct buffer text; /* NUMBER_BYTES, then the line that was read */
    char *chunk;        /* [CHUNK_BYTES] bytes read, [chunk_begin, chunk_end) still to be used */
    size_t chunk_begin;
    size_t chunk_end;
    bool is_started;
    bool is_at_end;
};

static bool has_ending(const char *name, size_t size, const char *ending) {
    size_t n = strlen(ending);
    return size > n && memcmp(name + size - n, ending, n) == 0;
}

bool prompt_format_of_name(const char *name, enum prompt_format *format) {
    *format = PROMPT_DETECT;
    if (strcmp(name, "-") == 0)
        return true;
    size_t size = strlen(name);
    if (has_ending(name, size, ".gz"))
        size -= 3;
    if (has_ending(name, size, ".txt")) {
        *format = PROMPT_TEXT;
        return true;
    }
    if (has_ending(name, size, ".jsonl") || has_ending(name, size, ".ndjson")) {
        *format = PROMPT_JSONL;
        return true;
    }
    struct stat info;
    return stat(name, &info) == 0 && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode);
}

static enum status reader_init(struct prompt_reader *reader, const struct job *job) {
    RETURN_IF(!prompt_format_of_name(job->prompts, &reader->format), STATUS_JOB,
              "%s: no known ending; expected .txt or .jsonl, either with .gz behind it", job->prompts);
    reader->name = strcmp(job->prompts, "-") == 0 ? "standard input" : job->prompts;
    reader->max_line_bytes = job_max_line_bytes(job);
    reader->chunk = malloc(CHUNK_BYTES);
    reader->prompt_field = strdup(job->prompt_field ? job->prompt_field : "prompt");
    RETURN_IF(!reader->chunk || !reader->prompt_field, STATUS_INTERNAL, "out of host memory");
    return input_stream_open(job->prompts, &reader->input);
}

enum status prompt_reader_open(const struct job *job, struct shard shard, struct prompt_reader **out) {
    struct prompt_reader *reader = calloc(1, sizeof *reader);
    RETURN_IF(!reader, STATUS_INTERNAL, "out of host memory");
    reader->shard = shard;
    enum status status = reader_init(reader, job);
    if (status != STATUS_OK) {
        prompt_reader_close(reader);
        return status;
    }
    *out = reader;
    return STATUS_OK;
}

void prompt_reader_close(struct prompt_reader *reader) {
    if (!reader)
        return;
    input_stream_close(reader->input);
    buffer_free(&reader->text);
    free(reader->prompt_field);
    free(reader->chunk);
    free(reader);
}

void prompt_reader_stop(struct prompt_reader *reader) {
    input_stream_stop(reader->input);
}

void prompt_reader_progress(const struct prompt_reader *reader, uint64_t *bytes_read, uint64_t *bytes_total) {
    *bytes_read = input_stream_bytes_read(reader->input);
    *bytes_total = input_stream_bytes_total(reader->input);
}

static enum status read_chunk(struct prompt_reader *reader) {
    size_t size;
    enum status status = input_stream_read(reader->input, reader->chunk + reader->chunk_end,
                                           CHUNK_BYTES - reader->chunk_end, &size);
    if (status != STATUS_OK)
        return status_context(status, "%s: line %lld: ", reader->name, (long long)reader->line + 1);
    reader->chunk_end += size;
    reader->is_at_end = size == 0;
    return STATUS_OK;
}

/* Skips a byte order mark, which a pipe may deliver in pieces. */
static enum status start(struct prompt_reader *reader) {
    static const char MARK[3] = {'\xef', '\xbb', '\xbf'};
    while (reader->chunk_end < sizeof MARK && memcmp(reader->chunk, MARK, reader->chunk_end) == 0 &&
           !reader->is_at_end)
        TRY(read_chunk(reader));
    if (reader->chunk_end >= sizeof MARK && memcmp(reader->chunk, MARK, sizeof MARK) == 0)
        reader->chunk_begin = sizeof MARK;
    reader->is_started = true;
    return STATUS_OK;
}

static void hash_text(struct prompt_reader *reader) {
    reader->hash = hash128_chain(reader->hash, reader->text.data, reader->text.size);
}

/* How a line is read: only passed over, or kept and hashed. */
struct line_read {
    bool is_kept;
    bool is_too_long;
    char first; /* the first byte that is not blank; NUL: there was none yet */
};

/* Takes a piece of the line. Up to the limit it is kept whole (and one byte more: a carriage return there is
 * no part of the line); behind it only hashed, in pieces that do not depend on how the input was cut. */
static enum status take_piece(struct prompt_reader *reader, struct line_read *read, const char *bytes,
                              size_t size) {
    struct buffer *text = &reader->text;
    for (size_t i = 0; i < size && !read->first; i++)
        if (bytes[i] != ' ' && bytes[i] != '\t' && bytes[i] != '\r')
            read->first = bytes[i];
    while (size > 0) {
        size_t limit = read->is_too_long ? PIECE_BYTES : NUMBER_BYTES + reader->max_line_bytes + 1;
        size_t n = limit - text->size < size ? limit - text->size : size;
        TRY(buffer_append(text, bytes, n));
        bytes += n;
        size -= n;
        if (size > 0) {
            hash_text(reader);
            buffer_clear(text);
            read->is_too_long = true;
        }
    }
    return STATUS_OK;
}

/* Reads up to and with the next line end. *end: there is no further line. */
static enum status read_line(struct prompt_reader *reader, struct line_read *read, bool *end) {
    if (!reader->is_started)
        TRY(start(reader));
    *end = false;
    buffer_clear(&reader->text);
    if (read->is_kept) {
        unsigned char number[NUMBER_BYTES];
        for (int i = 0; i < NUMBER_BYTES; i++)
            number[i] = (unsigned char)((uint64_t)(reader->line + 1) >> (8 * i));
        TRY(buffer_append(&reader->text, number, sizeof number));
    }
    for (bool has_bytes = false;;) {
        if (reader->chunk_begin == reader->chunk_end) {
            reader->chunk_begin = reader->chunk_end = 0;
            if (!reader->is_at_end)
                TRY(read_chunk(reader));
            if (reader->is_at_end) {
                *end = !has_bytes;
                break;
            }
        }
        const char *begin = reader->chunk + reader->chunk_begin;
        size_t left = reader->chunk_end - reader->chunk_begin;
        const char *newline = memchr(begin, '\n', left);
        size_t size = newline ? (size_t)(newline - begin) : left;
        if (read->is_kept)
            TRY(take_piece(reader, read, begin, size));
        reader->chunk_begin += size + (newline != NULL);
        has_bytes = true;
        if (newline)
            break;
    }
    if (!*end)
        reader->line++;
    return STATUS_OK;
}

/* Removes a carriage return in front of the line end, judges the length, and hashes. */
static void finish_line(struct prompt_reader *reader, struct line_read *read) {
    struct buffer *text = &reader->text;
    if (!read->is_too_long) {
        if (text->size > NUMBER_BYTES && text->data[text->size - 1] == '\r')
            text->size--;
        read->is_too_long = text->size - NUMBER_BYTES > reader->max_line_bytes;
    }
    hash_text(reader);
}

/* Next line of this shard, hashed. The first line of the input is kept in any case where it tells the format.
 */
static enum status read_selected(struct prompt_reader *reader, bool *is_too_long, bool *end) {
    for (;;) {
        bool is_selected = reader->line % reader->shard.count == reader->shard.index;
        bool is_telling = reader->line == 0 && reader->format == PROMPT_DETECT;
        struct line_read read = {.is_kept = is_selected || is_telling};
        struct hash128 before = reader->hash;
        TRY(read_line(reader, &read, end));
        if (*end)
            return STATUS_OK;
        if (is_telling)
            reader->format = read.first == '{' ? PROMPT_JSONL : PROMPT_TEXT;
        if (!is_selected) {
            reader->hash = before;
            continue;
        }
        finish_line(reader, &read);
        *is_too_long = read.is_too_long;
        return STATUS_OK;
    }
}

static enum status fill_text(const char *bytes, size_t size, struct request *out) {
    if (size == 0)
        return request_refuse(out, "empty_prompt", "the line is empty; expected a prompt");
    out->prompt.bytes = malloc(size + 1);
    RETURN_IF(!out->prompt.bytes, STATUS_INTERNAL, "out of host memory (%zu bytes wanted)", size);
    memcpy(out->prompt.bytes, bytes, size);
    out->prompt.bytes[size] = '\0';
    out->prompt.size = size;
    return STATUS_OK;
}

static enum status fill_request(const struct prompt_reader *reader, bool is_too_long, struct request *out) {
    if (is_too_long)
        return request_refuse(
            out, "line_too_long",
            "the line is longer than max_line_bytes (%zu), and was skipped; raise it in the "
            "job or shorten the line",
            reader->max_line_bytes);
    const char *bytes = reader->text.data + NUMBER_BYTES;
    size_t size = reader->text.size - NUMBER_BYTES, bad_offset;
    if (!utf8_valid(bytes, size, &bad_offset))
        return request_refuse(
            out, "invalid_utf8",
            "not valid UTF-8: byte 0x%02x at offset %zu of the line; convert the file to UTF-8",
            (unsigned char)bytes[bad_offset], bad_offset);
    return reader->format == PROMPT_JSONL ? request_parse_json(bytes, size, reader->prompt_field, out)
                                          : fill_text(bytes, size, out);
}

enum status prompt_reader_next(struct prompt_reader *reader, struct request *out, bool *end) {
    bool is_too_long = false;
    TRY(read_selected(reader, &is_too_long, end));
    if (*end)
        return STATUS_OK;
    *out = (struct request){.line = reader->line, .index = reader->index++, .input_hash = reader->hash};
    sampling_init(&out->sampling);
    enum status status = fill_request(reader, is_too_long, out);
    if (status != STATUS_OK)
        request_free(out);
    return status;
}

enum status prompt_reader_skip(struct prompt_reader *reader, int64_t n, int64_t *skipped,
                               struct hash128 *hash) {
    *skipped = 0;
    *hash = reader->hash;
    while (*skipped < n) {
        bool is_too_long, end;
        TRY(read_selected(reader, &is_too_long, &end));
        if (end)
            break;
        reader->index++;
        ++*skipped;
        *hash = reader->hash;
    }
    return STATUS_OK;
}
