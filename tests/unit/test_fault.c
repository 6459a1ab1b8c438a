/* fault: the wrapper passes everything through until its countdown ends. Also the size of the state, which
 * the first failing allocation of a real job comes from. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <limits.h>
#include <string.h>

#include "kernels/fault/fault.h"
#include "kernels/state_layout.h"

enum { VOCAB = 20, SLOTS = 3 };

static struct state_limits small_limits(void) {
    return (struct state_limits){
        .n_slots = SLOTS,
        .n_pages = 2,
        .max_pages_per_slot = 10,
        .max_rows = SLOTS,
        .max_segments = 1,
        .max_samples = SLOTS,
        .n_layers = 2,
        .n_heads = 2,
        .n_kv_heads = 1,
        .head_dim = 4,
        .n_vocab = VOCAB,
        .kv_dtype = DTYPE_BFLOAT16,
    };
}

static struct backend open_with(struct fault_plan plan) {
    struct backend inner, backend;
    struct backend_options options = {.n_threads = 1};
    assert_int_equal(backend_open("cpu", &options, &inner), STATUS_OK);
    assert_int_equal(backend_open_fault(&inner, &plan, &backend), STATUS_OK);
    return backend;
}

/* One greedy step of all slots, whose logits are largest at 5. */
static enum status run_step(struct backend *backend, struct sample_result *results) {
    static const int32_t slots[SLOTS] = {0, 1, 2}, tokens[SLOTS] = {0}, positions[SLOTS] = {0};
    struct batch batch = {
        .n_rows = SLOTS,
        .n_decode = SLOTS,
        .n_samples = SLOTS,
        .token = tokens,
        .position = positions,
        .slot = slots,
        .sample_row = slots,
        .sample_slot = slots,
    };
    float values[SLOTS * VOCAB] = {0};
    for (int s = 0; s < SLOTS; s++)
        values[s * VOCAB + 5] = 1.0f;
    struct tensor *logits;
    bool replayed;
    uint64_t ticket;
    TRY(backend->tensor_new(backend->context, DTYPE_FLOAT32, SLOTS, VOCAB, &logits));
    TRY(backend->tensor_write(backend->context, logits, SLOTS, values));
    TRY(backend->step_begin(backend->context, &batch, &replayed));
    struct sample_args args = {.logits = logits, .n = SLOTS};
    TRY(backend->sample(backend->context, &args));
    TRY(backend->step_end(backend->context, &ticket));
    return backend->step_wait(backend->context, ticket, results, NULL);
}

static void passes_through(void **state) {
    (void)state;
    struct backend backend = open_with((struct fault_plan){0});
    struct state_limits limits = small_limits();
    struct sample_result results[SLOTS];
    assert_int_equal(backend.state_init(backend.context, &limits), STATUS_OK);
    assert_int_equal(run_step(&backend, results), STATUS_OK);
    for (int s = 0; s < SLOTS; s++) {
        assert_int_equal(results[s].fault_layer, -1);
        assert_int_equal(results[s].token, 5);
    }
    double seconds[OPERATION_COUNT];
    assert_int_equal(backend.profile(backend.context, true, seconds), STATUS_OK);
    assert_int_equal(run_step(&backend, results), STATUS_OK);
    assert_int_equal(backend.profile(backend.context, false, seconds), STATUS_OK);
    assert_true(seconds[OPERATION_SAMPLE] > 0);
    assert_null(backend.gaps); /* as in the cpu backend */
    backend.close(backend.context);
}

static void allocation_fails_once(void **state) {
    (void)state;
    struct backend backend = open_with((struct fault_plan){.fail_allocation = 2});
    struct tensor *tensor;
    struct state_limits limits = small_limits();
    assert_int_equal(backend.tensor_new(backend.context, DTYPE_FLOAT32, 1, 1, &tensor), STATUS_OK);
    assert_int_equal(backend.state_init(backend.context, &limits), STATUS_NO_FIT);
    assert_non_null(strstr(status_message(), "allocation 2"));
    assert_int_equal(backend.state_init(backend.context, &limits), STATUS_OK);
    backend.close(backend.context);
}

