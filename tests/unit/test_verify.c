/* output_verify: every single flipped bit and every cut of a small file is found, and so is a file whose
 * seals are right and whose text is not what they say. */
#include "tests/unit/output_fixture.h"

enum { N_RECORDS = 8 };

static struct folder folder;
static struct identity identity;

static int setup(void **state) {
    (void)state;
    folder_make(&folder);
    identity = identity_of("dtype=\"float32\"\nseed=42\n");
    return 0;
}

static int teardown(void **state) {
    (void)state;
    folder_remove(&folder);
    buffer_free(&identity.text);
    return 0;
}

static void write_small(int publish) {
    struct writer_options options = {.seal_bytes = 400};
    struct writer_found found;
    struct writer *writer;
    assert_int_equal(writer_open(folder.name, &identity, &options, &found, &writer), STATUS_OK);
    for (int64_t i = 0; i < N_RECORDS; i++)
        assert_int_equal(append_record(writer, i), STATUS_OK);
    if (publish) {
        assert_int_equal(writer_finish(writer), STATUS_OK);
        assert_int_equal(writer_publish(writer), STATUS_OK);
    } else {
        assert_int_equal(writer_seal(writer), STATUS_OK);
    }
    writer_close(writer);
}

static enum status verify(const char *path) {
    struct verify_report report;
    enum status result = output_verify(path, &report);
    assert_int_equal(report.is_complete, result == STATUS_OK);
    verify_report_free(&report);
    return result;
}

static void test_good_files(void **state) {
    (void)state;
    struct verify_report report;
    write_small(0);
    assert_int_equal(output_verify(folder.part, &report), STATUS_INCOMPLETE);
    assert_int_equal(report.counts.n_records, N_RECORDS);
    verify_report_free(&report);
    folder_empty(&folder);
    write_small(1);
    assert_int_equal(output_verify(folder.name, &report), STATUS_OK);
    struct buffer text = text_of(N_RECORDS), file = read_bytes(folder.name);
    assert_int_equal(report.counts.n_records, N_RECORDS);
    assert_int_equal(report.counts.n_errors, 1);
    assert_int_equal(report.text_bytes, text.size);
    assert_int_equal(report.file_bytes, file.size);
    assert_true(report.counts.n_members >= 2);
    assert_int_equal(report.identity.size, identity.text.size);
    verify_report_free(&report);
    buffer_free(&text);
    buffer_free(&file);
    assert_int_equal(verify("/nonexistent/out.jsonl.gz"), STATUS_NO_INPUT);
    assert_int_equal(verify(folder.path), STATUS_NO_INPUT);
}

static void test_every_flipped_bit_is_found(void **state) {
    (void)state;
    write_small(1);
    struct buffer file = read_bytes(folder.name);
    int fd = open(folder.name, O_WRONLY);
    assert_true(fd >= 0);
    for (size_t bit = 0; bit < 8 * file.size; bit++) {
        char byte = (char)(file.data[bit / 8] ^ 1 << bit % 8);
        assert_int_equal(pwrite(fd, &byte, 1, (off_t)(bit / 8)), 1);
        enum status result = verify(folder.name);
        if (result != STATUS_CORRUPT)
            fail_msg("bit %d of byte %d: status %d", (int)(bit % 8), (int)(bit / 8), (int)result);
        assert_int_equal(pwrite(fd, file.data + bit / 8, 1, (off_t)(bit / 8)), 1);
    }
    close(fd);
    assert_int_equal(verify(folder.name), STATUS_OK);
    buffer_free(&file);
}

static void test_every_cut_is_found(void **state) {
    (void)state;
    write_small(1);
    struct buffer file = read_bytes(folder.name);
    int n_incomplete = 0;
    for (size_t size = 0; size < file.size; size++) {
        write_bytes(folder.name, file.data, size);
        enum status result = verify(folder.name);
        assert_true(result == STATUS_CORRUPT || result == STATUS_INCOMPLETE);
        n_incomplete += result == STATUS_INCOMPLETE;
    }
    /* A cut between two members leaves a good unfinished file, and only such a cut does. */
    write_bytes(folder.name, file.data, file.size);
    struct verify_report report;
    assert_int_equal(output_verify(folder.name, &report), STATUS_OK);
    assert_int_equal(n_incomplete, report.counts.n_members + 1);
    verify_report_free(&report);
    buffer_free(&file);
}

