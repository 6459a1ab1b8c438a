#include "worker/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum status file_open(const char *path, int *fd, size_t *size) {
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    RETURN_IF(*fd < 0, STATUS_NO_INPUT, "%s: %s", path, strerror(errno));
    struct stat info;
    if (fstat(*fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        close(*fd);
        return status_fail(STATUS_DATA, "%s: not a regular file", path);
    }
    *size = (size_t)info.st_size;
    return STATUS_OK;
}

enum status file_read(const char *path, size_t max_bytes, struct buffer *out) {
    int fd;
    size_t size;
    TRY(file_open(path, &fd, &size));
    buffer_clear(out);
    enum status result = STATUS_OK;
    if (size > max_bytes)
        result = status_fail(STATUS_DATA, "%s: %zu bytes, but at most %zu are allowed here", path, size,
                             max_bytes);
    while (result == STATUS_OK) {
        result = buffer_reserve(out, 65536);
        if (result != STATUS_OK)
            break;
        ssize_t got = read(fd, out->data + out->size, out->capacity - out->size);
        if (got == 0)
            break;
        if (got < 0) {
            if (errno == EINTR)
                continue;
            result = status_fail(STATUS_IO, "%s: reading failed: %s", path, strerror(errno));
            break;
        }
        out->size += (size_t)got;
        if (out->size > max_bytes)
            result = status_fail(STATUS_DATA, "%s: more than %zu bytes, which is the most allowed here", path,
                                 max_bytes);
    }
    close(fd);
    return result == STATUS_OK ? buffer_terminate(out) : result;
}

int file_read_at(int fd, size_t offset, size_t size, void *to) {
    char *at = to;
    while (size > 0) {
        ssize_t got = pread(fd, at, size, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? errno : ENODATA;
        at += got;
        offset += (size_t)got;
        size -= (size_t)got;
    }
    return 0;
}

const char *file_read_error(int error) {
    return error == ENODATA ? "the file has become shorter than it was" : strerror(error);
}

enum status file_refuse_pointer(const char *path, const void *bytes, size_t size) {
    static const char pointer[] = "version https://git-lfs.github.com/";
    RETURN_IF(size >= sizeof pointer - 1 && memcmp(bytes, pointer, sizeof pointer - 1) == 0, STATUS_DATA,
              "%s: a Git LFS pointer, not the file itself; fetch that with git lfs pull", path);
    return STATUS_OK;
}

bool file_exists(const char *path) {
    struct stat info;
    return stat(path, &info) == 0;
}

bool file_is_directory(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

enum status file_write_all(int fd, const void *bytes, size_t size, const char *path) {
    const char *at = bytes;
    while (size > 0) {
        ssize_t wrote = write(fd, at, size);
        if (wrote < 0) {
            if (errno == EINTR)
                continue;
            return status_fail(STATUS_IO, "%s: writing failed: %s", path, strerror(errno));
        }
        at += wrote;
        size -= (size_t)wrote;
    }
    return STATUS_OK;
}

enum status file_sync_folder(const char *path) {
    char *folder = path_folder(path);
    RETURN_IF(!folder, STATUS_INTERNAL, "out of host memory");
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* Some file systems refuse fsync on a folder (EINVAL); there a rename is as durable as it gets. */
    bool failed = fd < 0 || (fsync(fd) != 0 && errno != EINVAL);
    enum status result = STATUS_OK;
    if (failed)
        result = status_fail(STATUS_IO, "%s: folder cannot be synced: %s", folder, strerror(errno));
    if (fd >= 0)
        close(fd);
    free(folder);
    return result;
}

enum status file_replace(const char *path, const void *bytes, size_t size) {
    struct buffer name = {0};
    TRY(buffer_printf(&name, "%s.tmp.%ld", path, (long)getpid()));
    TRY(buffer_terminate(&name));
    int fd = open(name.data, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        buffer_free(&name);
        return status_fail(STATUS_CANNOT_CREATE, "%s: cannot be created: %s", path, strerror(errno));
    }
    enum status result = file_write_all(fd, bytes, size, path);
    if (result == STATUS_OK && fsync(fd) != 0)
        result = status_fail(STATUS_IO, "%s: fsync failed: %s", path, strerror(errno));
    if (close(fd) != 0 && result == STATUS_OK)
        result = status_fail(STATUS_IO, "%s: closing failed: %s", path, strerror(errno));
    if (result == STATUS_OK && rename(name.data, path) != 0)
        result = status_fail(STATUS_IO, "%s: cannot be renamed into place: %s", path, strerror(errno));
    if (result != STATUS_OK)
        unlink(name.data);
    buffer_free(&name);
    return result == STATUS_OK ? file_sync_folder(path) : result;
}

char *path_folder(const char *path) {
    const char *slash = strrchr(path, '/');
    if (!slash)
        return strdup(".");
    if (slash == path)
        return strdup("/");
    return strndup(path, (size_t)(slash - path));
}

char *path_join(const char *folder, const char *name) {
    if (name[0] == '/' || strcmp(folder, ".") == 0)
        return strdup(name);
    size_t length = strlen(folder) + 1 + strlen(name) + 1;
    char *out = malloc(length);
    if (out)
        snprintf(out, length, "%s%s%s", folder, folder[strlen(folder) - 1] == '/' ? "" : "/", name);
    return out;
}
