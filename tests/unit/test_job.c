/* job: what a good job and config give, precedence of --set, paths. Bad ones: test_bad_job.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/temp_folder.h"
#include "worker/job/job.h"

static struct job job;
static struct config config;

static void load(const char *path, const char *const *overrides, int n) {
    enum status status = job_load(path, overrides, n, &job, &config);
    if (status != STATUS_OK)
        fail_msg("status %d: %s", status, status_message());
}

static void unload(void) {
    job_free(&job);
    config_free(&config);
}

static void test_minimal(void **state) {
    (void)state;
    load(temp_text("job.yaml", "model: m\nprompts: p.txt\noutput: o.jsonl.gz\n"), NULL, 0);
    assert_string_equal(job.path, temp_path("job.yaml"));
    assert_string_equal(job.model, temp_path("m"));
    assert_string_equal(job.prompts, temp_path("p.txt"));
    assert_string_equal(job.output, temp_path("o.jsonl.gz"));
    assert_null(job.config);
    assert_false(job.has_dtype || job.has_kv_cache_dtype || job.output_token_ids);
    assert_int_equal(job.max_model_len, 0);
    assert_true(job.seed == 0);
    assert_int_equal(job.on_too_long, ON_TOO_LONG_ERROR);
    assert_string_equal(job.prompt_field, "prompt");
    assert_int_equal(job.sampling.set, 0);
    assert_int_equal(job.sampling.max_tokens, 16);

    assert_int_equal(config.device, DEVICE_AUTO);
    assert_string_equal(config.cpu_isa, "auto");
    assert_true(config.gpu_memory_utilization == 0.9 && config.cuda_graphs && config.cuda_network);
    assert_int_equal(config.max_num_seqs, 0);
    assert_true(config.seal_seconds == 2 && config.seal_bytes == 1 << 20);
    assert_true(config.max_waiting_bytes == 256 << 20 && job_max_line_bytes(&job) == 16 << 20);
    assert_true(config.read_ahead_records == 4096 && config.read_ahead_bytes == 64 << 20);
    assert_true(config.grace_s == 20 && config.progress_seconds == 5 && config.cpu_memory == 0);
    unload();
}

static void test_everything(void **state) {
    (void)state;
    temp_text("config.yaml", "device: cuda:3\nthreads: 4\ncpu_isa: avx2\nmax_num_seqs: 64\n"
                             "max_num_batched_tokens: auto\ngpu_memory_utilization: 0.5\ncpu_memory: 2GiB\n"
                             "cuda_graphs: false\ncuda_network: false\nseal_seconds: 0.5\nseal_bytes: 64KiB\n"
                             "max_waiting_bytes: 1MiB\nread_ahead_records: 10\nread_ahead_bytes: 1000\n"
                             "grace_s: 1\nprogress_seconds: 1.5\n");
    load(temp_text("job.yaml",
                   "model: /abs/model\nprompts: \"-\"\noutput: o.gz\nconfig: config.yaml\n"
                   "dtype: bfloat16\nkv_cache_dtype: float32\nmax_model_len: 128\n"
                   "seed: 9223372036854775807\non_too_long: truncate_left\nprompt_field: question\n"
                   "output_token_ids: true\nmax_line_bytes: 4096\n"
                   "sampling:\n  max_new_tokens: 120\n  temperature: 0\n  top_p: 0.9\n  top_k: -1\n"
                   "  min_p: 0.05\n  repetition_penalty: 1.1\n  presence_penalty: 1\n"
                   "  frequency_penalty: -1e0\n  n: 2\n  logprobs: 5\n  ignore_eos: true\n"
                   "  stop: [\"\\n\\n\", 'x', \"1\"]\n  stop_token_ids: [0, 50256]\n"),
         NULL, 0);
    assert_string_equal(job.model, "/abs/model");
    assert_string_equal(job.prompts, "-");
    assert_string_equal(job.config, temp_path("config.yaml"));
    assert_true(job.has_dtype && job.dtype == DTYPE_BFLOAT16);
    assert_true(job.has_kv_cache_dtype && job.kv_cache_dtype == DTYPE_FLOAT32);
    assert_int_equal(job.max_model_len, 128);
    assert_true(job.seed == INT64_MAX);
    assert_int_equal(job.on_too_long, ON_TOO_LONG_TRUNCATE_LEFT);
    assert_string_equal(job.prompt_field, "question");
    assert_true(job.output_token_ids);
    const struct sampling *s = &job.sampling;
    assert_int_equal(s->max_tokens, 120);
    assert_true(s->temperature == 0 && s->top_p == 0.9f && s->min_p == 0.05f);
    assert_int_equal(s->top_k, 0);
    assert_true(s->repetition_penalty == 1.1f && s->presence_penalty == 1 && s->frequency_penalty == -1);
    assert_int_equal(s->n, 2);
    assert_int_equal(s->logprobs, 5);
    assert_true(s->ignore_eos);
    assert_int_equal(s->n_stop, 3);
    assert_memory_equal(s->stop[0].bytes, "\n\n", 2);
    assert_int_equal(s->n_stop_token_ids, 2);
    assert_int_equal(s->stop_token_ids[1], 50256);
    assert_int_equal(s->set, ((SAMPLING_STOP_TOKEN_IDS << 1) - 1) & ~SAMPLING_SEED);

    assert_int_equal(config.device, DEVICE_CUDA);
    assert_int_equal(config.cuda_device, 3);
    assert_int_equal(config.threads, 4);
    assert_string_equal(config.cpu_isa, "avx2");
    assert_int_equal(config.max_num_seqs, 64);
    assert_int_equal(config.max_num_batched_tokens, 0);
    assert_true(config.gpu_memory_utilization == 0.5 && config.cpu_memory == 2ull << 30);
    assert_false(config.cuda_graphs || config.cuda_network);
    assert_true(config.seal_seconds == 0.5 && config.seal_bytes == 65536);
    assert_true(config.max_waiting_bytes == 1 << 20 && config.read_ahead_records == 10);
    assert_true(config.read_ahead_bytes == 1000 && job_max_line_bytes(&job) == 4096);
    assert_true(config.grace_s == 1 && config.progress_seconds == 1.5);
    unload();
}

static void test_overrides(void **state) {
    (void)state;
    temp_text("config.yaml", "max_num_seqs: 8\n");
    const char *path =
        temp_text("job.yaml", "model: m\nprompts: p.txt\noutput: o.jsonl.gz\n"
                              "config: config.yaml\nsampling: {max_tokens: 5, stop: [a, b]}\n");
    const char *overrides[] = {"config.max_num_seqs=16", /* wins over the file, whichever comes first */
                               "temperature=0.2",
                               "sampling.max_new_tokens=7",
                               "sampling.max_tokens=9",
                               "stop=\"\\n\"",
                               "seed=3",
                               "prompts=-",
                               "output=elsewhere/a b=c: d.gz",
                               "dtype=float32",
                               "config.device=cpu",
                               "stop_token_ids=[4, 5]"};
    load(path, overrides, sizeof overrides / sizeof *overrides);
    assert_int_equal(config.max_num_seqs, 16);
    assert_true(job.sampling.temperature == 0.2f);
    assert_int_equal(job.sampling.max_tokens, 9);
    assert_int_equal(job.sampling.n_stop, 1);
    assert_memory_equal(job.sampling.stop[0].bytes, "\n", 1);
    assert_true(job.seed == 3);
    assert_false(job.sampling.set & SAMPLING_SEED);
    assert_string_equal(job.prompts, "-");
    assert_string_equal(job.output, "elsewhere/a b=c: d.gz");
    assert_true(job.has_dtype && job.dtype == DTYPE_FLOAT32);
    assert_int_equal(config.device, DEVICE_CPU);
    assert_int_equal(job.sampling.n_stop_token_ids, 2);
    unload();
}

