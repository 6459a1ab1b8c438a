#include "worker/output/writer_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    TEXT_BLOCK = 64 << 10,   /* lines gather to this before they are compressed */
    DEFLATE_ROOM = 64 << 10, /* least free room for one deflate call */
    MEMBER_KEEP = 64 << 20   /* memory kept between members; an enormous record does not hold its own */
};

enum status writer_pwrite_all(const struct writer_io *io, const char *path, int fd, const void *bytes,
                              size_t size, uint64_t offset) {
    const char *at = bytes;
    while (size > 0) {
        ssize_t wrote = io->pwrite(fd, at, size, (off_t)offset);
        if (wrote < 0 && errno == EINTR)
            continue;
        RETURN_IF(wrote < 0, STATUS_IO, "%s: writing failed at byte %llu: %s", path,
                  (unsigned long long)offset, strerror(errno));
        at += wrote;
        size -= (size_t)wrote;
        offset += (uint64_t)wrote;
    }
    return STATUS_OK;
}

/* Keeps the first failure: what is in the file is resumable, what is in memory is not to be trusted. */
static enum status keep_failure(struct writer *writer, enum status result) {
    failure_note(&writer->failure, result);
    return result;
}

static enum status check_usable(const struct writer *writer) {
    return failure_result(&writer->failure);
}

static enum status deflate_bytes(struct writer *writer, const char *bytes, size_t size, int flush) {
    z_stream *stream = &writer->deflate;
    struct buffer *member = &writer->member;
    if (member->size == 0) {
        TRY(buffer_reserve(member, SEAL_HEADER_BYTES + DEFLATE_ROOM));
        member->size = SEAL_HEADER_BYTES;
        deflateReset(stream);
        writer->crc = 0;
    }
    int code = Z_OK;
    do {
        /* avail_in and avail_out are 32-bit. */
        uInt part = size < (1u << 30) ? (uInt)size : 1u << 30;
        stream->next_in = (z_const Bytef *)(uintptr_t)bytes;
        stream->avail_in = part;
        writer->crc = (uint32_t)crc32_z(writer->crc, (const Bytef *)bytes, part);
        bytes += part;
        size -= part;
        do {
            TRY(buffer_reserve(member, DEFLATE_ROOM));
            size_t room = member->capacity - member->size;
            uInt given = room < (1u << 30) ? (uInt)room : 1u << 30;
            stream->next_out = (Bytef *)member->data + member->size;
            stream->avail_out = given;
            code = deflate(stream, size ? Z_NO_FLUSH : flush);
            RETURN_IF(code == Z_STREAM_ERROR, STATUS_INTERNAL, "zlib: deflate state is damaged");
            member->size += given - stream->avail_out;
        } while (stream->avail_out == 0);
    } while (size > 0);
    RETURN_IF(flush == Z_FINISH && code != Z_STREAM_END, STATUS_INTERNAL, "zlib: deflate did not end (%d)",
              code);
    return STATUS_OK;
}

static enum status compress_text(struct writer *writer, int flush) {
    TRY(deflate_bytes(writer, writer->text.data ? writer->text.data : "", writer->text.size, flush));
    buffer_clear(&writer->text);
    return STATUS_OK;
}

/* Ends the member in memory, appends it to the file and syncs. */
static enum status write_member(struct writer *writer, struct seal *seal) {
    struct buffer *member = &writer->member;
    uint8_t trailer[SEAL_TRAILER_BYTES];
    TRY(compress_text(writer, Z_FINISH));
    seal_pack_u32(trailer, writer->crc);
    seal_pack_u32(trailer + 4, (uint32_t)seal->text_bytes); /* ISIZE is the size modulo 2^32 */
    TRY(buffer_append(member, trailer, sizeof trailer));
    seal->member_bytes = member->size;
    seal_finish(seal, (uint8_t *)member->data);
    TRY(writer_pwrite_all(writer->io, writer->part, writer->fd, member->data, member->size,
                          writer->file_bytes));
    RETURN_IF(writer->io->fdatasync(writer->fd) != 0, STATUS_IO, "%s: fdatasync failed: %s", writer->part,
              strerror(errno));
    writer->file_bytes += member->size;
    writer->last = *seal;
    buffer_clear(member);
    if (member->capacity > MEMBER_KEEP)
        buffer_free(member);
    if (writer->text.capacity > MEMBER_KEEP)
        buffer_free(&writer->text);
    return STATUS_OK;
}

static enum status seal_pending(struct writer *writer) {
    struct seal *next = &writer->next;
    if (next->n_records == 0)
        return STATUS_OK;
    next->counts.n_members++;
    TRY(write_member(writer, next));
    next->first_record = next->counts.n_records;
    next->n_records = 0;
    next->text_bytes = 0;
    next->previous = writer->last.hash;
    return STATUS_OK;
}

enum status writer_seal(struct writer *writer) {
    TRY(check_usable(writer));
    return keep_failure(writer, seal_pending(writer));
}

