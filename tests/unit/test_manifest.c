/* The manifest: what it says, what it keeps of earlier runs, and that damage never stops a run. */
#include <jansson.h>

#include "tests/unit/output_fixture.h"
#include "worker/output/manifest.h"

static struct folder folder;
static char path[300];
static struct identity identity, other;
static struct run_metrics *metrics;

static int setup(void **state) {
    (void)state;
    folder_make(&folder);
    snprintf(path, sizeof path, "%s.manifest.json", folder.name);
    identity = identity_of("model=\"a \\\"b\\\"\"\nseed=18446744073709551615\nstop=[\"\\n\"]\ntop_p=0.5\n");
    other = identity_of("seed=1\n");
    metrics = calloc(1, sizeof *metrics);
    return metrics ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    folder_remove(&folder);
    buffer_free(&identity.text);
    buffer_free(&other.text);
    free(metrics);
    return 0;
}

static struct manifest_info info_of(const char *started_at, const char *state) {
    return (struct manifest_info){.output = folder.name,
                                  .identity = &identity,
                                  .device = "a \"device\"",
                                  .numerics_class = "cpu-1",
                                  .version = "0.1",
                                  .state = state,
                                  .n_expected = -1,
                                  .metrics = metrics,
                                  .started_at = started_at};
}

static json_t *load(void) {
    json_error_t error;
    json_t *manifest = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!manifest)
        fail_msg("%s", error.text);
    return manifest;
}

static const json_t *at(const json_t *value, const char *keys) { /* "a.b.0" */
    char copy[100], *rest = NULL;
    snprintf(copy, sizeof copy, "%s", keys);
    for (char *key = strtok_r(copy, ".", &rest); key; key = strtok_r(NULL, ".", &rest))
        value = json_is_array(value) ? json_array_get(value, (size_t)atoi(key)) : json_object_get(value, key);
    return value;
}

static void assert_text(const json_t *manifest, const char *keys, const char *wanted) {
    const json_t *value = at(manifest, keys);
    if (!json_is_string(value))
        fail_msg("%s is no string", keys);
    assert_string_equal(json_string_value(value), wanted);
}

static void assert_integer(const json_t *manifest, const char *keys, int64_t wanted) {
    const json_t *value = at(manifest, keys);
    if (!json_is_integer(value))
        fail_msg("%s is no integer", keys);
    assert_int_equal(json_integer_value(value), wanted);
}

static void test_what_it_says(void **state) {
    (void)state;
    struct manifest_info info = info_of("2026-01-02T03:04:05Z", "complete");
    char hash[HASH128_TEXT_BYTES];
    info.is_complete = true;
    info.n_expected = 300;
    info.counts = (struct output_counts){300, 310, 2, 4000, 5000, 6};
    info.found = (struct output_counts){100, 101, 1, 1000, 2000, 2};
    metrics->n_records = 200;
    metrics->completion_tokens = 3000;
    metrics->generate_s = 2;
    metrics->wall_s = 1.0 / 0.0;
    metrics->peak_rss_bytes = 123456789;
    for (int i = 1; i <= 100; i++)
        histogram_add(&metrics->total_s, i / 100.0);
    assert_int_equal(manifest_write(&info), STATUS_OK);
    json_t *manifest = load();
    hash128_text(identity.hash, hash);
    assert_text(manifest, "output", folder.name);
    assert_text(manifest, "state", "complete");
    assert_true(json_is_true(at(manifest, "complete")));
    assert_integer(manifest, "expected_records", 300);
    assert_integer(manifest, "counts.records", 300);
    assert_integer(manifest, "counts.lines", 310);
    assert_integer(manifest, "counts.errors", 2);
    assert_integer(manifest, "counts.prompt_tokens", 4000);
    assert_integer(manifest, "counts.completion_tokens", 5000);
    assert_integer(manifest, "counts.members", 6);
    assert_text(manifest, "identity.hash", hash);
    assert_text(manifest, "identity.values.model", "a \"b\"");
    assert_text(manifest, "identity.values.seed", "18446744073709551615"); /* beyond int64: as text */
    assert_text(manifest, "identity.values.stop.0", "\n");
    assert_true(json_real_value(at(manifest, "identity.values.top_p")) == 0.5);
    assert_int_equal(json_array_size(at(manifest, "runs")), 1);
    assert_text(manifest, "runs.0.started_at", "2026-01-02T03:04:05Z");
    assert_text(manifest, "runs.0.device", "a \"device\"");
    assert_text(manifest, "runs.0.numerics_class", "cpu-1");
    assert_text(manifest, "runs.0.version", "0.1");
    assert_integer(manifest, "runs.0.found.records", 100);
    assert_integer(manifest, "runs.0.metrics.records", 200);
    assert_integer(manifest, "runs.0.metrics.peak_rss_bytes", 123456789);
    assert_true(json_real_value(at(manifest, "runs.0.metrics.completion_tokens_per_s")) == 1500);
    assert_true(json_real_value(at(manifest, "runs.0.metrics.wall_s")) == 0);
    assert_integer(manifest, "runs.0.metrics.total_s.n", 100);
    assert_null(at(manifest, "runs.0.metrics.scored_tokens"));
    double p50 = json_real_value(at(manifest, "runs.0.metrics.total_s.p50"));
    assert_true(p50 > 0.49 && p50 < 0.51);
    assert_true(json_real_value(at(manifest, "runs.0.metrics.total_s.max")) == 1);
    json_decref(manifest);
    struct buffer bytes = read_bytes(path);
    assert_int_equal(bytes.data[bytes.size - 1], '\n');
    buffer_free(&bytes);

    metrics->is_scoring = true;
    metrics->scored_tokens = 4;
    metrics->logprob_sum = -5;
    assert_int_equal(manifest_write(&info), STATUS_OK);
    manifest = load();
    assert_integer(manifest, "runs.0.metrics.scored_tokens", 4);
    assert_true(json_real_value(at(manifest, "runs.0.metrics.mean_nll")) == 1.25);
    json_decref(manifest);
    metrics->is_scoring = false;
}