/* "x/../y" is shortened where x is a real folder, and only there. */
static void test_paths(void **state) {
    (void)state;
    assert_int_equal(mkdir(temp_path("jobs"), 0700), 0);
    assert_int_equal(mkdir(temp_path("other"), 0700), 0);
    assert_int_equal(mkdir(temp_path("other/deep"), 0700), 0);
    assert_int_equal(symlink("other/deep", temp_path("link")), 0);
    const char *text = "model: ../m\nprompts: ../none/../p.txt\noutput: ../../o.gz\n";
    load(temp_text("jobs/job.yaml", text), NULL, 0);
    assert_string_equal(job.model, temp_path("m"));
    assert_string_equal(job.prompts, temp_path("none/../p.txt"));
    unload();
    load(temp_text("link/job.yaml", text), NULL, 0);
    assert_string_equal(job.model, temp_path("link/../m"));
    unload();
}

static void test_config_alone(void **state) {
    (void)state;
    config_defaults(&config);
    assert_int_equal(config_override("config.threads=3", "threads", "3", &config), STATUS_OK);
    assert_int_equal(config.threads, 3);
    assert_int_equal(config_load(temp_text("c.yaml", "# all defaults\n"), &config), STATUS_OK);
    assert_int_equal(config.threads, 3);
    assert_int_equal(config_load(temp_text("c.yaml", "device: cuda\n"), &config), STATUS_OK);
    assert_int_equal(config.device, DEVICE_CUDA);
    assert_int_equal(config.cuda_device, 0);
    config_free(&config);
}

static void test_from_values(void **state) {
    (void)state;
    char config_set[4200];
    snprintf(config_set, sizeof config_set, "config=%s",
             temp_text("c.yaml", "threads: 3\nmax_num_seqs: 4\n"));
    const char *values[] = {"config.max_num_seqs=1", "temperature=0", config_set, "dtype=float32"};
    assert_int_equal(job_from_values("the/model", values, 4, &job, &config), STATUS_OK);
    assert_string_equal(job.model, "the/model");
    assert_null(job.prompts);
    assert_null(job.output);
    assert_string_equal(job.prompt_field, "prompt");
    assert_true(job.sampling.temperature == 0 && job.has_dtype);
    assert_int_equal(config.threads, 3);
    assert_int_equal(config.max_num_seqs, 1);
    unload();
    values[0] = "no_such_key=1";
    assert_int_equal(job_from_values("m", values, 4, &job, &config), STATUS_JOB);
}

static void test_shipped(void **state) {
    (void)state;
    static const char *const jobs[] = {"jobs/shakespeare.yaml", "jobs/bench.yaml", "jobs/score.yaml"};
    static const char *const configs[] = {"config=configs/default.yaml", "config=configs/cpu.yaml",
                                          "config=configs/h100.yaml"};
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 3; k++) {
            load(jobs[i], &configs[k], 1);
            assert_int_equal(access(job.prompts, R_OK), 0);
            assert_int_equal(access(job.model, R_OK), 0);
            unload();
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_minimal),      cmocka_unit_test(test_everything),
        cmocka_unit_test(test_overrides),    cmocka_unit_test(test_paths),
        cmocka_unit_test(test_config_alone), cmocka_unit_test(test_from_values),
        cmocka_unit_test(test_shipped),
    };
    return cmocka_run_group_tests(tests, temp_folder_open, temp_folder_close);
}
