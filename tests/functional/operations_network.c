/* Steps of a whole small model, operation by operation as a decoder queues them: once by a backend that may
 * compute them as one, once by one that may not. Logits, samples and faults have the same bits. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/functional/operations.h"

enum {
    HEAD_DIM = 64,
    MAX_LAYERS = 3,
    PROMPT = 255, /* positions that every slot begins with */
    SLOT_PAGES = 9,
    MAX_STEP_ROWS = PROMPT
};

struct network_shape {
    int32_t n_layers, n_heads, inner, n_vocab;
    int32_t n_slots;
    bool biases;
    int huge; /* which matrix of the last layer overflows: 1 or 3, or 0: none */
};

struct layer_tensors {
    struct tensor *norm[2][2]; /* of attention and MLP: weight, bias */
    struct tensor *weight[4];  /* qkv, projection, up, down */
    struct tensor *bias[4];
};

struct network {
    struct operations *ops;
    struct network_shape shape;
    int32_t width;
    struct tensor *tokens, *positions, *norm[2], *head;
    struct layer_tensors layers[MAX_LAYERS];
    struct tensor *hidden, *normed, *qkv, *attended, *inner, *logits;
    int32_t most_launches; /* of a step that only decodes */
};

/* is_table: of embeddings, the last of them NaN. */
static struct tensor *random_weight(struct network *net, int64_t n_out, int64_t n_in, float scale,
                                    bool is_table) {
    float *values = ops_alloc(net->ops, (size_t)(n_out * n_in), sizeof *values);
    for (int64_t i = 0; i < n_out * n_in; i++)
        values[i] = is_table && i / n_in == n_out - 1 ? NAN : ops_uniform(net->ops, -scale, scale);
    struct tensor *tensor = ops_weight(net->ops, DTYPE_BFLOAT16, n_out, n_in, values);
    free(values);
    return tensor;
}

static struct tensor *random_vector(struct network *net, int64_t n, float middle) {
    float *values = ops_alloc(net->ops, (size_t)n, sizeof *values);
    for (int64_t i = 0; i < n; i++)
        values[i] = middle + ops_uniform(net->ops, -0.3f, 0.3f);
    struct tensor *tensor = ops_vector(net->ops, n, values);
    free(values);
    return tensor;
}

static void network_start(struct network *net) {
    const int32_t n = net->shape.n_slots;
    struct slot_start *starts = ops_alloc(net->ops, (size_t)n, sizeof *starts);
    int32_t *pages = ops_alloc(net->ops, (size_t)(n * SLOT_PAGES), sizeof *pages);
    for (int32_t slot = 0; slot < n; slot++) {
        int32_t *own = pages + slot * SLOT_PAGES;
        for (int32_t i = 0; i < SLOT_PAGES; i++) /* those of a slot are not neighbours */
            own[i] = 1 + i * n + (slot + i) % n;
        starts[slot] = (struct slot_start){
            .slot = slot, .sampling = ops_sampling((uint64_t)slot), .pages = own, .n_pages = SLOT_PAGES};
        starts[slot].sampling.temperature = slot % 2 ? 0.8f : 0.0f;
    }
    ops_slots_begin(net->ops, starts, n);
    free(starts);
    free(pages);
}

