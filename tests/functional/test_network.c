/* The whole network beside PyTorch: logits, greedy text, and prompts cut in different ways, on the shipped
 * model and a tiny one of every family. argv[1]: cpu or cuda; argv[2], when given, picks the tests whose
 * names match it ("tiny_gemma*", "*_logits"). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/functional/golden.h"
#include "worker/model/family.h"

enum {
    MAX_CHUNK = 2048,    /* a whole prompt in one step */
    MAX_SAMPLES = 64,    /* positions whose logits one step gives */
    MAX_DECODE = 64,     /* decode_rows(1) is at most that */
    MAX_CUT_TOKENS = 12, /* generated behind each way of cutting a prompt */
    MAX_CUTS = 310, /* steps that one prompt is cut into at most: 300 positions one by one pass a KV chunk */
    N_SLOTS = 3,
    SLOT = 1,
};

/* Of the largest logit. float32 is compared with logits computed in float64 and rounded once. bfloat16 rounds
 * each activation to 8 bits (2^-9 relative), a dozen times per layer; a dozen roundings that partly cancel
 * stay below 3e-2. Where attention is more peaked, and turned queries and keys and the product of gate and up
 * are rounded too, errors are larger: the table's tolerances are 1.3 to 2 times the error of PyTorch's own
 * bfloat16 (golden_models.py prints it). */
static const double TOLERANCE_FLOAT32 = 1e-4;

/* One model on one backend, with one running sequence. */
struct network {
    struct backend backend;
    struct model_config config;
    struct model *model;
    int32_t n_slot_pages;
    int32_t *pages; /* [n_slot_pages] */
};

static void network_open(struct network *network, const char *folder, enum dtype dtype) {
    struct sampling defaults;
    golden_open_backend(&network->backend);
    struct backend *backend = &network->backend;
    golden_check(model_config_load(folder, &network->config, &defaults), folder);
    sampling_free(&defaults);
    const struct model_config *config = &network->config;
    golden_check(model_load(folder, config, dtype, backend, NULL, &network->model), folder);
    network->n_slot_pages = (config->n_positions + PAGE_TOKENS - 1) / PAGE_TOKENS;
    int32_t n_pages = 1 + network->n_slot_pages;
    struct state_limits limits = {.n_slots = N_SLOTS,
                                  .n_pages = n_pages,
                                  .max_pages_per_slot = network->n_slot_pages,
                                  .max_rows = MAX_CHUNK,
                                  .max_segments = 1,
                                  .max_samples = MAX_SAMPLES,
                                  .n_layers = config->n_layers,
                                  .n_heads = config->n_heads,
                                  .n_kv_heads = config->n_kv_heads,
                                  .head_dim = config->head_dim,
                                  .n_vocab = config->n_vocab,
                                  .kv_dtype = dtype};
    golden_check(backend->state_init(backend->context, &limits), "state_init");
    golden_check(model_prepare(network->model, &(struct model_limits){.max_rows = MAX_CHUNK,
                                                                      .max_samples = MAX_SAMPLES,
                                                                      .logit_rows = MAX_SAMPLES}),
                 "model_prepare");
    /* Not in ascending order, which is what pages have once a job has run for a while. */
    network->pages = malloc((size_t)network->n_slot_pages * sizeof *network->pages);
    for (int32_t i = 0; i < network->n_slot_pages; i++)
        network->pages[i] = network->n_slot_pages - i;
}

static void network_close(struct network *network) {
    free(network->pages);
    model_close(network->model);
    network->backend.close(network->backend.context);
}

static void step(struct network *network, const struct batch *batch, struct sample_result *results) {
    struct backend *backend = &network->backend;
    struct sample_top top[MAX_SAMPLES];
    bool replayed;
    uint64_t ticket;
    golden_check(backend->step_begin(backend->context, batch, &replayed), "step_begin");
    assert_false(replayed && batch->n_segments > 0);
    if (!replayed)
        golden_check(model_forward(network->model, batch), "model_forward");
    golden_check(backend->step_end(backend->context, &ticket), "step_end");
    golden_check(backend->step_wait(backend->context, ticket, results, batch->want_logprobs ? top : NULL),
                 "step_wait");
}

