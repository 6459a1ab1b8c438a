/* identity: what changes it and what does not, the first difference, and the keys of samples. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "worker/job/identity.h"

/* Literals only: nothing of it is freed. */
static struct job base_job(void) {
    struct job job = {.path = "a/job.yaml",
                      .model = "weights",
                      .prompts = "p.jsonl",
                      .output = "o.gz",
                      .config = "c.yaml",
                      .has_dtype = true,
                      .dtype = DTYPE_BFLOAT16,
                      .has_kv_cache_dtype = true,
                      .kv_cache_dtype = DTYPE_BFLOAT16,
                      .max_model_len = 256,
                      .seed = 42,
                      .prompt_field = "prompt"};
    sampling_init(&job.sampling);
    return job;
}

static struct identity build(const struct job *job, const struct sampling *defaults, const char *fingerprint,
                             const char *numerics, struct shard shard) {
    struct identity identity;
    assert_int_equal(identity_build(job, defaults, fingerprint, numerics, shard, &identity), STATUS_OK);
    return identity;
}

static const struct shard WHOLE = {0, 1};

static void test_text(void **state) {
    (void)state;
    struct job job = base_job();
    struct sampling defaults;
    bool known;
    sampling_init(&defaults);
    struct sampling_value value = {SAMPLING_VALUE_REAL, 0, 0.7, false};
    assert_int_equal(sampling_set_scalar(&defaults, STATUS_DATA, "temperature", value, &known), STATUS_OK);
    assert_int_equal(sampling_set_scalar(&defaults, STATUS_DATA, "top_p", value, &known), STATUS_OK);
    value.real = 0.9;
    assert_int_equal(sampling_set_scalar(&job.sampling, STATUS_DATA, "top_p", value, &known), STATUS_OK);
    assert_int_equal(sampling_add_stop(&job.sampling, STATUS_JOB, "\n\"", 2), STATUS_OK);
    assert_int_equal(sampling_add_stop(&job.sampling, STATUS_JOB, "\xc3\xa9", 2), STATUS_OK);
    assert_int_equal(sampling_add_stop_token_id(&job.sampling, STATUS_JOB, 3), STATUS_OK);
    struct identity identity = build(&job, &defaults, "0123abcd", "cpu-1", (struct shard){2, 4});
    assert_string_equal(identity.text.data, "identity_format=1\n"
                                            "model=\"0123abcd\"\n"
                                            "numerics=\"cpu-1\"\n"
                                            "dtype=\"bfloat16\"\n"
                                            "kv_cache_dtype=\"bfloat16\"\n"
                                            "max_model_len=256\n"
                                            "mode=\"generate\"\n"
                                            "seed=42\n"
                                            "on_too_long=\"error\"\n"
                                            "max_line_bytes=16777216\n"
                                            "prompts=\"jsonl\"\n"
                                            "prompt_field=\"prompt\"\n"
                                            "output_token_ids=false\n"
                                            "shard=2/4\n"
                                            "max_tokens=16\n"
                                            "temperature=0.7\n"
                                            "top_p=0.9\n"
                                            "top_k=0\n"
                                            "min_p=0.0\n"
                                            "repetition_penalty=1.0\n"
                                            "presence_penalty=0.0\n"
                                            "frequency_penalty=0.0\n"
                                            "n=1\n"
                                            "logprobs=-1\n"
                                            "ignore_eos=false\n"
                                            "stop=[\"\\u000a\\\"\",\"\xc3\xa9\"]\n"
                                            "stop_token_ids=[3]\n");
    assert_true(hash128_equal(identity.hash, hash128_of(identity.text.data, identity.text.size)));
    identity_free(&identity);
    sampling_free(&job.sampling);
}