static void step_fails_for_good(void **state) {
    (void)state;
    struct backend backend = open_with((struct fault_plan){.fail_step = 2});
    struct state_limits limits = small_limits();
    struct sample_result results[SLOTS];
    size_t free_bytes, total_bytes;
    assert_int_equal(backend.state_init(backend.context, &limits), STATUS_OK);
    assert_int_equal(run_step(&backend, results), STATUS_OK);
    assert_int_equal(run_step(&backend, results), STATUS_INTERNAL);
    assert_int_equal(backend.memory_info(backend.context, &free_bytes, &total_bytes), STATUS_INTERNAL);
    assert_int_equal(run_step(&backend, results), STATUS_INTERNAL);
    backend.close(backend.context);
}

static void one_slot_gets_nan(void **state) {
    (void)state;
    struct backend backend = open_with((struct fault_plan){.nan_step = 2, .nan_slot = 1});
    struct state_limits limits = small_limits();
    struct sample_result results[SLOTS];
    assert_int_equal(backend.state_init(backend.context, &limits), STATUS_OK);
    assert_int_equal(run_step(&backend, results), STATUS_OK);
    assert_int_equal(results[1].fault_layer, -1);
    assert_int_equal(run_step(&backend, results), STATUS_OK);
    assert_int_equal(results[0].fault_layer, -1);
    assert_int_equal(results[1].fault_layer, limits.n_layers + 1);
    assert_int_equal(results[2].fault_layer, -1);
    backend.close(backend.context);
}

static void state_parts_do_not_overlap(void **state) {
    (void)state;
    struct state_limits limits = small_limits();
    struct state_layout l;
    assert_true(state_layout_init(&l, &limits));
    size_t kv = 2u * 2 * 1 * PAGE_TOKENS * 4 * 2; /* layers, pages, heads, tokens, dims, bytes */
    const size_t offsets[] = {l.keys,       l.values,     l.page_table,  l.token_counts,  l.sampling,
                              l.last_token, l.faults,     l.token,       l.position,      l.slot,
                              l.segments,   l.sample_row, l.sample_slot, l.sample_target, l.results,
                              l.top,        l.partials,   l.maxima,      l.total};
    const size_t sizes[] = {kv,
                            kv,
                            4u * 10 * 4,
                            4u * VOCAB * 4,
                            4 * sizeof(struct slot_sampling),
                            4 * 4,
                            4 * 8,
                            3 * 4,
                            3 * 4,
                            3 * 4,
                            sizeof(struct segment),
                            3 * 4,
                            3 * 4,
                            3 * 4,
                            3 * sizeof(struct sample_result),
                            3 * sizeof(struct sample_top),
                            3u * 2 * 2 * 6 * 4,
                            64u * 4 * ((VOCAB + 127) / 128) * 4};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        assert_int_equal(offsets[i] % STATE_ALIGNMENT, 0);
        assert_true(offsets[i + 1] - offsets[i] >= sizes[i]);
        assert_true(offsets[i + 1] - offsets[i] < sizes[i] + STATE_ALIGNMENT);
    }
    assert_int_equal(state_bytes(&limits), l.total);
}

static void state_size_overflow_is_zero(void **state) {
    (void)state;
    struct state_limits limits = small_limits();
    limits.n_pages = INT_MAX;
    limits.n_layers = INT_MAX;
    limits.n_kv_heads = INT_MAX;
    assert_int_equal(state_bytes(&limits), 0);
    limits = small_limits();
    limits.n_vocab = -1;
    assert_int_equal(state_bytes(&limits), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(passes_through),
        cmocka_unit_test(allocation_fails_once),
        cmocka_unit_test(step_fails_for_good),
        cmocka_unit_test(one_slot_gets_nan),
        cmocka_unit_test(state_parts_do_not_overlap),
        cmocka_unit_test(state_size_overflow_is_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
