#include "tests/functional/operations_rig.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXTRA_ROWS = 2, LAYER = 1, LAYERS = 2 };

const struct rig_variant plain_attention = {0};

static const float norm_epsilon = 1e-5f;

float *rig_step(struct rig *rig, const struct part *parts, int n_parts, const float *values) {
    struct operations *ops = rig->ops;
    struct backend *backend = &ops->backend;
    int32_t n_rows = 0, n_decode = 0, n_segments = 0;
    int32_t *token = ops_alloc(ops, (size_t)rig->max_rows, sizeof *token);
    int32_t *position = ops_alloc(ops, (size_t)rig->max_rows, sizeof *position);
    int32_t *slot = ops_alloc(ops, (size_t)rig->max_rows, sizeof *slot);
    struct segment *segments = ops_alloc(ops, (size_t)n_parts, sizeof *segments);
    float *rows = ops_alloc(ops, (size_t)(rig->max_rows * rig->cols), sizeof *rows);
    for (int i = 0; i < n_parts; i++) {
        const struct part *part = &parts[i];
        if (part->decode)
            n_decode++;
        else
            segments[n_segments++] = (struct segment){n_rows, part->n_rows, part->slot, part->position};
        for (int32_t r = 0; r < part->n_rows; r++, n_rows++) {
            position[n_rows] = part->position + r;
            slot[n_rows] = part->slot;
            if (part->slot < rig->n_slots)
                memcpy(rows + (int64_t)n_rows * rig->cols,
                       rig->qkv[part->slot] + (int64_t)(part->position + r) * rig->cols,
                       (size_t)rig->cols * sizeof *rows);
        }
    }
    ops_write(ops, rig->in, rig->model.dtype, n_rows, rig->cols, values ? values : rows);
    int64_t all_rows = rig->max_rows + EXTRA_ROWS;
    float *junk = ops_alloc(ops, (size_t)(all_rows * rig->out_cols), sizeof *junk);
    for (int64_t i = 0; i < all_rows * rig->out_cols; i++)
        junk[i] = ops_junk_value;
    ops_write(ops, rig->out, rig->model.dtype, all_rows, rig->out_cols, junk);
    struct batch batch = {
        .n_rows = n_rows,
        .n_decode = n_decode,
        .n_segments = n_segments,
        .token = token,
        .position = position,
        .slot = slot,
        .segments = segments,
    };
    struct attention_args args = {.qkv = rig->in,
                                  .out = rig->out,
                                  .rope = rig->rope,
                                  .q_norm = rig->norm_vector[0],
                                  .k_norm = rig->norm_vector[1],
                                  .norm_epsilon = norm_epsilon,
                                  .layer = LAYER,
                                  .scale = rig->scale,
                                  .softcap = rig->variant.softcap,
                                  .window = rig->variant.window};
    ops_step_begin(ops, &batch);
    if (n_decode > 0)
        OPS_OK(ops, backend->attention_decode(backend->context, &args));
    if (n_segments > 0)
        OPS_OK(ops, backend->attention_prefill(backend->context, &args));
    ops_step_end(ops, &batch, NULL, NULL);
    float *got = ops_read(ops, rig->out, rig->model.dtype, all_rows, rig->out_cols);
    ops_expect_junk(ops, got, n_rows, all_rows, rig->out_cols, "attention");
    free(token);
    free(position);
    free(slot);
    free(segments);
    free(rows);
    free(junk);
    return got;
}

