/* sample: from raw logits to a token, one entry per thread. Source of the last step: the Gumbel-max trick
 * (Gumbel, 1954; Maddison, Tarlow and Minka, "A* sampling", NIPS 2014), which draws from softmax(x) as
 * argmax(x + g) with independent standard Gumbel g, so a token's number depends on nothing but (key,
 * position, id).
 *
 * With l the logits after penalties, L their largest and t the temperature, tokens are ranked by l (ties:
 * lowest id) and weigh w = exp((l - L) / t). Instead of sorting a vocabulary, a bound that the survivors are
 * known to meet gathers few candidates, and selection among them is exact.
 *
 *     top_k   the k-th largest of the maxima of blocks of 64 is a lower bound of the k-th largest value
 *     top_p   values whose weights sum to at most (1 - top_p) of all weights can be left out
 *     min_p   is itself a bound */
#include <float.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "kernels/cpu/context.h"
#include "kernels/cpu/select.h"

void cpu_note_fault(struct backend_context *context, int32_t slot, int32_t position, int32_t layer) {
    uint64_t fault = (uint64_t)(uint32_t)position << 32 | (uint32_t)layer;
    _Atomic uint64_t *noted = &context->faults[slot];
    uint64_t old = atomic_load(noted);
    while (fault < old && !atomic_compare_exchange_weak(noted, &old, fault))
        continue;
}

/* One entry on its way. */
struct draw {
    struct backend_context *context;
    const struct cpu_isa *isa;
    struct sample_scratch *scratch;
    const struct slot_sampling *sampling;
    const float *raw;    /* [n] */
    const float *logits; /* [n] after penalties */
    int64_t n;
    float *maxima; /* [n_blocks] of logits, permuted by use */
    int64_t n_blocks;
    float largest; /* of logits */
    float factor;  /* 1 / temperature */
};

static float largest_of(const float *values, int64_t n) {
    float largest = values[0];
    for (int64_t i = 1; i < n; i++)
        largest = values[i] > largest ? values[i] : largest;
    return largest;
}

/* The lowest id whose value is the row's largest. */
static int32_t first_largest(const float *values, int64_t n, float largest) {
    for (int64_t i = 0; i < n; i++) {
        if (values[i] == largest)
            return (int32_t)i;
    }
    return (int32_t)(n - 1);
}

/* ---- penalties ---- */

static bool has_penalties(const struct slot_sampling *sampling) {
    return sampling->repetition_penalty != 1.0f || sampling->presence_penalty != 0.0f ||
           sampling->frequency_penalty != 0.0f;
}

/* Repetition (Keskar and others, "CTRL", 2019) for tokens of prompt or output; presence and frequency for
 * tokens of the output. */
static void apply_penalties(const float *raw, const uint32_t *counts, int64_t n,
                            const struct slot_sampling *sampling, float *out) {
    for (int64_t i = 0; i < n; i++) {
        float x = raw[i];
        if (counts[i]) {
            uint32_t in_output = counts[i] & ~TOKEN_IN_PROMPT;
            x = x > 0.0f ? x / sampling->repetition_penalty : x * sampling->repetition_penalty;
            x -= sampling->frequency_penalty * (float)in_output;
            if (in_output)
                x -= sampling->presence_penalty;
        }
        out[i] = x;
    }
}

/* ---- survivors of top_k, top_p, min_p ---- */

/* All tokens whose logit is at least bound. */
static struct candidates gather(const struct draw *draw, float bound) {
    struct candidates c = {.ids = draw->scratch->ids, .values = draw->scratch->values};
    c.n = draw->isa->sample_gather(draw->logits, draw->n, bound, c.ids, c.values);
    return c;
}

/* The k best. The maxima of draw are permuted. */
static struct candidates best_k(const struct draw *draw, const float *values, int64_t k) {
    float bound = k <= draw->n_blocks ? select_kth_largest(draw->maxima, draw->n_blocks, k) : -FLT_MAX;
    struct draw of_values = *draw;
    of_values.logits = values;
    struct candidates c = gather(&of_values, bound);
    candidates_keep_best(&c, k);
    return c;
}

