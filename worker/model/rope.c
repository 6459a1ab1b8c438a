#include "worker/model/rope.h"

#include <math.h>
#include <stdlib.h>

#include "worker/base/arith.h"
#include "worker/base/parallel.h"

enum {
    TASK_POSITIONS = 512,
    SERIAL_ANGLES = 1 << 16, /* some milliseconds; threads would save less than they take */
    MAX_PAIRS = 512          /* model_config_load lets no wider heads in */
};

/* Yarn: how much of pair i keeps its frequency: 1 up to the pair that turns fast_turns times within the
 * original context, 0 from the one that turns slow_turns times, linear between. */
static double yarn_share(const struct rope_config *config, int32_t head_dim, int32_t pair) {
    double per_turn = head_dim / (2 * log(config->theta));
    double low = per_turn * log(config->original_positions / (config->fast_turns * 2 * M_PI));
    double high = per_turn * log(config->original_positions / (config->slow_turns * 2 * M_PI));
    if (!config->keeps_fractions) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, head_dim - 1);
    if (low == high)
        high += 0.001; /* as the reference does against a division by zero */
    double ramp = (pair - low) / (high - low);
    return 1 - (ramp < 0 ? 0 : ramp > 1 ? 1 : ramp);
}

double rope_amplitude(const struct rope_config *config) {
    return config->kind == ROPE_YARN ? config->amplitude : 1;
}

double rope_frequency(const struct rope_config *config, int32_t head_dim, int32_t pair) {
    double frequency = pow(config->theta, -2.0 * pair / head_dim);
    if (config->kind == ROPE_LINEAR)
        return frequency / config->factor;
    if (config->kind == ROPE_YARN) {
        double share = yarn_share(config, head_dim, pair);
        return (1 - share) * frequency / config->factor + share * frequency;
    }
    if (config->kind != ROPE_LLAMA3)
        return frequency;
    /* 0 for pairs that turn low_frequency times or less within the original context, 1 from high_frequency
     * times on. */
    double turns = config->original_positions * frequency / (2 * M_PI);
    double share = (turns - config->low_frequency) / (config->high_frequency - config->low_frequency);
    share = share < 0 ? 0 : share > 1 ? 1 : share;
    return (1 - share) * frequency / config->factor + share * frequency;
}

/* A table, for the threads: a task is TASK_POSITIONS rows. */
struct rope_job {
    double frequency[MAX_PAIRS];
    double amplitude;
    int32_t head_dim;
    int32_t n_positions;
    float *table;
};

static void fill_rows(void *argument, int64_t task) {
    const struct rope_job *job = argument;
    int64_t first = task * TASK_POSITIONS, end = first + TASK_POSITIONS;
    int32_t half = job->head_dim / 2;
    for (int64_t position = first; position < end && position < job->n_positions; position++) {
        float *row = job->table + position * job->head_dim;
        for (int32_t i = 0; i < half; i++) {
            double angle = (double)position * job->frequency[i];
            row[i] = (float)(job->amplitude * cos(angle));
            row[half + i] = (float)(job->amplitude * sin(angle));
        }
    }
}

void rope_fill(const struct rope_config *config, int32_t head_dim, int32_t n_positions, float *table) {
    struct rope_job job = {.amplitude = rope_amplitude(config),
                           .head_dim = head_dim,
                           .n_positions = n_positions,
                           .table = table};
    for (int32_t i = 0; i < head_dim / 2 && i < MAX_PAIRS; i++)
        job.frequency[i] = rope_frequency(config, head_dim, i);
    bool threads = (int64_t)n_positions * (head_dim / 2) > SERIAL_ANGLES;
    parallel_run(ceil_divide(n_positions, TASK_POSITIONS), threads, fill_rows, &job);
}
