/* weights: matrices from their sources into panels of PANEL_OUTPUTS rows, the form that matmul reads.
 *
 * Threads take groups of panels; each has its rows written to memory of its own and packs them from there, so
 * that the source is read in order and in pieces worth a call. */
#include <stdlib.h>

#include "kernels/cpu/context.h"

enum { GROUP_BYTES = 128 << 10 }; /* rows of one piece: they stay in the second-level cache */

/* A matrix to pack, for the threads. */
struct pack_job {
    enum dtype dtype;
    int64_t n_out, n_in;
    struct row_source rows;
    void *packed;
    int64_t first_panel; /* where this matrix's panels lie among those packed: every panel_step-th */
    int64_t panel_step;
    int64_t group_panels;
    char *scratch; /* [n_threads][scratch_bytes]: the rows of a group */
    size_t scratch_bytes;
};

/* One panel (isa.h) of at most PANEL_OUTPUTS rows; what is missing is zero. Columns are taken a cache line of
 * each row at a time. */
#define PACK_PANEL(NAME, TYPE, DTYPE)                                                                        \
    static void NAME(const TYPE *restrict rows, int64_t n_rows, int64_t n_in, TYPE *restrict panel) {        \
        enum { LINE = 64 / sizeof(TYPE) };                                                                   \
        const int64_t n_k =                                                                                  \
            panel_lines(DTYPE, n_in) * PANEL_LINE_BYTES / (PANEL_OUTPUTS * (int)sizeof(TYPE));               \
        for (int64_t first = 0; first < n_k; first += LINE) {                                                \
            int64_t end = n_k - first < LINE ? n_k : first + LINE;                                           \
            for (int64_t lane = 0; lane < PANEL_OUTPUTS; lane++)                                             \
                for (int64_t k = first; k < end; k++)                                                        \
                    panel[panel_element(DTYPE, lane, k)] =                                                   \
                        lane < n_rows && k < n_in ? rows[lane * n_in + k] : 0;                               \
        }                                                                                                    \
    }
PACK_PANEL(pack_float32, float, DTYPE_FLOAT32)
PACK_PANEL(pack_bfloat16, uint16_t, DTYPE_BFLOAT16)

static void pack_group(void *argument, int64_t group, int thread) {
    const struct pack_job *job = argument;
    char *rows = job->scratch + (size_t)thread * job->scratch_bytes;
    size_t rows_bytes = (size_t)(PANEL_OUTPUTS * job->n_in) * dtype_bytes(job->dtype); /* of a panel */
    size_t panel_bytes = (size_t)(panel_lines(job->dtype, job->n_in) * PANEL_LINE_BYTES);
    int64_t first_row = group * job->group_panels * PANEL_OUTPUTS;
    int64_t n_rows = job->n_out - first_row;
    if (n_rows > job->group_panels * PANEL_OUTPUTS)
        n_rows = job->group_panels * PANEL_OUTPUTS;
    job->rows.read(job->rows.argument, first_row, n_rows, rows);
    for (int64_t i = 0; i * PANEL_OUTPUTS < n_rows; i++) {
        int64_t left =
            n_rows - i * PANEL_OUTPUTS < PANEL_OUTPUTS ? n_rows - i * PANEL_OUTPUTS : PANEL_OUTPUTS;
        int64_t panel = job->first_panel + (group * job->group_panels + i) * job->panel_step;
        const char *from = rows + (size_t)i * rows_bytes;
        char *to = (char *)job->packed + (size_t)panel * panel_bytes;
        if (job->dtype == DTYPE_FLOAT32)
            pack_float32((const float *)(const void *)from, left, job->n_in, (float *)(void *)to);
        else
            pack_bfloat16((const uint16_t *)(const void *)from, left, job->n_in, (uint16_t *)(void *)to);
    }
}

/* Packs n matrices of one shape, whose panels alternate. */
static enum status pack(struct backend_context *context, enum dtype dtype, int64_t n_out, int64_t n_in,
                        const struct row_source *matrices, int n, void *packed) {
    size_t rows_bytes = (size_t)(PANEL_OUTPUTS * n_in) * dtype_bytes(dtype); /* of a panel */
    int64_t n_panels = (n_out + PANEL_OUTPUTS - 1) / PANEL_OUTPUTS;
    int64_t group_panels = rows_bytes < GROUP_BYTES ? (int64_t)(GROUP_BYTES / rows_bytes) : 1;
    if (group_panels > n_panels)
        group_panels = n_panels;
    /* Whole pages for each thread. */
    size_t scratch_bytes = ((size_t)group_panels * rows_bytes + 4095) / 4096 * 4096;
    char *scratch = aligned_alloc(4096, scratch_bytes * (size_t)context->n_threads);
    RETURN_IF(!scratch, STATUS_NO_FIT, "no memory for %zu bytes of rows beside a weight",
              scratch_bytes * (size_t)context->n_threads);
    for (int i = 0; i < n; i++) {
        struct pack_job job = {.dtype = dtype,
                               .n_out = n_out,
                               .n_in = n_in,
                               .rows = matrices[i],
                               .packed = packed,
                               .first_panel = i,
                               .panel_step = n,
                               .group_panels = group_panels,
                               .scratch = scratch,
                               .scratch_bytes = scratch_bytes};
        pool_run(context->pool, (n_panels + group_panels - 1) / group_panels, pack_group, &job);
    }
    free(scratch);
    return STATUS_OK;
}

enum status cpu_weight_pack(struct backend_context *context, enum dtype dtype, int64_t n_out, int64_t n_in,
                            struct row_source rows, void *packed) {
    return pack(context, dtype, n_out, n_in, &rows, 1, packed);
}

enum status cpu_weight_pair_pack(struct backend_context *context, enum dtype dtype, int64_t n_out,
                                 int64_t n_in, struct row_source gate, struct row_source up, void *packed) {
    const struct row_source matrices[] = {gate, up};
    return pack(context, dtype, n_out, n_in, matrices, 2, packed);
}
