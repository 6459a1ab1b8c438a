/* step: from the host's ragged arrays to their results.
 *
 * step_begin packs the batch into one pinned buffer, so a step may be prepared while the one before still
 * runs, and a kernel fetches it in stream order, having read it before the kernel in front is complete. The
 * last kernel writes results to pinned memory, one ring entry per step; an event says when they are there.
 *
 * Steps that only decode are recorded as a CUDA graph per (rows, samples, logprobs, whether the head leaves
 * whole rows or lists to `sample`): launched operation by operation the first time (which also loads the
 * kernels), recorded the second, replayed from then on. Everything that varies between two such steps lies in
 * device memory at fixed addresses. Steps that score tokens are never recorded. Of small models all
 * operations up to the logits are one kernel (network.cu) and a step is three; those are launched, since each
 * may then start while the one in front ends, from step to step. */
#include <algorithm>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels/cuda/context.cuh"
#include "kernels/cuda/network.cuh"

namespace {

enum {
    STEP_HEADER_INTS = 4, /* ring entry, and padding */
    FETCH_THREADS = 128
};

/* The step's arrays, n 16-byte vectors, from pinned memory. */
__global__ void __launch_bounds__(FETCH_THREADS) kernel_step_fetch(uint4 *to, const uint4 *from, int n) {
    const int i = (int)(blockIdx.x * FETCH_THREADS + threadIdx.x);
    uint4 x = make_uint4(0, 0, 0, 0);
    if (i < n)
        x = __ldcv(from + i);        /* the host writes there, step after step */
    ptx_wait_for_previous_kernels(); /* they read the arrays of their step */
    ptx_allow_next_kernel();
    if (i < n)
        to[i] = x;
}

int32_t round_up(int32_t n, int32_t to) {
    return (n + to - 1) / to * to;
}

void pause_briefly() {
#if defined(__x86_64__)
    _mm_pause();
#endif
}

/* Refuses indices that kernels would follow out of bounds. */
enum status batch_check(struct backend_context *context, const struct batch *batch) {
    const struct state_limits *limits = &context->limits;
    RETURN_IF(batch->n_rows < 0 || batch->n_rows > limits->max_rows || batch->n_decode < 0 ||
                  batch->n_decode > batch->n_rows || batch->n_decode > context->max_decode_rows ||
                  batch->n_segments < 0 || batch->n_segments > limits->max_segments || batch->n_samples < 0 ||
                  batch->n_samples > limits->max_samples,
              STATUS_INTERNAL,
              "step_begin: %d rows (%d decode), %d segments and %d samples; the state has room for %d "
              "(%d), %d and %d",
              batch->n_rows, batch->n_decode, batch->n_segments, batch->n_samples, limits->max_rows,
              context->max_decode_rows, limits->max_segments, limits->max_samples);
    int32_t max_position = limits->max_pages_per_slot * PAGE_TOKENS;
    for (int32_t row = 0; row < batch->n_rows; row++)
        RETURN_IF((uint32_t)batch->slot[row] > (uint32_t)limits->n_slots ||
                      (uint32_t)batch->position[row] >= (uint32_t)max_position,
                  STATUS_INTERNAL,
                  "step_begin: row %d is position %d of slot %d; the state has %d positions, %d slots", row,
                  batch->position[row], batch->slot[row], max_position, limits->n_slots);
    for (int32_t i = 0; i < batch->n_samples; i++)
        RETURN_IF((uint32_t)batch->sample_row[i] >= (uint32_t)batch->n_rows ||
                      (uint32_t)batch->sample_slot[i] > (uint32_t)limits->n_slots,
                  STATUS_INTERNAL, "step_begin: sample %d reads row %d of %d for slot %d of %d", i,
                  batch->sample_row[i], batch->n_rows, batch->sample_slot[i], limits->n_slots);
    for (int32_t i = 0; batch->sample_target && i < batch->n_samples; i++)
        RETURN_IF(batch->sample_target[i] < -1 || batch->sample_target[i] >= limits->n_vocab, STATUS_INTERNAL,
                  "step_begin: sample %d is to score token %d of a vocabulary of %d", i,
                  batch->sample_target[i], limits->n_vocab);
    int32_t row = batch->n_decode;
    for (int32_t i = 0; i < batch->n_segments; i++) {
        const struct segment *segment = batch->segments + i;
        RETURN_IF(segment->row != row || segment->n_rows <= 0 || segment->n_rows > batch->n_rows - row ||
                      (uint32_t)segment->slot > (uint32_t)limits->n_slots || segment->position < 0 ||
                      segment->position > max_position - segment->n_rows,
                  STATUS_INTERNAL,
                  "step_begin: segment %d has rows %d to %d at position %d; expected to start at row %d", i,
                  segment->row, segment->row + segment->n_rows, segment->position, row);
        row += segment->n_rows;
    }
    RETURN_IF(row != batch->n_rows, STATUS_INTERNAL, "step_begin: segments cover rows to %d of %d", row,
              batch->n_rows);
    return STATUS_OK;
}

/* Cuts segments into tiles of at most tile_rows rows; those that see most keys come first, since they take
 * longest. */
int32_t tiles_fill(struct segment *tiles, const struct batch *batch, int32_t tile_rows) {
    int32_t n = 0;
    for (int32_t i = 0; i < batch->n_segments; i++) {
        struct segment rest = batch->segments[i];
        while (rest.n_rows > 0) {
            struct segment tile = rest;
            if (tile.n_rows > tile_rows)
                tile.n_rows = tile_rows;
            tiles[n++] = tile;
            rest.row += tile.n_rows;
            rest.position += tile.n_rows;
            rest.n_rows -= tile.n_rows;
        }
    }
    std::sort(tiles, tiles + n, [](const struct segment &a, const struct segment &b) {
        int32_t a_keys = a.position + a.n_rows, b_keys = b.position + b.n_rows;
        return a_keys != b_keys ? a_keys > b_keys : a.row < b.row;
    });
    return n;
}

/* Queues the batch's way to the device and describes where it will lie. */
enum status step_send(struct backend_context *context, const struct batch *batch, int entry) {
    unsigned char *host = context->pinned_step + entry * context->step_bytes;
    int32_t *ints = reinterpret_cast<int32_t *>(host);
    const int32_t *device = reinterpret_cast<const int32_t *>(context->state.step);
    struct step_view *view = &context->step;
    size_t used = 0;
    auto put = [&](const int32_t *values, int32_t n) {
        if (n > 0)
            memcpy(ints + used, values, (size_t)n * sizeof *ints);
        const int32_t *address = device + used;
        used += (size_t)n;
        return address;
    };
    *view = {};
    view->n_rows = batch->n_rows;
    view->n_decode = batch->n_decode;
    view->n_samples = batch->n_samples;
    view->want_logprobs = batch->want_logprobs;
    const int32_t header[STEP_HEADER_INTS] = {entry};
    view->ring = put(header, STEP_HEADER_INTS);
    view->token = put(batch->token, batch->n_rows);
    view->position = put(batch->position, batch->n_rows);
    view->slot = put(batch->slot, batch->n_rows);
    view->sample_row = put(batch->sample_row, batch->n_samples);
    view->sample_slot = put(batch->sample_slot, batch->n_samples);
    if (batch->sample_target)
        view->sample_target = put(batch->sample_target, batch->n_samples);
    view->head_writes = !context->slot_head;
    if (context->slot_head) {
        used = (used + 3) / 4 * 4; /* entries are aligned to 16 bytes */
        struct head_entry *entries = reinterpret_cast<struct head_entry *>(ints + used);
        view->head = reinterpret_cast<struct head_entry *>(context->state.step + used * sizeof *ints);
        for (int32_t i = 0; i < batch->n_samples; i++) {
            entries[i] = context->slot_head[batch->sample_slot[i]];
            entries[i].position = batch->position[batch->sample_row[i]] + 1;
            if (batch->sample_target && batch->sample_target[i] >= 0)
                entries[i].end = HEAD_WRITES;
            view->head_writes = view->head_writes || entries[i].end == HEAD_WRITES;
            view->head_lists = view->head_lists || entries[i].end == HEAD_LISTS;
        }
        used += (size_t)batch->n_samples * sizeof *entries / sizeof *ints;
    }
    view->n_tiles =
        tiles_fill(reinterpret_cast<struct segment *>(ints + used), batch, context->prefill_tile_rows);
    view->tiles = reinterpret_cast<const struct segment *>(device + used);
    size_t bytes = used * sizeof *ints + (size_t)view->n_tiles * sizeof(struct segment);
    const int n_vectors =
        (int)((bytes + sizeof(uint4) - 1) / sizeof(uint4)); /* step_bytes is rounded up, too */
    TRY(cuda_launch(context, "step_begin", kernel_step_fetch, dim3(ceil_div(n_vectors, FETCH_THREADS)),
                    FETCH_THREADS, 0, reinterpret_cast<uint4 *>(context->state.step),
                    reinterpret_cast<const uint4 *>(context->step_device + entry * context->step_bytes),
                    n_vectors));
    context->chained = false; /* operations read the arrays before they wait for the kernel in front */
    return STATUS_OK;
}

/* The entry for steps of this shape, made when there is none. */
struct recorded_step *graph_find(struct backend_context *context, const struct batch *batch) {
    for (int32_t i = 0; i < context->n_graphs; i++) {
        struct recorded_step *graph = context->graphs + i;
        if (graph->n_rows == batch->n_rows && graph->n_samples == batch->n_samples &&
            graph->want_logprobs == batch->want_logprobs && graph->head_writes == context->step.head_writes &&
            graph->head_lists == context->step.head_lists)
            return graph;
    }
    if (context->n_graphs == MAX_GRAPHS)
        cuda_graphs_drop(context);
    struct recorded_step *graph = context->graphs + context->n_graphs++;
    *graph = {};
    graph->n_rows = batch->n_rows;
    graph->n_samples = batch->n_samples;
    graph->want_logprobs = batch->want_logprobs;
    graph->head_writes = context->step.head_writes;
    graph->head_lists = context->step.head_lists;
    return graph;
}

/* Ends the recording of the stream and makes it the graph of this shape. */
enum status graph_finish(struct backend_context *context) {
    cudaGraph_t graph = nullptr;
    TRY_CUDA(cudaStreamEndCapture(context->stream, &graph), "step_end (recording)");
    cudaGraphExec_t exec = nullptr;
    cudaError_t error = cudaGraphInstantiate(&exec, graph, 0);
    cudaGraphDestroy(graph);
    TRY_CUDA(error, "step_end (recording)");
    context->recorded->exec = exec;
    context->recorded->n_launches = context->n_launches;
    return STATUS_OK;
}

} // namespace

