/* walk: goes through the members of an output file from its start, checking each seal against the bytes and
 * the seal before it. Recovery and verify read files through it. Zero-initialised is valid; memory does not
 * grow with the file, only with its largest member. */
#ifndef PRESSRUN_WORKER_OUTPUT_WALK_H
#define PRESSRUN_WORKER_OUTPUT_WALK_H

#include "worker/base/buffer.h"
#include "worker/output/seal.h"

struct walk {
    int fd;           /* not owned */
    const char *path; /* not owned; for messages */
    uint64_t file_bytes;
    uint64_t offset;        /* behind the last good member */
    bool has_head;          /* a good head member was seen: seal and identity are valid */
    struct seal seal;       /* of the last good member */
    struct buffer identity; /* the head's text */
    struct buffer member;   /* the last member's bytes, where they were read */
    const char *reason;     /* of WALK_DAMAGED, static text */
};

enum walk_step {
    WALK_MEMBER, /* walk->seal describes the next good member; offset lies behind it */
    WALK_END,    /* the file ends behind the last good member */
    WALK_DAMAGED /* what starts at offset is no good member; reason says why */
};

/* Takes the size of the file as it is now. STATUS_IO. */
enum status walk_open(struct walk *walk, int fd, const char *path);

/* One member on. check_bytes false skips the bytes of members with records (their seals' chain, head and
 * totals are still checked), so that a large file is judged by its seals alone. STATUS_IO when reading fails,
 * STATUS_INTERNAL when memory is out. */
enum status walk_next(struct walk *walk, bool check_bytes, enum walk_step *step);

/* Looks behind a damaged place for a member that is good in itself: damage in the middle of sealed records
 * and not a torn end. */
enum status walk_find_later(struct walk *walk, bool *found, uint64_t *at);

void walk_close(struct walk *walk);

#endif
