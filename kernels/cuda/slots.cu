/* slots: sequences take slots; pages are copied.
 *
 * Both upload through a ring of pinned buffers that the kernels read in place, so that neither waits for the
 * stream nor needs device memory of its own; an entry is used again when the kernel that read it is complete.
 */
#include <cstring>

#include "kernels/cuda/context.cuh"
#include "kernels/cuda/ptx.cuh"

namespace {

enum { SLOTS_THREADS = 256, COPY_THREADS = 256 };

/* One slot_start as uploaded; its page ids and prompt follow all of them. */
struct uploaded_start {
    struct slot_sampling sampling;
    int32_t slot;
    int32_t n_pages;
    int32_t n_prompt;
    int32_t first; /* index of its first page id among the int32 behind the starts; then its prompt */
};

struct slots_params {
    const uploaded_start *starts; /* [n] pinned */
    const int32_t *lists;         /* page ids and prompts, pinned */
    int32_t *page_table;          /* [n_slots + 1, max_pages] */
    uint32_t *counts;             /* [n_slots + 1, n_vocab] */
    struct slot_sampling *sampling;
    int32_t *last_token;
    unsigned long long *fault;
    int32_t max_pages;
    int32_t n_vocab;
};

/* One block per start. */
__global__ void __launch_bounds__(SLOTS_THREADS) kernel_slots_begin(const slots_params p) {
    ptx_wait_for_previous_kernels();
    const uploaded_start &start = p.starts[blockIdx.x];
    int32_t slot = start.slot, n_pages = start.n_pages, n_prompt = start.n_prompt;
    const int32_t *pages = p.lists + start.first, *prompt = pages + n_pages;
    uint32_t *counts = p.counts + (int64_t)slot * p.n_vocab;
    int32_t *table = p.page_table + (int64_t)slot * p.max_pages;
    for (int id = threadIdx.x; id < p.n_vocab; id += SLOTS_THREADS)
        counts[id] = 0;
    for (int i = threadIdx.x; i < p.max_pages; i += SLOTS_THREADS)
        table[i] = i < n_pages ? pages[i] : (int32_t)SCRATCH_PAGE;
    if (threadIdx.x == 0) {
        p.sampling[slot] = start.sampling;
        p.last_token[slot] = 0;
        p.fault[slot] = NO_FAULT;
    }
    __syncthreads(); /* counts are zero before the prompt marks them */
    for (int i = threadIdx.x; i < n_prompt; i += SLOTS_THREADS)
        if ((uint32_t)prompt[i] < (uint32_t)p.n_vocab)
            atomicOr(counts + prompt[i], 0x80000000u); /* a token may be repeated */
}

/* One slot_extension as uploaded; its page ids follow all of them. */
struct uploaded_extension {
    int32_t slot;
    int32_t first_page;
    int32_t n_pages;
    int32_t first; /* index of its first page id among the int32 behind the extensions */
};

struct extend_params {
    const uploaded_extension *extensions; /* [n] pinned */
    const int32_t *pages;                 /* pinned */
    int32_t *page_table;                  /* [n_slots + 1, max_pages] */
    int32_t max_pages;
};

/* One block per extension. */
__global__ void __launch_bounds__(SLOTS_THREADS) kernel_slots_extend(const extend_params p) {
    ptx_wait_for_previous_kernels();
    const uploaded_extension &extension = p.extensions[blockIdx.x];
    int32_t *table = p.page_table + (int64_t)extension.slot * p.max_pages + extension.first_page;
    for (int i = threadIdx.x; i < extension.n_pages; i += SLOTS_THREADS)
        table[i] = p.pages[extension.first + i];
}

struct copy_params {
    const int32_t (*pairs)[2]; /* [n] (source, destination), pinned */
    uint4 *k;
    uint4 *v;
    int32_t n_pages;
    int64_t page_vectors; /* 16-byte vectors in one layer's part of a page */
};

/* One block per (pair, layer, K or V). */
__global__ void __launch_bounds__(COPY_THREADS) kernel_pages_copy(const copy_params p) {
    ptx_wait_for_previous_kernels();
    uint4 *cache = blockIdx.z == 0 ? p.k : p.v;
    int64_t layer = (int64_t)blockIdx.y * p.n_pages;
    const uint4 *from = cache + (layer + p.pairs[blockIdx.x][0]) * p.page_vectors;
    uint4 *to = cache + (layer + p.pairs[blockIdx.x][1]) * p.page_vectors;
    for (int64_t i = threadIdx.x; i < p.page_vectors; i += COPY_THREADS)
        to[i] = from[i];
}

/* The next pinned entry, free for the host to write. */
enum status staging_take(struct backend_context *context, const char *operation, unsigned char **host,
                         int *entry) {
    *entry = (int)(context->n_stagings++ % RING_ENTRIES);
    TRY_CUDA(cudaEventSynchronize(context->staging_done[*entry]), operation);
    *host = context->pinned_staging + *entry * context->staging_bytes;
    return STATUS_OK;
}

template <typename Pointer>
enum status device_address(Pointer **device, unsigned char *host, const char *operation) {
    void *address = nullptr;
    TRY_CUDA(cudaHostGetDevicePointer(&address, host, 0), operation);
    *device = static_cast<Pointer *>(address);
    return STATUS_OK;
}

/* Queues starts [0, n), whose upload fits an entry. */
enum status slots_begin_some(struct backend_context *context, const struct slot_start *starts, int32_t n) {
    unsigned char *host;
    int entry;
    TRY(staging_take(context, "slots_begin", &host, &entry));
    uploaded_start *uploads = reinterpret_cast<uploaded_start *>(host);
    int32_t *lists = reinterpret_cast<int32_t *>(host + n * sizeof *uploads);
    int32_t used = 0;
    for (int32_t i = 0; i < n; i++) {
        const struct slot_start *start = starts + i;
        uploads[i] = {start->sampling, start->slot, start->n_pages, start->n_prompt, used};
        memcpy(lists + used, start->pages, (size_t)start->n_pages * sizeof *lists);
        used += start->n_pages;
        memcpy(lists + used, start->prompt, (size_t)start->n_prompt * sizeof *lists);
        used += start->n_prompt;
    }
    slots_params p = {};
    TRY(device_address(&p.starts, host, "slots_begin"));
    p.lists = reinterpret_cast<const int32_t *>(p.starts + n);
    p.page_table = context->state.page_table;
    p.counts = context->state.counts;
    p.sampling = context->state.sampling;
    p.last_token = context->state.last_token;
    p.fault = context->state.fault;
    p.max_pages = context->limits.max_pages_per_slot;
    p.n_vocab = context->limits.n_vocab;
    context->chained = false;
    TRY(cuda_launch(context, "slots_begin", kernel_slots_begin, dim3(n), SLOTS_THREADS, 0, p));
    TRY_CUDA(cudaEventRecord(context->staging_done[entry], context->stream), "slots_begin");
    context->chained = false;
    return STATUS_OK;
}

/* Queues extensions [0, n), whose upload fits an entry. */
enum status slots_extend_some(struct backend_context *context, const struct slot_extension *extensions,
                              int32_t n) {
    unsigned char *host;
    int entry;
    TRY(staging_take(context, "slots_extend", &host, &entry));
    uploaded_extension *uploads = reinterpret_cast<uploaded_extension *>(host);
    int32_t *lists = reinterpret_cast<int32_t *>(uploads + n);
    int32_t used = 0;
    for (int32_t i = 0; i < n; i++) {
        const struct slot_extension *extension = extensions + i;
        uploads[i] = {extension->slot, extension->first_page, extension->n_pages, used};
        memcpy(lists + used, extension->pages, (size_t)extension->n_pages * sizeof *lists);
        used += extension->n_pages;
    }
    extend_params p = {};
    TRY(device_address(&p.extensions, host, "slots_extend"));
    p.pages = reinterpret_cast<const int32_t *>(p.extensions + n);
    p.page_table = context->state.page_table;
    p.max_pages = context->limits.max_pages_per_slot;
    context->chained = false;
    TRY(cuda_launch(context, "slots_extend", kernel_slots_extend, dim3(n), SLOTS_THREADS, 0, p));
    TRY_CUDA(cudaEventRecord(context->staging_done[entry], context->stream), "slots_extend");
    context->chained = false;
    return STATUS_OK;
}

/* Refuses page ids that no sequence may have. */
enum status pages_check(struct backend_context *context, const char *operation, int32_t slot,
                        const int32_t *pages, int32_t n) {
    for (int32_t i = 0; i < n; i++)
        RETURN_IF(pages[i] <= SCRATCH_PAGE || pages[i] >= context->limits.n_pages, STATUS_INTERNAL,
                  "%s: page %d of slot %d is outside of [1, %d)", operation, pages[i], slot,
                  context->limits.n_pages);
    return STATUS_OK;
}

} // namespace

