#include "worker/output/manifest.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/base/file.h"

enum { MANIFEST_MAX_BYTES = 64 << 20 };

/* jansson refuses NaN and infinity; a value that a clock or a division spoilt is written as 0. */
static json_t *real(double value) {
    return json_real(isfinite(value) ? round(value * 1e6) / 1e6 : 0);
}

/* Text of whatever origin: bytes that are no UTF-8 would be refused by jansson. */
static json_t *text(const char *value) {
    json_t *string = value ? json_string(value) : json_null();
    return string ? string : json_string("?");
}

static json_t *counts_json(const struct output_counts *counts) {
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "records", (json_int_t)counts->n_records, "lines",
                     (json_int_t)counts->n_lines, "errors", (json_int_t)counts->n_errors, "prompt_tokens",
                     (json_int_t)counts->prompt_tokens, "completion_tokens",
                     (json_int_t)counts->completion_tokens, "members", (json_int_t)counts->n_members);
}

/* The identity's "key=value" lines as an object; a value that is JSON keeps its type. */
static json_t *identity_json(const struct identity *identity) {
    char hash[HASH128_TEXT_BYTES];
    json_t *values = json_object();
    const char *at = identity->text.data, *end = at ? at + identity->text.size : at;
    while (at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        const char *line_end = newline ? newline : end;
        const char *equals = memchr(at, '=', (size_t)(line_end - at));
        if (equals) {
            json_error_t error;
            const char *start = equals + 1;
            size_t size = (size_t)(line_end - start);
            json_t *value = json_loadb(start, size, JSON_DECODE_ANY, &error);
            char *key = strndup(at, (size_t)(equals - at));
            if (key)
                json_object_set_new(values, key, value ? value : json_stringn(start, size));
            else
                json_decref(value);
            free(key);
        }
        at = newline ? newline + 1 : end;
    }
    hash128_text(identity->hash, hash);
    return json_pack("{s:s, s:o}", "hash", hash, "values", values);
}

static json_t *histogram_json(const struct histogram *histogram) {
    double mean = histogram->n ? histogram->sum / (double)histogram->n : 0;
    return json_pack(
        "{s:I, s:o, s:o, s:o, s:o, s:o, s:o}", "n", (json_int_t)histogram->n, "mean", real(mean), "min",
        real(histogram->n ? histogram->minimum : 0), "p50", real(histogram_percentile(histogram, 50)), "p90",
        real(histogram_percentile(histogram, 90)), "p99", real(histogram_percentile(histogram, 99)), "max",
        real(histogram->n ? histogram->maximum : 0));
}

static void set_count(json_t *object, const char *key, int64_t value) {
    json_object_set_new(object, key, json_integer((json_int_t)value));
}

static void set_real(json_t *object, const char *key, double value) {
    json_object_set_new(object, key, real(value));
}