/* Each change of the job, the model or the shard is a difference with its name. */
static void test_differences(void **state) {
    (void)state;
    struct job job = base_job();
    struct identity base = build(&job, NULL, "f", "cpu-1", WHOLE);
    enum { N_CHANGES = 27 };
    for (int change = 0; change < N_CHANGES; change++) {
        struct job other = base_job();
        struct sampling *s = &other.sampling;
        const char *fingerprint = "f", *numerics = "cpu-1", *name = NULL;
        struct shard shard = WHOLE;
        s->set = (SAMPLING_IGNORE_EOS << 1) - 1; /* all scalars but the seed, at their defaults */
        switch (change) {
        case 0:
            fingerprint = "g", name = "model: f there, g here";
            break;
        case 1:
            numerics = "cuda-mma-1", name = "numerics: cpu-1 there, cuda-mma-1 here";
            break;
        case 2:
            other.dtype = DTYPE_FLOAT32, name = "dtype: bfloat16 there, float32 here";
            break;
        case 3:
            other.kv_cache_dtype = DTYPE_FLOAT32, name = "kv_cache_dtype: bfloat16 there";
            break;
        case 4:
            other.max_model_len = 128, name = "max_model_len: 256 there, 128 here";
            break;
        case 5:
            other.seed = 43, name = "seed: 42 there, 43 here";
            break;
        case 6:
            other.on_too_long = ON_TOO_LONG_TRUNCATE_LEFT, name = "on_too_long: error there";
            break;
        case 7:
            other.prompts = "p.txt.gz", name = "prompts: jsonl there, txt here";
            break;
        case 8:
            other.prompts = "-", name = "prompts: jsonl there, detected here";
            break;
        case 9:
            other.prompt_field = "q", name = "prompt_field: prompt there, q here";
            break;
        case 10:
            other.output_token_ids = true, name = "output_token_ids: false there, true here";
            break;
        case 11:
            shard = (struct shard){0, 2}, name = "shard: 0/1 there, 0/2 here";
            break;
        case 12:
            s->max_tokens = 17, name = "max_tokens: 16 there, 17 here";
            break;
        case 13:
            s->temperature = 0.5f, name = "temperature: 1.0 there, 0.5 here";
            break;
        case 14:
            s->top_p = 0.5f, name = "top_p: 1.0 there, 0.5 here";
            break;
        case 15:
            s->top_k = 4, name = "top_k: 0 there, 4 here";
            break;
        case 16:
            s->min_p = 0.25f, name = "min_p: 0.0 there, 0.25 here";
            break;
        case 17:
            s->repetition_penalty = 2, name = "repetition_penalty: 1.0 there, 2.0 here";
            break;
        case 18:
            s->presence_penalty = 2, name = "presence_penalty: 0.0 there, 2.0 here";
            break;
        case 19:
            s->frequency_penalty = 2, name = "frequency_penalty: 0.0 there, 2.0 here";
            break;
        case 20:
            s->n = 2, name = "n: 1 there, 2 here";
            break;
        case 21:
            s->logprobs = 0, name = "logprobs: -1 there, 0 here";
            break;
        case 22:
            s->ignore_eos = true, name = "ignore_eos: false there, true here";
            break;
        case 23:
            assert_int_equal(sampling_add_stop(s, STATUS_JOB, "x", 1), STATUS_OK),
                name = "stop: [] there, [\"x\"] here";
            break;
        case 24:
            assert_int_equal(sampling_add_stop_token_id(s, STATUS_JOB, 1), STATUS_OK),
                name = "stop_token_ids: [] there, [1] here";
            break;
        case 26:
            other.mode = MODE_SCORE, name = "mode: generate there, score here";
            break;
        /* Paths and config are no part of it. */
        case 25:
            other.path = "b", other.model = "m2", other.prompts = "x/q.ndjson.gz", other.output = "z.gz",
            other.config = NULL;
            break;
        }
        struct identity identity = build(&other, NULL, fingerprint, numerics, shard);
        char text[300];
        bool differs = identity_difference(base.text.data, base.text.size, &identity, text, sizeof text);
        if (differs != (name != NULL) || (name && strncmp(text, name, strlen(name)) != 0))
            fail_msg("change %d: \"%s\", expected \"%s\"", change, text, name ? name : "");
        assert_int_equal(differs, !hash128_equal(base.hash, identity.hash));
        identity_free(&identity);
        sampling_free(s);
    }
    identity_free(&base);
}

