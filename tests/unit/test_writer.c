/* The sealed writer: resuming, refusing, publishing, with every system call failing once and with death at
 * every system call, and a random run against a naive model. */
#include <errno.h>
#include <sys/wait.h>

#include "tests/unit/output_fixture.h"
#include "worker/output/writer_internal.h"

enum { N_RECORDS = 40, SEAL_BYTES = 300 };

static const char identity_text[] = "dtype=\"float32\"\nseed=42\n";
static const char other_text[] = "dtype=\"bfloat16\"\nseed=42\n";

static struct folder folder;
static struct identity ours, other;

static int setup(void **state) {
    (void)state;
    folder_make(&folder);
    ours = identity_of(identity_text);
    other = identity_of(other_text);
    return 0;
}

static int teardown(void **state) {
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

static int fault_hits(void) {
    fault.n++;
    int hit = fault.at && (fault.kind == FAULT_ONCE ? fault.n == fault.at : fault.n >= fault.at);
    if (hit)
        errno = EIO;
    return hit;
}

static ssize_t fault_pwrite(int fd, const void *bytes, size_t size, off_t offset) {
    if (fault_hits()) {
        if (fault.kind == FAULT_TORN && fault.n == fault.at)
            assert_int_equal(pwrite(fd, bytes, size / 2, offset), size / 2);
        errno = ENOSPC;
        return -1;
    }
    /* Short writes are legal and must be gone on with. */
    return pwrite(fd, bytes, size > 100 ? size - size / 3 : size, offset);
}
static int fault_fdatasync(int fd) {
    return fault_hits() ? -1 : (fault.n_synced++, fdatasync(fd));
}
static int fault_fsync(int fd) {
    return fault_hits() ? -1 : (fault.n_synced++, fsync(fd));
}
static int fault_ftruncate(int fd, off_t size) {
    return fault_hits() ? -1 : ftruncate(fd, size);
}
static int fault_link(const char *from, const char *to) {
    return fault_hits() ? -1 : link(from, to);
}
static int fault_unlink(const char *path) {
    return fault_hits() ? -1 : unlink(path);
}
static int fault_rename(const char *from, const char *to) {
    if (fault.no_rename) {
        errno = EINVAL;
        return -1;
    }
    return fault_hits() ? -1 : writer_io_default.rename_noreplace(from, to);
}
static enum status fault_sync_folder(const char *path) {
    (void)path;
    return fault_hits() ? status_fail(STATUS_IO, "folder cannot be synced") : STATUS_OK;
}
static double fault_clock(void) {
    return fault.now_s;
}

static const struct writer_io fault_io = {
    fault_pwrite, fault_fdatasync, fault_fsync,       fault_ftruncate, fault_link,
    fault_unlink, fault_rename,    fault_sync_folder, fault_clock,
};

static void fault_set(enum fault_kind kind, int at) {
    fault.kind = kind;
    fault.at = at;
    fault.n = 0;
    fault.n_synced = 0;
}

static enum status open_writer(struct writer_found *found, struct writer **out) {
    struct writer_options options = {.seal_bytes = SEAL_BYTES};
    return writer_open_io(folder.name, &ours, &options, &fault_io, found, out);
}

/* One process's life: open, append what is missing up to n, finish and publish. *n_sealed is what its last
 * seal held. */
static enum status run_to(int64_t n, int publish, int64_t *n_sealed, struct writer_found *found) {
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

static void assert_published(void) {
    struct verify_report report;
    assert_int_equal(output_verify(folder.name, &report), STATUS_OK);
    assert_int_equal(report.counts.n_records, N_RECORDS);
    assert_int_equal(report.identity.size, ours.text.size);
    assert_memory_equal(report.identity.data, ours.text.data, ours.text.size);
    verify_report_free(&report);
    assert_gzip_holds(folder.name, N_RECORDS);
    assert_false(exists(folder.part));
}

static void test_every_call_fails_once(void **state) {
    (void)state;
    for (int no_rename = 0; no_rename < 2; no_rename++) {
        fault.no_rename = no_rename;
        for (int kind = FAULT_ONCE; kind <= FAULT_TORN; kind++) {
            int at = 0;
            enum status result;
            do {
                struct writer_found found;
                int64_t n_sealed, n_resealed;
                folder_empty(&folder);
                fault_set((enum fault_kind)kind, ++at);
                result = run_to(N_RECORDS, 1, &n_sealed, &found);
                if (result != STATUS_OK)
                    assert_int_equal(result, STATUS_IO);
                /* The final name is there only when complete. */
                if (exists(folder.name)) {
                    struct verify_report report;
                    assert_int_equal(output_verify(folder.name, &report), STATUS_OK);
                    verify_report_free(&report);
                }
                fault_set(FAULT_ONCE, 0);
                assert_int_equal(run_to(N_RECORDS, 1, &n_resealed, &found), STATUS_OK);
                assert_true(found.counts.n_records >= n_sealed);
                assert_published();
            } while (result != STATUS_OK);
            /* Head, at least 10 members, totals and publishing, each with its sync: all were tried. */
            assert_true(at > 25);
        }
    }
    fault.no_rename = 0;
}

/* Death while a resumed file is being cut and gone on with. */
static void test_death_in_recovery(void **state) {
    (void)state;
    struct writer_found found;
    int64_t n_sealed;
    fault_set(FAULT_ONCE, 0);
    assert_int_equal(run_to(N_RECORDS / 2, 0, &n_sealed, &found), STATUS_OK);
    struct buffer half = read_bytes(folder.part);
    assert_int_equal(buffer_append(&half, half.data, 100), STATUS_OK); /* a torn end */
    for (int at = 1; at < 12; at++) {
        int64_t ignored;
        folder_empty(&folder);
        write_bytes(folder.part, half.data, half.size);
        fault_set(FAULT_DEATH, at);
        run_to(N_RECORDS, 1, &ignored, &found);
        fault_set(FAULT_ONCE, 0);
        assert_int_equal(run_to(N_RECORDS, 1, &ignored, &found), STATUS_OK);
        assert_true(found.counts.n_records >= n_sealed && n_sealed > 0);
        assert_published();
    }
    buffer_free(&half);
}

/* A failure is kept: nothing is written behind a gap. */
static void test_failure_is_sticky(void **state) {
    (void)state;
    struct writer_found found;
    struct writer *writer;
    fault_set(FAULT_ONCE, 0);
    assert_int_equal(open_writer(&found, &writer), STATUS_OK);
    assert_int_equal(append_record(writer, 0), STATUS_OK);
    fault_set(FAULT_ONCE, 1);
    assert_int_equal(writer_seal(writer), STATUS_IO);
    assert_int_equal(append_record(writer, 1), STATUS_IO);
    assert_int_equal(writer_tick(writer), STATUS_IO);
    assert_int_equal(writer_finish(writer), STATUS_IO);
    assert_int_equal(writer_publish(writer), STATUS_IO);
    assert_non_null(strstr(status_message(), "No space left"));
    assert_int_equal(writer_counts(writer).n_records, 0);
    writer_close(writer);
}

static void test_publish_needs_totals_and_syncs(void **state) {
    (void)state;
    struct writer_found found;
    struct writer *writer;
    fault_set(FAULT_ONCE, 0);
    assert_int_equal(open_writer(&found, &writer), STATUS_OK);
    assert_int_equal(append_record(writer, 0), STATUS_OK);
    int n = fault.n_synced;
    assert_int_equal(writer_seal(writer), STATUS_OK);
    assert_int_equal(fault.n_synced, n + 1);
    assert_int_equal(writer_finish(writer), STATUS_OK);
    assert_int_equal(fault.n_synced, n + 2);
    assert_int_equal(writer_publish(writer), STATUS_OK);
    assert_int_equal(fault.n_synced, n + 3);
    assert_int_equal(writer_publish(writer), STATUS_OK);
    writer_close(writer);
    folder_empty(&folder);
    assert_int_equal(open_writer(&found, &writer), STATUS_OK);
    assert_int_equal(writer_publish(writer), STATUS_INTERNAL);
    writer_close(writer);
}

/* ---- when seals are written ---- */

static void test_seal_by_time_and_bytes(void **state) {
    (void)state;
    struct writer_found found;
    struct writer *writer;
    struct writer_options options = {.seal_seconds = 2, .seal_bytes = 1000};
    fault_set(FAULT_ONCE, 0);
    fault.now_s = 100;
    assert_int_equal(writer_open_io(folder.name, &ours, &options, &fault_io, &found, &writer), STATUS_OK);
    assert_int_equal(writer_tick(writer), STATUS_OK);
    fault.now_s = 200; /* time before the first record does not count */
    assert_int_equal(append_record(writer, 0), STATUS_OK);
    assert_int_equal(writer_counts(writer).n_records, 0);
    fault.now_s = 201.9;
    assert_int_equal(append_record(writer, 1), STATUS_OK);
    assert_int_equal(writer_tick(writer), STATUS_OK);
    assert_int_equal(writer_counts(writer).n_records, 0);
    fault.now_s = 202; /* the first record's age counts, not the second's */
    assert_int_equal(writer_tick(writer), STATUS_OK);
    assert_int_equal(writer_counts(writer).n_records, 2);
    assert_int_equal(append_record(writer, 2), STATUS_OK);
    fault.now_s = 205;
    assert_int_equal(append_record(writer, 3), STATUS_OK);
    assert_int_equal(writer_counts(writer).n_records, 4);
    int64_t i = 4;
    while (writer_counts(writer).n_records == 4 && i < 100)
        assert_int_equal(append_record(writer, i++), STATUS_OK);
    assert_int_equal(writer_counts(writer).n_records, i);
    assert_true(i < 30);
    assert_int_equal(writer_counts(writer).n_members, 3);
    assert_int_equal(append_record(writer, i), STATUS_OK);
    assert_int_equal(writer_seal(writer), STATUS_OK);
    assert_int_equal(writer_seal(writer), STATUS_OK);
    assert_int_equal(writer_counts(writer).n_members, 4);
    writer_close(writer);
    assert_gzip_holds(folder.part, i + 1);
}

/* A record larger than any block or seal, of bytes that deflate cannot shrink. */
static void test_large_record(void **state) {
    (void)state;
    struct writer_found found;
    struct writer *writer;
    struct buffer line = {0};
    uint32_t random = 1;
    fault_set(FAULT_ONCE, 0);
    assert_int_equal(buffer_append_text(&line, "{\"line\":1,\"sample\":0,\"text\":\""), STATUS_OK);
    for (int i = 0; i < 3000000; i++) {
        random = random * 1664525 + 1013904223;
        assert_int_equal(buffer_append_byte(&line, (char)('#' + random % 57)), STATUS_OK);
    }
    assert_int_equal(
        buffer_append_text(&line, "\",\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}\n"),
        STATUS_OK);
    assert_int_equal(open_writer(&found, &writer), STATUS_OK);
    assert_int_equal(writer_append(writer, line.data, line.size, 1, false, 1, 1, ours.hash), STATUS_OK);
    assert_int_equal(writer_finish(writer), STATUS_OK);
    writer_close(writer);
    struct verify_report report;
    assert_int_equal(output_verify(folder.part, &report), STATUS_OK);
    assert_int_equal(report.text_bytes, line.size);
    verify_report_free(&report);
    struct buffer text = read_gzip(folder.part);
    assert_int_equal(text.size, line.size);
    assert_memory_equal(text.data, line.data, line.size);
    buffer_free(&text);
    buffer_free(&line);
}

static void test_append_refuses_half_lines(void **state) {
    (void)state;
    struct writer_found found;
    struct writer *writer;
    fault_set(FAULT_ONCE, 0);
    assert_int_equal(open_writer(&found, &writer), STATUS_OK);
    assert_int_equal(writer_append(writer, "{}", 2, 1, false, 0, 0, ours.hash), STATUS_INTERNAL);
    assert_int_equal(writer_append(writer, "", 0, 1, false, 0, 0, ours.hash), STATUS_INTERNAL);
    assert_int_equal(writer_append(writer, "{}\n", 3, 0, false, 0, 0, ours.hash), STATUS_INTERNAL);
    assert_int_equal(writer_append(writer, "{}\n", 3, 1, false, -1, 0, ours.hash), STATUS_INTERNAL);
    assert_int_equal(writer_finish(writer), STATUS_OK);
    assert_int_equal(append_record(writer, 0), STATUS_CANNOT_CREATE);
    writer_close(writer);
}

/* ---- what is there already ---- */

/* Opening must be refused with that status and words, and change nothing. */
static void assert_refused(enum status status, const char *words) {
    struct writer_found found;
    struct writer *writer;
    struct buffer name = read_bytes(folder.name), part = read_bytes(folder.part);
    int had_part = exists(folder.part);
    fault_set(FAULT_ONCE, 0);
    assert_int_equal(open_writer(&found, &writer), status);
    assert_null(writer);
    if (!strstr(status_message(), words))
        fail_msg("%s: expected \"%s\"", status_message(), words);
    struct buffer name_now = read_bytes(folder.name), part_now = read_bytes(folder.part);
    assert_int_equal(name.size, name_now.size);
    assert_memory_equal(name.data, name_now.data, name.size);
    assert_int_equal(part.size, part_now.size);
    assert_memory_equal(part.data, part_now.data, part.size);
    assert_int_equal(had_part, exists(folder.part));
    buffer_free(&name);
    buffer_free(&part);
    buffer_free(&name_now);
    buffer_free(&part_now);
}

static void write_whole(const struct identity *identity, int publish) {
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

static void test_complete_is_found(void **state) {
    (void)state;
    struct writer_found found;
    struct writer *writer;
    fault_set(FAULT_ONCE, 0);
    write_whole(&ours, 1);
    struct hash128 last = {{0}};
    int64_t i = N_RECORDS - 1;
    last = hash128_of(&i, sizeof i);
    assert_int_equal(open_writer(&found, &writer), STATUS_OK);
    assert_null(writer);
    assert_true(found.is_complete);
    assert_int_equal(found.counts.n_records, N_RECORDS);
    assert_true(hash128_equal(found.input_hash, last));
    assert_published();
}

/* A .part beside a complete NAME: an empty one is what a worker leaves that lost the race; any other stays.
 */
static void test_part_beside_complete_name(void **state) {
    (void)state;
    struct writer_found found;
    struct writer *writer;
    fault_set(FAULT_ONCE, 0);
    write_whole(&ours, 1);
    write_bytes(folder.part, "", 0);
    assert_int_equal(open_writer(&found, &writer), STATUS_OK);
    assert_true(found.is_complete);
    assert_published();
    write_bytes(folder.part, "mine", 4);
    assert_int_equal(open_writer(&found, &writer), STATUS_OK);
    assert_true(found.is_complete);
    assert_true(exists(folder.part));
    assert_int_equal(link(folder.name, folder.part), -1);
    assert_int_equal(unlink(folder.part), 0);
    assert_int_equal(link(folder.name, folder.part), 0);
    assert_int_equal(open_writer(&found, &writer), STATUS_OK);
    assert_true(found.is_complete);
    assert_published();
}

static void test_totals_without_publishing(void **state) {
    (void)state;
    struct writer_found found;
    struct writer *writer;
    fault_set(FAULT_ONCE, 0);
    write_whole(&ours, 0);
    assert_int_equal(open_writer(&found, &writer), STATUS_OK);
    assert_true(found.resumed && found.has_totals && !found.is_complete);
    assert_int_equal(found.counts.n_records, N_RECORDS);
    assert_int_equal(append_record(writer, N_RECORDS), STATUS_CANNOT_CREATE);
    assert_non_null(strstr(status_message(), "--restart"));
    assert_int_equal(writer_finish(writer), STATUS_OK);
    assert_int_equal(writer_publish(writer), STATUS_OK);
    writer_close(writer);
    assert_published();
}

static void test_other_identity_is_refused(void **state) {
    (void)state;
    write_whole(&other, 0);
    assert_refused(STATUS_CANNOT_CREATE, "dtype");
    assert_refused(STATUS_CANNOT_CREATE, "--restart");
    folder_empty(&folder);
    write_whole(&other, 1);
    assert_refused(STATUS_CANNOT_CREATE, "dtype");
    /* A .part of ours beside a NAME of another job: refused as well. */
    struct buffer name = read_bytes(folder.name);
    folder_empty(&folder);
    write_whole(&ours, 0);
    write_bytes(folder.name, name.data, name.size);
    assert_refused(STATUS_CANNOT_CREATE, "another job");
    buffer_free(&name);
}

static void test_foreign_files_are_refused(void **state) {
    (void)state;
    static const char foreign[] = "my notes, 40 bytes that are not a gzip file";
    write_bytes(folder.part, foreign, sizeof foreign);
    assert_refused(STATUS_CANNOT_CREATE, "no output file of pressrun");
    folder_empty(&folder);
    write_bytes(folder.name, foreign, sizeof foreign);
    assert_refused(STATUS_CANNOT_CREATE, "no output file of pressrun");
    folder_empty(&folder);
    write_bytes(folder.name, "", 0);
    assert_refused(STATUS_CANNOT_CREATE, "empty");
    folder_empty(&folder);
    assert_int_equal(mkdir(folder.name, 0700), 0);
    assert_refused(STATUS_CANNOT_CREATE, "not a regular file");
    folder_empty(&folder);
    assert_int_equal(mkdir(folder.part, 0700), 0);
    assert_refused(STATUS_CANNOT_CREATE, "cannot be created");
    folder_empty(&folder);
    assert_int_equal(mkfifo(folder.part, 0600), 0);
    struct writer_found found;
    struct writer *writer;
    assert_int_equal(open_writer(&found, &writer), STATUS_CANNOT_CREATE);
    folder_empty(&folder);
    assert_int_equal(writer_open("/nonexistent/out.gz", &ours, NULL, &found, &writer), STATUS_CANNOT_CREATE);
}

static void test_incomplete_name_is_refused(void **state) {
    (void)state;
    struct writer_found found;
    int64_t n_sealed;
    fault_set(FAULT_ONCE, 0);
    assert_int_equal(run_to(N_RECORDS / 2, 0, &n_sealed, &found), STATUS_OK);
    assert_int_equal(rename(folder.part, folder.name), 0);
    assert_refused(STATUS_CANNOT_CREATE, "not complete");
}

static void test_restart_discards(void **state) {
    (void)state;
    struct writer_options options = {.restart = true};
    struct writer_found found;
    struct writer *writer;
    for (int what = 0; what < 4; what++) {
        folder_empty(&folder);
        write_whole(what & 1 ? &ours : &other, 1);
        if (what & 2) /* both names of one inode, as death within publishing leaves them */
            assert_int_equal(link(folder.name, folder.part), 0);
        else
            write_bytes(folder.part, "junk", 4);
        assert_int_equal(writer_open(folder.name, &ours, &options, &found, &writer), STATUS_OK);
        assert_false(found.resumed || found.is_complete);
        assert_int_equal(found.counts.n_records, 0);
        assert_false(exists(folder.name));
        for (int64_t i = 0; i < N_RECORDS; i++)
            assert_int_equal(append_record(writer, i), STATUS_OK);
        assert_int_equal(writer_finish(writer), STATUS_OK);
        assert_int_equal(writer_publish(writer), STATUS_OK);
        writer_close(writer);
        assert_published();
    }
}

static void test_name_appears_meanwhile(void **state) {
    (void)state;
    struct writer_found found;
    struct writer *writer;
    for (int no_rename = 0; no_rename < 2; no_rename++) {
        fault_set(FAULT_ONCE, 0);
        fault.no_rename = no_rename;
        folder_empty(&folder);
        assert_int_equal(open_writer(&found, &writer), STATUS_OK);
        assert_int_equal(writer_finish(writer), STATUS_OK);
        write_bytes(folder.name, "mine", 4);
        assert_int_equal(writer_publish(writer), STATUS_CANNOT_CREATE);
        writer_close(writer);
        struct buffer name = read_bytes(folder.name);
        assert_int_equal(name.size, 4);
        buffer_free(&name);
        assert_true(exists(folder.part));
    }
    fault.no_rename = 0;
}

static void test_part_replaced_meanwhile(void **state) {
    (void)state;
    struct writer_found found;
    struct writer *writer;
    fault_set(FAULT_ONCE, 0);
    assert_int_equal(open_writer(&found, &writer), STATUS_OK);
    assert_int_equal(writer_finish(writer), STATUS_OK);
    assert_int_equal(unlink(folder.part), 0);
    write_bytes(folder.part, "mine", 4);
    assert_int_equal(writer_publish(writer), STATUS_IO);
    writer_close(writer);
    assert_false(exists(folder.name));
}

static void test_identity_must_fit(void **state) {
    (void)state;
    struct writer_found found;
    struct writer *writer;
    struct buffer text = {0};
    for (int i = 0; i < SEAL_IDENTITY_MAX; i++)
        assert_int_equal(buffer_append_byte(&text, i % 50 == 49 ? '\n' : '='), STATUS_OK);
    struct identity identity = {.text = text, .hash = hash128_of(text.data, text.size)};
    assert_int_equal(writer_open(folder.name, &identity, NULL, &found, &writer), STATUS_OK);
    writer_close(writer);
    assert_int_equal(writer_open(folder.name, &identity, NULL, &found, &writer), STATUS_OK);
    assert_true(found.resumed);
    assert_int_equal(writer_finish(writer), STATUS_OK);
    writer_close(writer);
    struct verify_report report;
    assert_int_equal(output_verify(folder.part, &report), STATUS_OK);
    assert_int_equal(report.identity.size, SEAL_IDENTITY_MAX);
    verify_report_free(&report);
    folder_empty(&folder);
    assert_int_equal(buffer_append_byte(&identity.text, 'x'), STATUS_OK);
    assert_int_equal(writer_open(folder.name, &identity, NULL, &found, &writer), STATUS_JOB);
    assert_false(exists(folder.part));
    buffer_free(&identity.text);
}

/* ---- damage ---- */

/* Offsets of the members of a .part, by its seals; the last is the file's size. */
static int member_offsets(const char *path, uint64_t *offsets, int max) {
    struct walk walk;
    enum walk_step step = WALK_MEMBER;
    int n = 0, fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(walk_open(&walk, fd, path), STATUS_OK);
    while (step == WALK_MEMBER && n < max) {
        offsets[n++] = walk.offset;
        assert_int_equal(walk_next(&walk, true, &step), STATUS_OK);
    }
    assert_int_equal(step, WALK_END);
    walk_close(&walk);
    close(fd);
    return n;
}

static void test_cut_anywhere_resumes(void **state) {
    (void)state;
    struct writer_found found;
    struct writer *writer;
    uint64_t offsets[64];
    fault_set(FAULT_ONCE, 0);
    write_whole(&ours, 0);
    struct buffer whole = read_bytes(folder.part);
    int n_members = member_offsets(folder.part, offsets, 64);
    assert_true(n_members > 10);
    for (size_t size = 0; size <= whole.size; size += size < offsets[4] ? 1 : 17) {
        int64_t n_sealed;
        write_bytes(folder.part, whole.data, size);
        assert_int_equal(open_writer(&found, &writer), STATUS_OK);
        int k = 0; /* whole members: the head and k - 1 with records */
        while (k < n_members && offsets[k] <= size)
            k++;
        assert_int_equal(found.resumed, k > 1);
        assert_int_equal(found.cut_bytes, size - offsets[k - 1]);
        assert_int_equal(found.counts.n_members, k < 2 ? 0 : k == n_members ? k - 3 : k - 2);
        writer_close(writer);
        if (size < offsets[2] || size % 5 == 0) {
            assert_int_equal(run_to(N_RECORDS, 1, &n_sealed, &found), STATUS_OK);
            assert_published();
            folder_empty(&folder);
        }
    }
    buffer_free(&whole);
}

static void test_damaged_end_is_cut(void **state) {
    (void)state;
    struct writer_found found;
    uint64_t offsets[64];
    int64_t n_sealed, ignored;
    fault_set(FAULT_ONCE, 0);
    assert_int_equal(run_to(N_RECORDS / 2, 0, &n_sealed, &found), STATUS_OK);
    struct buffer whole = read_bytes(folder.part);
    int n = member_offsets(folder.part, offsets, 64);
    for (uint64_t at = offsets[n - 2]; at < whole.size; at += 7) {
        folder_empty(&folder);
        whole.data[at] ^= 0x10;
        write_bytes(folder.part, whole.data, whole.size);
        whole.data[at] ^= 0x10;
        assert_int_equal(run_to(N_RECORDS, 1, &ignored, &found), STATUS_OK);
        assert_int_equal(found.cut_bytes, whole.size - offsets[n - 2]);
        assert_true(found.counts.n_records < n_sealed && found.counts.n_records > 0);
        assert_published();
    }
    /* Zeros, as a file system may leave behind a size that reached the disk before the bytes. */
    folder_empty(&folder);
    memset(whole.data + offsets[n - 2], 0, whole.size - offsets[n - 2]);
    write_bytes(folder.part, whole.data, whole.size);
    assert_int_equal(run_to(N_RECORDS, 1, &ignored, &found), STATUS_OK);
    assert_published();
    folder_empty(&folder);
    memset(whole.data, 0, whole.size);
    write_bytes(folder.part, whole.data, 100);
    assert_int_equal(run_to(N_RECORDS, 1, &ignored, &found), STATUS_OK);
    assert_published();
    buffer_free(&whole);
}

static void test_damaged_middle_is_kept(void **state) {
    (void)state;
    struct writer_found found;
    uint64_t offsets[64];
    int64_t n_sealed;
    fault_set(FAULT_ONCE, 0);
    assert_int_equal(run_to(N_RECORDS / 2, 0, &n_sealed, &found), STATUS_OK);
    struct buffer whole = read_bytes(folder.part);
    int n = member_offsets(folder.part, offsets, 64);
    for (uint64_t at = 0; at < offsets[n - 2]; at += 13) {
        whole.data[at] ^= 0x04;
        write_bytes(folder.part, whole.data, whole.size);
        whole.data[at] ^= 0x04;
        char words[64];
        int k = 0;
        while (offsets[k + 1] <= at)
            k++;
        snprintf(words, sizeof words, "damaged at byte %llu ", (unsigned long long)offsets[k]);
        assert_refused(STATUS_CORRUPT, words);
    }
    buffer_free(&whole);
    /* A complete NAME whose chain is broken. */
    folder_empty(&folder);
    write_whole(&ours, 1);
    whole = read_bytes(folder.name);
    n = member_offsets(folder.name, offsets, 64);
    whole.data[offsets[n / 2] + 140] ^= 1;
    write_bytes(folder.name, whole.data, whole.size);
    assert_refused(STATUS_CORRUPT, "damaged at byte");
    buffer_free(&whole);
}

/* ---- two workers ---- */

static void test_second_worker_is_refused(void **state) {
    (void)state;
    struct writer_found found;
    struct writer *first, *second;
    struct writer_options restart = {.restart = true};
    fault_set(FAULT_ONCE, 0);
    assert_int_equal(open_writer(&found, &first), STATUS_OK);
    assert_int_equal(append_record(first, 0), STATUS_OK);
    assert_int_equal(writer_seal(first), STATUS_OK);
    assert_int_equal(open_writer(&found, &second), STATUS_LOCKED);
    assert_int_equal(writer_open(folder.name, &ours, &restart, &found, &second), STATUS_LOCKED);
    writer_close(first);
    assert_int_equal(open_writer(&found, &second), STATUS_OK);
    assert_int_equal(found.counts.n_records, 1);
    writer_close(second);
}

/* One process of many on the same output: retries while another holds it, dies now and then. */
static int compete(unsigned seed) {
    for (int tries = 0; tries < 100000; tries++) {
        struct writer_options options = {.seal_bytes = SEAL_BYTES};
        struct writer_found found;
        struct writer *writer;
        enum status result = writer_open(folder.name, &ours, &options, &found, &writer);
        if (result == STATUS_LOCKED) {
            usleep(100);
            continue;
        }
        if (result != STATUS_OK) {
            fprintf(stderr, "%s\n", status_message());
            return 1;
        }
        if (found.is_complete)
            return 0;
        int64_t until = found.counts.n_records + 1 + (int64_t)(rand_r(&seed) % 30);
        for (int64_t i = found.counts.n_records; i < N_RECORDS && i < until; i++)
            if (append_record(writer, i) != STATUS_OK)
                return 2;
        if (until >= N_RECORDS && (writer_finish(writer) != STATUS_OK || writer_publish(writer) != STATUS_OK))
            return 3;
        writer_close(writer);
    }
    return 4;
}

static void test_many_workers(void **state) {
    (void)state;
    for (int round = 0; round < 5; round++) {
        pid_t children[6];
        folder_empty(&folder);
        for (int i = 0; i < 6; i++) {
            children[i] = fork();
            assert_true(children[i] >= 0);
            if (children[i] == 0)
                _exit(compete((unsigned)(round * 100 + i)));
        }
        for (int i = 0; i < 6; i++) {
            int status;
            assert_int_equal(waitpid(children[i], &status, 0), children[i]);
            assert_int_equal(status, 0);
        }
        assert_published();
    }
}

/* ---- a random run against a naive model ---- */

/* The model knows how many records were appended, and that what a seal holds is a prefix of them. */
struct model {
    int64_t n_appended;
    int64_t n_sealed;
};

static void _check(const struct writer *writer, struct model *model) {
    struct verify_report report;
    struct output_counts counts = writer_counts(writer);
    struct test_record record = {0};
    struct output_counts wanted = {0};
    assert_true(counts.n_records >= model->n_sealed && counts.n_records <= model->n_appended);
    model->n_sealed = counts.n_records;
    for (int64_t i = 0; i < counts.n_records; i++) {
        make_record(i, &record);
        wanted.n_lines += record.n_lines;
        wanted.n_errors += record.is_error;
        wanted.prompt_tokens += record.prompt_tokens;
        wanted.completion_tokens += record.completion_tokens;
    }
    buffer_free(&record.lines);
    assert_int_equal(counts.n_lines, wanted.n_lines);
    assert_int_equal(counts.n_errors, wanted.n_errors);
    assert_int_equal(counts.prompt_tokens, wanted.prompt_tokens);
    assert_int_equal(counts.completion_tokens, wanted.completion_tokens);
    assert_int_equal(output_verify(folder.part, &report), STATUS_INCOMPLETE);
    assert_int_equal(report.counts.n_records, counts.n_records);
    assert_int_equal(report.counts.n_members, counts.n_members);
    verify_report_free(&report);
    assert_gzip_holds(folder.part, counts.n_records);
}

static void append_junk(unsigned *seed) {
    int fd = open(folder.part, O_WRONLY | O_APPEND);
    char junk[400];
    struct buffer whole = read_bytes(folder.part);
    for (size_t i = 0; i < sizeof junk; i++)
        junk[i] = (char)rand_r(seed);
    if (rand_r(seed) % 2) /* the start of a real member: its header, cut within */
        memcpy(junk, whole.data, whole.size < 150 ? whole.size : 150);
    size_t size = (size_t)rand_r(seed) % sizeof junk;
    assert_int_equal(write(fd, junk, size), size);
    close(fd);
    buffer_free(&whole);
}

static void test_random_run(void **state) {
    (void)state;
    for (unsigned seed0 = 1; seed0 <= 6; seed0++) {
        unsigned seed = seed0;
        struct model model = {0};
        struct writer *writer;
        struct writer_found found;
        folder_empty(&folder);
        fault_set(FAULT_ONCE, 0);
        assert_int_equal(open_writer(&found, &writer), STATUS_OK);
        for (int step = 0; step < 150; step++) {
            int operation = rand_r(&seed) % 20;
            if (operation < 13) {
                assert_int_equal(append_record(writer, model.n_appended++), STATUS_OK);
            } else if (operation < 15) {
                fault.now_s += rand_r(&seed) % 3;
                assert_int_equal(writer_tick(writer), STATUS_OK);
            } else if (operation < 17) {
                assert_int_equal(writer_seal(writer), STATUS_OK);
                assert_int_equal(writer_counts(writer).n_records, model.n_appended);
            } else { /* the process dies; another one goes on */
                writer_close(writer);
                if (operation > 17)
                    append_junk(&seed);
                assert_int_equal(open_writer(&found, &writer), STATUS_OK);
                assert_true(found.resumed);
                assert_int_equal(found.counts.n_records, model.n_sealed);
                struct hash128 last = {{0}};
                int64_t i = model.n_sealed - 1;
                if (i >= 0)
                    last = hash128_of(&i, sizeof i);
                assert_true(hash128_equal(found.input_hash, last));
                model.n_appended = model.n_sealed;
            }
            _check(writer, &model);
        }
        assert_int_equal(writer_finish(writer), STATUS_OK);
        assert_int_equal(writer_publish(writer), STATUS_OK);
        writer_close(writer);
        assert_gzip_holds(folder.name, model.n_appended);
    }
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_every_call_fails_once),
        TEST(test_death_in_recovery),
        TEST(test_failure_is_sticky),
        TEST(test_publish_needs_totals_and_syncs),
        TEST(test_seal_by_time_and_bytes),
        TEST(test_large_record),
        TEST(test_append_refuses_half_lines),
        TEST(test_complete_is_found),
        TEST(test_part_beside_complete_name),
        TEST(test_totals_without_publishing),
        TEST(test_other_identity_is_refused),
        TEST(test_foreign_files_are_refused),
        TEST(test_incomplete_name_is_refused),
        TEST(test_restart_discards),
        TEST(test_name_appears_meanwhile),
        TEST(test_part_replaced_meanwhile),
        TEST(test_identity_must_fit),
        TEST(test_cut_anywhere_resumes),
        TEST(test_damaged_end_is_cut),
        TEST(test_damaged_middle_is_kept),
        TEST(test_second_worker_is_refused),
        TEST(test_many_workers),
        TEST(test_random_run),
    };
    return cmocka_run_group_tests_name("writer", tests, NULL, NULL);
}
