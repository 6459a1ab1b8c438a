/* What the test programs of the sealed writer share: an output with its identities, and a writer whose system
 * calls fail, die or are missing on demand. */
#ifndef PRESSRUN_TESTS_UNIT_WRITER_FIXTURE_H
#define PRESSRUN_TESTS_UNIT_WRITER_FIXTURE_H

#include <errno.h>

#include "tests/unit/output_fixture.h"
#include "worker/output/writer_internal.h"

enum { N_RECORDS = 40, SEAL_BYTES = 300 };

static const char identity_text[] = "dtype=\"float32\"\nseed=42\n";
static const char other_text[] = "dtype=\"bfloat16\"\nseed=42\n";

static struct folder folder;
static struct identity ours, other;

static inline int setup(void **state) {
    (void)state;
    folder_make(&folder);
    ours = identity_of(identity_text);
    other = identity_of(other_text);
    return 0;
}

static inline int teardown(void **state) {
    (void)state;
    folder_remove(&folder);
    buffer_free(&ours.text);
    buffer_free(&other.text);
    return 0;
}

/* ---- system calls that fail, die, or are missing ---- */

enum fault_kind {
    FAULT_ONCE,  /* call number `at` fails, later ones work */
    FAULT_DEATH, /* call number `at` and all later ones do nothing: what a kill there leaves behind */
    FAULT_TORN   /* the same, but a write at `at` gets half of its bytes onto the disk */
};

static struct {
    enum fault_kind kind;
    int at; /* 0: none */
    int n;  /* calls so far */
    int no_rename;
    double now_s;
    int n_synced; /* fdatasync and fsync that worked */
} fault;

static inline int fault_hits(void) {
    fault.n++;
    int hit = fault.at && (fault.kind == FAULT_ONCE ? fault.n == fault.at : fault.n >= fault.at);
    if (hit)
        errno = EIO;
    return hit;
}

static inline ssize_t fault_pwrite(int fd, const void *bytes, size_t size, off_t offset) {
    if (fault_hits()) {
        if (fault.kind == FAULT_TORN && fault.n == fault.at)
            assert_int_equal(pwrite(fd, bytes, size / 2, offset), size / 2);
        errno = ENOSPC;
        return -1;
    }
    /* Short writes are legal and must be gone on with. */
    return pwrite(fd, bytes, size > 100 ? size - size / 3 : size, offset);
}
static inline int fault_fdatasync(int fd) {
    return fault_hits() ? -1 : (fault.n_synced++, fdatasync(fd));
}
static inline int fault_fsync(int fd) {
    return fault_hits() ? -1 : (fault.n_synced++, fsync(fd));
}
static inline int fault_ftruncate(int fd, off_t size) {
    return fault_hits() ? -1 : ftruncate(fd, size);
}
static inline int fault_link(const char *from, const char *to) {
    return fault_hits() ? -1 : link(from, to);
}
static inline int fault_unlink(const char *path) {
    return fault_hits() ? -1 : unlink(path);
}
static inline int fault_rename(const char *from, const char *to) {
    if (fault.no_rename) {
        errno = EINVAL;
        return -1;
    }
    return fault_hits() ? -1 : writer_io_default.rename_noreplace(from, to);
}
static inline enum status fault_sync_folder(const char *path) {
    (void)path;
    return fault_hits() ? status_fail(STATUS_IO, "folder cannot be synced") : STATUS_OK;
}
static inline double fault_clock(void) {
    return fault.now_s;
}

static const struct writer_io fault_io = {
    fault_pwrite, fault_fdatasync, fault_fsync,       fault_ftruncate, fault_link,
    fault_unlink, fault_rename,    fault_sync_folder, fault_clock,
};

static inline void fault_set(enum fault_kind kind, int at) {
    fault.kind = kind;
    fault.at = at;
    fault.n = 0;
    fault.n_synced = 0;
}

static inline enum status open_writer(struct writer_found *found, struct writer **out) {
    struct writer_options options = {.seal_bytes = SEAL_BYTES};
    return writer_open_io(folder.name, &ours, &options, &fault_io, found, out);
}

/* One process's life: open, append what is missing up to n, finish and publish. *n_sealed is what its last
 * seal held. */
static inline enum status run_to(int64_t n, int publish, int64_t *n_sealed, struct writer_found *found) {
    struct writer *writer;
    *n_sealed = 0;
    enum status result = open_writer(found, &writer);
    if (result != STATUS_OK || found->is_complete) {
        *n_sealed = found->counts.n_records;
        return result;
    }
    for (int64_t i = found->counts.n_records; i < n && result == STATUS_OK; i++)
        result = append_record(writer, i);
    if (result == STATUS_OK && publish)
        result = writer_finish(writer);
    if (result == STATUS_OK && publish)
        result = writer_publish(writer);
    *n_sealed = writer_counts(writer).n_records;
    writer_close(writer);
    return result;
}

static inline void assert_published(void) {
    struct verify_report report;
    assert_int_equal(output_verify(folder.name, &report), STATUS_OK);
    assert_int_equal(report.counts.n_records, N_RECORDS);
    assert_int_equal(report.identity.size, ours.text.size);
    assert_memory_equal(report.identity.data, ours.text.data, ours.text.size);
    verify_report_free(&report);
    assert_gzip_holds(folder.name, N_RECORDS);
    assert_false(exists(folder.part));
}

static inline void write_whole(const struct identity *identity, int publish) {
    struct writer_options options = {.seal_bytes = SEAL_BYTES};
    struct writer_found found;
    struct writer *writer;
    assert_int_equal(writer_open(folder.name, identity, &options, &found, &writer), STATUS_OK);
    assert_false(found.resumed || found.is_complete);
    for (int64_t i = 0; i < N_RECORDS; i++)
        assert_int_equal(append_record(writer, i), STATUS_OK);
    assert_int_equal(writer_finish(writer), STATUS_OK);
    if (publish)
        assert_int_equal(writer_publish(writer), STATUS_OK);
    writer_close(writer);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

#endif