static void network_init(struct network *net, struct operations *ops, const struct network_shape *shape) {
    *net = (struct network){.ops = ops, .shape = *shape, .width = shape->n_heads * HEAD_DIM};
    ops_open(ops);
    const int32_t width = net->width;
    net->tokens = random_weight(net, shape->n_vocab, width, 1.0f, true);
    net->positions = random_weight(net, SLOT_PAGES * PAGE_TOKENS, width, 1.0f, false);
    for (int32_t i = 0; i < shape->n_layers; i++) {
        struct layer_tensors *layer = &net->layers[i];
        const int32_t n_out[4] = {3 * width, width, shape->inner, width};
        const int32_t n_in[4] = {width, width, width, shape->inner};
        for (int j = 0; j < 2; j++) {
            layer->norm[j][0] = random_vector(net, width, 1.0f);
            layer->norm[j][1] = shape->biases ? random_vector(net, width, 0.0f) : NULL;
        }
        for (int j = 0; j < 4; j++) {
            const bool is_huge = shape->huge == j && j > 0 && i == shape->n_layers - 1;
            layer->weight[j] =
                random_weight(net, n_out[j], n_in[j], is_huge ? 3e38f : 2.0f / sqrtf((float)n_in[j]), false);
            layer->bias[j] = shape->biases ? random_vector(net, n_out[j], 0.0f) : NULL;
        }
    }
    net->norm[0] = random_vector(net, width, 1.0f);
    net->norm[1] = shape->biases ? random_vector(net, width, 0.0f) : NULL;
    net->head = random_weight(net, shape->n_vocab, width, 0.2f, false);
    net->hidden = ops_junk(ops, DTYPE_FLOAT32, MAX_STEP_ROWS, width);
    net->normed = ops_junk(ops, DTYPE_BFLOAT16, MAX_STEP_ROWS, width);
    net->qkv = ops_junk(ops, DTYPE_BFLOAT16, MAX_STEP_ROWS, 3 * width);
    net->attended = ops_junk(ops, DTYPE_BFLOAT16, MAX_STEP_ROWS, width);
    net->inner = ops_junk(ops, DTYPE_BFLOAT16, MAX_STEP_ROWS, shape->inner);
    net->logits = ops_junk(ops, DTYPE_FLOAT32, shape->n_slots, shape->n_vocab);
    OPS_OK(ops, ops_state(ops, &(struct state_limits){.n_slots = shape->n_slots,
                                                      .n_pages = 1 + SLOT_PAGES * shape->n_slots,
                                                      .max_pages_per_slot = SLOT_PAGES,
                                                      .max_rows = MAX_STEP_ROWS,
                                                      .max_segments = 1,
                                                      .max_samples = shape->n_slots,
                                                      .n_layers = shape->n_layers,
                                                      .n_heads = shape->n_heads,
                                                      .n_kv_heads = shape->n_heads,
                                                      .head_dim = HEAD_DIM,
                                                      .n_vocab = shape->n_vocab,
                                                      .kv_dtype = DTYPE_BFLOAT16}));
    network_start(net);
}

static void network_norm(struct network *net, struct tensor *const norm[2], int32_t site,
                         const struct batch *sampled) {
    struct norm_args args = {.kind = net->shape.biases ? NORM_LAYER : NORM_RMS,
                             .hidden = net->hidden,
                             .weight = norm[0],
                             .bias = norm[1],
                             .out = net->normed,
                             .epsilon = 1e-5f,
                             .sampled_rows = sampled != NULL,
                             .n = sampled ? sampled->n_samples : 0,
                             .site = site};
    OPS_OK(net->ops, net->ops->backend.norm(net->ops->backend.context, &args));
}

static void network_matmul(struct network *net, const struct layer_tensors *layer, int which,
                           struct tensor *in, struct tensor *out, int32_t n_rows) {
    struct matmul_args args = {.weight = layer->weight[which],
                               .bias = layer->bias[which],
                               .in = in,
                               .out = out,
                               .n_rows = n_rows,
                               .activation = which == 2 ? ACTIVATION_GELU_TANH : ACTIVATION_NONE,
                               .accumulate = out == net->hidden};
    OPS_OK(net->ops, net->ops->backend.matmul(net->ops->backend.context, &args));
}