struct head_entry cuda_head_entry(const struct slot_sampling *s, int32_t n_vocab) {
    struct head_entry entry = {};
    entry.key = s->key;
    entry.temperature = s->temperature;
    bool penalties = s->repetition_penalty != 1 || s->presence_penalty != 0 || s->frequency_penalty != 0;
    bool top_k = s->top_k > 0 && s->top_k < n_vocab;
    if (penalties || s->n_logprobs >= 0)
        entry.end = HEAD_WRITES;
    else if (!(s->temperature > 0))
        entry.end = HEAD_GREEDY;
    else if (top_k && s->top_k <= HEAD_MOST_LISTED && !(s->min_p > 1))
        entry.end = HEAD_LISTS;
    else
        entry.end = top_k || s->top_p < 1 || s->min_p > 0 ? HEAD_WRITES : HEAD_DRAWS;
    return entry;
}

enum status cuda_slots_extend(struct backend_context *context, const struct slot_extension *extensions,
                              int32_t n) {
    const struct state_limits *limits = &context->limits;
    RETURN_IF(!context->has_state || context->mode != STEP_NONE, STATUS_INTERNAL,
              "slots_extend: call it after state_init and outside a step");
    int32_t first = 0;
    size_t bytes = 0;
    for (int32_t i = 0; i < n; i++) {
        const struct slot_extension *extension = extensions + i;
        RETURN_IF(extension->slot < 0 || extension->slot >= limits->n_slots || extension->first_page < 0 ||
                      extension->n_pages < 0 ||
                      extension->n_pages > limits->max_pages_per_slot - extension->first_page,
                  STATUS_INTERNAL, "slots_extend: slot %d of %d, pages [%d, %d) of %d", extension->slot,
                  limits->n_slots, extension->first_page, extension->first_page + extension->n_pages,
                  limits->max_pages_per_slot);
        TRY(pages_check(context, "slots_extend", extension->slot, extension->pages, extension->n_pages));
        size_t need = sizeof(uploaded_extension) + (size_t)extension->n_pages * sizeof(int32_t);
        if (bytes + need > context->staging_bytes) {
            TRY(slots_extend_some(context, extensions + first, i - first));
            first = i;
            bytes = 0;
        }
        bytes += need;
    }
    return first < n ? slots_extend_some(context, extensions + first, n - first) : STATUS_OK;
}

