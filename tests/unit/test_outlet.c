/* The writing thread: whatever order records finish in, the output has them in input order; what waits is
 * counted; what fails is told. */
#include "tests/unit/output_fixture.h"
#include "kernels/philox.h"
#include "worker/run/outlet.h"

enum { N_RECORDS = 400 };

static struct folder folder;

static int make_folder(void **state) {
    (void)state;
    folder_make(&folder);
    return 0;
}

static int drop_folder(void **state) {
    (void)state;
    folder_remove(&folder);
    return 0;
}

/* An answer to line index + 1: each 7th is an error, each 5th has two samples. */
static struct record *new_answer(int64_t index) {
    struct record *record = calloc(1, sizeof *record);
    assert_non_null(record);
    sampling_init(&record->request.sampling);
    record->request.index = index;
    record->request.line = index + 1;
    record->n_prompt_tokens = 3;
    record->request.input_hash = hash128_of(&index, sizeof index);
    if (index % 7 == 6) {
        record->request.error_code = "empty_prompt";
        record->request.error_message = strdup("the prompt is empty");
        return record;
    }
    int32_t n = index % 5 == 0 ? 2 : 1;
    record->request.sampling.n = n;
    record->completions = calloc((size_t)n, sizeof *record->completions);
    for (int32_t i = 0; i < n; i++) {
        struct completion *completion = &record->completions[i];
        completion->n_tokens = 1 + (int32_t)(index % 4);
        completion->token_ids = calloc((size_t)completion->n_tokens, sizeof(int32_t));
        completion->finish_reason = FINISH_LENGTH;
        assert_int_equal(buffer_printf(&completion->text, "answer %lld.%d", (long long)index, i), STATUS_OK);
    }
    return record;
}

static struct writer *open_writer(void) {
    struct identity identity = identity_of("model=test\n");
    struct writer_found found;
    struct writer *writer;
    folder_empty(&folder);
    assert_int_equal(
        writer_open(folder.name, &identity, &(struct writer_options){.seal_bytes = 4000}, &found, &writer),
        STATUS_OK);
    identity_free(&identity);
    return writer;
}

static struct outlet *start(struct writer *writer, int64_t first_index) {
    struct outlet *outlet;
    assert_int_equal(outlet_start(&(struct outlet_options){.first_index = first_index}, writer, &outlet),
                     STATUS_OK);
    return outlet;
}

/* The lines of records [first, end), and nothing else, are in the output. */
static void expect_lines(int64_t first, int64_t end) {
    struct buffer text = read_gzip(folder.part);
    assert_int_equal(buffer_terminate(&text), STATUS_OK);
    const char *at = text.data;
    for (int64_t i = first; i < end; i++) {
        for (int32_t s = 0; s < (i % 7 != 6 && i % 5 == 0 ? 2 : 1); s++) {
            char begin[64], words[64];
            snprintf(begin, sizeof begin, "{\"line\":%lld,", (long long)i + 1);
            snprintf(words, sizeof words, i % 7 == 6 ? "empty_prompt" : "\"answer %lld.%d\"", (long long)i,
                     s);
            const char *newline = strchr(at, '\n');
            assert_non_null(newline);
            if (strncmp(at, begin, strlen(begin)) != 0)
                fail_msg("record %lld: %.60s", (long long)i, at);
            const char *found = strstr(at, words);
            assert_true(found && found < newline);
            at = newline + 1;
        }
    }
    assert_int_equal(*at, 0);
    buffer_free(&text);
}

/* A permutation of [0, n) in which nothing is further than `reach` from its place. */
static void shuffle(int64_t *order, int64_t n, int64_t reach, uint64_t seed) {
    for (int64_t i = 0; i < n; i++)
        order[i] = i;
    for (int64_t begin = 0; begin < n; begin += reach) {
        int64_t size = n - begin < reach ? n - begin : reach;
        for (int64_t i = size - 1; i > 0; i--) {
            int64_t k = (int64_t)(philox_word(seed, (uint32_t)begin, (uint32_t)i) % (uint64_t)(i + 1));
            int64_t kept = order[begin + i];
            order[begin + i] = order[begin + k];
            order[begin + k] = kept;
        }
    }
}

static void test_input_order(void **state) {
    (void)state;
    static const int64_t reaches[] = {1, 2, 50, N_RECORDS};
    for (size_t r = 0; r < 4; r++) {
        for (int64_t first = 0; first <= 100; first += 100) { /* a resumed run begins behind what is sealed */
            int64_t order[N_RECORDS];
            struct writer *writer = open_writer();
            struct outlet *outlet = start(writer, first);
            struct run_metrics *metrics = calloc(1, sizeof *metrics);
            shuffle(order, N_RECORDS, reaches[r], r + 1);
            for (int64_t i = 0; i < N_RECORDS; i++)
                assert_int_equal(outlet_put(outlet, new_answer(first + order[i])), STATUS_OK);
            assert_int_equal(outlet_stop(outlet, metrics), STATUS_OK);
            assert_int_equal(metrics->n_records, N_RECORDS);
            int64_t n_errors = 0, n_tokens = 0;
            for (int64_t i = first; i < first + N_RECORDS; i++) {
                n_errors += i % 7 == 6;
                n_tokens += i % 7 == 6 ? 0 : (1 + i % 4) * (i % 5 == 0 ? 2 : 1);
            }
            assert_int_equal(metrics->n_errors, n_errors);
            assert_int_equal(metrics->completion_tokens, n_tokens);
            assert_int_equal(writer_seal(writer), STATUS_OK);
            assert_int_equal(writer_counts(writer).n_records, N_RECORDS);
            expect_lines(first, first + N_RECORDS);
            writer_close(writer);
            free(metrics);
        }
    }
}

