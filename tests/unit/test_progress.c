/* The words and figures that a person sees. */
#include <math.h>

#include "tests/unit/output_fixture.h"
#include "worker/base/log.h"
#include "worker/output/progress.h"
#include "worker/output/progress_text.h"

static void test_figures(void **state) {
    (void)state;
    char out[FIGURE_BYTES];
    const struct {
        double value;
        const char *wanted;
    } counts[] = {{0, "0"},          {7, "7"},         {12.5, "12.5"},    {999, "999"},
                  {1000, "1.00K"},   {5123, "5.12K"},  {51230, "51.2K"},  {999499, "999K"},
                  {999500, "1.00M"}, {3.2e9, "3.20G"}, {1.5e15, "1.50P"}, {NAN, "0"}};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        assert_string_equal(figure_count(counts[i].value, out), counts[i].wanted);
    assert_string_equal(figure_duration(12.4, out), "0:12");
    assert_string_equal(figure_duration(59.6, out), "1:00");
    assert_string_equal(figure_duration(3723, out), "1:02:03");
    assert_string_equal(figure_duration(-1, out), "-");
    assert_string_equal(figure_duration(NAN, out), "-");
    assert_string_equal(figure_latency(12e-6, out), "12.0 us");
    assert_string_equal(figure_latency(1.234e-3, out), "1.23 ms");
    assert_string_equal(figure_latency(0.9996, out), "1.00 s");
    assert_string_equal(figure_latency(123, out), "123 s");
}

static void test_eta(void **state) {
    (void)state;
    struct progress_state moment = {.elapsed_s = 10, .n_done = 100, .n_total = 300, .fraction = -1};
    assert_true(fabs(progress_eta(&moment) - 20) < 1e-9);
    moment.n_resumed = 50; /* 50 took ten seconds, 200 are left */
    assert_true(fabs(progress_eta(&moment) - 40) < 1e-9);
    moment.n_total = -1;
    assert_true(progress_eta(&moment) < 0);
    moment.n_resumed = 0;
    moment.fraction = 0.25;
    assert_true(fabs(progress_eta(&moment) - 30) < 1e-9);
    moment.n_done = 0;
    assert_true(progress_eta(&moment) < 0);
}

static void test_plain_line(void **state) {
    (void)state;
    char out[200];
    struct progress_state moment = {
        .elapsed_s = 8, .n_done = 120, .n_total = 300, .fraction = -1, .occupancy = 0.93};
    progress_line(&moment, 5123, out, sizeof out);
    assert_string_equal(out, "120/300 prompts, 5.12K tok/s, occupancy 93 %, ETA 0:12");
    moment.n_total = -1;
    moment.n_errors = 2;
    progress_line(&moment, 0, out, sizeof out);
    assert_string_equal(out, "120 prompts (2 failed), 0 tok/s, occupancy 93 %, ETA -");
    progress_line(&moment, 0, out, 10);
    assert_string_equal(out, "120 promp");
}

static void test_bar_fits_every_width(void **state) {
    (void)state;
    char out[300];
    struct progress_state moment = {
        .elapsed_s = 8, .n_done = 150, .n_total = 300, .fraction = -1, .occupancy = 0.93};
    char words[300];
    progress_line(&moment, 5123, words, sizeof words);
    for (int columns = 1; columns < 120; columns++) {
        progress_bar(&moment, 5123, columns, false, out, sizeof out);
        assert_true((int)strlen(out) <= columns);
        assert_int_equal(strchr(out, '[') != NULL, columns >= (int)strlen(words) + 11);
    }
    progress_bar(&moment, 5123, 100, false, out, sizeof out);
    assert_string_equal(
        out, "[===============>              ] 150/300 prompts, 5.12K tok/s, occupancy 93 %, ETA 0:08");
    moment.n_done = 300;
    progress_bar(&moment, 5123, 100, true, out, sizeof out);
    assert_non_null(strstr(out, "\033[32m[==============================]\033[0m 300/300"));
    moment.n_total = -1; /* nothing known: no bar */
    progress_bar(&moment, 5123, 100, false, out, sizeof out);
    assert_null(strchr(out, '['));
    moment.fraction = 7; /* a share beyond the whole draws no further than the bar */
    progress_bar(&moment, 5123, 100, false, out, sizeof out);
    assert_non_null(strstr(out, "[==============================] "));
}