/* One step of the whole model; logits of its samples [n_samples, n_vocab], to be freed. */
static float *network_step(struct network *net, const struct batch *batch, struct sample_result *results) {
    struct operations *ops = net->ops;
    struct backend *backend = &ops->backend;
    ops_step_begin(ops, batch);
    OPS_OK(ops, backend->embed(backend->context, &(struct embed_args){.hidden = net->hidden,
                                                                      .token_embedding = net->tokens,
                                                                      .position_embedding = net->positions,
                                                                      .scale = 1}));
    for (int32_t i = 0; i < net->shape.n_layers; i++) {
        const struct layer_tensors *layer = &net->layers[i];
        network_norm(net, layer->norm[0], i, NULL);
        network_matmul(net, layer, 0, net->normed, net->qkv, batch->n_rows);
        struct attention_args attention = {
            .qkv = net->qkv, .out = net->attended, .layer = i, .scale = 1 / sqrtf(HEAD_DIM)};
        if (batch->n_decode > 0)
            OPS_OK(ops, backend->attention_decode(backend->context, &attention));
        if (batch->n_segments > 0)
            OPS_OK(ops, backend->attention_prefill(backend->context, &attention));
        network_matmul(net, layer, 1, net->attended, net->hidden, batch->n_rows);
        network_norm(net, layer->norm[1], i + 1, NULL);
        network_matmul(net, layer, 2, net->normed, net->inner, batch->n_rows);
        network_matmul(net, layer, 3, net->inner, net->hidden, batch->n_rows);
    }
    network_norm(net, net->norm, net->shape.n_layers, batch);
    OPS_OK(ops, backend->matmul(backend->context, &(struct matmul_args){.weight = net->head,
                                                                        .in = net->normed,
                                                                        .out = net->logits,
                                                                        .n_rows = batch->n_samples}));
    OPS_OK(ops, backend->sample(backend->context,
                                &(struct sample_args){.logits = net->logits, .n = batch->n_samples}));
    ops_step_end(ops, batch, results, NULL);
    int32_t launches = (int32_t)backend->launches_per_step(backend->context);
    if (batch->n_segments == 0 && launches > net->most_launches)
        net->most_launches = launches;
    return ops_read(ops, net->logits, DTYPE_FLOAT32, batch->n_samples, net->shape.n_vocab);
}

/* PROMPT positions of a prompt in slot 0, and their pages for all others. */
static void network_prompt(struct network *net) {
    struct operations *ops = net->ops;
    int32_t token[PROMPT], position[PROMPT], slot[PROMPT], row = PROMPT - 1, sample_slot = net->shape.n_slots;
    for (int32_t i = 0; i < PROMPT; i++)
        token[i] = ops_below(ops, net->shape.n_vocab - 1), position[i] = i, slot[i] = 0;
    struct segment segment = {0, PROMPT, 0, 0};
    struct batch batch = {.n_rows = PROMPT,
                          .n_segments = 1,
                          .n_samples = 1,
                          .token = token,
                          .position = position,
                          .slot = slot,
                          .segments = &segment,
                          .sample_row = &row,
                          .sample_slot = &sample_slot};
    free(network_step(net, &batch, NULL));
    const int32_t n = net->shape.n_slots, n_pairs = (n - 1) * SLOT_PAGES;
    int32_t(*pairs)[2] = ops_alloc(ops, (size_t)n_pairs, sizeof *pairs);
    for (int32_t pair = 0; pair < n_pairs; pair++) {
        const int32_t to = 1 + pair / SLOT_PAGES, i = pair % SLOT_PAGES;
        pairs[pair][0] = 1 + i * n + i % n, pairs[pair][1] = 1 + i * n + (to + i) % n;
    }
    OPS_OK(ops, ops->backend.pages_copy(ops->backend.context, (const int32_t(*)[2])pairs, n_pairs));
    free(pairs);
}

/* What the steps gave. */
struct network_run {
    float *logits; /* [n_steps, n_slots, n_vocab]; zero beyond a step's rows */
    struct sample_result *results;
    int32_t most_launches;
};

/* Positions of the first step, by slot: around the borders of pages and chunks. */
static const int32_t first_positions[] = {0,   1,   30,  31,  32,  33,  63,  64,  65,  95,  96,
                                          97,  127, 128, 129, 160, 191, 192, 200, 222, 223, 224,
                                          225, 226, 239, 240, 250, 251, 252, 253, 254, 2,   3};
enum { N_POSITIONS = sizeof first_positions / sizeof first_positions[0] };