/* What waits for an earlier record is counted, however long; it is gone when that one comes. */
static void test_waiting_bytes(void **state) {
    (void)state;
    struct writer *writer = open_writer();
    struct outlet *outlet = start(writer, 0);
    struct run_metrics *metrics = calloc(1, sizeof *metrics);
    size_t before = outlet_waiting_bytes(outlet);
    assert_int_equal(before, 0);
    for (int64_t i = N_RECORDS - 1; i > 0; i--) {
        assert_int_equal(outlet_put(outlet, new_answer(i)), STATUS_OK);
        size_t after = outlet_waiting_bytes(outlet);
        assert_true(after >= before + sizeof(struct record)); /* nothing is written yet */
        before = after;
    }
    outlet_wait_below(outlet, before, 0.05); /* in vain: it returns when the time is over */
    assert_int_equal(outlet_waiting_bytes(outlet), before);
    assert_int_equal(outlet_put(outlet, new_answer(0)), STATUS_OK);
    for (int i = 0; i < 600 && outlet_waiting_bytes(outlet) > 0; i++)
        outlet_wait_below(outlet, 1, 0.1);
    assert_int_equal(outlet_waiting_bytes(outlet), 0);
    assert_int_equal(outlet_stop(outlet, metrics), STATUS_OK);
    assert_int_equal(writer_seal(writer), STATUS_OK);
    expect_lines(0, N_RECORDS);
    writer_close(writer);
    free(metrics);
}

/* The ring of waiting records grows while its begin lies amid it: far more wait than it first has room for.
 */
static void test_many_wait(void **state) {
    (void)state;
    enum { N_BEFORE = 700, N_MANY = 3000 };
    struct writer *writer = open_writer();
    struct outlet *outlet = start(writer, 0);
    struct run_metrics *metrics = calloc(1, sizeof *metrics);
    for (int64_t i = 0; i < N_BEFORE; i++)
        assert_int_equal(outlet_put(outlet, new_answer(i)), STATUS_OK);
    for (int i = 0; i < 600 && outlet_waiting_bytes(outlet) > 0; i++)
        outlet_wait_below(outlet, 1, 0.1);
    for (int64_t i = N_BEFORE + 1; i < N_MANY; i++)
        assert_int_equal(outlet_put(outlet, new_answer(i)), STATUS_OK);
    assert_int_equal(outlet_put(outlet, new_answer(N_BEFORE)), STATUS_OK);
    assert_int_equal(outlet_stop(outlet, metrics), STATUS_OK);
    assert_int_equal(metrics->n_records, N_MANY);
    assert_int_equal(writer_seal(writer), STATUS_OK);
    expect_lines(0, N_MANY);
    writer_close(writer);
    free(metrics);
}

/* Stopped with a gap: what lies in front of it is written, what lies behind is dropped. */
static void test_stop_drops_what_is_out_of_order(void **state) {
    (void)state;
    struct writer *writer = open_writer();
    struct outlet *outlet = start(writer, 0);
    struct run_metrics *metrics = calloc(1, sizeof *metrics);
    for (int64_t i = 0; i < N_RECORDS; i++)
        if (i != 123)
            assert_int_equal(outlet_put(outlet, new_answer(i)), STATUS_OK);
    assert_int_equal(outlet_stop(outlet, metrics), STATUS_OK);
    assert_int_equal(metrics->n_records, 123);
    assert_int_equal(writer_seal(writer), STATUS_OK);
    expect_lines(0, 123);
    writer_close(writer);
    free(metrics);
}

/* A writer that fails: the next puts say so, waiting ends, nothing is lost from memory. */
static void test_failure_of_the_writer_surfaces(void **state) {
    (void)state;
    struct writer *writer = open_writer();
    struct run_metrics *metrics = calloc(1, sizeof *metrics);
    assert_int_equal(writer_finish(writer), STATUS_OK); /* it takes no record any more */
    struct outlet *outlet = start(writer, 0);
    enum status result = STATUS_OK;
    int64_t n = 0;
    for (; n < 600 && result == STATUS_OK; n++) {
        result = outlet_put(outlet, new_answer(n));
        outlet_wait_below(outlet, 1, 0.1);
    }
    assert_int_equal(result, STATUS_CANNOT_CREATE);
    assert_int_equal(outlet_put(outlet, new_answer(n)), STATUS_CANNOT_CREATE);
    assert_non_null(strstr(status_message(), folder.name));
    status_fail(STATUS_INTERNAL, "something else");
    assert_int_equal(outlet_stop(outlet, metrics), STATUS_CANNOT_CREATE);
    assert_non_null(strstr(status_message(), folder.name));
    assert_int_equal(metrics->n_records, 0);
    writer_close(writer);
    free(metrics);
}