/* All slots start (again), with pages in a new random order. */
static void rig_begin_slots(struct rig *rig) {
    struct operations *ops = rig->ops;
    int32_t n = rig->n_slots * rig->pages_per_slot;
    for (int32_t i = 0; i < n; i++)
        rig->pages[i] = i + 1;
    for (int32_t i = n - 1; i > 0; i--) {
        int32_t j = ops_below(ops, i + 1), page = rig->pages[i];
        rig->pages[i] = rig->pages[j];
        rig->pages[j] = page;
    }
    struct slot_start *starts = ops_alloc(ops, (size_t)rig->n_slots, sizeof *starts);
    for (int32_t s = 0; s < rig->n_slots; s++)
        starts[s] = (struct slot_start){
            .slot = s,
            .sampling = ops_sampling(0),
            .pages = rig->pages + s * rig->pages_per_slot,
            .n_pages = rig->pages_per_slot,
        };
    ops_slots_begin(ops, starts, rig->n_slots);
    free(starts);
}

void rig_poison(struct rig *rig) {
    struct operations *ops = rig->ops;
    float *nan = ops_alloc(ops, (size_t)(PAGE_TOKENS * rig->cols), sizeof *nan);
    for (int32_t i = 0; i < PAGE_TOKENS * rig->cols; i++)
        nan[i] = NAN;
    rig_begin_slots(rig);
    struct part page = {0, 0, PAGE_TOKENS, false};
    free(rig_step(rig, &page, 1, nan));
    int32_t n = rig->n_slots * rig->pages_per_slot - 1;
    int32_t(*pairs)[2] = ops_alloc(ops, (size_t)n, sizeof *pairs);
    for (int32_t i = 0; i < n; i++) {
        pairs[i][0] = rig->pages[0];
        pairs[i][1] = rig->pages[1 + i];
    }
    OPS_OK(ops, ops->backend.pages_copy(ops->backend.context, (const int32_t(*)[2])pairs, n));
    free(pairs);
    free(nan);
    rig_begin_slots(rig);
}

/* Angles from a turn per position to a turn in ten thousand, as models have them. */
static void rig_make_angles(struct rig *rig) {
    int32_t half = rig->model.head_dim / 2;
    rig->angles = ops_alloc(rig->ops, (size_t)(rig->max_positions * rig->model.head_dim), sizeof(float));
    for (int32_t p = 0; p < rig->max_positions; p++) {
        for (int32_t i = 0; i < half; i++) {
            double angle = p * pow(10000.0, -(double)i / half);
            rig->angles[p * rig->model.head_dim + i] = (float)cos(angle);
            rig->angles[p * rig->model.head_dim + half + i] = (float)sin(angle);
        }
    }
    rig->rope = ops_rows(rig->ops, DTYPE_FLOAT32, rig->max_positions, rig->model.head_dim, rig->angles);
}

static void rig_make_norms(struct rig *rig) {
    for (int side = 0; side < 2; side++) {
        rig->norm[side] = ops_alloc(rig->ops, (size_t)rig->model.head_dim, sizeof(float));
        for (int32_t d = 0; d < rig->model.head_dim; d++)
            rig->norm[side][d] = ops_uniform(rig->ops, 0.5f, 1.5f);
        rig->norm_vector[side] = ops_vector(rig->ops, rig->model.head_dim, rig->norm[side]);
    }
}

/* x [head_dim] is divided by the root of its mean square, and multiplied by weight. */
static void normalise(double *x, const float *weight, int32_t n) {
    double squares = 0.0;
    for (int32_t d = 0; d < n; d++)
        squares += x[d] * x[d];
    double factor = 1.0 / sqrt(squares / n + (double)norm_epsilon);
    for (int32_t d = 0; d < n; d++)
        x[d] *= factor * weight[d];
}

static void rotate(double *x, const float *cosine, int32_t n) {
    const int32_t half = n / 2;
    const float *sine = cosine + half;
    for (int32_t i = 0; i < half; i++) {
        double low = x[i], high = x[i + half];
        x[i] = low * cosine[i] - high * sine[i];
        x[i + half] = high * cosine[i] + low * sine[i];
    }
}

