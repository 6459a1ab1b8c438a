/* The sealed writer: when it seals, with every system call failing once and with death at every system call,
 * beside other workers, and a random run against a naive model. What it makes of files that are there:
 * test_writer_open.c. */
#include <sys/wait.h>

#include "tests/unit/writer_fixture.h"

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

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_every_call_fails_once),
        TEST(test_death_in_recovery),
        TEST(test_failure_is_sticky),
        TEST(test_publish_needs_totals_and_syncs),
        TEST(test_seal_by_time_and_bytes),
        TEST(test_large_record),
        TEST(test_append_refuses_half_lines),
        TEST(test_second_worker_is_refused),
        TEST(test_many_workers),
        TEST(test_random_run),
    };
    return cmocka_run_group_tests_name("writer", tests, NULL, NULL);
}
