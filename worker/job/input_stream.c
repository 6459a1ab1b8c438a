#include "worker/job/input_stream.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

enum { RAW_BYTES = 128 << 10, GZIP_WINDOW_BITS = 15 + 16 };
static const unsigned char GZIP_MAGIC[2] = {0x1f, 0x8b};

enum stream_format { FORMAT_UNKNOWN, FORMAT_PLAIN, FORMAT_GZIP };

struct input_stream {
    int fd;
    int stop_fd; /* eventfd: readable once stopped */
    bool is_regular;
    bool is_named_gz;
    bool is_at_end; /* of the file */
    enum stream_format format;
    bool has_inflate;
    bool in_member; /* gzip: between a member's first and last byte */
    z_stream inflate;
    atomic_bool is_stopped;
    _Atomic uint64_t bytes_read;
    uint64_t bytes_total;
    unsigned char *raw; /* [RAW_BYTES] bytes of the file, [raw_begin, raw_end) still to be used */
    size_t raw_begin;
    size_t raw_end;
};

static enum status stream_init(struct input_stream *stream, const char *path) {
    bool is_stdin = strcmp(path, "-") == 0;
    stream->fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    RETURN_IF(stream->fd < 0, STATUS_NO_INPUT, "%s: cannot be opened: %s", path, strerror(errno));
    struct stat info;
    RETURN_IF(fstat(stream->fd, &info) != 0, STATUS_NO_INPUT, "%s: cannot be opened: %s",
              is_stdin ? "standard input" : path, strerror(errno));
    RETURN_IF(S_ISDIR(info.st_mode), STATUS_NO_INPUT, "%s: is a folder; expected a file of prompts", path);
    stream->is_regular = S_ISREG(info.st_mode);
    stream->bytes_total = stream->is_regular ? (uint64_t)info.st_size : 0;
    size_t size = strlen(path);
    stream->is_named_gz = size > 3 && strcmp(path + size - 3, ".gz") == 0;

    stream->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    RETURN_IF(stream->stop_fd < 0, STATUS_INTERNAL, "eventfd: %s", strerror(errno));
    stream->raw = malloc(RAW_BYTES);
    RETURN_IF(!stream->raw, STATUS_INTERNAL, "out of host memory (%d bytes wanted)", RAW_BYTES);
    return STATUS_OK;
}

enum status input_stream_open(const char *path, struct input_stream **out) {
    struct input_stream *stream = calloc(1, sizeof *stream);
    RETURN_IF(!stream, STATUS_INTERNAL, "out of host memory");
    stream->stop_fd = -1;
    enum status status = stream_init(stream, path);
    if (status != STATUS_OK) {
        input_stream_close(stream);
        return status;
    }
    *out = stream;
    return STATUS_OK;
}

void input_stream_close(struct input_stream *stream) {
    if (!stream)
        return;
    if (stream->has_inflate)
        inflateEnd(&stream->inflate);
    if (stream->fd > STDIN_FILENO)
        close(stream->fd);
    if (stream->stop_fd >= 0)
        close(stream->stop_fd);
    free(stream->raw);
    free(stream);
}

/* Reads once from the file. A pipe or terminal may be silent for long, so it is waited for together with
 * stop_fd; a regular file always answers. */
static enum status read_file(struct input_stream *stream, void *out, size_t capacity, size_t *size) {
    *size = 0;
    for (;;) {
        RETURN_IF(atomic_load(&stream->is_stopped), STATUS_STOPPED, "reading was stopped");
        if (!stream->is_regular) {
            struct pollfd waited[2] = {{stream->fd, POLLIN, 0}, {stream->stop_fd, POLLIN, 0}};
            if (poll(waited, 2, -1) < 0) {
                RETURN_IF(errno != EINTR, STATUS_IO, "cannot be read: %s", strerror(errno));
                continue;
            }
            if (waited[1].revents)
                continue;
        }
        ssize_t n = read(stream->fd, out, capacity);
        if (n >= 0) {
            *size = (size_t)n;
            stream->is_at_end = n == 0;
            atomic_fetch_add(&stream->bytes_read, (uint64_t)n);
            return STATUS_OK;
        }
        RETURN_IF(errno != EINTR && errno != EAGAIN, STATUS_IO, "cannot be read: %s", strerror(errno));
    }
}

/* Has at least `want` raw bytes, fewer only at the end of the file. */
static enum status want_raw(struct input_stream *stream, size_t want) {
    while (stream->raw_end - stream->raw_begin < want && !stream->is_at_end) {
        if (stream->raw_begin > 0) {
            memmove(stream->raw, stream->raw + stream->raw_begin, stream->raw_end - stream->raw_begin);
            stream->raw_end -= stream->raw_begin;
            stream->raw_begin = 0;
        }
        size_t size;
        TRY(read_file(stream, stream->raw + stream->raw_end, RAW_BYTES - stream->raw_end, &size));
        stream->raw_end += size;
    }
    return STATUS_OK;
}

