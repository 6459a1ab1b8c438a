/* Whole networks beside PyTorch: logits, greedy text, and prompts cut in different ways, on the shipped model
 * and a tiny one of each family. Cases are named <model>_<dtype>_logits, _greedy or _cuts. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/functional/golden.h"
#include "tests/functional/run_cases.h"
#include "worker/model/family.h"

enum {
    MAX_CHUNK = 2048,    /* a whole prompt in one step */
    MAX_SAMPLES = 64,    /* positions whose logits one step gives */
    MAX_DECODE = 64,     /* decode_rows(1) is at most that */
    MAX_CUT_TOKENS = 12, /* generated behind each way of cutting a prompt */
    MAX_CUTS = 310, /* steps that one prompt is cut into at most: 300 positions one by one pass a KV chunk */
    SMALL_TOKENS = 2, /* of small cases: generated */
    SMALL_CUTS = 7,   /* of small cases: steps that a prompt is cut into at most */
    SMALL_CUT_PROMPT =
        8, /* of small cases in float32: of a prompt that is cut; as many rows as one kernel takes */
    N_SLOTS = 3,
    SLOT = 1,
};

/* float32 is compared with logits computed in float64 and rounded once. bfloat16 rounds each activation to 8
 * bits (2^-9 relative), a dozen times per layer; errors of a dozen roundings that partly cancel stay below
 * 3e-2. The attention of the other families' tiny models is more peaked, and turned queries and keys and the
 * product of gate and up are rounded too: PyTorch's own bfloat16 is up to 5.5e-2 away on their prompts. */
static const double tolerance_float32 = 1e-4;

struct network_model {
    const char *name; /* of the golden data, network_<name> */
    const char *folder;
    double tolerance_bfloat16;
};