/* qkv as attention uses it: queries and keys normalised, rotated and rounded, values as they are. */
static void rig_prepare(struct rig *rig, int32_t slot) {
    const struct rig_model *m = &rig->model;
    int64_t n = (int64_t)rig->max_positions * rig->cols;
    double *head_values = ops_alloc(rig->ops, (size_t)m->head_dim, sizeof *head_values);
    rig->prepared[slot] = ops_alloc(rig->ops, (size_t)n, sizeof(float));
    memcpy(rig->prepared[slot], rig->qkv[slot], (size_t)n * sizeof(float));
    for (int32_t p = 0; p < rig->max_positions; p++) {
        for (int32_t head = 0; head < m->n_heads + m->n_kv_heads; head++) {
            float *x = rig->prepared[slot] + (int64_t)p * rig->cols + head * m->head_dim;
            for (int32_t d = 0; d < m->head_dim; d++)
                head_values[d] = x[d];
            if (rig->variant.norms)
                normalise(head_values, rig->norm[head >= m->n_heads], m->head_dim);
            if (rig->angles)
                rotate(head_values, rig->angles + (int64_t)p * m->head_dim, m->head_dim);
            for (int32_t d = 0; d < m->head_dim; d++)
                x[d] = ops_round((float)head_values[d], m->dtype);
        }
    }
    free(head_values);
}

bool rig_init(struct rig *rig, struct operations *ops, struct rig_model model,
              const struct rig_variant *variant, int32_t n_slots, int32_t max_positions, int32_t max_rows) {
    *rig = (struct rig){
        .ops = ops,
        .model = model,
        .variant = *variant,
        .n_slots = n_slots,
        .max_positions = max_positions,
        .max_rows = max_rows,
        .cols = (model.n_heads + 2 * model.n_kv_heads) * model.head_dim,
        .out_cols = model.n_heads * model.head_dim,
        .scale = 1.0f / sqrtf((float)model.head_dim),
        .pages_per_slot = (max_positions + PAGE_TOKENS - 1) / PAGE_TOKENS,
    };
    ops_open(ops);
    struct state_limits limits = {
        .n_slots = n_slots,
        .n_pages = n_slots * rig->pages_per_slot + 1,
        .max_pages_per_slot = rig->pages_per_slot,
        .max_rows = max_rows,
        .max_segments = 64,
        .max_samples = n_slots,
        .n_layers = LAYERS,
        .n_heads = model.n_heads,
        .n_kv_heads = model.n_kv_heads,
        .head_dim = model.head_dim,
        .n_vocab = 10,
        .kv_dtype = model.kv_dtype,
    };
    if (ops_state(ops, &limits) != STATUS_OK) {
        if (model.head_dim == 16 || model.head_dim == 64)
            OPS_FAIL(ops, "state_init: %s", status_message());
        print_message("refused by name: %s\n", status_message());
        return false;
    }
    rig->in = ops_junk(ops, model.dtype, max_rows + EXTRA_ROWS, rig->cols);
    rig->out = ops_junk(ops, model.dtype, max_rows + EXTRA_ROWS, rig->out_cols);
    rig->pages = ops_alloc(ops, (size_t)(n_slots * rig->pages_per_slot), sizeof *rig->pages);
    rig->qkv = ops_alloc(ops, (size_t)n_slots, sizeof *rig->qkv);
    for (int32_t s = 0; s < n_slots; s++) {
        int64_t n = (int64_t)max_positions * rig->cols;
        rig->qkv[s] = ops_alloc(ops, (size_t)n, sizeof(float));
        for (int64_t i = 0; i < n; i++)
            rig->qkv[s][i] = ops_round(ops_uniform(ops, -2.0f, 2.0f), model.dtype);
    }
    rig->prepared = rig->qkv;
    if (model.rope)
        rig_make_angles(rig);
    if (variant->norms)
        rig_make_norms(rig);
    if (model.rope || variant->norms) {
        rig->prepared = ops_alloc(ops, (size_t)n_slots, sizeof *rig->prepared);
        for (int32_t s = 0; s < n_slots; s++)
            rig_prepare(rig, s);
    }
    rig_poison(rig);
    return true;
}