static void begin_sequence(struct network *network, const int32_t *prompt, int32_t n_prompt) {
    struct slot_start start = {.slot = SLOT,
                               .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = 0},
                               .pages = network->pages,
                               .n_pages = network->n_slot_pages,
                               .prompt = prompt,
                               .n_prompt = n_prompt};
    golden_check(network->backend.slots_begin(network->backend.context, &start, 1), "slots_begin");
}

/* Computes the prompt, cut into chunks; the last step samples. logits gets those of the last n_logits
 * positions of the last chunk, [n_logits, n_vocab]. */
static struct sample_result prefill(struct network *network, const int32_t *prompt, int32_t n_prompt,
                                    int32_t chunk, int32_t n_logits, float *logits) {
    static int32_t position[MAX_CHUNK], slot[MAX_CHUNK];
    struct sample_result results[MAX_SAMPLES];
    for (int32_t first = 0; first < n_prompt; first += chunk) {
        int32_t n_rows = n_prompt - first < chunk ? n_prompt - first : chunk;
        bool is_last = first + n_rows == n_prompt;
        for (int32_t i = 0; i < n_rows; i++) {
            position[i] = first + i;
            slot[i] = SLOT;
        }
        /* Only the last entry is the sequence's; those before it are there for their logits. */
        int32_t sample_row[MAX_SAMPLES], sample_slot[MAX_SAMPLES];
        for (int32_t i = 0; i < n_logits; i++) {
            sample_row[i] = n_rows - n_logits + i;
            sample_slot[i] = i + 1 == n_logits ? SLOT : N_SLOTS;
        }
        struct segment segment = {.row = 0, .n_rows = n_rows, .slot = SLOT, .position = first};
        struct batch batch = {.n_rows = n_rows,
                              .n_segments = 1,
                              .n_samples = is_last ? n_logits : 0,
                              .want_logprobs = is_last,
                              .token = prompt + first,
                              .position = position,
                              .slot = slot,
                              .segments = &segment,
                              .sample_row = sample_row,
                              .sample_slot = sample_slot};
        step(network, &batch, results);
    }
    golden_read(&network->backend, network->model->activations.logits, DTYPE_FLOAT32, n_logits,
                network->config.n_vocab, logits);
    assert_int_equal(results[n_logits - 1].fault_layer, -1);
    return results[n_logits - 1];
}

/* One generated position: computes the token sampled last and samples the next. */
static struct sample_result decode(struct network *network, int32_t position) {
    struct backend *backend = &network->backend;
    int32_t n = backend->decode_rows(backend->context, 1);
    assert_true(n >= 1 && n <= MAX_DECODE);
    int32_t tokens[MAX_DECODE] = {0}, positions[MAX_DECODE] = {0}, slots[MAX_DECODE], rows[MAX_DECODE];
    for (int32_t i = 0; i < n; i++) {
        slots[i] = i == 0 ? SLOT : N_SLOTS;
        rows[i] = i;
    }
    tokens[0] = -1;
    positions[0] = position;
    struct batch batch = {.n_rows = n,
                          .n_decode = n,
                          .n_samples = n,
                          .want_logprobs = true,
                          .token = tokens,
                          .position = positions,
                          .slot = slots,
                          .sample_row = rows,
                          .sample_slot = slots};
    struct sample_result results[MAX_DECODE];
    step(network, &batch, results);
    assert_int_equal(results[0].fault_layer, -1);
    return results[0];
}

/* Everything about one golden case with one way of cutting the prompt. first_logits [n_vocab] gets the logits
 * at the prompt's end, tokens [n_greedy] what was generated. */
