/* What an earlier run left behind: NAME judged by its seals, NAME.part walked and cut behind its last good
 * seal. The rule throughout: sealed records are never discarded without --restart, and a file that is not
 * plainly ours is never touched. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "worker/output/writer_internal.h"

enum status recovery_match_identity(const char *path, const struct walk *walk,
                                    const struct identity *identity) {
    char difference[600];
    if (hash128_equal(walk->seal.identity, identity->hash))
        return STATUS_OK;
    if (!identity_difference(walk->identity.data, walk->identity.size, identity, difference,
                             sizeof difference))
        memcpy(difference, "identity hash", sizeof "identity hash");
    return status_fail(STATUS_CANNOT_CREATE,
                       "%s belongs to another job (%s); choose another output, or discard it with --restart",
                       path, difference);
}

static enum status check_open_name(const char *name, struct walk *walk, const struct identity *identity) {
    enum walk_step step = WALK_MEMBER;
    while (step == WALK_MEMBER) {
        TRY(walk_next(walk, false, &step));
        if (step == WALK_MEMBER && walk->seal.kind == SEAL_HEAD)
            TRY(recovery_match_identity(name, walk, identity));
    }
    RETURN_IF(!walk->has_head, STATUS_CANNOT_CREATE,
              "%s exists and is no output file of pressrun (%s); move it away, choose another output, or "
              "discard it with --restart",
              name, walk->file_bytes ? walk->reason : "it is empty");
    RETURN_IF(step == WALK_DAMAGED, STATUS_CORRUPT,
              "%s is damaged at byte %llu (%s); restore it from a copy, or discard it with --restart", name,
              (unsigned long long)walk->offset, walk->reason);
    RETURN_IF(walk->seal.kind != SEAL_TOTALS, STATUS_CANNOT_CREATE,
              "%s exists but is not complete (%lld records); rename it to %s.part to resume it, or discard "
              "it with --restart",
              name, (long long)walk->seal.counts.n_records, name);
    return STATUS_OK;
}

enum status recovery_check_name(const char *name, const struct identity *identity, bool *exists,
                                struct writer_found *found) {
    struct stat info;
    struct walk walk;
    *exists = lstat(name, &info) == 0;
    if (!*exists) {
        RETURN_IF(errno != ENOENT, STATUS_CANNOT_CREATE, "%s: %s", name, strerror(errno));
        return STATUS_OK;
    }
    int fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    RETURN_IF(fd < 0, STATUS_CANNOT_CREATE, "%s exists but cannot be read: %s", name, strerror(errno));
    enum status result = walk_open(&walk, fd, name);
    if (result == STATUS_OK && (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)))
        result = status_fail(STATUS_CANNOT_CREATE, "%s exists and is not a regular file", name);
    if (result == STATUS_OK)
        result = check_open_name(name, &walk, identity);
    if (result == STATUS_OK) {
        found->is_complete = true;
        found->counts = walk.seal.counts;
        found->input_hash = walk.seal.input;
    }
    walk_close(&walk);
    close(fd);
    return result;
}

/* A run that died while it wrote the head left nothing that was sealed: at most a head's bytes, starting as a
 * head does, or zeros where the size reached the disk before the bytes did. */
static bool is_torn_head(const struct walk *walk) {
    static const uint8_t zeros[SEAL_GZIP_BYTES];
    uint8_t expected[SEAL_HEADER_BYTES];
    struct seal head = {.kind = SEAL_HEAD};
    seal_pack(&head, expected);
    size_t size = walk->member.size < SEAL_GZIP_BYTES ? walk->member.size : SEAL_GZIP_BYTES;
    return walk->file_bytes <= SEAL_HEAD_MAX &&
           (memcmp(walk->member.data, expected, size) == 0 || memcmp(walk->member.data, zeros, size) == 0);
}

static enum status walk_to_last_seal(struct walk *walk, const struct identity *identity) {
    enum walk_step step = WALK_MEMBER;
    while (step == WALK_MEMBER) {
        TRY(walk_next(walk, true, &step));
        if (step == WALK_MEMBER && walk->seal.kind == SEAL_HEAD)
            TRY(recovery_match_identity(walk->path, walk, identity));
    }
    if (step == WALK_END)
        return STATUS_OK;
    bool may_start_anew = !walk->has_head && is_torn_head(walk);
    bool found = false;
    uint64_t at = 0;
    TRY(walk_find_later(walk, &found, &at));
    RETURN_IF(found, STATUS_CORRUPT,
              "%s is damaged at byte %llu (%s), but sealed records follow at byte %llu; nothing was changed: "
              "restore it from a copy, or discard it with --restart",
              walk->path, (unsigned long long)walk->offset, walk->reason, (unsigned long long)at);
    RETURN_IF(!walk->has_head && !may_start_anew, STATUS_CANNOT_CREATE,
              "%s exists and is no output file of pressrun (%s); move it away, choose another output, or "
              "discard it with --restart",
              walk->path, walk->reason);
    return STATUS_OK;
}

enum status recovery_run(struct writer *writer, const struct identity *identity, struct writer_found *found) {
    struct walk walk;
    enum status result = walk_open(&walk, writer->fd, writer->part);
    if (result == STATUS_OK)
        result = walk_to_last_seal(&walk, identity);
    if (result == STATUS_OK && walk.offset < walk.file_bytes) {
        /* On disk before anything is appended: what is cut must not come back behind new members. */
        if (writer->io->ftruncate(writer->fd, (off_t)walk.offset) != 0 || writer->io->fsync(writer->fd) != 0)
            result = status_fail(STATUS_IO, "%s cannot be cut to %llu bytes: %s", writer->part,
                                 (unsigned long long)walk.offset, strerror(errno));
        found->cut_bytes = walk.file_bytes - walk.offset;
    }
    if (result == STATUS_OK && walk.has_head) {
        writer->last = walk.seal;
        writer->file_bytes = walk.offset;
        writer->has_totals = walk.seal.kind == SEAL_TOTALS;
        found->resumed = true;
        found->counts = walk.seal.counts;
        found->input_hash = walk.seal.input;
    }
    walk_close(&walk);
    return result;
}