void cuda_graphs_drop(struct backend_context *context) {
    for (int32_t i = 0; i < context->n_graphs; i++)
        if (context->graphs[i].exec)
            cudaGraphExecDestroy(context->graphs[i].exec);
    context->n_graphs = 0;
}

void cuda_step_abandon(struct backend_context *context) {
    const bool is_open = context->mode != STEP_NONE;
    network_plan_abandon(context);
    if (context->mode == STEP_RECORD) {
        cudaGraph_t graph = nullptr;
        cudaStreamEndCapture(context->stream, &graph);
        if (graph)
            cudaGraphDestroy(graph);
        cudaGetLastError(); /* of a recording that had ended: forget it */
        context->chained = false;
    }
    if (is_open) /* the next step's arrays go where these come from */
        cudaStreamSynchronize(context->stream);
    context->mode = STEP_NONE;
}

int32_t cuda_decode_rows(struct backend_context *context, int32_t n) {
    const struct state_limits *limits = &context->limits;
    int32_t rows = n <= 2      ? n
                   : n <= 4    ? 4
                   : n <= 64   ? round_up(n, 8)
                   : n <= 256  ? round_up(n, 16)
                   : n <= 1024 ? round_up(n, 64)
                               : round_up(n, 256);
    int32_t most = limits->n_slots < limits->max_rows ? limits->n_slots : limits->max_rows;
    most = most < limits->max_samples ? most : limits->max_samples;
    rows = rows < most ? rows : most;
    return rows > n ? rows : n;
}