static void weigh(const struct draw *draw, struct candidates *c) {
    c->weights = draw->scratch->weights;
    draw->isa->sample_exp(c->values, c->n, draw->largest, draw->factor, c->weights);
}

static double total_weight(const struct candidates *c) {
    double total = 0.0;
    for (int64_t i = 0; i < c->n; i++)
        total += c->weights[i];
    return total;
}

static struct candidates survivors(const struct draw *draw) {
    const struct slot_sampling *sampling = draw->sampling;
    bool top_k = sampling->top_k > 0 && sampling->top_k < draw->n;
    bool top_p = sampling->top_p < 1.0f;
    /* A tenth of a nat is far more than the rounding of these bounds. */
    const float margin = 0.1f;
    struct candidates c;
    double total = 0.0;
    if (top_k) {
        c = best_k(draw, draw->logits, sampling->top_k);
        weigh(draw, &c);
        total = total_weight(&c);
    } else if (top_p) {
        total = draw->isa->sample_exp_sum(draw->logits, draw->n, draw->largest, draw->factor);
        float rest = (float)((1.0 - sampling->top_p) * total / (double)draw->n);
        float bound =
            (draw->isa->log(rest > FLT_MIN ? rest : FLT_MIN) - margin) / draw->factor + draw->largest;
        c = gather(draw, bound < draw->largest ? bound : draw->largest);
        weigh(draw, &c);
    } else {
        float bound =
            (draw->isa->log(sampling->min_p > FLT_MIN ? sampling->min_p : FLT_MIN) - margin) / draw->factor +
            draw->largest;
        c = gather(draw, bound < draw->largest ? bound : draw->largest);
        weigh(draw, &c);
    }
    if (top_p)
        candidates_keep_mass(&c, (double)sampling->top_p * total);
    if (sampling->min_p > 0.0f) {
        int64_t kept = 0;
        for (int64_t i = 0; i < c.n; i++) {
            if (c.weights[i] >= sampling->min_p) { /* the best token weighs 1 */
                c.ids[kept] = c.ids[i];
                c.values[kept++] = c.values[i];
            }
        }
        c.n = kept;
    }
    return c;
}

static int32_t choose(const struct draw *draw, int32_t position) {
    const struct slot_sampling *sampling = draw->sampling;
    if (sampling->temperature <= 0.0f)
        return first_largest(draw->logits, draw->n, draw->largest);
    bool restricted = (sampling->top_k > 0 && sampling->top_k < draw->n) || sampling->top_p < 1.0f ||
                      sampling->min_p > 0.0f;
    struct candidates c = {.values = (float *)draw->logits, .n = draw->n};
    if (restricted)
        c = survivors(draw);
    if (c.n < 1) /* min_p above 1 */
        return first_largest(draw->logits, draw->n, draw->largest);
    return draw->isa->sample_gumbel(c.values, c.ids, c.n, draw->largest, draw->factor, sampling->key,
                                    (uint32_t)position);
}

/* ---- log-probabilities ---- */

/* The k best of the raw logits. The maxima of draw are those of raw, and permuted. */
static void write_top(const struct draw *draw, float log_sum, int32_t k, struct sample_top *top) {
    struct candidates c = {0};
    if (k > 0) {
        c = best_k(draw, draw->raw, k < draw->n ? k : draw->n);
        candidates_sort(&c);
    }
    for (int32_t i = 0; i < MAX_LOGPROBS; i++) {
        top->token[i] = i < c.n ? c.ids[i] : -1;
        top->logprob[i] = i < c.n ? c.values[i] - log_sum : -INFINITY;
    }
}

/* ---- the operation ---- */