static void test_runs_are_kept(void **state) {
    (void)state;
    struct manifest_info info = info_of("1", "running");
    assert_int_equal(manifest_write(&info), STATUS_OK);
    info.state = "stopped";
    assert_int_equal(manifest_write(&info), STATUS_OK); /* the same run: its entry is replaced */
    info = info_of("2", "running");
    info.found.n_records = 5;
    assert_int_equal(manifest_write(&info), STATUS_OK); /* is killed */
    info = info_of("3", "running");
    info.found.n_records = 7;
    assert_int_equal(manifest_write(&info), STATUS_OK);
    info.state = "complete";
    assert_int_equal(manifest_write(&info), STATUS_OK);
    json_t *manifest = load();
    assert_int_equal(json_array_size(at(manifest, "runs")), 3);
    assert_text(manifest, "runs.0.state", "stopped");
    assert_text(manifest, "runs.1.state", "killed");
    assert_text(manifest, "runs.2.state", "complete");
    assert_null(at(manifest, "runs.0.discarded"));
    assert_null(at(manifest, "rebuilt"));
    assert_true(json_is_null(at(manifest, "expected_records")));
    json_decref(manifest);
    /* A run that found nothing began anew: what earlier ones wrote is gone. */
    info = info_of("4", "running");
    assert_int_equal(manifest_write(&info), STATUS_OK);
    manifest = load();
    assert_true(json_is_true(at(manifest, "runs.2.discarded")));
    assert_null(at(manifest, "runs.3.discarded"));
    json_decref(manifest);
}

/* A writer that died while it published: before the rename another run goes on, behind it the manifest is
 * mended. */