enum status cuda_operation_begin(struct backend_context *context, const char *operation) {
    RETURN_IF(context->mode == STEP_NONE, STATUS_INTERNAL, "%s: called outside of step_begin and step_end",
              operation);
    if (context->mode == STEP_REPLAY)
        context->mode = STEP_LAUNCH;
    return STATUS_OK;
}

enum status cuda_step_begin(struct backend_context *context, const struct batch *batch, bool *replayed) {
    *replayed = false;
    RETURN_IF(!context->has_state, STATUS_INTERNAL, "step_begin: call state_init first");
    RETURN_IF(context->weights_pending, STATUS_INTERNAL, "step_begin: weights_wait was not called");
    TRY_CUDA(cudaSetDevice(context->device), "step_begin");
    cuda_step_abandon(context);
    RETURN_IF(context->n_steps - context->n_waited >= STEPS_IN_FLIGHT, STATUS_INTERNAL,
              "step_begin: %d steps are in flight; wait for the oldest first", (int)STEPS_IN_FLIGHT);
    TRY(batch_check(context, batch));
    int entry = (int)((context->n_steps + 1) % RING_ENTRIES);
    context->n_launches = 0;
    TRY(step_send(context, batch, entry));
    TRY(cuda_gaps_fetched(context, entry, batch->n_segments == 0));
    context->ring_samples[entry] = batch->n_samples;
    context->ring_logprobs[entry] = batch->want_logprobs;
    context->mode = STEP_LAUNCH;
    network_plan_begin(context);
    if (context->no_graphs || context->profile || batch->n_segments > 0 || batch->sample_target ||
        network_plan_expects_one(context))
        return STATUS_OK;
    int32_t n_known = context->n_graphs;
    context->recorded = graph_find(context, batch);
    if (context->n_graphs != n_known)
        return STATUS_OK;
    if (context->recorded->exec) {
        context->mode = STEP_REPLAY;
        *replayed = true;
        return STATUS_OK;
    }
    TRY_CUDA(cudaStreamBeginCapture(context->stream, cudaStreamCaptureModeThreadLocal),
             "step_begin (recording)");
    context->mode = STEP_RECORD;
    return STATUS_OK;
}