static void sample_entry(struct backend_context *context, const float *raw, int32_t entry, int thread) {
    const struct batch *batch = &context->batch;
    int32_t slot = batch->sample_slot[entry];
    int32_t row_position = batch->position[batch->sample_row[entry]];
    struct sample_scratch *scratch = &context->scratch[thread];
    struct sample_result *result = &context->results[entry];
    *result = (struct sample_result){.fault_layer = -1};
    int32_t target = batch->sample_target ? batch->sample_target[entry] : -1;
    bool is_scored = target >= 0;
    int64_t n = context->limits.n_vocab;
    struct draw draw = {
        .context = context,
        .isa = context->isa,
        .scratch = scratch,
        .sampling = &context->sampling[slot],
        .raw = raw,
        .logits = raw,
        .n = n,
        .n_blocks = (n + LOGIT_BLOCK - 1) / LOGIT_BLOCK,
        .maxima = scratch->maxima,
    };
    if (slot == context->limits.n_slots)
        return;
    if (!context->isa->sample_block_maxima(raw, n, draw.maxima))
        cpu_note_fault(context, slot, row_position, context->limits.n_layers + 1);
    /* A prompt's rows note their fault in the slot that they were computed in; its other samples see it here.
     */
    uint64_t of_row = context->faults[batch->slot[batch->sample_row[entry]]];
    if (of_row != NO_FAULT)
        cpu_note_fault(context, slot, (int32_t)(of_row >> 32), (int32_t)(uint32_t)of_row);
    uint64_t fault = context->faults[slot]; /* once: other entries of the slot may note theirs meanwhile */
    if (fault != NO_FAULT) {
        result->fault_layer = (int32_t)(uint32_t)fault;
        result->fault_position = (int32_t)(fault >> 32);
        if (!is_scored)
            context->last_token[slot] = 0;
        return;
    }

    const struct slot_sampling *sampling = draw.sampling;
    draw.largest = largest_of(draw.maxima, draw.n_blocks);
    float log_sum = 0.0f;
    if (is_scored || sampling->n_logprobs >= 0) {
        double sum = context->isa->sample_exp_sum(raw, n, draw.largest, 1.0f);
        log_sum = draw.largest + context->isa->log((float)sum);
        if (batch->want_logprobs && !is_scored) {
            struct draw of_raw = draw;
            of_raw.maxima = draw.maxima + draw.n_blocks;
            memcpy(of_raw.maxima, draw.maxima, (size_t)draw.n_blocks * sizeof *draw.maxima);
            write_top(&of_raw, log_sum, sampling->n_logprobs, &context->top[entry]);
        }
    }
    if (is_scored) {
        result->token = target;
        result->logprob = raw[target] - log_sum;
        return;
    }
    uint32_t *counts = context->token_counts + (int64_t)slot * n;
    if (has_penalties(sampling)) {
        apply_penalties(raw, counts, n, sampling, scratch->logits);
        draw.logits = scratch->logits;
        context->isa->sample_block_maxima(draw.logits, n, draw.maxima);
        draw.largest = largest_of(draw.maxima, draw.n_blocks);
    }
    draw.factor = sampling->temperature > 0.0f ? 1.0f / sampling->temperature : 1.0f;
    draw.factor = draw.factor < FLT_MAX ? draw.factor : FLT_MAX;
    result->token = choose(&draw, row_position + 1);
    result->logprob = raw[result->token] - log_sum;
    context->last_token[slot] = result->token;
    counts[result->token]++;
}

/* A call, for the threads: one entry is one task. */
struct sample_call {
    struct backend_context *context;
    const struct sample_args *args;
};

static void sample_task(void *argument, int64_t task, int thread) {
    const struct sample_call *call = argument;
    const float *logits = (const float *)call->args->logits->data + task * call->context->limits.n_vocab;
    sample_entry(call->context, logits, call->args->first_sample + (int32_t)task, thread);
}

enum status cpu_sample(struct backend_context *context, const struct sample_args *args) {
    const struct batch *batch = &context->batch;
    RETURN_IF(!context->memory, STATUS_INTERNAL, "sample: called before state_init");
    int64_t n_vocab = context->limits.n_vocab;
    RETURN_IF(args->first_sample < 0 || args->n < 0 || args->first_sample > batch->n_samples - args->n,
              STATUS_INTERNAL, "sample: entries [%d, %d) of a step that has %d", args->first_sample,
              args->first_sample + args->n, batch->n_samples);
    TRY(cpu_tensor_check(args->logits, "sample", "logits", TENSOR_ROWS, DTYPE_FLOAT32, args->n, n_vocab));
    struct sample_call call = {context, args};
    pool_run(context->pool, args->n, sample_task, &call);
    return STATUS_OK;
}