static const struct network_model models[] = {
    {"shakespeare", "weights/shakespeare", 3e-2},
    {"tiny", "tests/models/tiny", 3e-2},
#define TINY(name)                                                                                           \
    { #name, "tests/models/" #name, 8e-2 }
    TINY(tiny_llama),
    TINY(tiny_llama_linear),
    TINY(tiny_llama_yarn),
    TINY(tiny_mistral),
    TINY(tiny_qwen2),
    TINY(tiny_qwen2_window),
    TINY(tiny_qwen3),
    TINY(tiny_gemma2),
    TINY(tiny_gemma3),
    /* head dims and groups of published models */
    TINY(tiny_llama_64x4),
    TINY(tiny_mistral_128x4),
    TINY(tiny_qwen2_64x7),
    TINY(tiny_qwen3_128x8),
    TINY(tiny_gemma2_256x1),
    TINY(tiny_gemma3_256x4),
#undef TINY
};
enum { N_MODELS = sizeof models / sizeof models[0] };

/* One model on one backend, with one running sequence. */
struct network {
    struct backend backend;
    struct model_config config;
    enum dtype dtype;
    struct model *model;
    int32_t n_slot_pages;
    int32_t *pages; /* [n_slot_pages] */
};

static void network_open(struct network *network, const char *folder, enum dtype dtype) {
    struct sampling defaults;
    network->dtype = dtype;
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

/* Computes the prompt, cut into chunks; the last step samples, or scores target where that is not -1. logits
 * gets those of the last n_logits positions of the last chunk, [n_logits, n_vocab]. */
static struct sample_result prefill(struct network *network, const int32_t *prompt, int32_t n_prompt,
                                    int32_t chunk, int32_t target, int32_t n_logits, float *logits) {
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
        int32_t sample_row[MAX_SAMPLES], sample_slot[MAX_SAMPLES], sample_target[MAX_SAMPLES];
        for (int32_t i = 0; i < n_logits; i++) {
            sample_row[i] = n_rows - n_logits + i;
            sample_slot[i] = i + 1 == n_logits ? SLOT : N_SLOTS;
            sample_target[i] = i + 1 == n_logits ? target : -1;
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
                              .sample_slot = sample_slot,
                              .sample_target = target >= 0 ? sample_target : NULL};
        step(network, &batch, results);
    }
    golden_read(&network->backend, network->model->activations.logits, DTYPE_FLOAT32, n_logits,
                network->config.n_vocab, logits);
    assert_int_equal(results[n_logits - 1].fault_layer, -1);
    return results[n_logits - 1];
}

/* One generated position: computes the token, -1 for the one sampled last, and samples the next, or scores
 * target where that is not -1. */
static struct sample_result decode(struct network *network, int32_t position, int32_t token, int32_t target) {
    struct backend *backend = &network->backend;
    int32_t n = backend->decode_rows(backend->context, 1);
    assert_true(n >= 1 && n <= MAX_DECODE);
    int32_t tokens[MAX_DECODE] = {0}, positions[MAX_DECODE] = {0}, slots[MAX_DECODE], rows[MAX_DECODE];
    int32_t targets[MAX_DECODE];
    for (int32_t i = 0; i < n; i++) {
        slots[i] = i == 0 ? SLOT : N_SLOTS;
        rows[i] = i;
        targets[i] = i == 0 ? target : -1;
    }
    tokens[0] = token;
    positions[0] = position;
    struct batch batch = {.n_rows = n,
                          .n_decode = n,
                          .n_samples = n,
                          .want_logprobs = true,
                          .token = tokens,
                          .position = positions,
                          .slot = slots,
                          .sample_row = rows,
                          .sample_slot = slots,
                          .sample_target = target >= 0 ? targets : NULL};
    struct sample_result results[MAX_DECODE];
    step(network, &batch, results);
    assert_int_equal(results[0].fault_layer, -1);
    return results[0];
}

/* Everything about one prompt with one way of cutting it. first_logits [n_vocab] gets the logits at the
 * prompt's end, tokens [n_tokens] what was generated. */
static void run_prompt(struct network *network, const int32_t *prompt, int32_t n_prompt, int32_t chunk,
                       int32_t n_tokens, float *first_logits, struct sample_result *tokens) {
    begin_sequence(network, prompt, n_prompt);
    struct sample_result result = prefill(network, prompt, n_prompt, chunk, -1, 1, first_logits);
    for (int32_t i = 0; i < n_tokens; i++) {
        tokens[i] = result;
        if (i + 1 < n_tokens)
            result = decode(network, n_prompt + i, -1, -1);
    }
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
    prefill(network, prompt, (int32_t)n_prompt, MAX_CHUNK, -1, n_logits, actual);
    golden_check_close("logits", index, actual, expected, stored->n, tolerance);
    free(actual);
    free(expected);
    free(prompt);
}

/* Whether it is a small case in float32: its matmuls read shared memory for every k, however few the rows,
 * and race detection pays for each read. */
static bool is_least(const struct network *network) {
    return golden_arguments.is_small && network->dtype == DTYPE_FLOAT32;
}

/* How many of n tokens are generated. */
static int64_t at_most(int64_t n) {
    return golden_arguments.is_small && n > SMALL_TOKENS ? SMALL_TOKENS : n;
}

/* The prompt's own greedy text, and each token's logprob beside the reference's. */
static void check_greedy(struct network *network, struct safetensors *files, int index) {
    int64_t n_prompt, n_greedy;
    int32_t *prompt = golden_ints(files, index, "prompt", &n_prompt);
    int32_t *greedy = golden_ints(files, index, "greedy", &n_greedy);
    float *logits = malloc((size_t)network->config.n_vocab * sizeof *logits);
    float *logprobs = golden_floats(files, index, "greedy_logprobs", NULL);
    struct sample_result *tokens = malloc((size_t)n_greedy * sizeof *tokens);
    n_greedy = at_most(n_greedy);
    run_prompt(network, prompt, (int32_t)n_prompt, MAX_CHUNK, (int32_t)n_greedy, logits, tokens);
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

/* The log-probability that each token of the reference's greedy text has behind those before it: where the
 * two best logits may change places, the text is given. A log-probability is a logit less the logarithm of a
 * sum, and both are off: it may be off by a quarter more than a logit. Tolerance: of the largest logit. */
static void check_given(struct network *network, struct safetensors *files, int index, double tolerance) {
    int64_t n_prompt, n_greedy;
    int32_t *prompt = golden_ints(files, index, "prompt", &n_prompt);
    int32_t *greedy = golden_ints(files, index, "greedy", &n_greedy);
    float *logprobs = golden_floats(files, index, "greedy_logprobs", NULL);
    float *expected = golden_floats(files, index, "logits", NULL), largest = 0;
    float *logits = malloc((size_t)network->config.n_vocab * sizeof *logits);
    for (size_t i = 0; i < golden_find(files, index, "logits")->n; i++)
        largest = fmaxf(largest, fabsf(expected[i]));
    n_greedy = at_most(n_greedy);
    begin_sequence(network, prompt, (int32_t)n_prompt);
    struct sample_result result =
        prefill(network, prompt, (int32_t)n_prompt, MAX_CHUNK, greedy[0], 1, logits);
    for (int32_t i = 0; i < n_greedy; i++) {
        if (!(fabs((double)result.logprob - (double)logprobs[i]) <= 1.25 * tolerance * (double)largest))
            fail_msg("case %d: logprob of given token %d is %g, expected %g, largest logit %g", index, (int)i,
                     (double)result.logprob, (double)logprobs[i], (double)largest);
        if (i + 1 < n_greedy)
            result = decode(network, (int32_t)n_prompt + i, greedy[i], greedy[i + 1]);
    }
    free(logits);
    free(expected);
    free(logprobs);
    free(greedy);
    free(prompt);
}

/* However the prompt is cut, the bits of the logits and all tokens are the same. */
static void check_cuts(struct network *network, struct safetensors *files, int index) {
    static const int32_t chunks[] = {64, 7, 1};
    int64_t n_prompt;
    int32_t *prompt = golden_ints(files, index, "prompt", &n_prompt);
    int32_t n_tokens = (int32_t)at_most((int64_t)golden_find(files, index, "greedy")->n);
    if (n_tokens > MAX_CUT_TOKENS)
        n_tokens = MAX_CUT_TOKENS;
    if (is_least(network)) {
        n_prompt = SMALL_CUT_PROMPT;
        n_tokens = 1;
    }
    int n_cut = 0;
    size_t n_vocab = (size_t)network->config.n_vocab;
    float *whole = malloc(n_vocab * sizeof *whole), *cut = malloc(n_vocab * sizeof *cut);
    struct sample_result whole_tokens[MAX_CUT_TOKENS], cut_tokens[MAX_CUT_TOKENS];
    run_prompt(network, prompt, (int32_t)n_prompt, MAX_CHUNK, n_tokens, whole, whole_tokens);
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
        if (n_prompt / chunks[i] > (golden_arguments.is_small ? SMALL_CUTS : MAX_CUTS) ||
            (golden_arguments.is_small && n_prompt <= chunks[i]))
            continue;
        n_cut++;
        run_prompt(network, prompt, (int32_t)n_prompt, chunks[i], n_tokens, cut, cut_tokens);
        if (memcmp(whole, cut, n_vocab * sizeof *whole) != 0)
            fail_msg("case %d: logits of the prompt in chunks of %d differ from those of the prompt whole",
                     index, (int)chunks[i]);
        for (int32_t t = 0; t < n_tokens; t++)
            if (whole_tokens[t].token != cut_tokens[t].token ||
                whole_tokens[t].logprob != cut_tokens[t].logprob)
                fail_msg("case %d: generated token %d depends on the prompt's chunks of %d", index, (int)t,
                         (int)chunks[i]);
    }
    assert_true(n_cut > 0);
    free(whole);
    free(cut);
    free(prompt);
}

/* ---- the cases ---- */

enum check { CHECK_LOGITS, CHECK_GREEDY, CHECK_CUTS, N_CHECKS };
static const char *const check_names[N_CHECKS] = {"logits", "greedy", "cuts"};
static const enum dtype dtypes[] = {DTYPE_FLOAT32, DTYPE_BFLOAT16};
enum { N_DTYPES = sizeof dtypes / sizeof dtypes[0], N_CASES = N_MODELS * N_DTYPES * N_CHECKS };

struct network_case {
    const struct network_model *model;
    enum dtype dtype;
    enum check check;
    char name[64];
};

static void run_check(struct network *network, struct safetensors *files, int index,
                      const struct network_case *it) {
    bool is_exact = it->dtype == DTYPE_FLOAT32;
    double tolerance = is_exact ? tolerance_float32 : it->model->tolerance_bfloat16;
    if (it->check == CHECK_LOGITS) {
        check_logits(network, files, index, tolerance);
    } else if (it->check == CHECK_GREEDY && is_exact) {
        check_greedy(network, files, index);
    } else if (it->check == CHECK_GREEDY) {
        check_given(network, files, index, tolerance);
    } else {
        check_cuts(network, files, index);
    }
}

/* Small cases in bfloat16 have a prompt of a few tokens, which is not cut, and those that end around the
 * border of a KV chunk; in float32 one prompt, as short as shows something. */
static bool takes_part(const struct network_case *it, struct safetensors *files, int index) {
    size_t n_prompt = golden_find(files, index, "prompt")->n;
    bool is_short = n_prompt > 1 && n_prompt <= SMALL_CUT_PROMPT;
    bool is_around_border = n_prompt >= DECODE_CHUNK_TOKENS - 1 && n_prompt <= DECODE_CHUNK_TOKENS + 1;
    if (!golden_arguments.is_small)
        return true;
    if (it->dtype == DTYPE_BFLOAT16)
        return is_around_border || (is_short && it->check != CHECK_CUTS);
    return it->check == CHECK_LOGITS   ? is_short
           : it->check == CHECK_GREEDY ? n_prompt == 1
                                       : is_around_border;
}

static void test_network(void **state) {
    const struct network_case *it = *state;
    char golden[64];
    snprintf(golden, sizeof golden, "network_%s", it->model->name);
    struct safetensors *files = golden_open(golden);
    struct network network;
    network_open(&network, it->model->folder, it->dtype);
    int n = 0;
    for (int index = 0; golden_find(files, index, "prompt"); index++)
        if (takes_part(it, files, index)) {
            run_check(&network, files, index, it);
            n++;
        }
    assert_true(n > (golden_arguments.is_small ? 0 : 1));
    network_close(&network);
    safetensors_close(files);
}

/* Small cases leave out all but the logits of the shipped model in float32: a step takes race detection the
 * better part of a minute, with kernels that the tiny models' cases launch. */
static bool is_left_out(const struct network_case *it) {
    return golden_arguments.is_small && it->dtype == DTYPE_FLOAT32 && it->check != CHECK_LOGITS &&
           strcmp(it->model->name, "shakespeare") == 0;
}

int main(int argc, char **argv) {
    if (!golden_choose_backend(argc, argv))
        return ARGUMENTS_SKIPPED;
    static struct network_case cases[N_CASES];
    struct CMUnitTest tests[N_CASES];
    size_t n = 0;
    for (size_t i = 0; i < N_CASES; i++) {
        struct network_case *it = &cases[i];
        it->model = &models[i / (N_DTYPES * N_CHECKS)];
        it->dtype = dtypes[i / N_CHECKS % N_DTYPES];
        it->check = (enum check)(i % N_CHECKS);
        snprintf(it->name, sizeof it->name, "%s_%s_%s", it->model->name,
                 it->dtype == DTYPE_FLOAT32 ? "float32" : "bfloat16", check_names[it->check]);
        if (!is_left_out(it))
            tests[n++] =
                (struct CMUnitTest){.name = it->name, .test_func = test_network, .initial_state = it};
    }
    return run_cases(&golden_arguments, "network", tests, n);
}
