/* How a worker comes to own an output: NAME is judged first, then NAME.part is locked, looked at again under
 * the lock, recovered or begun.
 *
 * The lock is flock on NAME.part. Whoever publishes moves the locked file to NAME and whoever gives up leaves
 * it, so a lock counts only while the path still names the locked inode; else all is judged anew. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "worker/base/clock.h"
#include "worker/base/file.h"
#include "worker/output/writer_internal.h"

/* Each further try means that another worker published or gave up in between. */
enum { LOCK_TRIES = 100 };

static int io_link(const char *from, const char *to) {
    return link(from, to);
}

static int io_rename_noreplace(const char *from, const char *to) {
    return renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE);
}

const struct writer_io writer_io_default = {.pwrite = pwrite,
                                            .fdatasync = fdatasync,
                                            .fsync = fsync,
                                            .ftruncate = ftruncate,
                                            .link = io_link,
                                            .unlink = unlink,
                                            .rename_noreplace = io_rename_noreplace,
                                            .sync_folder = file_sync_folder,
                                            .clock = clock_seconds};

/* Opens and locks NAME.part. *moved true: the path no longer names what was locked; try again. */
static enum status lock_part(struct writer *writer, bool *moved) {
    struct stat locked, named;
    *moved = false;
    writer->fd = open(writer->part, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666);
    RETURN_IF(writer->fd < 0, STATUS_CANNOT_CREATE,
              "%s cannot be created: %s; the folder must exist and be writable", writer->part,
              strerror(errno));
    RETURN_IF(fstat(writer->fd, &locked) != 0, STATUS_IO, "%s cannot be examined: %s", writer->part,
              strerror(errno));
    RETURN_IF(!S_ISREG(locked.st_mode), STATUS_CANNOT_CREATE, "%s exists and is not a regular file",
              writer->part);
    while (flock(writer->fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EINTR)
            continue;
        RETURN_IF(errno == EWOULDBLOCK, STATUS_LOCKED, "%s: another worker is writing this output",
                  writer->part);
        return status_fail(STATUS_CANNOT_CREATE,
                           "%s cannot be locked: %s; write to a file system that has locks", writer->part,
                           strerror(errno));
    }
    *moved =
        stat(writer->part, &named) != 0 || named.st_dev != locked.st_dev || named.st_ino != locked.st_ino;
    if (*moved) {
        close(writer->fd);
        writer->fd = -1;
    }
    return STATUS_OK;
}

static enum status remove_file(const struct writer *writer, const char *path) {
    RETURN_IF(writer->io->unlink(path) != 0 && errno != ENOENT, STATUS_IO, "%s cannot be removed: %s", path,
              strerror(errno));
    return STATUS_OK;
}

/* --restart: NAME goes first, so that it never shows a file that is being emptied (both paths name one inode
 * when a run died within publishing). */
static enum status discard_earlier(const struct writer *writer) {
    struct stat info;
    RETURN_IF(lstat(writer->name, &info) == 0 && S_ISDIR(info.st_mode), STATUS_CANNOT_CREATE,
              "%s is a folder; choose another output", writer->name);
    TRY(remove_file(writer, writer->name));
    RETURN_IF(writer->io->ftruncate(writer->fd, 0) != 0 || writer->io->fsync(writer->fd) != 0, STATUS_IO,
              "%s cannot be emptied: %s", writer->part, strerror(errno));
    return writer->io->sync_folder(writer->name);
}

/* Under the lock: NAME may have appeared since it was first looked for. */
static enum status settle_name(const struct writer *writer, const struct identity *identity,
                               struct writer_found *found) {
    struct stat part, name;
    bool exists;
    if (stat(writer->name, &name) != 0 || fstat(writer->fd, &part) != 0)
        return STATUS_OK;
    TRY(recovery_check_name(writer->name, identity, &exists, found));
    if (!exists || !found->is_complete)
        return STATUS_OK;
    /* Died between link and unlink: finish that. An empty .part is the one that lock_part has just made. Any
     * other .part beside a complete NAME is none of ours to remove. */
    bool same = name.st_dev == part.st_dev && name.st_ino == part.st_ino;
    if (same || part.st_size == 0) {
        TRY(remove_file(writer, writer->part));
        TRY(writer->io->sync_folder(writer->name));
    }
    return STATUS_OK;
}

