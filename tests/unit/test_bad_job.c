/* The bad-input table of jobs and configs: each row must be refused with this status and a message that
 * matches, or accepted. */
#include <regex.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/temp_folder.h"
#include "worker/job/job.h"
#include "worker/job/prompt_reader.h"

struct bad_job {
    const char *job;     /* the file's text; NULL: BASE */
    const char *config;  /* NULL: none; else written and named by --set config= */
    const char *set;     /* one --set, or NULL */
    enum status status;  /* STATUS_OK: accepted */
    const char *message; /* extended regular expression; the file's folder is cut from the message */
};

#define BASE "model: m\nprompts: p.txt\noutput: o.jsonl.gz\n"

static const struct bad_job rows[] = {
    /* keys */
    {BASE "temperature: 1\n", 0, 0, STATUS_JOB,
     "^job.yaml:4:1: 'temperature': unknown job key; it is a sampling"},
    {BASE "promts: x\n", 0, 0, STATUS_JOB,
     "^job.yaml:4:1: 'promts': unknown job key; did you mean prompts\\?$"},
    {BASE "max_num_seqs: 4\n", 0, 0, STATUS_JOB,
     "^job.yaml:4:1: .*config key: write it into the config file"},
    {BASE "sampling:\n  temprature: 1\n", 0, 0, STATUS_JOB,
     "^job.yaml:5:3: 'temprature': unknown sampling key; did you mean temperature\\?$"},
    {BASE "zzzzzzzz: 1\n", 0, 0, STATUS_JOB, "^job.yaml:4:1: 'zzzzzzzz': unknown job key$"},
    {BASE "\"a\\nb\": 1\n", 0, 0, STATUS_JOB, "^job.yaml:4:1: 'a\\\\x0Ab': unknown job key$"},
    {BASE "\"model\\0x\": 1\n", 0, 0, STATUS_JOB, "^job.yaml:4:1: a key holds NUL"},
    {BASE "seed: 1\nseed: 2\n", 0, 0, STATUS_JOB,
     "^job.yaml:5:1: key 'seed' is given twice .first in line 4."},
    {BASE "sampling: {top_k: 1, top_k: 1}\n", 0, 0, STATUS_JOB, "^job.yaml:4:22: key 'top_k' is given twice"},
    {BASE "sampling: {max_tokens: 1, max_new_tokens: 1}\n", 0, 0, STATUS_JOB,
     "^job.yaml:4:43: sampling.max_new_tokens: given twice, under two of its names"},
    {BASE "sampling: {seed: 1}\n", 0, 0, STATUS_JOB,
     "^job.yaml:4:18: sampling.seed: the seed is a key of the job"},
    {"prompts: p.txt\noutput: o.gz\n", 0, 0, STATUS_JOB, "^job.yaml: model: missing; add a line"},
    {"model: m\noutput: o.gz\n", 0, 0, STATUS_JOB, "^job.yaml: prompts: missing"},
    {"model: m\nprompts: p.txt\n", 0, 0, STATUS_JOB, "^job.yaml: output: missing"},
    {"", 0, 0, STATUS_JOB, "^job.yaml: model: missing"},
    /* YAML that is refused */
    {BASE "dtype: &a float32\n", 0, 0, STATUS_JOB, "^job.yaml:4:8: anchors"},
    {BASE "dtype: *a\n", 0, 0, STATUS_JOB, "^job.yaml:4:8: aliases"},
    {BASE "dtype: !!str float32\n", 0, 0, STATUS_JOB, "^job.yaml:4:8: anchors .* tags"},
    {BASE "sampling: !x {}\n", 0, 0, STATUS_JOB, "^job.yaml:4:11: anchors .* tags"},
    {BASE "<<: {seed: 1}\n", 0, 0, STATUS_JOB, "^job.yaml:4:1: merge keys"},
    {BASE "---\nmodel: x\n", 0, 0, STATUS_JOB, "^job.yaml:4:1: a second document"},
    {BASE "[a, b]: 1\n", 0, 0, STATUS_JOB, "^job.yaml:4:1: a key must be a plain word"},
    {"- model\n", 0, 0, STATUS_JOB, "^job.yaml:1:1: the file holds a list; expected lines"},
    {"hello\n", 0, 0, STATUS_JOB, "^job.yaml:1:1: the file holds a single value"},
    {"model: [\n", 0, 0, STATUS_JOB, "^job.yaml:2:1: not valid YAML: .*flow"},
    {"model: m\n\tprompts: p\n", 0, 0, STATUS_JOB, "^job.yaml:2:1: not valid YAML: "},
    {"model: 'm\n", 0, 0, STATUS_JOB, "^job.yaml:2:1: not valid YAML: .*quoted scalar"},
    {"model: \xff\n", 0, 0, STATUS_JOB, "^job.yaml: not valid UTF-8 text: .*byte 7"},
    {"model: \x01\n", 0, 0, STATUS_JOB, "^job.yaml: not valid UTF-8 text: control characters .*byte 7"},
    {"\xff\xfem\n", 0, 0, STATUS_JOB, "^job.yaml: not valid UTF-8 text: .*byte 0"},
    {"a: [[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]\n", 0, 0, STATUS_JOB, "^job.yaml:1:19: nested deeper than 16"},
    {"%TAG ! tag:x,2000:\n---\n" BASE, 0, 0, STATUS_JOB, "^job.yaml:1:1: %TAG"},
    /* values */
    {"model: 7\nprompts: p.txt\noutput: o.gz\n", 0, 0, STATUS_JOB,
     "^job.yaml:1:8: model: '7' is not allowed; expected a text; put it between quotes"},
    {"model:\nprompts: p.txt\noutput: o.gz\n", 0, 0, STATUS_JOB,
     "^job.yaml:1:7: model: no value is not allowed"},
    {"model: \"\"\nprompts: p.txt\noutput: o.gz\n", 0, 0, STATUS_JOB,
     "^job.yaml:1:8: model: '' is not allowed"},
    {"model: \"a\\0b\"\nprompts: p.txt\noutput: o.gz\n", 0, 0, STATUS_JOB,
     "^job.yaml:1:8: model: .*without control characters"},
    {BASE "config: \"a\\nb\"\n", 0, 0, STATUS_JOB,
     "^job.yaml:4:9: config: 'a\\\\x0Ab' .*without control characters"},
    {"model: [m]\nprompts: p.txt\noutput: o.gz\n", 0, 0, STATUS_JOB,
     "^job.yaml:1:8: model: a list is not allowed"},
    {"model: m\nprompts: p.csv\noutput: o.gz\n", 0, 0, STATUS_JOB,
     "^job.yaml: prompts: '.*p.csv' has no known ending"},
    {"model: m\nprompts: -\noutput: o.gz\n", 0, 0, STATUS_JOB, "^job.yaml:2:10: not valid YAML: "},
    {"model: m\nprompts: p.txt\noutput: o.jsonl\n", 0, 0, STATUS_JOB,
     "^job.yaml:3:9: output: 'o.jsonl' is not allowed; expected a file name that ends in .gz"},
    {"model: m\nprompts: p.txt\noutput: x/.gz\n", 0, 0, STATUS_JOB, "^job.yaml:3:9: output: "},
    {"model: m\nprompts: p.txt.gz\noutput: p.txt.gz\n", 0, 0, STATUS_JOB,
     "^job.yaml: output: '.*' is the prompts too"},
    {"model: m.gz\nprompts: p.txt\noutput: m.gz\n", 0, 0, STATUS_JOB,
     "^job.yaml: output: '.*' is the model too"},
    {BASE "dtype: float16\n", 0, 0, STATUS_JOB,
     "^job.yaml:4:8: dtype: 'float16' is not allowed; expected auto, float32 or bfloat16; did you mean"},
    {BASE "kv_cache_dtype: fp8\n", 0, 0, STATUS_JOB, "^job.yaml:4:17: kv_cache_dtype: 'fp8' is not allowed"},
    {BASE "max_model_len: 0\n", 0, 0, STATUS_JOB,
     "^job.yaml:4:16: max_model_len: '0' .*from 1 to 1073741824"},
    {BASE "max_model_len: 1e3\n", 0, 0, STATUS_JOB, "^job.yaml:4:16: max_model_len: '1e3' .*whole number"},
    {BASE "max_model_len: \"128\"\n", 0, 0, STATUS_JOB,
     "^job.yaml:4:16: max_model_len: '128' is not allowed"},
    {BASE "seed: -1\n", 0, 0, STATUS_JOB, "^job.yaml:4:7: seed: '-1' .*from 0 to 9223372036854775807"},
    {BASE "seed: 9223372036854775808\n", 0, 0, STATUS_JOB, "^job.yaml:4:7: seed: "},
    {BASE "seed: 0x10\n", 0, 0, STATUS_JOB, "^job.yaml:4:7: seed: '0x10' is not allowed"},
    {BASE "max_line_bytes: 2GiB\n", 0, 0, STATUS_JOB, "^job.yaml:4:17: max_line_bytes: '2GiB'"},
    {BASE "mode: scores\n", 0, 0, STATUS_JOB,
     "^job.yaml:4:7: mode: 'scores' is not allowed; expected generate or score; did you mean score"},
    {BASE "mode: score\nsampling: {temperature: 1}\n", 0, 0, STATUS_JOB,
     "^job.yaml: sampling.temperature: has no meaning with mode: score"},
    {BASE "mode: score\n", 0, "stop=x", STATUS_JOB, "^job.yaml: sampling.stop: has no meaning with mode"},
    {BASE "mode: score\nsampling: {top_p: 1}\n", 0, "mode=generate", STATUS_OK, ""},
    {BASE "mode: score\nsampling:\nseed: 3\n", 0, 0, STATUS_OK, ""},
    {BASE "on_too_long: truncate\n", 0, 0, STATUS_JOB,
     "^job.yaml:4:14: on_too_long: .*error or truncate_left"},
    {BASE "prompt_field: metadata\n", 0, 0, STATUS_JOB, "^job.yaml:4:15: prompt_field: .*no other meaning"},
    {BASE "output_token_ids: yes\n", 0, 0, STATUS_JOB,
     "^job.yaml:4:19: output_token_ids: 'yes' .*true or false"},
    {BASE "sampling: 5\n", 0, 0, STATUS_JOB, "^job.yaml:4:11: sampling: '5' .*block of sampling keys"},
    {BASE "sampling:\n  temperature: -0.5\n", 0, 0, STATUS_JOB,
     "^job.yaml:5:16: sampling.temperature: -0.5 is not allowed; expected 0 .greedy., or 0.01 to 100"},
    {BASE "sampling:\n  temperature: hot\n", 0, 0, STATUS_JOB,
     "^job.yaml:5:16: sampling.temperature: 'hot' .*a number"},
    {BASE "sampling:\n  temperature: .nan\n", 0, 0, STATUS_JOB, "^job.yaml:5:16: sampling.temperature: "},
    {BASE "sampling:\n  max_tokens: 2147483648\n", 0, 0, STATUS_JOB,
     "sampling.max_tokens: 2147483648 is not allowed"},
    {BASE "sampling:\n  max_tokens: 99999999999999999999\n", 0, 0, STATUS_JOB,
     "sampling.max_tokens: 1e.20 is not"},
    {BASE "sampling:\n  n: true\n", 0, 0, STATUS_JOB, "sampling.n: true is no number"},
    {BASE "sampling:\n  ignore_eos: 1\n", 0, 0, STATUS_JOB,
     "sampling.ignore_eos: 1 is not allowed; .*true or false"},
    {BASE "sampling:\n  top_p: [1]\n", 0, 0, STATUS_JOB, "sampling.top_p: a list is not allowed"},
    {BASE "sampling:\n  stop: 5\n", 0, 0, STATUS_JOB, "^job.yaml:5:9: sampling.stop: '5' .*between quotes"},
    {BASE "sampling:\n  stop: [a, \"\"]\n", 0, 0, STATUS_JOB,
     "^job.yaml:5:13: sampling.stop: a stop string is empty"},
    {BASE "sampling:\n  stop: [a,b,c,d,e,f,g,h,i,j,k,l,m,o,p,q,r]\n", 0, 0, STATUS_JOB,
     "^job.yaml:5:42: sampling.stop: more than 16"},
    {BASE "sampling:\n  stop_token_ids: 5\n", 0, 0, STATUS_JOB,
     "sampling.stop_token_ids: '5' .*list of token ids"},
    {BASE "sampling:\n  stop_token_ids: [1, x]\n", 0, 0, STATUS_JOB,
     "sampling.stop_token_ids: .*whole numbers"},
    {BASE "sampling:\n  stop_token_ids: [1, -1]\n", 0, 0, STATUS_JOB,
     "5:23: sampling.stop_token_ids: -1 is no token id"},
    /* config */
    {BASE "config: nothing.yaml\n", 0, 0, STATUS_NO_INPUT, "^job.yaml:4:9: config: nothing.yaml: "},
    {0, "devise: cpu\n", 0, STATUS_JOB, "^c.yaml:1:1: 'devise': unknown config key; did you mean device\\?$"},
    {0, "device: gpu\n", 0, STATUS_JOB, "^c.yaml:1:9: device: 'gpu' .*expected auto, cpu, cuda or cuda:N"},
    {0, "device: cuda:N\n", 0, STATUS_JOB, "^c.yaml:1:9: device: 'cuda:N' .*number of the device"},
    {0, "device: cuda:-1\n", 0, STATUS_JOB, "^c.yaml:1:9: device: 'cuda:-1'"},
    {0, "device: cuda:99999999999999999999\n", 0, STATUS_JOB, "^c.yaml:1:9: device: "},
    {0, "cpu_isa: sse\n", 0, STATUS_JOB,
     "^c.yaml:1:10: cpu_isa: 'sse' .*auto, avx512_bf16, avx512, avx2 or portable"},
    {0, "threads: -1\n", 0, STATUS_JOB, "^c.yaml:1:10: threads: '-1'"},
    {0, "max_num_seqs: 70000\n", 0, STATUS_JOB, "^c.yaml:1:15: max_num_seqs: '70000' .*from 0 to 65536"},
    {0, "gpu_memory_utilization: 90\n", 0, STATUS_JOB, "gpu_memory_utilization: '90' .*from 0.01 to 1"},
    {0, "cpu_memory: 2 gigs\n", 0, STATUS_JOB, "^c.yaml:1:13: cpu_memory: '2 gigs' .*amount of memory"},
    {0, "seal_bytes: 0\n", 0, STATUS_JOB, "^c.yaml:1:13: seal_bytes: '0' .*1 to 1073741824 bytes"},
    {0, "seal_seconds: -1\n", 0, STATUS_JOB, "seal_seconds: '-1' .*a number from"},
    {0, "cuda_graphs: on\n", 0, STATUS_JOB, "cuda_graphs: 'on' .*true or false"},
    {0, "[]\n", 0, STATUS_JOB, "^c.yaml:1:1: the file holds a list"},
    /* --set */
    {0, 0, "temprature=1", STATUS_JOB,
     "^--set 'temprature=1': 'temprature': unknown job key; did you mean temp"},
    {0, 0, "sampling.x_y_z=1", STATUS_JOB, "^--set 'sampling.x_y_z=1': 'x_y_z': unknown sampling key$"},
    {0, 0, "config.thread=1", STATUS_JOB,
     "^--set 'config.thread=1': 'thread': unknown config key; did you mean threads"},
    {0, 0, "threads=1", STATUS_JOB, "^--set 'threads=1': .*write config.KEY=value"},
    {0, 0, "temperature=-1", STATUS_JOB, "^--set 'temperature=-1': temperature: -1 is not allowed"},
    {0, 0, "seed", STATUS_JOB, "^--set 'seed': expected key=value"},
    {0, 0, "=1", STATUS_JOB, "^--set '=1': expected key=value"},
    {0, 0, "stop=\"x", STATUS_JOB, "^--set 'stop=\"x':1:3: not valid YAML"},
    {0, 0, "stop=[a]: b", STATUS_JOB, "^--set 'stop=.*a key must be a plain word"},
    {0, 0, "output=x", STATUS_JOB, "^--set 'output=x': output: 'x' is not allowed"},
    {0, 0, "dtype=", STATUS_JOB, "^--set 'dtype=': dtype: no value is not allowed"},
    {0, 0, "config=none.yaml", STATUS_NO_INPUT, "^--set 'config=none.yaml': config: none.yaml: "},
    /* accepted */
    {BASE, 0, 0, STATUS_OK, ""},
    {"\xef\xbb\xbf" BASE, 0, 0, STATUS_OK, ""},
    {"%YAML 1.2\n---\n" BASE "...\n", 0, 0, STATUS_OK, ""},
    {"# c\r\nmodel: m\r\nprompts: p.txt\r\noutput: o.gz\r\n", 0, 0, STATUS_OK, ""},
    {"{\"model\": \"m\", \"prompts\": \"p.jsonl.gz\", \"output\": \"o.gz\"}", 0, 0, STATUS_OK, ""},
    {BASE "sampling:\n", 0, 0, STATUS_OK, ""},
    {BASE "sampling: {stop: a, seed: ~}\n", 0, 0, STATUS_JOB, "sampling.seed"},
    {BASE "sampling: {stop: null, temperature: 1, top_k: -1}\n", 0, 0, STATUS_OK, ""},
    {BASE "sampling: {stop: yes, max_completion_tokens: 010}\n", 0, 0, STATUS_OK, ""},
    {BASE "dtype: auto\nkv_cache_dtype: auto\n", 0, 0, STATUS_OK, ""},
    {"model: m\nprompts: \"-\"\noutput: o.gz\n", 0, 0, STATUS_OK, ""},
    {"model: mod\xc3\xa8le\nprompts: p.ndjson\noutput: o.gz\n", 0, 0, STATUS_OK, ""},
    {0, "", 0, STATUS_OK, ""},
    {0, "device: cuda:12\nmax_num_seqs: auto\ncpu_memory: 1.5GiB\n", 0, STATUS_OK, ""},
    {0, "threads: auto\nseal_seconds: 1e-2\n", "config.threads=2", STATUS_OK, ""},
    {0, 0, "prompts=-", STATUS_OK, ""},
    {0, 0, "stop=[]", STATUS_OK, ""},
    {0, 0, "sampling={top_k: 3}", STATUS_OK, ""},
};