enum status writer_tick(struct writer *writer) {
    TRY(check_usable(writer));
    if (writer->next.n_records > 0 && writer->io->clock() - writer->first_s >= writer->seal_seconds)
        return keep_failure(writer, seal_pending(writer));
    return STATUS_OK;
}

static enum status append_record(struct writer *writer, const char *lines, size_t size) {
    struct seal *next = &writer->next;
    if (next->n_records == 0)
        writer->first_s = writer->io->clock();
    TRY(buffer_append(&writer->text, lines, size));
    next->n_records++;
    next->text_bytes += size;
    if (next->text_bytes >= writer->seal_bytes)
        return seal_pending(writer);
    if (writer->text.size >= TEXT_BLOCK)
        TRY(compress_text(writer, Z_NO_FLUSH));
    return writer->io->clock() - writer->first_s >= writer->seal_seconds ? seal_pending(writer) : STATUS_OK;
}

enum status writer_append(struct writer *writer, const char *lines, size_t size, int32_t n_lines,
                          bool is_error, int64_t prompt_tokens, int64_t completion_tokens,
                          struct hash128 input_hash) {
    struct output_counts *counts = &writer->next.counts;
    TRY(check_usable(writer));
    RETURN_IF(size == 0 || lines[size - 1] != '\n' || n_lines < 1 || prompt_tokens < 0 ||
                  completion_tokens < 0,
              STATUS_INTERNAL, "a record of %d lines (%zu bytes) does not end as a line", (int)n_lines, size);
    RETURN_IF(writer->has_totals, STATUS_CANNOT_CREATE,
              "%s has its totals after %lld records already, but the input goes on: it has grown since; "
              "--restart discards the output",
              writer->part, (long long)counts->n_records);
    counts->n_records++;
    counts->n_lines += n_lines;
    counts->n_errors += is_error;
    /* A failed record's line has no usage, and verify counts by the lines. */
    counts->prompt_tokens += is_error ? 0 : prompt_tokens;
    counts->completion_tokens += is_error ? 0 : completion_tokens;
    writer->next.input = input_hash;
    return keep_failure(writer, append_record(writer, lines, size));
}

struct output_counts writer_counts(const struct writer *writer) {
    return writer->last.counts;
}

static enum status write_totals(struct writer *writer) {
    TRY(seal_pending(writer));
    struct seal totals = writer->next;
    totals.kind = SEAL_TOTALS;
    TRY(write_member(writer, &totals));
    writer->has_totals = true;
    return STATUS_OK;
}

enum status writer_finish(struct writer *writer) {
    TRY(check_usable(writer));
    return writer->has_totals ? STATUS_OK : keep_failure(writer, write_totals(writer));
}

static enum status publish_by_link(struct writer *writer) {
    RETURN_IF(writer->io->link(writer->part, writer->name) != 0,
              errno == EEXIST ? STATUS_CANNOT_CREATE : STATUS_IO,
              "%s is complete but cannot be named %s: %s; rename it, or run again when that is repaired",
              writer->part, writer->name, strerror(errno));
    RETURN_IF(writer->io->unlink(writer->part) != 0, STATUS_IO,
              "%s is published, but its other name %s cannot be removed: %s; run again to do that",
              writer->name, writer->part, strerror(errno));
    return STATUS_OK;
}

static enum status publish(struct writer *writer) {
    struct stat ours, named;
    RETURN_IF(!writer->has_totals, STATUS_INTERNAL, "%s is not complete and cannot be published",
              writer->part);
    RETURN_IF(writer->io->fsync(writer->fd) != 0, STATUS_IO, "%s: fsync failed: %s", writer->part,
              strerror(errno));
    /* Somebody may have removed or replaced the path under us: never publish another file. */
    RETURN_IF(fstat(writer->fd, &ours) != 0 || stat(writer->part, &named) != 0 ||
                  ours.st_dev != named.st_dev || ours.st_ino != named.st_ino,
              STATUS_IO, "%s was removed or replaced while it was written; run the job again", writer->part);
    if (writer->io->rename_noreplace(writer->part, writer->name) != 0) {
        RETURN_IF(errno == EEXIST, STATUS_CANNOT_CREATE,
                  "%s is complete, but %s has appeared meanwhile; move that away and run again", writer->part,
                  writer->name);
        /* EINVAL, ENOSYS: file system or kernel without RENAME_NOREPLACE. Whatever else it is, link will name
         * it. */
        TRY(publish_by_link(writer));
    }
    writer->is_published = true;
    return STATUS_OK;
}

enum status writer_publish(struct writer *writer) {
    TRY(check_usable(writer));
    if (!writer->is_published)
        TRY(keep_failure(writer, publish(writer)));
    return writer->io->sync_folder(writer->name);
}

void writer_close(struct writer *writer) {
    if (!writer)
        return;
    if (writer->fd >= 0)
        close(writer->fd);
    deflateEnd(&writer->deflate);
    buffer_free(&writer->text);
    buffer_free(&writer->member);
    free(writer->name);
    free(writer->part);
    free(writer);
}
