#include "worker/output/walk.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    SEARCH_WINDOW = 1 << 20,
    /* Places that look like a member and are not, after which a search takes it that a good one follows:
     * sealed records are never cut on a guess. */
    SEARCH_CANDIDATES = 1000
};

enum status walk_open(struct walk *walk, int fd, const char *path) {
    struct stat info;
    *walk = (struct walk){.fd = fd, .path = path};
    RETURN_IF(fstat(fd, &info) != 0, STATUS_IO, "%s: cannot be examined: %s", path, strerror(errno));
    walk->file_bytes = (uint64_t)info.st_size;
    return STATUS_OK;
}

/* Reads file[offset, offset + size) behind walk->member's size. *got is smaller only at the file's end. */
static enum status read_at(struct walk *walk, uint64_t offset, size_t size, size_t *got) {
    TRY(buffer_reserve(&walk->member, size));
    *got = 0;
    while (*got < size) {
        ssize_t n =
            pread(walk->fd, walk->member.data + walk->member.size, size - *got, (off_t)(offset + *got));
        if (n < 0 && errno == EINTR)
            continue;
        RETURN_IF(n < 0, STATUS_IO, "%s: reading failed at byte %llu: %s", walk->path,
                  (unsigned long long)(offset + *got), strerror(errno));
        if (n == 0)
            break;
        *got += (size_t)n;
        walk->member.size += (size_t)n;
    }
    return STATUS_OK;
}

/* Reads the member at offset into walk->member: its header, and with it the rest when `whole` or when it is
 * not a member of records. *reason NULL when good in itself. */
static enum status read_member(struct walk *walk, uint64_t offset, bool whole, struct seal *seal,
                               const char **reason) {
    uint64_t remaining = walk->file_bytes - offset;
    size_t header_bytes = remaining < SEAL_HEADER_BYTES ? (size_t)remaining : SEAL_HEADER_BYTES;
    size_t got;
    buffer_clear(&walk->member);
    TRY(read_at(walk, offset, header_bytes, &got));
    *reason = seal_parse((const uint8_t *)walk->member.data, got, remaining, seal);
    if (*reason || (!whole && seal->kind == SEAL_RECORDS))
        return STATUS_OK;
    size_t rest = (size_t)(seal->member_bytes - SEAL_HEADER_BYTES);
    TRY(read_at(walk, offset + SEAL_HEADER_BYTES, rest, &got));
    if (got < rest)
        *reason = "a member is cut";
    else if (!seal_check(seal, (const uint8_t *)walk->member.data))
        *reason = "a member's hash differs from its seal";
    return STATUS_OK;
}

enum status walk_next(struct walk *walk, bool check_bytes, enum walk_step *step) {
    struct seal seal;
    *step = WALK_DAMAGED;
    if (walk->offset == walk->file_bytes) {
        *step = WALK_END;
        return STATUS_OK;
    }
    TRY(read_member(walk, walk->offset, check_bytes, &seal, &walk->reason));
    if (!walk->reason)
        walk->reason = seal_follows(walk->has_head ? &walk->seal : NULL, &seal);
    if (walk->reason)
        return STATUS_OK;
    if (seal.kind == SEAL_HEAD)
        TRY(buffer_append(&walk->identity, walk->member.data + SEAL_HEADER_BYTES, seal.identity_bytes));
    walk->has_head = true;
    walk->seal = seal;
    walk->offset += seal.member_bytes;
    *step = WALK_MEMBER;
    return STATUS_OK;
}

/* First place in bytes[0..size) where a member may start; size when there is none. */
static size_t find_start(const uint8_t *bytes, size_t size) {
    static const uint8_t start[] = {0x1f, 0x8b, 8, 4};
    const uint8_t *hit = memmem(bytes, size, start, sizeof start);
    return hit ? (size_t)(hit - bytes) : size;
}

enum status walk_find_later(struct walk *walk, bool *found, uint64_t *at) {
    struct buffer window = {0};
    enum status result = STATUS_OK;
    int n_candidates = 0;
    uint64_t offset = walk->offset + 1;
    *found = false;
    while (result == STATUS_OK && !*found && offset < walk->file_bytes &&
           walk->file_bytes - offset >= SEAL_MIN_BYTES) {
        uint64_t remaining = walk->file_bytes - offset;
        size_t got;
        buffer_clear(&walk->member);
        result = read_at(walk, offset, remaining < SEARCH_WINDOW ? (size_t)remaining : SEARCH_WINDOW, &got);
        if (result != STATUS_OK || got < SEAL_MIN_BYTES)
            break;
        /* read_member needs walk->member, so the window moves aside. */
        struct buffer swap = window;
        window = walk->member;
        walk->member = swap;
        /* Windows overlap by less than a start, so that none is missed or seen twice. */
        size_t position = 0, size = window.size;
        while (result == STATUS_OK && !*found &&
               (position += find_start((const uint8_t *)window.data + position, size - position)) < size) {
            struct seal seal;
            const char *reason;
            result = read_member(walk, offset + position, true, &seal, &reason);
            if (result == STATUS_OK && (!reason || ++n_candidates > SEARCH_CANDIDATES)) {
                *found = true;
                *at = offset + position;
            }
            position++;
        }
        offset += size - 3;
    }
    buffer_free(&window);
    return result;
}

void walk_close(struct walk *walk) {
    buffer_free(&walk->identity);
    buffer_free(&walk->member);
    *walk = (struct walk){.fd = -1};
}