/* Cuts every occurrence of the test's folder from the message, so that patterns can begin with file names. */
static void cut_folder(const char *message, char *out, size_t out_size) {
    const char *folder = temp_path("");
    size_t size = strlen(folder), n = 0;
    while (*message && n + 1 < out_size) {
        if (strncmp(message, folder, size) == 0)
            message += size;
        else
            out[n++] = *message++;
    }
    out[n] = '\0';
}

static void test_table(void **state) {
    (void)state;
    int n_bad = 0, n_good = 0, n_failed = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct bad_job *row = &rows[i];
        const char *path = temp_text("job.yaml", row->job ? row->job : BASE), *overrides[2];
        char config_set[4200], message[2100];
        int n = 0;
        if (row->config) {
            snprintf(config_set, sizeof config_set, "config=%s", temp_text("c.yaml", row->config));
            overrides[n++] = config_set;
        }
        if (row->set)
            overrides[n++] = row->set;
        struct job job;
        struct config config;
        enum status status = job_load(path, overrides, n, &job, &config);
        cut_folder(status == STATUS_OK ? "" : status_message(), message, sizeof message);
        if (status == STATUS_OK) {
            job_free(&job);
            config_free(&config);
        }
        regex_t pattern;
        assert_int_equal(regcomp(&pattern, row->message, REG_EXTENDED | REG_NOSUB), 0);
        bool is_as_expected =
            status == row->status && regexec(&pattern, message, 0, NULL, 0) == 0 && !strchr(message, '\n');
        regfree(&pattern);
        if (!is_as_expected) {
            print_error("row %zu: got %d \"%s\", expected %d matching \"%s\"\n", i, status, message,
                        row->status, row->message);
            n_failed++;
        }
        *(row->status == STATUS_OK ? &n_good : &n_bad) += 1;
    }
    assert_int_equal(n_failed, 0);
    assert_true(n_bad >= 55 && n_good >= 15);
}