/* Runs progress with stderr in a file, and returns what it wrote. */
static struct buffer capture(const struct progress_options *options, int n_updates) {
    struct folder folder;
    struct progress *progress;
    folder_make(&folder);
    fflush(stderr);
    int kept = dup(STDERR_FILENO), fd = open(folder.name, O_CREAT | O_WRONLY, 0600);
    assert_true(kept >= 0 && fd >= 0);
    assert_true(dup2(fd, STDERR_FILENO) >= 0);
    enum status result = progress_open(options, &progress);
    for (int i = 0; i < n_updates; i++) {
        struct progress_state moment = {
            .elapsed_s = 5 + i, .n_done = i, .n_total = 10, .completion_tokens = 7 * i};
        progress_update(progress, &moment);
    }
    progress_close(progress);
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    close(kept);
    close(fd);
    assert_int_equal(result, STATUS_OK);
    struct buffer out = read_bytes(folder.name);
    assert_int_equal(buffer_terminate(&out), STATUS_OK);
    folder_remove(&folder);
    return out;
}

static void test_output_is_rate_limited(void **state) {
    (void)state;
    struct progress_options plain = {.line_seconds = 3600}, quiet = {.is_quiet = true, .is_terminal = true},
                            terminal = {.is_terminal = true}, every = {.line_seconds = 1e-9};
    struct buffer out = capture(&plain, 1000);
    assert_int_equal(out.size, 0); /* the first line comes after line_seconds */
    buffer_free(&out);
    out = capture(&every, 3);
    assert_non_null(strstr(out.data, "pressrun: 2/10 prompts, 7 tok/s"));
    buffer_free(&out);
    out = capture(&quiet, 10);
    assert_int_equal(out.size, 0);
    buffer_free(&out);
    out = capture(&terminal, 1000);
    int n_drawn = 0;
    for (const char *at = out.data; (at = strstr(at, "prompts")) != NULL; at++)
        n_drawn++;
    assert_true(n_drawn >= 1 && n_drawn < 1000);
    assert_string_equal(out.data + out.size - 4, "\r\033[K"); /* the bar is removed */
    buffer_free(&out);
}

static void test_summary(void **state) {
    (void)state;
    struct run_metrics *metrics = calloc(1, sizeof *metrics);
    assert_non_null(metrics);
    struct output_counts counts = {.n_records = 300, .n_lines = 310, .n_errors = 2};
    char *text = NULL;
    size_t size = 0;
    metrics->generate_s = 4;
    metrics->wall_s = 5;
    metrics->wait_kv_s = 3;
    metrics->kv_pages = 100;
    metrics->kv_pages_peak = 99;
    metrics->n_records = 200;
    metrics->prompt_tokens = 1000;
    metrics->completion_tokens = 20000;
    metrics->max_num_seqs = 64;
    histogram_add(&metrics->total_s, 0.5);
    FILE *out = open_memstream(&text, &size);
    assert_non_null(out);
    summary_print(out, "out/x.jsonl.gz", metrics, &counts, true, false);
    assert_int_equal(fclose(out), 0);
    const char *const wanted[] = {"complete: out/x.jsonl.gz\n",
                                  "  records               300  200 in this run, 100 before it\n",
                                  "  failed                  2  ",
                                  "  tokens out          20.0K  5.00K per second\n",
                                  "  bound by        KV memory  pages alone kept prompts waiting for 75 %",
                                  "(99 of 100 pages used at the peak)"};
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        if (!strstr(text, wanted[i]))
            fail_msg("no \"%s\" in\n%s", wanted[i], text);
    assert_null(strchr(text, '\033'));
    assert_null(strstr(text, " \n"));
    free(text);
    out = open_memstream(&text, &size);
    summary_print(out, "x.gz", metrics, &counts, false, true);
    assert_int_equal(fclose(out), 0);
    assert_non_null(strstr(text, "\033[33mnot complete, resumable:\033[0m x.gz.part\n"));
    free(text);

    metrics->is_scoring = true;
    metrics->scored_tokens = 900;
    metrics->logprob_sum = -1800;
    metrics->n_steps = 10;
    metrics->prefill_rows = 1500;
    metrics->max_num_batched_tokens = 200;
    out = open_memstream(&text, &size);
    summary_print(out, "x.gz", metrics, &counts, true, false);
    assert_int_equal(fclose(out), 0);
    const char *scored =
        "  scored                900  tokens in this run, mean negative log-probability 2.0000, "
        "perplexity 7.38906\n";
    const char *filled = "  steps filled       75.0 %  of 200 tokens each; 10 steps\n";
    if (!strstr(text, scored) || !strstr(text, filled) || strstr(text, "tokens out"))
        fail_msg("no \"%s\" in\n%s", scored, text);
    free(text);
    free(metrics);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_figures),
        cmocka_unit_test(test_eta),
        cmocka_unit_test(test_plain_line),
        cmocka_unit_test(test_bar_fits_every_width),
        cmocka_unit_test(test_output_is_rate_limited),
        cmocka_unit_test(test_summary),
    };
    return cmocka_run_group_tests_name("progress", tests, NULL, NULL);
}
