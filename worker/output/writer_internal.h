/* Inside of writer: what writer.c and recovery.c share, and the door for fault injection. Only these and
 * tests include this. */
#ifndef PRESSRUN_WORKER_OUTPUT_WRITER_INTERNAL_H
#define PRESSRUN_WORKER_OUTPUT_WRITER_INTERNAL_H

#include <sys/types.h>
#include <zlib.h>

#include "worker/output/walk.h"
#include "worker/output/writer.h"

/* The calls that change the disk, and the clock. They behave like the system calls of their name. */
struct writer_io {
    ssize_t (*pwrite)(int fd, const void *bytes, size_t size, off_t offset);
    int (*fdatasync)(int fd);
    int (*fsync)(int fd);
    int (*ftruncate)(int fd, off_t size);
    int (*link)(const char *from, const char *to);
    int (*unlink)(const char *path);
    int (*rename_noreplace)(const char *from, const char *to);
    enum status (*sync_folder)(const char *path); /* of the folder that holds path */
    double (*clock)(void);                        /* seconds */
};
extern const struct writer_io writer_io_default;

struct writer {
    const struct writer_io *io;
    char *name;
    char *part;
    int fd; /* of part; holds the lock */
    double seal_seconds;
    uint64_t seal_bytes;
    uint64_t file_bytes; /* up to the last seal */
    struct seal last;    /* last seal in the file */
    struct seal next;    /* what will be sealed: cumulative counts, records and input so far */
    double first_s;      /* when the first unsealed record came */
    bool has_totals;
    bool is_published;
    z_stream deflate;
    uint32_t crc;
    struct buffer text;     /* not yet compressed */
    struct buffer member;   /* the member that grows: room for the header, deflate data */
    struct failure failure; /* sticky: after it the file must be opened anew */
};

enum status writer_open_io(const char *name, const struct identity *identity,
                           const struct writer_options *options, const struct writer_io *io,
                           struct writer_found *found, struct writer **out);

/* Writes all bytes at offset. STATUS_IO. */
enum status writer_pwrite_all(const struct writer_io *io, const char *path, int fd, const void *bytes,
                              size_t size, uint64_t offset);

/* Compares the identity of an existing file with ours. STATUS_CANNOT_CREATE names the first difference. */
enum status recovery_match_identity(const char *path, const struct walk *walk,
                                    const struct identity *identity);

/* Judges NAME by its seals. *exists false when it is not there. STATUS_OK with *exists: complete and of this
 * identity, found is filled. Else STATUS_CANNOT_CREATE or STATUS_CORRUPT; the file is untouched. */
enum status recovery_check_name(const char *name, const struct identity *identity, bool *exists,
                                struct writer_found *found);

/* Walks the locked .part, cuts what lies behind its last good seal, and leaves that seal in writer->last
 * (file_bytes 0: empty, a head must be written). An error leaves the file untouched. */
enum status recovery_run(struct writer *writer, const struct identity *identity, struct writer_found *found);

#endif