static void test_publishing(void **state) {
    (void)state;
    struct output_counts counts = {9, 9, 0, 90, 900, 2};
    struct manifest_info info = info_of("1", "publishing");
    assert_int_equal(manifest_write(&info), STATUS_OK);
    info = info_of("2", "publishing");
    info.found.n_records = 9;
    assert_int_equal(manifest_write(&info), STATUS_OK);
    assert_int_equal(manifest_write_published(folder.name, &identity, &counts), STATUS_OK);
    json_t *manifest = load();
    assert_text(manifest, "state", "complete");
    assert_true(json_is_true(at(manifest, "complete")));
    assert_integer(manifest, "counts.records", 9);
    assert_integer(manifest, "expected_records", 9);
    assert_text(manifest, "runs.0.state", "killed");
    assert_text(manifest, "runs.1.state", "complete");
    assert_null(at(manifest, "rebuilt"));
    json_decref(manifest);
    /* What is complete stays as it is; what is lost is rebuilt. */
    counts.n_records = 10;
    assert_int_equal(manifest_write_published(folder.name, &identity, &counts), STATUS_OK);
    manifest = load();
    assert_integer(manifest, "counts.records", 9);
    json_decref(manifest);
    unlink(path);
    assert_int_equal(manifest_write_published(folder.name, &identity, &counts), STATUS_OK);
    manifest = load();
    assert_integer(manifest, "counts.records", 10);
    assert_true(json_is_true(at(manifest, "complete")));
    assert_true(json_is_true(at(manifest, "rebuilt")));
    assert_int_equal(json_array_size(at(manifest, "runs")), 0);
    json_decref(manifest);
}

static void test_other_identity_starts_anew(void **state) {
    (void)state;
    struct manifest_info info = info_of("1", "complete");
    info.identity = &other;
    assert_int_equal(manifest_write(&info), STATUS_OK);
    info = info_of("2", "running");
    assert_int_equal(manifest_write(&info), STATUS_OK);
    json_t *manifest = load();
    assert_int_equal(json_array_size(at(manifest, "runs")), 1);
    assert_text(manifest, "runs.0.started_at", "2");
    assert_null(at(manifest, "rebuilt"));
    json_decref(manifest);
}

static void test_damage_is_rebuilt(void **state) {
    (void)state;
    static const char *const damaged[] = {NULL,
                                          "",
                                          "{",
                                          "[]",
                                          "{\"runs\":5}",
                                          "{\"runs\":[1,null,\"x\",{}],\"identity\":{\"hash\":7}}",
                                          "\xff\xfe",
                                          "{\"identity\":5,\"runs\":[]}"};
    for (size_t i = 0; i < sizeof damaged / sizeof damaged[0]; i++) {
        unlink(path);
        if (damaged[i])
            write_bytes(path, damaged[i], strlen(damaged[i]));
        struct manifest_info info = info_of("1", "running");
        info.found.n_records = 3;
        assert_int_equal(manifest_write(&info), STATUS_OK);
        info.state = "complete";
        assert_int_equal(manifest_write(&info), STATUS_OK);
        json_t *manifest = load();
        assert_true(json_is_true(at(manifest, "rebuilt")));
        assert_int_equal(json_array_size(at(manifest, "runs")), 1);
        assert_text(manifest, "runs.0.state", "complete");
        json_decref(manifest);
    }
}

/* Entries that are no objects, under our own hash, are carried along without harm. */
static void test_odd_entries(void **state) {
    (void)state;
    char hash[HASH128_TEXT_BYTES], text[200];
    hash128_text(identity.hash, hash);
    snprintf(text, sizeof text, "{\"identity\":{\"hash\":\"%s\"},\"runs\":[1,null,[],{\"state\":5}]}", hash);
    write_bytes(path, text, strlen(text));
    struct manifest_info info = info_of("1", "running");
    assert_int_equal(manifest_write(&info), STATUS_OK);
    json_t *manifest = load();
    assert_int_equal(json_array_size(at(manifest, "runs")), 5);
    json_decref(manifest);
}

static void test_unwritable_folder(void **state) {
    (void)state;
    struct manifest_info info = info_of("1", "running");
    info.output = "/nonexistent/folder/out.gz";
    assert_int_equal(manifest_write(&info), STATUS_CANNOT_CREATE);
}

static void test_bytes_that_are_no_utf8(void **state) {
    (void)state;
    struct manifest_info info = info_of("1", "running");
    info.device = "\xff\xfe";
    assert_int_equal(manifest_write(&info), STATUS_OK);
    json_t *manifest = load();
    assert_text(manifest, "runs.0.device", "?");
    json_decref(manifest);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_what_it_says),
        TEST(test_runs_are_kept),
        TEST(test_other_identity_starts_anew),
        TEST(test_publishing),
        TEST(test_damage_is_rebuilt),
        TEST(test_odd_entries),
        TEST(test_unwritable_folder),
        TEST(test_bytes_that_are_no_utf8),
    };
    return cmocka_run_group_tests_name("manifest", tests, NULL, NULL);
}
