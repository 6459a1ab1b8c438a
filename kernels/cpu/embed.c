/* embed: hidden = scale * token embedding + position embedding. An embedding row is read out of the packed
 * weight: one lane of a panel. */
#include "kernels/cpu/bfloat16.h"
#include "kernels/cpu/context.h"

/* out[i] = scale times row `row` of the table, or out[i] += the row. */
static void read_row(const struct tensor *table, int64_t row, float *out, float scale, bool add) {
    const int64_t lane = row % PANEL_OUTPUTS;
    const char *panel = (const char *)table->data +
                        row / PANEL_OUTPUTS * panel_lines(table->dtype, table->cols) * PANEL_LINE_BYTES;
    if (table->dtype == DTYPE_FLOAT32) {
        const float *from = (const float *)(const void *)panel;
        for (int64_t i = 0; i < table->cols; i++) {
            float x = from[panel_element(DTYPE_FLOAT32, lane, i)];
            out[i] = add ? out[i] + x : scale * x;
        }
    } else {
        const uint16_t *from = (const uint16_t *)(const void *)panel;
        for (int64_t i = 0; i < table->cols; i++) {
            float x = bfloat16_to_float(from[panel_element(DTYPE_BFLOAT16, lane, i)]);
            out[i] = add ? out[i] + x : scale * x;
        }
    }
}

/* Checks what the loop below reads, and clears the faults of sequences that start here. */
static enum status prepare(struct backend_context *context, const struct embed_args *args) {
    const struct batch *batch = &context->batch;
    int64_t n_embd = args->token_embedding->cols;
    TRY(cpu_tensor_check(args->token_embedding, "embed", "token_embedding", TENSOR_WEIGHT, -1, 1, n_embd));
    TRY(cpu_tensor_check(args->hidden, "embed", "hidden", TENSOR_ROWS, DTYPE_FLOAT32, batch->n_rows, n_embd));
    if (args->position_embedding)
        TRY(cpu_tensor_check(args->position_embedding, "embed", "position_embedding", TENSOR_WEIGHT, -1, 1,
                             n_embd));
    for (int32_t r = 0; r < batch->n_rows; r++) {
        int32_t token = batch->token[r] < 0 ? context->last_token[batch->slot[r]] : batch->token[r];
        RETURN_IF(token < 0 || token >= args->token_embedding->rows, STATUS_INTERNAL,
                  "embed: row %d has token %d; the embedding has %lld rows", r, token,
                  (long long)args->token_embedding->rows);
        RETURN_IF(args->position_embedding && batch->position[r] >= args->position_embedding->rows,
                  STATUS_INTERNAL, "embed: row %d has position %d; the model has %lld", r, batch->position[r],
                  (long long)args->position_embedding->rows);
        if (batch->position[r] == 0)
            context->faults[batch->slot[r]] = NO_FAULT;
    }
    return STATUS_OK;
}

/* A call, for the threads. */
struct embed_job {
    const struct backend_context *context;
    const struct embed_args *args;
    int64_t n_tasks;
};

static void embed_rows(void *argument, int64_t task, int thread) {
    (void)thread;
    const struct embed_job *job = argument;
    const struct embed_args *args = job->args;
    const struct batch *batch = &job->context->batch;
    int64_t n_embd = args->token_embedding->cols;
    const float scale = args->scale == 0 ? 1 : args->scale;
    int64_t end = pool_share(batch->n_rows, job->n_tasks, task + 1);
    for (int64_t r = pool_share(batch->n_rows, job->n_tasks, task); r < end; r++) {
        int32_t token = batch->token[r] < 0 ? job->context->last_token[batch->slot[r]] : batch->token[r];
        float *hidden = (float *)args->hidden->data + r * n_embd;
        read_row(args->token_embedding, token, hidden, scale, false);
        if (args->position_embedding)
            read_row(args->position_embedding, batch->position[r], hidden, 1, true);
    }
}

enum status cpu_embed(struct backend_context *context, const struct embed_args *args) {
    TRY(prepare(context, args));
    int64_t n = context->batch.n_rows;
    struct embed_job job = {context, args, context_tasks(context, n, n * args->token_embedding->cols)};
    pool_run(context->pool, job.n_tasks, embed_rows, &job);
    return STATUS_OK;
}