/* Text that the engine had no need of is made here; the token that stopped the sample is none of it. */
/* Scored records are counted, those that failed on the way are not. */
static void test_scores_are_counted(void **state) {
    (void)state;
    struct writer *writer = open_writer();
    struct run_metrics *metrics = calloc(1, sizeof *metrics);
    struct outlet *outlet = start(writer, 0);
    for (int64_t i = 0; i < 4; i++) {
        struct record *record = calloc(1, sizeof *record);
        sampling_init(&record->request.sampling);
        record->request.index = i;
        record->request.line = i + 1;
        record->is_scored = true;
        record->n_prompt_tokens = i == 1 ? 1 : 3;
        record->n_scored = record->n_prompt_tokens - 1;
        record->completions = calloc(1, sizeof *record->completions);
        record->prompt_logprobs = calloc(3, sizeof(float));
        record->prompt_logprobs[1] = -1;
        record->prompt_logprobs[2] = (float)-i;
        record->request.error_code = i == 3 ? "not_finite" : NULL;
        assert_int_equal(outlet_put(outlet, record), STATUS_OK);
    }
    assert_int_equal(outlet_stop(outlet, metrics), STATUS_OK);
    assert_int_equal(metrics->scored_tokens, 4);
    assert_true(metrics->logprob_sum == -4);
    assert_int_equal(metrics->prompt_tokens, 7);
    assert_int_equal(metrics->completion_tokens, 0);
    assert_int_equal(metrics->total_s.n, 3);
    assert_int_equal(metrics->time_to_first_token_s.n, 0);
    writer_close(writer);
    free(metrics);
}

static void test_text_is_made_from_tokens(void **state) {
    (void)state;
    struct tokenizer *tokenizer;
    struct tokenizer_scratch *scratch;
    struct token_list ids = {0};
    assert_int_equal(tokenizer_open("tests/models/tiny", &tokenizer), STATUS_OK);
    assert_int_equal(tokenizer_scratch_new(tokenizer, &scratch), STATUS_OK);
    assert_int_equal(tokenizer_encode(tokenizer, scratch, "Speak, 1 and 2", 14, &ids), STATUS_OK);
    struct writer *writer = open_writer();
    struct run_metrics *metrics = calloc(1, sizeof *metrics);
    struct outlet *outlet;
    assert_int_equal(outlet_start(&(struct outlet_options){.tokenizer = tokenizer}, writer, &outlet),
                     STATUS_OK);
    for (int64_t i = 0; i < 2; i++) {
        struct record *record = calloc(1, sizeof *record);
        sampling_init(&record->request.sampling);
        record->request.index = i;
        record->request.line = i + 1;
        record->completions = calloc(1, sizeof *record->completions);
        record->completions->finish_reason = i == 0 ? FINISH_LENGTH : FINISH_STOP;
        record->completions->n_tokens = (int32_t)ids.n;
        record->completions->token_ids = malloc(ids.n * sizeof(int32_t));
        memcpy(record->completions->token_ids, ids.ids, ids.n * sizeof(int32_t));
        assert_int_equal(outlet_put(outlet, record), STATUS_OK);
    }
    assert_int_equal(outlet_stop(outlet, metrics), STATUS_OK);
    assert_int_equal(writer_seal(writer), STATUS_OK);
    struct buffer text = read_gzip(folder.part);
    assert_int_equal(buffer_terminate(&text), STATUS_OK);
    const char *second = strchr(text.data, '\n');
    assert_non_null(second);
    assert_non_null(strstr(text.data, "\"text\":\"Speak, 1 and 2\""));
    assert_non_null(strstr(second, "\"text\":\"Speak, 1 and"));
    assert_null(strstr(second, "1 and 2"));
    assert_int_equal(metrics->completion_tokens, 2 * ids.n); /* it is counted all the same */
    buffer_free(&text);
    writer_close(writer);
    free(metrics);
    token_list_free(&ids);
    tokenizer_scratch_free(scratch);
    tokenizer_close(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_input_order),
        cmocka_unit_test(test_waiting_bytes),
        cmocka_unit_test(test_many_wait),
        cmocka_unit_test(test_stop_drops_what_is_out_of_order),
        cmocka_unit_test(test_failure_of_the_writer_surfaces),
        cmocka_unit_test(test_scores_are_counted),
        cmocka_unit_test(test_text_is_made_from_tokens),
    };
    return cmocka_run_group_tests_name("outlet", tests, make_folder, drop_folder);
}