enum status cuda_step_end(struct backend_context *context, uint64_t *ticket) {
    enum step_mode mode = context->mode;
    RETURN_IF(mode == STEP_NONE, STATUS_INTERNAL, "step_end: called without step_begin");
    TRY(network_plan_flush(context));
    if (mode == STEP_RECORD)
        TRY(graph_finish(context));
    if (mode == STEP_RECORD || mode == STEP_REPLAY) {
        TRY_CUDA(cudaGraphLaunch(context->recorded->exec, context->stream), "step_end");
        context->n_launches = context->recorded->n_launches;
        context->chained = false;
    }
    context->mode = STEP_NONE;
    context->n_launches_last = context->n_launches;
    *ticket = ++context->n_steps;
    TRY_CUDA(cudaEventRecord(context->step_done[*ticket % RING_ENTRIES], context->stream), "step_end");
    return STATUS_OK;
}

enum status cuda_step_wait(struct backend_context *context, uint64_t ticket, struct sample_result *results,
                           struct sample_top *top) {
    RETURN_IF(ticket != context->n_waited + 1 || ticket > context->n_steps, STATUS_INTERNAL,
              "step_wait: step %llu; the next to wait for is %llu of %llu", (unsigned long long)ticket,
              (unsigned long long)context->n_waited + 1, (unsigned long long)context->n_steps);
    int entry = (int)(ticket % RING_ENTRIES);
    cudaError_t error;
    while ((error = cudaEventQuery(context->step_done[entry])) == cudaErrorNotReady)
        pause_briefly();
    TRY_CUDA(error, "step_wait");
    context->n_waited = ticket;
    TRY(cuda_gaps_add(context, ticket));
    size_t n = (size_t)context->ring_samples[entry],
           first = (size_t)entry * (size_t)context->limits.max_samples;
    if (n > 0)
        memcpy(results, context->results + first, n * sizeof *results);
    if (n > 0 && top && context->ring_logprobs[entry])
        memcpy(top, context->top + first, n * sizeof *top);
    return STATUS_OK;
}