static void test_additions_are_found(void **state) {
    (void)state;
    write_small(1);
    struct buffer file = read_bytes(folder.name);
    size_t size = file.size;
    assert_int_equal(buffer_append(&file, file.data, 200), STATUS_OK);
    for (size_t more = 1; more <= 200; more += 33) {
        write_bytes(folder.name, file.data, size + more);
        assert_int_equal(verify(folder.name), STATUS_CORRUPT);
    }
    /* The same file twice, which gzip readers take without a word. */
    file.size = size;
    assert_int_equal(buffer_reserve(&file, size), STATUS_OK);
    memcpy(file.data + size, file.data, size);
    write_bytes(folder.name, file.data, 2 * size);
    assert_int_equal(verify(folder.name), STATUS_CORRUPT);
    /* Plain gzip. */
    gzFile gzip = gzopen(folder.name, "wb");
    gzputs(gzip, "{\"line\":1}\n");
    gzclose(gzip);
    assert_int_equal(verify(folder.name), STATUS_CORRUPT);
    buffer_free(&file);
}

/* Writes one record of those lines with those numbers through the writer, so that seals and hashes are
 * right; returns what verify says of the text. */
static enum status verify_text(const char *lines, int32_t n_lines, bool is_error, int64_t prompt_tokens,
                               int64_t completion_tokens) {
    struct writer_found found;
    struct writer *writer;
    folder_empty(&folder);
    assert_int_equal(writer_open(folder.name, &identity, NULL, &found, &writer), STATUS_OK);
    assert_int_equal(append_record(writer, 0), STATUS_OK);
    assert_int_equal(append_record(writer, 1), STATUS_OK);
    assert_int_equal(writer_append(writer, lines, strlen(lines), n_lines, is_error, prompt_tokens,
                                   completion_tokens, identity.hash),
                     STATUS_OK);
    assert_int_equal(writer_finish(writer), STATUS_OK);
    assert_int_equal(writer_publish(writer), STATUS_OK);
    writer_close(writer);
    return verify(folder.name);
}

#define USAGE(prompt, completion)                                                                            \
    ",\"usage\":{\"prompt_tokens\":" #prompt ",\"completion_tokens\":" #completion "}"
#define SAMPLE(line, sample) "{\"line\":" #line ",\"sample\":" #sample ",\"text\":\"a\"" USAGE(2, 3) "}\n"
#define FAILED(line)         "{\"line\":" #line ",\"error\":{\"code\":\"c\",\"message\":\"m\"}}\n"

#define SCORED(line, logprobs, n) "{\"line\":" #line ",\"prompt_logprobs\":" logprobs USAGE(n, 0) "}\n"

/* What scored records hold is summed up. */
static void test_scores(void **state) {
    (void)state;
    struct verify_report report;
    assert_int_equal(verify_text(SCORED(3, "[null,-0.5,-1.25]", 3), 1, false, 3, 0), STATUS_OK);
    assert_int_equal(output_verify(folder.name, &report), STATUS_OK);
    assert_int_equal(report.n_scored_records, 1);
    assert_int_equal(report.scored_tokens, 2);
    assert_true(report.logprob_sum == -1.75);
    verify_report_free(&report);
    assert_int_equal(verify_text(SCORED(3, "[null]", 1), 1, false, 1, 0), STATUS_OK);
    assert_int_equal(verify_text(SCORED(3, "[null,-0.5]", 3), 1, false, 3, 0), STATUS_CORRUPT);
    assert_int_equal(verify_text(SCORED(3, "[-1.5,-0.5]", 2), 1, false, 2, 0), STATUS_CORRUPT);
    assert_int_equal(verify_text(SCORED(3, "[null,null]", 2), 1, false, 2, 0), STATUS_CORRUPT);
    assert_int_equal(verify_text(SCORED(3, "7", 1), 1, false, 1, 0), STATUS_CORRUPT);
    assert_int_equal(verify_text(SCORED(3, "[]", 0), 1, false, 0, 0), STATUS_CORRUPT);
    assert_int_equal(verify_text(SCORED(3, "[null]", 1) SCORED(3, "[null]", 1), 2, false, 1, 0),
                     STATUS_CORRUPT);
}