/* Rows of a step: every slot once, from `first` on. Slots move on by a position in every step they are in. */
struct step_rows {
    int32_t n_rows;
    int32_t first;
    int32_t n_padding; /* of the rows, at the end */
    bool is_reversed;  /* slots from the last to the first; padding stays at the end */
    bool is_bad;       /* the second row has the last token, whose embedding is NaN */
    int32_t n_again;   /* further samples, each of its own slot but of row 0 */
    bool skips_sample; /* of the last row */
    bool is_left_out;  /* of small cases */
};

static struct network_run network_run(struct operations *ops, const struct network_shape *shape,
                                      const struct step_rows *steps, int32_t n_steps, bool one_by_one) {
    struct network net;
    struct network_run run;
    const uint64_t random = ops->random;
    ops->options.no_network = one_by_one;
    network_init(&net, ops, shape);
    network_prompt(&net);
    const int32_t n_slots = shape->n_slots, n_vocab = shape->n_vocab;
    run.logits = ops_alloc(ops, (size_t)n_steps * (size_t)(n_slots * n_vocab), sizeof *run.logits);
    run.results = ops_alloc(ops, (size_t)(n_steps * n_slots), sizeof *run.results);
    int32_t *at = ops_alloc(ops, (size_t)n_slots, sizeof *at);
    bool *has_sampled = ops_alloc(ops, (size_t)n_slots, sizeof *has_sampled);
    for (int32_t i = 0; i < n_slots; i++)
        at[i] = first_positions[i % N_POSITIONS];
    for (int32_t s = 0; s < n_steps; s++) {
        const struct step_rows *step = &steps[s];
        const int32_t n_real = step->n_rows - step->n_padding;
        int32_t token[64], position[64], slot[64], sample_row[64], sample_slot[64], n_samples = step->n_rows;
        assert_in_range(step->n_rows, 1, n_slots);
        assert_in_range(step->n_rows + step->n_again, 1, n_slots < 64 ? n_slots : 64);
        for (int32_t row = 0; row < step->n_rows; row++) {
            int32_t own = (step->first + (step->is_reversed ? n_real - 1 - row : row)) % n_slots;
            bool is_padding = row >= n_real;
            slot[row] = is_padding ? n_slots : own;
            position[row] = is_padding ? 0 : at[own];
            token[row] = is_padding                    ? 0
                         : has_sampled[own] && own % 3 ? -1
                                                       : (own * 7 + at[own]) % (n_vocab - 1);
            if (step->is_bad && row == 1)
                token[row] = n_vocab - 1;
            sample_row[row] = row;
            sample_slot[row] = slot[row];
            if (!is_padding)
                at[own]++, has_sampled[own] = true;
        }
        if (step->skips_sample)
            n_samples--, has_sampled[slot[n_real - 1]] = false;
        for (int32_t i = 0; i < step->n_again; i++, n_samples++) {
            int32_t own = (step->first + n_real + i) % n_slots;
            sample_row[n_samples] = 0;
            sample_slot[n_samples] = own;
        }
        struct batch batch = {.n_rows = step->n_rows,
                              .n_decode = step->n_rows,
                              .n_samples = n_samples,
                              .token = token,
                              .position = position,
                              .slot = slot,
                              .sample_row = sample_row,
                              .sample_slot = sample_slot};
        struct sample_result results[64];
        float *logits = network_step(&net, &batch, results);
        for (int32_t i = 0; i < n_samples; i++) {
            if (sample_slot[i] == n_slots)
                continue; /* nobody sees what padding gives */
            size_t place = (size_t)(s * n_slots + sample_slot[i]);
            memcpy(run.logits + place * (size_t)n_vocab, logits + (size_t)i * (size_t)n_vocab,
                   (size_t)n_vocab * sizeof *logits);
            run.results[place] = results[i];
        }
        free(logits);
    }
    run.most_launches = net.most_launches;
    free(at);
    free(has_sampled);
    ops->random = random;
    return run;
}

static void network_run_free(struct network_run *run) {
    free(run->logits);
    free(run->results);
}

