/* What the sealed writer makes of files that are there already: complete, in part, of another identity,
 * foreign, replaced meanwhile, damaged. */
#include "tests/unit/writer_fixture.h"

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

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_complete_is_found),         TEST(test_part_beside_complete_name),
        TEST(test_totals_without_publishing), TEST(test_other_identity_is_refused),
        TEST(test_foreign_files_are_refused), TEST(test_incomplete_name_is_refused),
        TEST(test_restart_discards),          TEST(test_name_appears_meanwhile),
        TEST(test_part_replaced_meanwhile),   TEST(test_identity_must_fit),
        TEST(test_cut_anywhere_resumes),      TEST(test_damaged_end_is_cut),
        TEST(test_damaged_middle_is_kept),
    };
    return cmocka_run_group_tests_name("writer_open", tests, NULL, NULL);
}