static void test_text_is_compared_with_seals(void **state) {
    (void)state;
    const struct {
        const char *lines;
        int32_t n_lines;
        bool is_error;
        int64_t prompt_tokens, completion_tokens;
        enum status wanted;
    } cases[] = {
        {SAMPLE(3, 0), 1, false, 2, 3, STATUS_OK},
        {SAMPLE(9, 0) SAMPLE(9, 1), 2, false, 2, 6, STATUS_OK},
        {FAILED(3), 1, true, 0, 0, STATUS_OK},
        /* metadata may hold numbers that fit no integer */
        {"{\"line\":3,\"sample\":0,\"text\":\"\"" USAGE(2,
                                                        3) ",\"metadata\":123456789012345678901234567890}\n",
         1, false, 2, 3, STATUS_OK},
        {"{\"line\":3,\"sample\":0,\"text\":\"\\u0000\"" USAGE(2, 3) "}\n", 1, false, 2, 3, STATUS_OK},
        {SAMPLE(3, 0), 2, false, 2, 3, STATUS_CORRUPT},
        {SAMPLE(3, 0), 1, true, 2, 3, STATUS_CORRUPT},
        {SAMPLE(3, 0), 1, false, 1, 3, STATUS_CORRUPT},
        {SAMPLE(3, 0), 1, false, 2, 4, STATUS_CORRUPT},
        {FAILED(3), 1, false, 0, 0, STATUS_CORRUPT},
        {SAMPLE(3, 0) SAMPLE(4, 0), 2, false, 4, 6, STATUS_CORRUPT},
        {SAMPLE(1, 0), 1, false, 2, 3, STATUS_CORRUPT},
        {SAMPLE(3, 1), 1, false, 2, 3, STATUS_CORRUPT},
        {SAMPLE(3, 0) SAMPLE(3, 2), 2, false, 2, 6, STATUS_CORRUPT},
        {SAMPLE(3, 0) FAILED(3), 2, true, 0, 0, STATUS_CORRUPT},
        {FAILED(3) SAMPLE(3, 0), 2, true, 0, 0, STATUS_CORRUPT},
        {"{\"line\":3,\"sample\":0,\"text\":\"a\"}\n", 1, false, 0, 0, STATUS_CORRUPT},
        {"{\"line\":3.5,\"error\":1}\n", 1, true, 0, 0, STATUS_CORRUPT},
        {"{\"line\":-3,\"error\":1}\n", 1, true, 0, 0, STATUS_CORRUPT},
        {"[]\n", 1, true, 0, 0, STATUS_CORRUPT},
        {"{\"line\":3,\"error\":1\n", 1, true, 0, 0, STATUS_CORRUPT},
        {"{\"line\":3,\"error\":\"\xff\"}\n", 1, true, 0, 0, STATUS_CORRUPT},
        {FAILED(3) "\n", 2, true, 0, 0, STATUS_CORRUPT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        enum status got = verify_text(cases[i].lines, cases[i].n_lines, cases[i].is_error,
                                      cases[i].prompt_tokens, cases[i].completion_tokens);
        if (got != cases[i].wanted)
            fail_msg("%s: status %d, expected %d (%s)", cases[i].lines, got, cases[i].wanted,
                     status_message());
    }
}

/* A member whose seal and hash are right, around data that is not: rebuilt with our own packing. */
static void test_data_behind_good_seals(void **state) {
    (void)state;
    struct verify_report report;
    write_small(1);
    struct buffer file = read_bytes(folder.name);
    struct seal head, seal;
    const char *reason;
    uint8_t *bytes = (uint8_t *)file.data;
    assert_null(seal_parse(bytes, file.size, file.size, &head));
    uint8_t *member = bytes + head.member_bytes;
    assert_null(seal_parse(member, file.size, file.size - head.member_bytes, &seal));
    struct {
        size_t at;
        const char *wanted;
    } cases[] = {
        {SEAL_HEADER_BYTES, ""},                         /* deflate block type */
        {(size_t)seal.member_bytes - 8, "gzip trailer"}, /* CRC32 */
        {(size_t)seal.member_bytes - 4, "gzip trailer"}, /* ISIZE */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct seal changed = seal;
        member[cases[i].at] ^= 6;
        seal_finish(&changed, member);
        write_bytes(folder.name, file.data, file.size);
        assert_int_equal(output_verify(folder.name, &report), STATUS_CORRUPT);
        reason = status_message();
        if (!strstr(reason, cases[i].wanted))
            fail_msg("%s: expected %s", reason, cases[i].wanted);
        verify_report_free(&report);
        member[cases[i].at] ^= 6;
    }
    struct seal changed = seal;
    changed.text_bytes--;
    seal_finish(&changed, member);
    write_bytes(folder.name, file.data, file.size);
    assert_int_equal(verify(folder.name), STATUS_CORRUPT);
    seal_finish(&seal, member);
    write_bytes(folder.name, file.data, file.size);
    assert_int_equal(verify(folder.name), STATUS_OK);
    buffer_free(&file);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_good_files),
        TEST(test_every_flipped_bit_is_found),
        TEST(test_every_cut_is_found),
        TEST(test_additions_are_found),
        TEST(test_scores),
        TEST(test_text_is_compared_with_seals),
        TEST(test_data_behind_good_seals),
    };
    return cmocka_run_group_tests_name("verify", tests, NULL, NULL);
}