/* Slots [0, n) of a step have equal bits in two runs. */
static void expect_same(struct operations *ops, const struct network_shape *shape,
                        const struct network_run *got, int32_t got_step, const struct network_run *expected,
                        int32_t expected_step, const char *what) {
    for (int32_t slot = 0; slot < shape->n_slots; slot++) {
        char name[96];
        size_t a = (size_t)(got_step * shape->n_slots + slot),
               b = (size_t)(expected_step * shape->n_slots + slot);
        const struct sample_result *x = &got->results[a], *y = &expected->results[b];
        snprintf(name, sizeof name, "%s: logits of step %d, slot %d", what, got_step, slot);
        if (x->fault_layer < 0 && y->fault_layer < 0)
            ops_expect_equal(ops, got->logits + a * (size_t)shape->n_vocab,
                             expected->logits + b * (size_t)shape->n_vocab, shape->n_vocab, name);
        if (x->fault_layer != y->fault_layer || x->fault_position != y->fault_position ||
            (x->fault_layer < 0 && x->token != y->token))
            OPS_FAIL(ops, "%s: step %d, slot %d: token %d, fault %d at %d; expected token %d, fault %d at %d",
                     what, got_step, slot, x->token, x->fault_layer, x->fault_position, y->token,
                     y->fault_layer, y->fault_position);
    }
}

static void network_compare(struct operations *ops, const struct network_shape *shape,
                            const struct step_rows *all_steps, int32_t n_all) {
    enum { MOST_STEPS = 16 };
    struct step_rows steps[MOST_STEPS] = {0};
    int32_t n_steps = 0;
    assert_in_range(n_all, 1, MOST_STEPS);
    for (int32_t s = 0; s < n_all; s++)
        if (!ops->is_small || !all_steps[s].is_left_out)
            steps[n_steps++] = all_steps[s];
    struct network_run apart = network_run(ops, shape, steps, n_steps, true);
    struct network_run whole = network_run(ops, shape, steps, n_steps, false);
    for (int32_t s = 0; s < n_steps; s++)
        expect_same(ops, shape, &whole, s, &apart, s, "as one");
    /* On the devices that have such a kernel it was at work. */
    bool has_kernel = strstr(ops->backend.numerics_class, "sm90") != NULL;
    if (has_kernel && whole.most_launches != 3)
        OPS_FAIL(ops, "a step took %d launches; expected its arrays, the network and the samples",
                 whole.most_launches);
    network_run_free(&apart);
    network_run_free(&whole);
}

void case_network(struct operations *ops) {
    const struct network_shape shape = {.n_layers = ops->is_small ? 2 : 3,
                                        .n_heads = 2,
                                        .inner = 256,
                                        .n_vocab = 70,
                                        .n_slots = 33,
                                        .biases = true};
    static const struct step_rows steps[] = {
        {.n_rows = 1, .first = 2},
        {.n_rows = 2, .first = 2, .is_left_out = true},
        {.n_rows = 7, .first = 20, .is_left_out = true},
        {.n_rows = 8, .first = 26}, /* the last positions of a chunk, and the first of the next */
        {.n_rows = 16, .first = 4, .is_left_out = true},
        {.n_rows = 33},
        {.n_rows = 33, .first = 11, .is_reversed = true, .is_left_out = true},
        {.n_rows = 8, .first = 25, .n_padding = 3},
        {.n_rows = 6, .first = 0, .is_bad = true},
        {.n_rows = 5, .first = 0, .n_again = 4, .skips_sample = true},
        {.n_rows = 33},
    };
    network_compare(ops, &shape, steps, sizeof steps / sizeof steps[0]);
}

void case_network_no_biases(struct operations *ops) {
    static const struct network_shape shape = {
        .n_layers = 2, .n_heads = 4, .inner = 640, .n_vocab = 33, .n_slots = 20};
    static const struct step_rows steps[] = {
        {.n_rows = 20}, {.n_rows = 3, .first = 17}, {.n_rows = 20, .is_left_out = true}};
    network_compare(ops, &shape, steps, sizeof steps / sizeof steps[0]);
}