static enum status write_head(struct writer *writer, const struct identity *identity) {
    static const uint8_t empty_tail[2 + SEAL_TRAILER_BYTES] = {3}; /* deflate of nothing, CRC32 0, ISIZE 0 */
    struct buffer *member = &writer->member;
    struct seal *seal = &writer->last;
    *seal = (struct seal){
        .kind = SEAL_HEAD, .identity_bytes = (uint32_t)identity->text.size, .identity = identity->hash};
    buffer_clear(member);
    TRY(buffer_reserve(member, SEAL_HEAD_MAX));
    member->size = SEAL_HEADER_BYTES;
    TRY(buffer_append(member, identity->text.data, identity->text.size));
    TRY(buffer_append(member, empty_tail, sizeof empty_tail));
    seal->member_bytes = member->size;
    seal_finish(seal, (uint8_t *)member->data);
    TRY(writer_pwrite_all(writer->io, writer->part, writer->fd, member->data, member->size, 0));
    RETURN_IF(writer->io->fsync(writer->fd) != 0, STATUS_IO, "%s: fsync failed: %s", writer->part,
              strerror(errno));
    TRY(writer->io->sync_folder(writer->part));
    writer->file_bytes = member->size;
    buffer_clear(member);
    return STATUS_OK;
}

static enum status take_output(struct writer *writer, const struct identity *identity, bool restart,
                               struct writer_found *found) {
    bool exists = false, moved = true;
    for (int i = 0; moved; i++) {
        RETURN_IF(i == LOCK_TRIES, STATUS_LOCKED, "%s: other workers keep taking this output", writer->part);
        if (!restart && !file_exists(writer->part))
            TRY(recovery_check_name(writer->name, identity, &exists, found));
        if (found->is_complete)
            return STATUS_OK;
        TRY(lock_part(writer, &moved));
    }
    if (restart)
        TRY(discard_earlier(writer));
    else
        TRY(settle_name(writer, identity, found));
    if (found->is_complete)
        return STATUS_OK;
    TRY(recovery_run(writer, identity, found));
    return writer->file_bytes ? STATUS_OK : write_head(writer, identity);
}

static enum status open_here(struct writer *writer, const char *name, const struct identity *identity,
                             const struct writer_options *options, struct writer_found *found) {
    size_t name_size = strlen(name);
    writer->name = strdup(name);
    writer->part = malloc(name_size + sizeof ".part");
    RETURN_IF(!writer->name || !writer->part, STATUS_INTERNAL, "out of host memory");
    memcpy(writer->part, name, name_size);
    memcpy(writer->part + name_size, ".part", sizeof ".part");
    RETURN_IF(
        identity->text.size > SEAL_IDENTITY_MAX, STATUS_JOB,
        "the job's parameters take %zu bytes as text, at most %d fit the output's head; shorten the stop "
        "strings",
        identity->text.size, (int)SEAL_IDENTITY_MAX);
    /* Raw deflate (negative window bits): header and trailer are ours. Level 1: see docs/output.md. */
    RETURN_IF(deflateInit2(&writer->deflate, 1, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY) != Z_OK,
              STATUS_INTERNAL, "out of host memory");
    return take_output(writer, identity, options && options->restart, found);
}

enum status writer_open_io(const char *name, const struct identity *identity,
                           const struct writer_options *options, const struct writer_io *io,
                           struct writer_found *found, struct writer **out) {
    *found = (struct writer_found){0};
    *out = NULL;
    struct writer *writer = calloc(1, sizeof *writer);
    RETURN_IF(!writer, STATUS_INTERNAL, "out of host memory");
    writer->fd = -1;
    writer->io = io;
    writer->seal_seconds = options && options->seal_seconds > 0 ? options->seal_seconds : 2;
    writer->seal_bytes = options && options->seal_bytes > 0 ? options->seal_bytes : 1 << 20;
    enum status result = open_here(writer, name, identity, options, found);
    if (result != STATUS_OK || found->is_complete) {
        writer_close(writer);
        return result;
    }
    found->has_totals = writer->has_totals;
    writer->next = (struct seal){.kind = SEAL_RECORDS,
                                 .identity = identity->hash,
                                 .first_record = writer->last.counts.n_records,
                                 .counts = writer->last.counts,
                                 .input = writer->last.input,
                                 .previous = writer->last.hash};
    *out = writer;
    return STATUS_OK;
}

enum status writer_open(const char *name, const struct identity *identity,
                        const struct writer_options *options, struct writer_found *found,
                        struct writer **out) {
    return writer_open_io(name, identity, options, &writer_io_default, found, out);
}