static void run_case(struct network *network, struct safetensors *files, int index, int32_t chunk,
                     int32_t n_tokens, float *first_logits, struct sample_result *tokens) {
    int64_t n_prompt;
    int32_t *prompt = golden_ints(files, index, "prompt", &n_prompt);
    begin_sequence(network, prompt, (int32_t)n_prompt);
    struct sample_result result = prefill(network, prompt, (int32_t)n_prompt, chunk, 1, first_logits);
    for (int32_t i = 0; i < n_tokens; i++) {
        tokens[i] = result;
        if (i + 1 < n_tokens)
            result = decode(network, (int32_t)n_prompt + i);
    }
    free(prompt);
}

static void check_logits(struct network *network, struct safetensors *files, int index, double tolerance) {
    int64_t n_prompt, n_vocab = network->config.n_vocab;
    int32_t *prompt = golden_ints(files, index, "prompt", &n_prompt);
    struct stored_tensor *stored = golden_find(files, index, "logits");
    assert_non_null(stored);
    int32_t n_logits = (int32_t)((int64_t)stored->n / n_vocab); /* all positions, or the last */
    assert_true(n_logits >= 1 && n_logits <= MAX_SAMPLES);
    float *expected = golden_floats(files, index, "logits", NULL);
    float *actual = malloc(stored->n * sizeof *actual);
    begin_sequence(network, prompt, (int32_t)n_prompt);
    prefill(network, prompt, (int32_t)n_prompt, MAX_CHUNK, n_logits, actual);
    golden_check_close("logits", index, actual, expected, stored->n, tolerance);
    free(actual);
    free(expected);
    free(prompt);
}

/* The prompt's own greedy text, and each token's logprob beside the reference's. */
static void check_greedy(struct network *network, struct safetensors *files, int index) {
    int64_t n_prompt, n_greedy;
    int32_t *prompt = golden_ints(files, index, "prompt", &n_prompt);
    int32_t *greedy = golden_ints(files, index, "greedy", &n_greedy);
    float *logits = malloc((size_t)network->config.n_vocab * sizeof *logits);
    float *logprobs = golden_floats(files, index, "greedy_logprobs", NULL);
    struct sample_result *tokens = malloc((size_t)n_greedy * sizeof *tokens);
    run_case(network, files, index, MAX_CHUNK, (int32_t)n_greedy, logits, tokens);
    for (int64_t i = 0; i < n_greedy; i++) {
        if (tokens[i].token != greedy[i])
            fail_msg("case %d: greedy token %lld is %d, expected %d", index, (long long)i,
                     (int)tokens[i].token, (int)greedy[i]);
        if (!(fabsf(tokens[i].logprob - logprobs[i]) <= 1e-4f))
            fail_msg("case %d: logprob of greedy token %lld is %g, expected %g", index, (long long)i,
                     (double)tokens[i].logprob, (double)logprobs[i]);
    }
    free(tokens);
    free(logprobs);
    free(logits);
    free(greedy);
    free(prompt);
}

/* However the prompt is cut, the bits of the logits and all tokens are the same. */
static void check_cuts(struct network *network, struct safetensors *files, int index, int32_t n_tokens) {
    static const int32_t chunks[] = {64, 7, 1};
    size_t n_vocab = (size_t)network->config.n_vocab;
    float *whole = malloc(n_vocab * sizeof *whole), *cut = malloc(n_vocab * sizeof *cut);
    struct sample_result whole_tokens[MAX_CUT_TOKENS], cut_tokens[MAX_CUT_TOKENS];
    run_case(network, files, index, MAX_CHUNK, n_tokens, whole, whole_tokens);
    int64_t n_prompt = (int64_t)golden_find(files, index, "prompt")->n;
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
        if (n_prompt / chunks[i] > MAX_CUTS)
            continue;
        run_case(network, files, index, chunks[i], n_tokens, cut, cut_tokens);
        if (memcmp(whole, cut, n_vocab * sizeof *whole) != 0)
            fail_msg("case %d: logits of the prompt in chunks of %d differ from those of the prompt whole",
                     index, (int)chunks[i]);
        for (int32_t t = 0; t < n_tokens; t++)
            if (whole_tokens[t].token != cut_tokens[t].token ||
                whole_tokens[t].logprob != cut_tokens[t].logprob)
                fail_msg("case %d: generated token %d depends on the prompt's chunks of %d", index, (int)t,
                         (int)chunks[i]);
    }
    free(whole);
    free(cut);
}

