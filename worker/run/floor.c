#include "worker/run/floor.h"

static double larger(double a, double b) {
    return a > b ? a : b;
}

struct floor floor_of(const struct model_config *config, const struct plan *plan,
                      const struct device_limits *limits) {
    int64_t body, head;
    model_parameter_counts(config, &body, &head);
    double n_full = config->n_layers - model_config_n_sliding(config);
    double heads = n_full * config->n_heads * config->head_dim;
    double kv_bytes = 2.0 * config->n_kv_heads * config->head_dim * (double)dtype_bytes(plan->kv_dtype);
    double taken = (double)plan->weight_bytes + (double)plan->activation_bytes;
    return (struct floor){.limits = *limits,
                          .body = (double)body,
                          .head = (double)head,
                          .bytes_per_parameter = (double)dtype_bytes(plan->dtype),
                          .kv_bytes_per_position = config->n_layers * kv_bytes,
                          .kv_read_bytes = n_full * kv_bytes,
                          .attention_flops = 4 * heads, /* a multiply-add for q.k and one for p.v */
                          .memory_bytes = larger((double)plan->budget_bytes - taken, 0)};
}

static double weight_bytes(const struct floor *floor, bool samples) {
    return (floor->body + (samples ? floor->head : 0)) * floor->bytes_per_parameter;
}

double floor_of_step(const struct floor *floor, const struct step_work *work) {
    double flops = 2 * floor->body * (double)work->n_rows + 2 * floor->head * (double)work->n_samples;
    double attention = floor->attention_flops * (double)work->prompt_positions / floor->limits.flops;
    double kv = floor->kv_read_bytes * (double)work->decode_positions;
    return larger(flops / floor->limits.flops,
                  weight_bytes(floor, work->n_samples > 0) / floor->limits.read_bytes_per_s) +
           attention + kv / floor->limits.read_bytes_per_s;
}

double floor_step_bytes(const struct floor *floor, const struct step_work *work) {
    return weight_bytes(floor, work->n_samples > 0) + floor->kv_read_bytes * (double)work->decode_positions;
}

/* 1 + 2 + ... + n */
static int64_t triangle(int64_t n) {
    return n * (n + 1) / 2;
}

void job_work_add(struct job_work *work, int32_t n_prompt, int32_t n_new) {
    int64_t steps = n_new - 1;
    work->n_sequences++;
    work->prompt_tokens += n_prompt;
    work->decode_rows += steps;
    if (steps > work->longest_decode)
        work->longest_decode = steps;
    work->decode_positions += triangle(n_prompt + steps) - triangle(n_prompt);
    work->prompt_positions += triangle(n_prompt);
}

double floor_best_batch(const struct floor *floor, const struct job_work *work) {
    double n = (double)work->n_sequences;
    if (work->decode_rows == 0)
        return n;
    double positions = (double)work->decode_positions / (double)work->decode_rows;
    double held = floor->memory_bytes / (floor->kv_bytes_per_position * positions);
    return held < 1 ? 1 : held < n ? held : n;
}

double floor_of_job(const struct floor *floor, const struct job_work *work) {
    const struct device_limits *limits = &floor->limits;
    double rows = (double)work->decode_rows;
    double steps = larger(rows / floor_best_batch(floor, work), (double)work->longest_decode);
    double prompt_flops = 2 * floor->body * (double)work->prompt_tokens +
                          2 * floor->head * (double)work->n_sequences +
                          floor->attention_flops * (double)work->prompt_positions;
    double decode_flops = 2 * (floor->body + floor->head) * rows;
    double kv = floor->kv_read_bytes * (double)work->decode_positions;
    double prompts =
        larger(prompt_flops / limits->flops, weight_bytes(floor, true) / limits->read_bytes_per_s);
    return prompts +
           larger(decode_flops / limits->flops,
                  steps * weight_bytes(floor, true) / limits->read_bytes_per_s) +
           kv / limits->read_bytes_per_s;
}