/* The shipped model's layers, and the widest there are. */
void case_network_wide(struct operations *ops) {
    const struct network_shape shipped = {.n_layers = ops->is_small ? 1 : 2,
                                          .n_heads = 6,
                                          .inner = 1536,
                                          .n_vocab = 65,
                                          .n_slots = 34,
                                          .biases = true};
    static const struct network_shape widest = {
        .n_layers = 1, .n_heads = 8, .inner = 2048, .n_vocab = 300, .n_slots = 9, .biases = true};
    static const struct step_rows shipped_steps[] = {
        {.n_rows = 1, .first = 3}, {.n_rows = 34}, {.n_rows = 16, .first = 5, .is_left_out = true}};
    static const struct step_rows widest_steps[] = {{.n_rows = 9},
                                                    {.n_rows = 1, .first = 8, .is_left_out = true}};
    network_compare(ops, &shipped, shipped_steps, sizeof shipped_steps / sizeof shipped_steps[0]);
    network_compare(ops, &widest, widest_steps, sizeof widest_steps / sizeof widest_steps[0]);
}

/* Where values overflow behind attention or the MLP of the last layer: the norm behind it names the place, of
 * rows that are sampled alone where that is the last norm. */
void case_network_not_finite(struct operations *ops) {
    static const struct step_rows steps[] = {{.n_rows = 3, .skips_sample = true}, {.n_rows = 3}};
    for (int huge = 1; huge <= 3; huge += 2) {
        const struct network_shape shape = {.n_layers = 2,
                                            .n_heads = 2,
                                            .inner = 256,
                                            .n_vocab = 40,
                                            .n_slots = 3,
                                            .biases = true,
                                            .huge = huge};
        network_compare(ops, &shape, steps, sizeof steps / sizeof steps[0]);
        struct network_run run = network_run(ops, &shape, steps, 2, false);
        for (int32_t slot = 0; slot < shape.n_slots; slot++) {
            /* Behind the MLP only the last norm sees it, and in the first step not that of the last slot. */
            const int32_t position = first_positions[slot] + (huge == 3 && slot == shape.n_slots - 1);
            const struct sample_result *result = &run.results[shape.n_slots + slot];
            if (result->fault_layer != 2 || result->fault_position != position)
                OPS_FAIL(ops, "slot %d: fault %d at %d, expected 2 at %d", slot, result->fault_layer,
                         result->fault_position, position);
        }
        network_run_free(&run);
    }
}

/* A step's rows in another order, and each of them alone. */
void case_network_rows_alone(struct operations *ops) {
    static const struct network_shape shape = {
        .n_layers = 2, .n_heads = 2, .inner = 256, .n_vocab = 40, .n_slots = 33, .biases = true};
    static const struct step_rows together[] = {{.n_rows = 33}};
    static const struct step_rows reversed[] = {{.n_rows = 33, .is_reversed = true}};
    struct network_run all = network_run(ops, &shape, together, 1, false);
    struct network_run other = network_run(ops, &shape, reversed, 1, false);
    expect_same(ops, &shape, &other, 0, &all, 0, "reversed");
    network_run_free(&other);
    const int32_t stride = ops->is_small ? 6 : 1;
    struct step_rows alone[N_POSITIONS];
    int32_t n_alone = 0;
    for (int32_t slot = 0; slot < N_POSITIONS; slot += stride)
        alone[n_alone++] = (struct step_rows){.n_rows = 1, .first = slot};
    struct network_run each = network_run(ops, &shape, alone, n_alone, false);
    for (int32_t i = 0; i < n_alone; i++) {
        const int32_t slot = alone[i].first;
        char name[64];
        snprintf(name, sizeof name, "slot %d alone: logits", slot);
        ops_expect_equal(ops, each.logits + (i * shape.n_slots + slot) * shape.n_vocab,
                         all.logits + slot * shape.n_vocab, shape.n_vocab, name);
    }
    network_run_free(&each);
    network_run_free(&all);
}