/* ---- the models ---- */

static const struct {
    const char *name; /* of the golden data too */
    const char *folder;
    double tolerance_bfloat16;
} models[] = {
    {"shakespeare", "weights/shakespeare", 3e-2},
    {"tiny", "tests/models/tiny", 3e-2},
    {"tiny_llama", "tests/models/tiny_llama", 8e-2},
    {"tiny_llama_linear", "tests/models/tiny_llama_linear", 8e-2},
    {"tiny_mistral", "tests/models/tiny_mistral", 1e-1},
    {"tiny_qwen2", "tests/models/tiny_qwen2", 1e-1},
    {"tiny_qwen3", "tests/models/tiny_qwen3", 5e-2},
    {"tiny_gemma2", "tests/models/tiny_gemma2", 5e-2},
    {"tiny_gemma3", "tests/models/tiny_gemma3", 5e-2},
    {"tiny_gemma3_64", "tests/models/tiny_gemma3_64", 5e-2},
};
enum { N_MODELS = sizeof models / sizeof models[0], N_DTYPES = 2 };

/* What is compared; a pattern of names can choose, because a sanitizer has time for the short ones only. */
enum part { LOGITS, GREEDY, CUTS, N_PARTS };
static const char *const part_names[] = {"logits", "greedy", "cuts"};

struct network_test {
    char name[64];
    int model;
    enum dtype dtype;
    enum part part;
};

static void run_row(void **state) {
    const struct network_test *test = *state;
    struct network network;
    char golden[64];
    snprintf(golden, sizeof golden, "network_%s", models[test->model].name);
    struct safetensors *files = golden_open(golden);
    network_open(&network, models[test->model].folder, test->dtype);
    double tolerance =
        test->dtype == DTYPE_FLOAT32 ? TOLERANCE_FLOAT32 : models[test->model].tolerance_bfloat16;
    int index = 0;
    for (; golden_find(files, index, "prompt"); index++) {
        int32_t n_tokens = (int32_t)golden_find(files, index, "greedy")->n;
        if (test->part == LOGITS)
            check_logits(&network, files, index, tolerance);
        else if (test->part == GREEDY)
            check_greedy(&network, files, index);
        else
            check_cuts(&network, files, index, n_tokens < MAX_CUT_TOKENS ? n_tokens : MAX_CUT_TOKENS);
    }
    assert_true(index > 0);
    network_close(&network);
    safetensors_close(files);
}

int main(int argc, char **argv) {
    if (!golden_choose_backend(argc, argv))
        return 77;
    static struct network_test rows[N_MODELS * N_DTYPES * N_PARTS];
    static struct CMUnitTest tests[N_MODELS * N_DTYPES * N_PARTS];
    size_t n = 0;
    for (int model = 0; model < N_MODELS; model++) {
        for (int dtype = DTYPE_FLOAT32; dtype <= DTYPE_BFLOAT16; dtype++) {
            for (int part = LOGITS; part < N_PARTS; part++) {
                /* The reference's greedy text is float32's; in bfloat16 two logits may change places. */
                if (part == GREEDY && dtype == DTYPE_BFLOAT16)
                    continue;
                struct network_test *row = &rows[n];
                *row = (struct network_test){
                    .model = model, .dtype = (enum dtype)dtype, .part = (enum part)part};
                snprintf(row->name, sizeof row->name, "%s_%s_%s", models[model].name,
                         dtype == DTYPE_FLOAT32 ? "float32" : "bfloat16", part_names[part]);
                tests[n++] =
                    (struct CMUnitTest){.name = row->name, .test_func = run_row, .initial_state = row};
            }
        }
    }
    return _cmocka_run_group_tests("network", tests, n, NULL, NULL);
}
