/* Cases for values that are not finite: what they cost, and what is said of them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/functional/operations_sampler.h"

static void expect_fault(struct operations *ops, const struct sample_result *result, int32_t layer,
                         int32_t position, const char *what) {
    if (result->fault_layer != layer || (layer >= 0 && result->fault_position != position))
        OPS_FAIL(ops, "%s: fault at layer %d, position %d; expected layer %d, position %d", what,
                 result->fault_layer, result->fault_position, layer, position);
}

/* NaN and infinity in a row's hidden state or logits cost that row's slot alone, and name the first place. */
void case_faults(struct operations *ops) {
    enum { SLOTS = 6, VOCAB = 70, EMBD = 48 };
    struct sampler sampler;
    sampler_init(&sampler, ops, SLOTS, VOCAB);
    struct backend *backend = &ops->backend;
    float weight[EMBD], hidden[SLOTS * EMBD], logits[SLOTS * VOCAB];
    for (int i = 0; i < EMBD; i++)
        weight[i] = 1.0f;
    for (int i = 0; i < SLOTS * EMBD; i++)
        hidden[i] = ops_uniform(ops, -1.0f, 1.0f);
    for (int i = 0; i < SLOTS * VOCAB; i++)
        logits[i] = ops_uniform(ops, -1.0f, 1.0f);
    struct tensor *hidden_tensor = ops_rows(ops, DTYPE_FLOAT32, SLOTS, EMBD, hidden);
    struct tensor *out = ops_junk(ops, DTYPE_FLOAT32, SLOTS, EMBD);
    struct norm_args norm = {
        .hidden = hidden_tensor,
        .weight = ops_vector(ops, EMBD, weight),
        .out = out,
        .epsilon = 1e-5f,
        .site = 2,
    };
    for (int32_t s = 0; s < SLOTS; s++) {
        struct slot_sampling sampling = ops_sampling((uint64_t)s);
        sampling.temperature = s % 2 ? 1.0f : 0.0f;
        sampler_start(&sampler, s, sampling, NULL, 0);
        sampler.position[s] = 10 + s;
    }
    int32_t row[SLOTS] = {0, 1, 2, 3, 4, 5};
    struct batch batch = {
        .n_rows = SLOTS,
        .n_decode = SLOTS,
        .n_samples = SLOTS,
        .token = sampler.token,
        .position = sampler.position,
        .slot = sampler.slot,
        .sample_row = row,
        .sample_slot = sampler.slot,
    };
    float bad_hidden[SLOTS * EMBD], bad_logits[SLOTS * VOCAB];
    memcpy(bad_hidden, hidden, sizeof hidden);
    memcpy(bad_logits, logits, sizeof logits);
    bad_hidden[1 * EMBD + 47] = NAN;
    bad_hidden[2 * EMBD] = INFINITY;
    bad_logits[3 * VOCAB + 69] = NAN;
    bad_logits[4 * VOCAB + 16] = -INFINITY;
    bad_logits[1 * VOCAB] = NAN;

    ops_step_begin(ops, &batch);
    ops_write(ops, hidden_tensor, DTYPE_FLOAT32, SLOTS, EMBD, bad_hidden);
    OPS_OK(ops, backend->norm(backend->context, &norm));
    /* A later layer sees it too, and an earlier one of another slot: the first stays. */
    norm.site = 3;
    OPS_OK(ops, backend->norm(backend->context, &norm));
    ops_write(ops, sampler.logits, DTYPE_FLOAT32, SLOTS, VOCAB, bad_logits);
    struct sample_args args = {.logits = sampler.logits, .n = SLOTS};
    OPS_OK(ops, backend->sample(backend->context, &args));
    struct sample_result results[SLOTS];
    ops_step_end(ops, &batch, results, NULL);
    expect_fault(ops, &results[0], -1, 0, "clean slot");
    expect_fault(ops, &results[1], 2, 11, "NaN in the hidden state");
    expect_fault(ops, &results[2], 2, 12, "infinity in the hidden state");
    expect_fault(ops, &results[3], 4, 13, "NaN in the logits");
    expect_fault(ops, &results[4], 4, 14, "-infinity in the logits");
    expect_fault(ops, &results[5], -1, 0, "clean slot");
    float *normed = ops_read(ops, out, DTYPE_FLOAT32, SLOTS, EMBD);
    for (int32_t s = 0; s < SLOTS; s++) {
        for (int i = 0; s != 1 && s != 2 && i < EMBD; i++) {
            if (!isfinite(normed[s * EMBD + i]))
                OPS_FAIL(ops, "the NaN of a row is in row %d", s);
        }
    }
    free(normed);

    /* A later step is clean, and the first fault stays; a slot that starts again is clean. */
    sampler_start(&sampler, 1, ops_sampling(1), NULL, 0);
    for (int32_t s = 0; s < SLOTS; s++)
        sampler.position[s]++;
    ops_step_begin(ops, &batch);
    ops_write(ops, hidden_tensor, DTYPE_FLOAT32, SLOTS, EMBD, hidden);
    norm.site = 0;
    OPS_OK(ops, backend->norm(backend->context, &norm));
    ops_write(ops, sampler.logits, DTYPE_FLOAT32, SLOTS, VOCAB, logits);
    OPS_OK(ops, backend->sample(backend->context, &args));
    ops_step_end(ops, &batch, results, NULL);
    expect_fault(ops, &results[1], -1, 0, "slot that starts again");
    expect_fault(ops, &results[2], 2, 12, "slot with an old fault");
    expect_fault(ops, &results[5], -1, 0, "clean slot");

    /* Norm of sampled rows names the row's position, and an earlier position wins over an earlier layer. */
    for (int32_t s = 0; s < SLOTS; s++)
        sampler.position[s] = s == 5 ? 3 : 40;
    bad_hidden[5 * EMBD + 1] = NAN;
    ops_step_begin(ops, &batch);
    ops_write(ops, hidden_tensor, DTYPE_FLOAT32, SLOTS, EMBD, bad_hidden);
    norm.site = 3;
    norm.sampled_rows = true;
    norm.first_sample = 4;
    norm.n = 2;
    OPS_OK(ops, backend->norm(backend->context, &norm));
    OPS_OK(ops, backend->sample(backend->context, &args));
    ops_step_end(ops, &batch, results, NULL);
    expect_fault(ops, &results[4], 4, 14, "slot with an old fault");
    expect_fault(ops, &results[5], 3, 3, "NaN in a sampled row");
    expect_fault(ops, &results[1], -1, 0, "row that the norm did not read");

    /* Samples of one prompt read the row of the slot that computed it, and share its fault. */
    row[0] = 2;
    ops_step_begin(ops, &batch);
    ops_write(ops, sampler.logits, DTYPE_FLOAT32, SLOTS, VOCAB, logits);
    OPS_OK(ops, backend->sample(backend->context, &args));
    ops_step_end(ops, &batch, results, NULL);
    expect_fault(ops, &results[0], 2, 12, "sample of a row with a fault");
    expect_fault(ops, &results[1], -1, 0, "sample of a clean row");
    sampler_free(&sampler);
}