static json_t *metrics_json(const struct run_metrics *metrics) {
    json_t *out = json_object();
    double seconds = metrics->generate_s;
    set_real(out, "startup_s", metrics->startup_s);
    set_real(out, "device_s", metrics->device_s);
    set_real(out, "load_s", metrics->load_s);
    set_real(out, "weights_s", metrics->weights_s);
    set_real(out, "wall_s", metrics->wall_s);
    set_real(out, "generate_s", metrics->generate_s);
    set_real(out, "step_s", metrics->step_s);
    set_real(out, "wait_input_s", metrics->wait_input_s);
    set_real(out, "wait_output_s", metrics->wait_output_s);
    set_real(out, "gap_s", metrics->gap_s);
    set_real(out, "host_s", metrics->host_s);
    set_real(out, "wait_kv_s", metrics->wait_kv_s);
    json_object_set_new(out, "bound_by", text(bound_name(run_metrics_bound(metrics))));
    set_count(out, "records", metrics->n_records);
    set_count(out, "errors", metrics->n_errors);
    set_count(out, "prompt_tokens", metrics->prompt_tokens);
    set_count(out, "completion_tokens", metrics->completion_tokens);
    if (metrics->is_scoring) {
        set_count(out, "scored_tokens", metrics->scored_tokens);
        set_real(out, "mean_nll", run_metrics_mean_nll(metrics));
    }
    set_real(out, "prompt_tokens_per_s", seconds > 0 ? (double)metrics->prompt_tokens / seconds : 0);
    set_real(out, "completion_tokens_per_s", seconds > 0 ? (double)metrics->completion_tokens / seconds : 0);
    set_count(out, "steps", metrics->n_steps);
    set_count(out, "decode_steps", metrics->n_decode_steps);
    set_count(out, "prefill_rows", metrics->prefill_rows);
    set_count(out, "decode_rows", metrics->decode_rows);
    set_count(out, "padding_rows", metrics->padding_rows);
    set_count(out, "restarts", metrics->n_restarts);
    set_count(out, "replayed_rows", metrics->replayed_rows);
    set_count(out, "slot_steps", metrics->slot_steps);
    set_count(out, "slot_steps_before_tail", metrics->slot_steps_before_tail);
    set_count(out, "steps_before_tail", metrics->n_steps_before_tail);
    set_real(out, "occupancy", run_metrics_occupancy(metrics));
    set_count(out, "output_pauses", metrics->output_pauses);
    set_count(out, "launches_per_decode_step", metrics->launches_per_decode_step);
    set_count(out, "max_num_seqs", metrics->max_num_seqs);
    set_count(out, "max_num_batched_tokens", metrics->max_num_batched_tokens);
    set_count(out, "kv_pages", metrics->kv_pages);
    set_count(out, "kv_pages_peak", metrics->kv_pages_peak);
    set_count(out, "peak_rss_bytes", (int64_t)metrics->peak_rss_bytes);
    json_object_set_new(out, "queue_s", histogram_json(&metrics->queue_s));
    json_object_set_new(out, "prefill_s", histogram_json(&metrics->prefill_s));
    json_object_set_new(out, "decode_s", histogram_json(&metrics->decode_s));
    json_object_set_new(out, "total_s", histogram_json(&metrics->total_s));
    json_object_set_new(out, "time_to_first_token_s", histogram_json(&metrics->time_to_first_token_s));
    json_object_set_new(out, "time_per_output_token_s", histogram_json(&metrics->time_per_output_token_s));
    return out;
}

static json_t *run_json(const struct manifest_info *info) {
    json_t *run = json_object();
    json_object_set_new(run, "started_at", text(info->started_at));
    json_object_set_new(run, "process", json_integer(getpid()));
    json_object_set_new(run, "state", text(info->state));
    json_object_set_new(run, "device", text(info->device));
    json_object_set_new(run, "numerics_class", text(info->numerics_class));
    json_object_set_new(run, "version", text(info->version));
    json_object_set_new(run, "found", counts_json(&info->found));
    if (info->metrics)
        json_object_set_new(run, "metrics", metrics_json(info->metrics));
    return run;
}

static const char *string_at(const json_t *object, const char *key) {
    const char *value = json_string_value(json_object_get(object, key));
    return value ? value : "";
}

/* The manifest as it is, when it is one of this identity; NULL otherwise. */
static json_t *read_earlier(const char *path, const struct identity *identity) {
    struct buffer bytes = {0};
    char hash[HASH128_TEXT_BYTES];
    json_error_t error;
    json_t *earlier = NULL;
    if (file_read(path, MANIFEST_MAX_BYTES, &bytes) == STATUS_OK)
        earlier = json_loadb(bytes.data, bytes.size, JSON_REJECT_DUPLICATES, &error);
    buffer_free(&bytes);
    hash128_text(identity->hash, hash);
    bool usable = json_is_array(json_object_get(earlier, "runs")) &&
                  strcmp(string_at(json_object_get(earlier, "identity"), "hash"), hash) == 0;
    if (!usable) {
        json_decref(earlier);
        earlier = NULL;
    }
    return earlier;
}

/* Puts this run's entry over its own earlier state, or behind the runs before. The output's lock is ours, so
 * whatever else still runs or publishes was killed; and where nothing was found, what earlier runs wrote is
 * no longer in the file. */