enum status cuda_slots_begin(struct backend_context *context, const struct slot_start *starts, int32_t n) {
    const struct state_limits *limits = &context->limits;
    RETURN_IF(!context->has_state || context->mode != STEP_NONE, STATUS_INTERNAL,
              "slots_begin: call it after state_init and outside a step");
    int32_t first = 0;
    size_t bytes = 0;
    for (int32_t i = 0; i < n; i++) {
        const struct slot_start *start = starts + i;
        RETURN_IF(start->slot < 0 || start->slot >= limits->n_slots || start->n_pages < 0 ||
                      start->n_pages > limits->max_pages_per_slot || start->n_prompt < 0 ||
                      start->n_prompt > limits->max_pages_per_slot * PAGE_TOKENS,
                  STATUS_INTERNAL,
                  "slots_begin: slot %d of %d with %d pages and %d prompt tokens; a slot holds %d pages",
                  start->slot, limits->n_slots, start->n_pages, start->n_prompt, limits->max_pages_per_slot);
        TRY(pages_check(context, "slots_begin", start->slot, start->pages, start->n_pages));
        if (context->slot_head)
            context->slot_head[start->slot] = cuda_head_entry(&start->sampling, limits->n_vocab);
        size_t need =
            sizeof(uploaded_start) + ((size_t)start->n_pages + (size_t)start->n_prompt) * sizeof(int32_t);
        if (bytes + need > context->staging_bytes) {
            TRY(slots_begin_some(context, starts + first, i - first));
            first = i;
            bytes = 0;
        }
        bytes += need;
    }
    return first < n ? slots_begin_some(context, starts + first, n - first) : STATUS_OK;
}

enum status cuda_pages_copy(struct backend_context *context, const int32_t (*pairs)[2], int32_t n) {
    const struct state_limits *limits = &context->limits;
    RETURN_IF(!context->has_state || context->mode != STEP_NONE, STATUS_INTERNAL,
              "pages_copy: call it after state_init and outside a step");
    for (int32_t i = 0; i < n; i++)
        RETURN_IF(pairs[i][0] < 0 || pairs[i][0] >= limits->n_pages || pairs[i][1] < 0 ||
                      pairs[i][1] >= limits->n_pages,
                  STATUS_INTERNAL, "pages_copy: pages %d to %d, the state has %d", pairs[i][0], pairs[i][1],
                  limits->n_pages);
    int32_t fit = (int32_t)(context->staging_bytes / sizeof pairs[0]);
    for (int32_t first = 0; first < n; first += fit) {
        int32_t some = n - first < fit ? n - first : fit;
        unsigned char *host;
        int entry;
        TRY(staging_take(context, "pages_copy", &host, &entry));
        memcpy(host, pairs + first, (size_t)some * sizeof pairs[0]);
        copy_params p = {};
        TRY(device_address(&p.pairs, host, "pages_copy"));
        p.k = static_cast<uint4 *>(context->state.k);
        p.v = static_cast<uint4 *>(context->state.v);
        p.n_pages = limits->n_pages;
        p.page_vectors = (int64_t)kv_offset(context->layout, 0, 1, 0, 0) * dtype_bytes(limits->kv_dtype) / 16;
        context->chained = false;
        TRY(cuda_launch(context, "pages_copy", kernel_pages_copy, dim3(some, limits->n_layers, 2),
                        COPY_THREADS, 0, p));
        TRY_CUDA(cudaEventRecord(context->staging_done[entry], context->stream), "pages_copy");
        context->chained = false;
    }
    return STATUS_OK;
}