void rig_free(struct rig *rig) {
    for (int32_t s = 0; s < rig->n_slots; s++) {
        if (rig->prepared != rig->qkv)
            free(rig->prepared[s]);
        free(rig->qkv[s]);
    }
    if (rig->prepared != rig->qkv)
        free(rig->prepared);
    free(rig->qkv);
    free(rig->pages);
    free(rig->angles);
    free(rig->norm[0]);
    free(rig->norm[1]);
}

/* ---- against the reference ---- */

void rig_expect_row(const struct rig *rig, int32_t slot, int32_t p, const float *out) {
    const struct rig_model *m = &rig->model;
    const struct rig_variant *variant = &rig->variant;
    const int32_t first = variant->window && p >= variant->window ? p + 1 - variant->window : 0;
    double *weight = ops_alloc(rig->ops, (size_t)p + 1, sizeof *weight);
    double *sum = ops_alloc(rig->ops, (size_t)m->head_dim, sizeof *sum);
    for (int32_t h = 0; h < m->n_heads; h++) {
        int32_t kv_head = h / (m->n_heads / m->n_kv_heads);
        const float *q = rig->prepared[slot] + (int64_t)p * rig->cols + h * m->head_dim;
        double largest = -INFINITY, size = 0.0, total = 0.0;
        for (int32_t j = first; j <= p; j++) {
            const float *k =
                rig->prepared[slot] + (int64_t)j * rig->cols + (m->n_heads + kv_head) * m->head_dim;
            double dot = 0.0;
            for (int32_t d = 0; d < m->head_dim; d++)
                dot += (double)q[d] * ops_round(k[d], m->kv_dtype);
            weight[j] = dot * rig->scale;
            size = fabs(weight[j]) > size ? fabs(weight[j]) : size;
            if (variant->softcap > 0)
                weight[j] = variant->softcap * tanh(weight[j] / variant->softcap);
            largest = weight[j] > largest ? weight[j] : largest;
        }
        memset(sum, 0, (size_t)m->head_dim * sizeof *sum);
        for (int32_t j = first; j <= p; j++) {
            const float *v = rig->qkv[slot] + (int64_t)j * rig->cols +
                             (m->n_heads + m->n_kv_heads + kv_head) * m->head_dim;
            weight[j] = exp(weight[j] - largest);
            total += weight[j];
            for (int32_t d = 0; d < m->head_dim; d++)
                sum[d] += weight[j] * ops_round(v[d], m->kv_dtype);
        }
        for (int32_t d = 0; d < m->head_dim; d++) {
            double expected = sum[d] / total;
            /* The result is a mean of values of at most 2. A score is off by some units of its last place,
             * which is the relative error of its weight; sums over p positions add sqrt(p) roundings. With
             * bfloat16, weights may be rounded to it before they meet the values, and the result is. */
            double tolerance = 2.0 * 0x1p-24 * (16.0 * (size + 1.0) + 4.0 * sqrt(p + 1.0));
            /* A rotated or normalised element may be rounded the other way than here: the least unit of
             * bfloat16, on the few elements that lie that near the middle. */
            if (rig->angles && m->dtype == DTYPE_BFLOAT16)
                tolerance += 0x1p-9 * 2.0 * rig->scale;
            if (variant->norms && m->dtype == DTYPE_BFLOAT16)
                tolerance += 0x1p-7 * 4.0 * rig->scale;
            if (m->dtype == DTYPE_BFLOAT16 || m->kv_dtype == DTYPE_BFLOAT16)
                tolerance += 2.0 * 0x1p-9 * 2.0;
            if (m->dtype == DTYPE_BFLOAT16)
                tolerance += 0x1p-8 * fabs(expected);
            ops_expect_near(rig->ops, out[h * m->head_dim + d], expected, tolerance, "attention", p,
                            h * m->head_dim + d);
        }
    }
    free(weight);
    free(sum);
}
