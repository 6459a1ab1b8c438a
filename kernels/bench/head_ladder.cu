/* The head ladder: rows [n_rows, n_in] bfloat16 to one token a row, over the vocabulary of a 1B model.
 *
 *   apart   logits written by the matmul, read whole by sample
 *   ends    the matmul chooses tokens, or lists groups of logits (kernels/cuda/head.cuh); without sample
 *   chosen  the same, and sample writes the tokens down, or reads the groups that matter
 *
 * Beside the matmul alone, with logits written: what sampling costs is the inverse of the ratio, less 1. Flat
 * logits are those of a model that is unsure, peaked ones of a model that is sure. Both must give the same
 * tokens. A row's best candidate so far is set back before every call, as every step does it. */
#include <algorithm>

#include "kernels/bench/bench.cuh"
#include "kernels/memory_rows.h"

namespace {

enum { N_IN = 2048, N_VOCAB = 128256, MOST_ROWS = 1024, N_SETTINGS = 4 };

const struct {
    const char *name;
    float temperature, top_p, min_p;
    int32_t top_k;
    int32_t every; /* of so many rows one has the filters, the others a temperature alone */
} SETTINGS[N_SETTINGS] = {
    {"greedy", 0, 1, 0, 0, 1},
    {"temperature", 1, 1, 0, 0, 1},
    {"top_k 50 beside", 1, 1, 0, 50, 8},
    {"top_k 50, top_p 0.95, min_p 0.02", 0.8f, 0.95f, 0.02f, 50, 1},
};

struct slot_sampling sampling_of(int setting, int row) {
    const auto &s = SETTINGS[setting];
    const bool filters = row % s.every == 0;
    return {s.temperature, filters ? s.top_p : 1, filters ? s.min_p : 0, filters ? s.top_k : 0, 1, 0, 0, -1,
            (uint64_t)row};
}

enum variant { APART, ENDS, CHOSEN, N_VARIANTS };
const char *const VARIANTS[N_VARIANTS] = {"apart", "ends", "chosen"};

struct rig {
    struct bench own;
    int n_rows;
    struct tensor *weight, *in[2], *logits;
    std::vector<int32_t> sample_row, slot, zero;
};

void rig_open(struct rig *rig, struct bench *bench, int n_rows) {
    rig->own = *bench;
    rig->n_rows = n_rows;
    struct backend_options options = {};
    options.cuda_device = bench->context->device;
    struct backend *backend = &rig->own.backend;
    bench_must(backend_open_cuda(&options, backend));
    struct backend_context *context = rig->own.context = backend->context;
    const int n_entries = N_SETTINGS * n_rows;
    std::vector<uint16_t> weight = bench_random_bfloat16(bench, (size_t)N_VOCAB * N_IN, 0.04f);
    struct memory_rows memory = {weight.data(), N_IN * sizeof(uint16_t)};
    bench_must(backend->weight_new(context, DTYPE_BFLOAT16, N_VOCAB, N_IN, memory_rows_source(&memory),
                                   &rig->weight));
    bench_must(backend->weights_wait(context));
    struct state_limits limits = {};
    limits.n_slots = limits.max_samples = limits.max_rows = n_entries;
    limits.n_pages = 2;
    limits.max_pages_per_slot = MOST_ROWS / PAGE_TOKENS;
    limits.n_layers = limits.n_heads = limits.n_kv_heads = 1;
    limits.max_segments = 1;
    limits.head_dim = 64;
    limits.n_vocab = N_VOCAB;
    limits.kv_dtype = DTYPE_BFLOAT16;
    bench_must(backend->state_init(context, &limits));
    const int32_t page = 1;
    std::vector<struct slot_start> starts(n_entries);
    rig->sample_row.resize(n_entries);
    rig->slot.resize(n_entries);
    rig->zero.resize(n_entries);
    for (int i = 0; i < n_entries; i++) {
        const int setting = i / n_rows, row = i % n_rows;
        starts[i].slot = rig->slot[i] = i;
        starts[i].sampling = sampling_of(setting, row);
        starts[i].pages = &page;
        starts[i].n_pages = 1;
        rig->sample_row[i] = row;
    }
    bench_must(backend->slots_begin(context, starts.data(), n_entries));
    /* Logits of standard deviation 1 and 6: 0.04 sqrt(2048) / 3 times that of the rows. */
    for (int peaked = 0; peaked < 2; peaked++) {
        std::vector<uint16_t> rows =
            bench_random_bfloat16(bench, (size_t)n_rows * N_IN, peaked ? 17.0f : 2.9f);
        bench_must(backend->tensor_new(context, DTYPE_BFLOAT16, n_rows, N_IN, &rig->in[peaked]));
        bench_must(backend->tensor_write(context, rig->in[peaked], n_rows, rows.data()));
    }
    bench_must(backend->tensor_new(context, DTYPE_FLOAT32, n_rows, N_VOCAB, &rig->logits));
}

/* Times a setting in a step of its entries alone. Its tokens go to `tokens`, when there are any. */
double time_setting(struct rig *rig, int setting, int peaked, bool chosen, bool sampled,
                    std::vector<int32_t> *tokens) {
    struct backend *backend = &rig->own.backend;
    struct backend_context *context = rig->own.context;
    const int n = rig->n_rows, first = setting * n;
    struct batch batch = {};
    /* As a prompt: steps that only decode would be recorded. */
    const struct segment segment = {0, n, first, 0};
    batch.n_rows = batch.n_samples = n;
    batch.n_segments = 1;
    batch.segments = &segment;
    batch.token = batch.position = rig->zero.data();
    batch.slot = rig->slot.data() + first;
    batch.sample_row = rig->sample_row.data() + first;
    batch.sample_slot = rig->slot.data() + first;
    bool replayed;
    bench_must(backend->step_begin(context, &batch, &replayed));
    const size_t bytes = (size_t)n * sizeof(struct head_entry);
    struct head_entry *head = context->step.head;
    bench_memory pristine(bytes);
    if (head)
        bench_must(cudaMemcpyAsync(pristine.data, head, bytes, cudaMemcpyDeviceToDevice, context->stream),
                   "copy");
    double us = bench_time(&rig->own, [&](int) {
        if (head) {
            bench_must(cudaMemcpyAsync(head, pristine.data, bytes, cudaMemcpyDeviceToDevice, context->stream),
                       "copy");
            context->chained = false;
        }
        struct matmul_args matmul = {};
        matmul.weight = rig->weight;
        matmul.in = rig->in[peaked];
        matmul.out = rig->logits;
        matmul.n_rows = n;
        matmul.sampled_rows = chosen;
        bench_must(backend->matmul(context, &matmul));
        struct sample_args sample = {};
        sample.logits = rig->logits;
        sample.n = n;
        if (sampled)
            bench_must(backend->sample(context, &sample));
    });
    uint64_t ticket;
    std::vector<struct sample_result> results(n);
    bench_must(backend->step_end(context, &ticket));
    bench_must(backend->step_wait(context, ticket, results.data(), nullptr));
    if (tokens) {
        tokens->clear();
        for (const struct sample_result &result : results)
            tokens->push_back(result.fault_layer == -1 ? result.token : -1);
    }
    return us;
}

void bench_rows(struct bench *bench, int n_rows) {
    struct rig rig;
    rig_open(&rig, bench, n_rows);
    for (int peaked = 0; peaked < 2; peaked++) {
        double alone = time_setting(&rig, 0, peaked, false, false, nullptr);
        for (int setting = 0; setting < N_SETTINGS; setting++) {
            std::vector<int32_t> tokens[N_VARIANTS];
            for (int variant = 0; variant < N_VARIANTS; variant++) {
                bench_row row = {};
                row.us = time_setting(&rig, setting, peaked, variant != APART, variant != ENDS,
                                      variant != ENDS ? &tokens[variant] : nullptr);
                row.operation = "head";
                row.variant = VARIANTS[variant];
                row.shape = std::to_string(n_rows) + "x" + std::to_string(N_VOCAB) +
                            (peaked ? " peaked " : " flat ") + SETTINGS[setting].name;
                row.bytes = ((double)N_VOCAB + n_rows) * N_IN * sizeof(uint16_t);
                row.flops = 2.0 * N_VOCAB * N_IN * n_rows;
                row.baseline_us = alone;
                row.baseline = "matmul alone";
                if (variant != ENDS)
                    for (int i = 0; i < n_rows; i++) /* the error is the number of wrong tokens */
                        row.error += tokens[variant][i] < 0 || tokens[variant][i] != tokens[APART][i];
                bench_report(bench, row);
            }
        }
    }
    rig.own.backend.close(rig.own.context);
}

} // namespace

void bench_head(struct bench *bench) {
    for (int n_rows : {1, 16, 64, 256, 512, (int)MOST_ROWS})
        if (n_rows >= bench->least_rows && n_rows <= bench->most_rows)
            bench_rows(bench, n_rows);
}