/* Where nothing is sampled, neither seed nor sampling changes anything. */
static void test_scoring(void **state) {
    (void)state;
    struct job job = base_job(), other = base_job();
    job.mode = other.mode = MODE_SCORE;
    other.seed = 43;
    struct sampling defaults;
    sampling_init(&defaults);
    defaults.top_k = 3;
    defaults.set = SAMPLING_TOP_K;
    struct identity identity = build(&job, NULL, "f", "cpu-1", WHOLE);
    struct identity same = build(&other, &defaults, "f", "cpu-1", WHOLE);
    assert_true(hash128_equal(identity.hash, same.hash));
    other.on_too_long = ON_TOO_LONG_TRUNCATE_LEFT;
    struct identity differs = build(&other, NULL, "f", "cpu-1", WHOLE);
    assert_false(hash128_equal(identity.hash, differs.hash));
    identity_free(&identity);
    identity_free(&same);
    identity_free(&differs);
}

static void test_difference_of_anything(void **state) {
    (void)state;
    struct job job = base_job();
    struct identity here = build(&job, NULL, "f", "cpu-1", WHOLE);
    char text[200], small[8];
    const struct {
        const char *there;
        const char *text;
    } cases[] = {
        {"", "identity_format: nothing there, 1 here"},
        {"identity_format=0\n", "identity_format: 0 there, 1 here"},
        {"identity_format=1\nmodel=\"f\"", "numerics: nothing there, cpu-1 here"},
        {"\n\n=\n", "identity_format: nothing there, 1 here"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_true(identity_difference(cases[i].there, strlen(cases[i].there), &here, text, sizeof text));
        assert_string_equal(text, cases[i].text);
    }
    struct buffer longer = {0};
    assert_int_equal(buffer_append(&longer, here.text.data, here.text.size), STATUS_OK);
    assert_int_equal(buffer_append_text(&longer, "later=\x1b[1\n"), STATUS_OK);
    assert_true(identity_difference(longer.data, longer.size, &here, text, sizeof text));
    assert_string_equal(text, "later: \\x1B[1 there, nothing here");
    assert_true(identity_difference(longer.data, longer.size, &here, small, sizeof small));
    assert_int_equal(strlen(small), 7);
    buffer_free(&longer);
    identity_free(&here);
}

static void test_sample_keys(void **state) {
    (void)state;
    struct request by_line = {.line = 5}, by_id = {.line = 9, .custom_id = "5", .custom_id_size = 1};
    struct request other = {.line = 5, .custom_id = "a", .custom_id_size = 1};
    uint64_t key = identity_sample_key(42, &by_line, 0);
    assert_true(key == identity_sample_key(42, &by_id, 0)); /* the id is all that counts */
    assert_true(key != identity_sample_key(43, &by_line, 0));
    assert_true(key != identity_sample_key(42, &by_line, 1));
    assert_true(key != identity_sample_key(42, &other, 0));
    /* Outputs that are resumed rely on this value. */
    const uint8_t head[13] = {'j', 42};
    struct hash128 hash = hash128_chain(hash128_of(head, sizeof head), "5", 1);
    assert_int_equal(key >> 56, hash.bytes[0]);
    assert_int_equal(key & 255, hash.bytes[7]);

    struct request seeded = other, seeded_too = by_line;
    seeded.sampling.seed = seeded_too.sampling.seed = 42;
    seeded.sampling.set = seeded_too.sampling.set = SAMPLING_SEED;
    assert_true(identity_sample_key(1, &seeded, 0) == identity_sample_key(2, &seeded_too, 0));
    assert_true(identity_sample_key(1, &seeded, 0) != identity_sample_key(1, &seeded, 1));
    assert_true(identity_sample_key(42, &seeded, 0) != key);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),        cmocka_unit_test(test_differences),
        cmocka_unit_test(test_scoring),     cmocka_unit_test(test_difference_of_anything),
        cmocka_unit_test(test_sample_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