static void put_run(json_t *runs, const struct manifest_info *info) {
    size_t i;
    json_t *run, *ours = run_json(info);
    json_array_foreach(runs, i, run) {
        if (json_integer_value(json_object_get(run, "process")) == getpid() &&
            strcmp(string_at(run, "started_at"), info->started_at ? info->started_at : "") == 0) {
            json_array_set_new(runs, i, ours);
            return;
        }
    }
    json_array_foreach(runs, i, run) {
        if (strcmp(string_at(run, "state"), "running") == 0 ||
            strcmp(string_at(run, "state"), "publishing") == 0)
            json_object_set_new(run, "state", json_string("killed"));
        if (info->found.n_records == 0)
            json_object_set_new(run, "discarded", json_true());
    }
    json_array_append_new(runs, ours);
}

/* Everything but the runs. */
static json_t *build(const struct manifest_info *info, bool is_rebuilt) {
    json_t *out = json_object();
    json_object_set_new(out, "output", text(info->output));
    json_object_set_new(out, "state", text(info->state));
    json_object_set_new(out, "complete", json_boolean(info->is_complete));
    json_object_set_new(out, "expected_records",
                        info->n_expected >= 0 ? json_integer((json_int_t)info->n_expected) : json_null());
    json_object_set_new(out, "counts", counts_json(&info->counts));
    json_object_set_new(out, "identity", identity_json(info->identity));
    if (is_rebuilt)
        json_object_set_new(out, "rebuilt", json_true());
    return out;
}

/* NAME.manifest.json; free with buffer_free. */
static enum status manifest_path(const char *output, struct buffer *path) {
    TRY(buffer_printf(path, "%s.manifest.json", output));
    return buffer_terminate(path);
}

/* Takes manifest over. */
static enum status replace(const char *path, json_t *manifest) {
    char *dump = json_dumps(manifest, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    json_decref(manifest);
    RETURN_IF(!dump, STATUS_INTERNAL, "%s: out of host memory", path);
    size_t size = strlen(dump);
    dump[size] = '\n'; /* over the NUL: a text file ends its last line */
    enum status result = file_replace(path, dump, size + 1);
    free(dump);
    return result;
}

enum status manifest_write(const struct manifest_info *info) {
    struct buffer path = {0};
    enum status result = manifest_path(info->output, &path);
    if (result == STATUS_OK) {
        json_t *earlier = read_earlier(path.data, info->identity);
        json_t *runs = earlier ? json_incref(json_object_get(earlier, "runs")) : json_array();
        bool was_rebuilt = json_is_true(json_object_get(earlier, "rebuilt"));
        json_t *manifest = build(info, was_rebuilt || (!earlier && info->found.n_records > 0));
        put_run(runs, info);
        json_object_set_new(manifest, "runs", runs);
        json_decref(earlier);
        result = replace(path.data, manifest);
    }
    buffer_free(&path);
    return result;
}

enum status manifest_write_published(const char *output, const struct identity *identity,
                                     const struct output_counts *counts) {
    struct buffer path = {0};
    enum status result = manifest_path(output, &path);
    json_t *earlier = result == STATUS_OK ? read_earlier(path.data, identity) : NULL;
    if (result == STATUS_OK && !json_is_true(json_object_get(earlier, "complete"))) {
        json_t *runs = earlier ? json_incref(json_object_get(earlier, "runs")) : json_array(), *run;
        size_t i;
        json_array_foreach(runs, i, run) {
            if (strcmp(string_at(run, "state"), "publishing") == 0)
                json_object_set_new(run, "state", json_string("complete"));
        }
        struct manifest_info info = {.output = output,
                                     .identity = identity,
                                     .is_complete = true,
                                     .state = "complete",
                                     .n_expected = counts->n_records,
                                     .counts = *counts};
        json_t *manifest = build(&info, !earlier || json_is_true(json_object_get(earlier, "rebuilt")));
        json_object_set_new(manifest, "runs", runs);
        result = replace(path.data, manifest);
    }
    json_decref(earlier);
    buffer_free(&path);
    return result;
}
