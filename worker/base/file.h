/* file: whole files, files that are read by position, and paths. */
#ifndef PRESSRUN_WORKER_BASE_FILE_H
#define PRESSRUN_WORKER_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/status.h"
#include "worker/base/buffer.h"

/* Reads a whole regular file. STATUS_NO_INPUT when it cannot be opened, STATUS_DATA when it is larger than
 * max_bytes or no regular file, STATUS_IO when reading fails. The buffer is NUL-terminated behind its size.
 */
enum status file_read(const char *path, size_t max_bytes, struct buffer *out);

/* A regular file open for reading by position. Not mapped: a page fault in a file that was cut ends the
 * process (SIGBUS), a read says so. Its failures are those of file_read. */
enum status file_open(const char *path, int *fd, size_t *size);
/* Reads bytes [offset, offset + size) to `to`; any thread. Returns 0, the errno of a failure, or ENODATA
 * where the file ends before. */
int file_read_at(int fd, size_t offset, size_t size, void *to);
/* What file_read_at returned, for people. */
const char *file_read_error(int error);

/* Refuses what a clone leaves in place of a large file when Git LFS is not installed: STATUS_DATA, how to get
 * the file. `bytes` is its beginning, or all of it. */
enum status file_refuse_pointer(const char *path, const void *bytes, size_t size);

bool file_exists(const char *path);
bool file_is_directory(const char *path);

/* Writes all bytes, going on after short writes and EINTR. `path` names the file in the message. STATUS_IO.
 */
enum status file_write_all(int fd, const void *bytes, size_t size, const char *path);

/* Writes a file so that it is there whole or not at all: temporary file beside it, fsync, rename, fsync of
 * the folder. STATUS_CANNOT_CREATE or STATUS_IO. */
enum status file_replace(const char *path, const void *bytes, size_t size);

/* fsync of the folder that holds path. */
enum status file_sync_folder(const char *path);

/* Folder part of path ("." when there is none); name joined to a folder (name when it is absolute).
 * malloc'ed; NULL when memory is out. */
char *path_folder(const char *path);
char *path_join(const char *folder, const char *name);

#endif