/* Values that are not finite anywhere in a row that several blocks look after; a fault that its row's slot
 * brings along. */
void case_faults_large_vocabulary(struct operations *ops) {
    enum { SLOTS = 5, VOCAB = 40001 };
    struct sampler sampler;
    sampler_init(&sampler, ops, SLOTS, VOCAB);
    float *logits = ops_alloc(ops, (size_t)SLOTS * VOCAB, sizeof *logits);
    for (int32_t i = 0; i < SLOTS * VOCAB; i++)
        logits[i] = ops_uniform(ops, -1.0f, 1.0f);
    logits[1 * VOCAB] = NAN;
    logits[2 * VOCAB + VOCAB - 1] = INFINITY;
    logits[3 * VOCAB + VOCAB / 2] = -INFINITY;
    for (int32_t s = 0; s < SLOTS; s++) {
        struct slot_sampling sampling = ops_sampling((uint64_t)s);
        sampling.top_k = s == 4 ? 50 : 0;
        sampler_start(&sampler, s, sampling, NULL, 0);
        sampler.position[s] = 20 + s;
    }
    struct sample_result results[SLOTS];
    sampler_step(&sampler, SLOTS, logits, false, results, NULL);
    expect_fault(ops, &results[0], -1, 0, "clean slot");
    expect_fault(ops, &results[1], 4, 21, "NaN as the first logit");
    expect_fault(ops, &results[2], 4, 22, "infinity as the last logit");
    expect_fault(ops, &results[3], 4, 23, "-infinity in the middle");
    expect_fault(ops, &results[4], -1, 0, "clean slot");
    /* Clean logits: the fault stays. */
    for (int32_t s = 0; s < SLOTS; s++)
        memmove(logits + s * VOCAB, logits, VOCAB * sizeof *logits);
    sampler_step(&sampler, SLOTS, logits, false, results, NULL);
    expect_fault(ops, &results[1], 4, 21, "slot with an old fault");
    expect_fault(ops, &results[4], -1, 0, "clean slot");
    free(logits);
    sampler_free(&sampler);
}