static bool has_gzip_magic(const struct input_stream *stream) {
    return stream->raw_end - stream->raw_begin >= sizeof GZIP_MAGIC &&
           memcmp(stream->raw + stream->raw_begin, GZIP_MAGIC, sizeof GZIP_MAGIC) == 0;
}

static enum status detect_format(struct input_stream *stream) {
    TRY(want_raw(stream, sizeof GZIP_MAGIC));
    if (has_gzip_magic(stream)) {
        RETURN_IF(inflateInit2(&stream->inflate, GZIP_WINDOW_BITS) != Z_OK, STATUS_INTERNAL,
                  "out of host memory");
        stream->has_inflate = true;
        stream->format = FORMAT_GZIP;
        return STATUS_OK;
    }
    RETURN_IF(stream->is_named_gz, STATUS_DATA,
              "the name ends in .gz, but the file does not begin like gzip (1f 8b); rename or compress it");
    stream->format = FORMAT_PLAIN;
    return STATUS_OK;
}

static enum status read_plain(struct input_stream *stream, void *out, size_t capacity, size_t *size) {
    size_t left = stream->raw_end - stream->raw_begin;
    if (left == 0)
        return stream->is_at_end ? STATUS_OK : read_file(stream, out, capacity, size);
    *size = left < capacity ? left : capacity;
    memcpy(out, stream->raw + stream->raw_begin, *size);
    stream->raw_begin += *size;
    return STATUS_OK;
}

static unsigned long long offset_reached(const struct input_stream *stream) {
    return atomic_load(&stream->bytes_read) - (stream->raw_end - stream->raw_begin);
}

static enum status begin_member(struct input_stream *stream, bool *is_end) {
    TRY(want_raw(stream, sizeof GZIP_MAGIC));
    *is_end = stream->raw_begin == stream->raw_end;
    if (*is_end)
        return STATUS_OK;
    RETURN_IF(!has_gzip_magic(stream), STATUS_DATA,
              "behind the last gzip member, at byte %llu, there is something else; cut it off or repair the "
              "file",
              offset_reached(stream));
    inflateReset(&stream->inflate);
    stream->in_member = true;
    return STATUS_OK;
}

static enum status read_gzip(struct input_stream *stream, void *out, size_t capacity, size_t *size) {
    z_stream *z = &stream->inflate;
    while (*size == 0) {
        if (!stream->in_member) {
            bool is_end;
            TRY(begin_member(stream, &is_end));
            if (is_end)
                return STATUS_OK;
        }
        TRY(want_raw(stream, 1));
        RETURN_IF(stream->raw_begin == stream->raw_end, STATUS_DATA,
                  "the gzip data ends too early, behind byte %llu; the file was cut short",
                  offset_reached(stream));
        z->next_in = stream->raw + stream->raw_begin;
        z->avail_in = (uInt)(stream->raw_end - stream->raw_begin);
        z->next_out = out;
        z->avail_out = (uInt)(capacity < 1u << 30 ? capacity : 1u << 30);
        uInt room = z->avail_out;
        int result = inflate(z, Z_NO_FLUSH);
        stream->raw_begin = stream->raw_end - z->avail_in;
        *size = room - z->avail_out;
        RETURN_IF(result == Z_MEM_ERROR, STATUS_INTERNAL, "out of host memory");
        RETURN_IF(result != Z_OK && result != Z_STREAM_END && result != Z_BUF_ERROR, STATUS_DATA,
                  "the gzip data is damaged near byte %llu (%s)", offset_reached(stream),
                  z->msg ? z->msg : "not gzip");
        if (result == Z_STREAM_END)
            stream->in_member = false;
    }
    return STATUS_OK;
}

enum status input_stream_read(struct input_stream *stream, void *out, size_t capacity, size_t *size) {
    *size = 0;
    RETURN_IF(atomic_load(&stream->is_stopped), STATUS_STOPPED, "reading was stopped");
    if (stream->format == FORMAT_UNKNOWN)
        TRY(detect_format(stream));
    return stream->format == FORMAT_GZIP ? read_gzip(stream, out, capacity, size)
                                         : read_plain(stream, out, capacity, size);
}

void input_stream_stop(struct input_stream *stream) {
    atomic_store(&stream->is_stopped, true);
    uint64_t one = 1;
    /* Can only fail when the counter is full, which wakes the reader as well. */
    if (write(stream->stop_fd, &one, sizeof one) < 0)
        return;
}

uint64_t input_stream_bytes_read(const struct input_stream *stream) {
    return atomic_load(&stream->bytes_read);
}

uint64_t input_stream_bytes_total(const struct input_stream *stream) {
    return stream->bytes_total;
}