static void test_missing(void **state) {
    (void)state;
    struct job job;
    struct config config;
    assert_int_equal(job_load(temp_path("none.yaml"), NULL, 0, &job, &config), STATUS_NO_INPUT);
    assert_int_equal(job_load(temp_path(""), NULL, 0, &job, &config), STATUS_JOB);
    char *large = malloc((1 << 20) + 1);
    assert_non_null(large);
    memset(large, '#', (1 << 20) + 1);
    assert_int_equal(job_load(temp_file("large.yaml", large, (1 << 20) + 1), NULL, 0, &job, &config),
                     STATUS_JOB);
    free(large);
}

static void test_output_is_input(void **state) {
    (void)state;
    struct job job;
    struct config config;
    temp_text("p.txt", "x\n");
    assert_int_equal(link(temp_path("p.txt"), temp_path("same.gz")), 0);
    const char *path = temp_text("job.yaml", "model: m\nprompts: p.txt\noutput: same.gz\n");
    assert_int_equal(job_load(path, NULL, 0, &job, &config), STATUS_JOB);
    assert_non_null(strstr(status_message(), "is the prompts too"));
}

static void test_shards(void **state) {
    (void)state;
    static const char *const bad[] = {"",      "1",    "1/",    "/2",    "2/2",          "-1/2",
                                      "0/0",   "0/-1", "a/b",   "0/2 ",  " 0/2",         "+0/2",
                                      "0x0/2", "0//2", "0/2/3", "1.0/2", "0/99999999999"};
    struct shard shard;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (shard_parse(bad[i], &shard) != STATUS_USAGE)
            fail_msg("--shard '%s' was accepted", bad[i]);
    assert_int_equal(shard_parse("0/1", &shard), STATUS_OK);
    assert_int_equal(shard_parse("6/7", &shard), STATUS_OK);
    assert_int_equal(shard.index, 6);
    assert_int_equal(shard.count, 7);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_missing),
        cmocka_unit_test(test_output_is_input),
        cmocka_unit_test(test_shards),
    };
    return cmocka_run_group_tests(tests, temp_folder_open, temp_folder_close);
}
