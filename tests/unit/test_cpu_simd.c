/* simd: exp, log and their relatives against libm in double precision, edge values, and equal bits on every
 * instruction set that this processor runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/isa.h"
#define CPU_ISA test
#include "kernels/cpu/simd.h"

static uint64_t random_state = 11;

static uint32_t next_random(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

static float uniform(float low, float high) {
    return low + (high - low) * (float)(next_random() >> 8) * 0x1p-24f;
}

/* Distance in units of the last place of the exact value. */
static double ulps(float got, double exact) {
    int exponent;
    frexp(exact, &exponent);
    return fabs(got - exact) / ldexp(1.0, exponent - 24);
}

static void exp_within_ulps(void **state) {
    (void)state;
    double worst = 0.0;
    for (int i = 0; i < 400000; i++) {
        float x = i % 2 ? uniform(-87.3f, 88.3f) : uniform(-2.0f, 2.0f);
        worst = fmax(worst, ulps(v16_first(v16_exp(v16_set1(x))), exp((double)x)));
    }
    assert_true(worst <= 1.5);
}

static void exp_edges(void **state) {
    (void)state;
    assert_true(v16_first(v16_exp(v16_set1(0.0f))) == 1.0f);
    assert_true(v16_first(v16_exp(v16_set1(-0.0f))) == 1.0f);
    assert_true(v16_first(v16_exp(v16_set1(-INFINITY))) == 0.0f);
    assert_true(v16_first(v16_exp(v16_set1(-88.0f))) == 0.0f);
    assert_true(v16_first(v16_exp(v16_set1(INFINITY))) == INFINITY);
    assert_true(isnan(v16_first(v16_exp(v16_set1(NAN)))));
}

static void log_within_ulps(void **state) {
    (void)state;
    double worst = 0.0;
    for (int i = 0; i < 400000; i++) {
        float x = i % 2 ? uniform(0.5f, 2.0f) : ldexpf(uniform(1.0f, 2.0f), (int)(next_random() % 250) - 125);
        if (x == 1.0f)
            continue;
        worst = fmax(worst, ulps(v16_first(v16_log(v16_set1(x))), log((double)x)));
    }
    assert_true(worst <= 1.0);
    assert_true(v16_first(v16_log(v16_set1(1.0f))) == 0.0f);
}

static void gumbel_is_accurate(void **state) {
    (void)state;
    double worst = 0.0;
    for (int i = 0; i < 400000; i++) {
        float u = i % 2 ? uniform(0x1p-20f, 1.0f - 0x1p-24f)
                        : ldexpf(uniform(0.5f, 1.0f), -(int)(next_random() % 33));
        u = u < 1.0f - 0x1p-24f ? u : 1.0f - 0x1p-24f;
        double exact = -log(-log1p(-(double)u));
        /* Near u = 1 - 1/e the variable crosses zero: there the error is absolute. */
        worst = fmax(worst, fabs(v16_first(v16_gumbel(v16_set1(u))) - exact) / fmax(1.0, fabs(exact)));
    }
    assert_true(worst < 4 * FLT_EPSILON);
}

static void gelu_is_accurate(void **state) {
    (void)state;
    double worst = 0.0;
    for (int i = 0; i < 400000; i++) {
        float x = uniform(-12.0f, 12.0f);
        double z = sqrt(2.0 / M_PI) * (x + 0.044715 * (double)x * x * x);
        double exact = x / (1.0 + exp(-2.0 * z));
        worst = fmax(worst, fabs(v16_first(v16_gelu_tanh(v16_set1(x))) - exact) / fmax(0x1p-10, fabs(exact)));
    }
    assert_true(worst < 1e-5);
    assert_true(v16_first(v16_gelu_tanh(v16_set1(1e30f))) == 1e30f);
    assert_true(v16_first(v16_gelu_tanh(v16_set1(-1e30f))) == 0.0f);
    assert_true(isnan(v16_first(v16_gelu_tanh(v16_set1(NAN)))));
}

static void tanh_is_accurate(void **state) {
    (void)state;
    double worst = 0.0;
    for (int i = 0; i < 400000; i++) {
        float x = i % 2 ? uniform(-12.0f, 12.0f) : ldexpf(uniform(-1.0f, 1.0f), -(int)(next_random() % 60));
        worst = fmax(worst, ulps(v16_first(v16_tanh(v16_set1(x))), tanh((double)x)));
    }
    assert_true(worst <= 3.0);
    assert_true(v16_first(v16_tanh(v16_set1(0.0f))) == 0.0f);
    assert_true(v16_first(v16_tanh(v16_set1(1e30f))) == 1.0f);
    assert_true(v16_first(v16_tanh(v16_set1(-INFINITY))) == -1.0f);
    assert_true(isnan(v16_first(v16_tanh(v16_set1(NAN)))));
    assert_true(fabsf(v16_first(v16_softcap(v16_set1(1e30f), 30.0f)) - 30.0f) == 0.0f);
}

static void bfloat16_rounds_to_even(void **state) {
    (void)state;
    assert_int_equal(bfloat16_from_float(1.0f), 0x3f80);
    assert_int_equal(bfloat16_from_float(1.0f + 0x1p-8f), 0x3f80);           /* tie: even is below */
    assert_int_equal(bfloat16_from_float(1.0f + 0x1p-7f + 0x1p-8f), 0x3f82); /* tie: even is above */
    assert_int_equal(bfloat16_from_float(1.0f + 0x1p-8f + 0x1p-20f), 0x3f81);
    assert_int_equal(bfloat16_from_float(FLT_MAX), 0x7f80);
    assert_int_equal(bfloat16_from_float(-INFINITY), 0xff80);
    uint32_t low_nan_bits = 0x7f800001u;
    float low_nan;
    memcpy(&low_nan, &low_nan_bits, sizeof low_nan);
    assert_true(isnan(bfloat16_to_float(bfloat16_from_float(low_nan))));
}

static void partial_loads_stay_inside(void **state) {
    (void)state;
    for (int n = 0; n <= V16_LANES; n++) {
        /* An allocation that ends behind the last value, for tools that watch the borders. */
        float *values = malloc((size_t)n * sizeof *values + 1), lanes[V16_LANES];
        for (int i = 0; i < n; i++)
            values[i] = (float)i + 1.0f;
        v16_store(lanes, v16_load_first(values, n));
        for (int i = 0; i < V16_LANES; i++)
            assert_true(lanes[i] == (i < n ? (float)i + 1.0f : 0.0f));
        v16_store_first(values, v16_set1(7.0f), n);
        for (int i = 0; i < n; i++)
            assert_true(values[i] == 7.0f);
        v16_store(lanes, v16_keep_first(v16_set1(1.0f), n, v16_set1(-1.0f)));
        for (int i = 0; i < V16_LANES; i++)
            assert_true(lanes[i] == (i < n ? 1.0f : -1.0f));
        free(values);
    }
}

static void sum_is_the_tree(void **state) {
    (void)state;
    float lanes[V16_LANES];
    for (int i = 0; i < V16_LANES; i++)
        lanes[i] = ldexpf(uniform(-1.0f, 1.0f), (int)(next_random() % 25) - 12);
    float tree[V16_LANES];
    memcpy(tree, lanes, sizeof tree);
    for (int half = 8; half > 0; half /= 2) {
        for (int i = 0; i < half; i++)
            tree[i] = tree[i] + tree[i + half];
    }
    assert_true(v16_sum(v16_load(lanes)) == tree[0]);
}

/* ---- all instruction sets ---- */

enum { N = 1003, ROWS = 13, OUT = 83 };

static const char *const sets[] = {"portable", "avx2", "avx512", "avx512_bf16"};
enum { N_SETS = sizeof sets / sizeof sets[0] };

static void fill(float *values, int n, int exponents) {
    for (int i = 0; i < n; i++)
        values[i] = ldexpf(uniform(-1.0f, 1.0f),
                           exponents ? (int)(next_random() % (uint32_t)exponents) - exponents / 2 : 0);
}

static void sets_give_equal_bits(void **state) {
    (void)state;
    const struct cpu_isa *portable;
    assert_int_equal(cpu_isa_find("portable", &portable), STATUS_OK);
    static const char *const names[] = {"avx2", "avx512", "avx512_bf16"};
    for (int n = 0; n < 3; n++) {
        const struct cpu_isa *isa;
        if (cpu_isa_find(names[n], &isa) != STATUS_OK) {
            print_message("not run here: %s\n", status_message());
            continue;
        }
        static float values[N], a[N], b[N], weight[96 * N], in[ROWS * N], out_a[ROWS * OUT],
            out_b[ROWS * OUT];
        uint16_t narrow_a[N], narrow_b[N];
        int32_t ids_a[N], ids_b[N];
        fill(values, N, 12);

        portable->sample_exp(values, N, 40.0f, 1.3f, a);
        isa->sample_exp(values, N, 40.0f, 1.3f, b);
        assert_memory_equal(a, b, sizeof a);
        assert_true(portable->sample_exp_sum(values, N, 40.0f, 0.7f) ==
                    isa->sample_exp_sum(values, N, 40.0f, 0.7f));
        for (uint32_t position = 0; position < 50; position++)
            assert_int_equal(portable->sample_gumbel(values, NULL, N, 64.0f, 0.1f, 99, position),
                             isa->sample_gumbel(values, NULL, N, 64.0f, 0.1f, 99, position));
        int64_t count = portable->sample_gather(values, N, 0.3f, ids_a, a);
        assert_int_equal(count, isa->sample_gather(values, N, 0.3f, ids_b, b));
        assert_true(count > 10);
        assert_memory_equal(ids_a, ids_b, (size_t)count * sizeof *ids_a);
        assert_memory_equal(a, b, (size_t)count * sizeof *a);
        assert_true(isa->sample_block_maxima(values, N, a) && portable->sample_block_maxima(values, N, b));
        assert_memory_equal(a, b, ((N + LOGIT_BLOCK - 1) / LOGIT_BLOCK) * sizeof *a);
        for (float x = 1e-30f; x < 1e30f; x *= 3.7f)
            assert_true(isa->log(x) == portable->log(x));

        struct norm_job norm = {.weight = values, .n = N, .epsilon = 1e-5f, .out_dtype = DTYPE_FLOAT32};
        assert_true(portable->norm_row(&norm, values, a) && isa->norm_row(&norm, values, b));
        assert_memory_equal(a, b, sizeof a);
        norm.out_dtype = DTYPE_BFLOAT16;
        assert_true(portable->norm_row(&norm, values, narrow_a) && isa->norm_row(&norm, values, narrow_b));
        assert_memory_equal(narrow_a, narrow_b, sizeof narrow_a);

        fill(weight, 96 * N, 24);
        fill(in, ROWS * N, 24);
        struct matmul_job matmul = {
            .weight = weight,
            .bias = values,
            .in = in,
            .out = out_a,
            .n_out = OUT,
            .n_in = N,
            .n_rows = ROWS,
            .activation = ACTIVATION_GELU_TANH,
        };
        portable->matmul_panels(&matmul, 0, 6);
        matmul.out = out_b;
        isa->matmul_panels(&matmul, 0, 6);
        assert_memory_equal(out_a, out_b, sizeof out_a);
    }
}

/* ---- bfloat16 products ---- */

enum { MOST_IN = 401, MOST_ROWS = 80, MOST_PANELS = 6 };

/* Zero of the same sign for a subnormal. (A result that is subnormal by less than half a unit and rounds up
 * to a normal number stands for zero too; the values below do not meet it.) */
static float flushed(float x) {
#if defined(__x86_64__)
    return fabsf(x) < FLT_MIN ? copysignf(0.0f, x) : x;
#else
    return x; /* simd.h: subnormals stay */
#endif
}

/* The definition: one chain of fused multiply-adds, k ascending, operands and results flushed, with 0 * 0 at
 * the end where n_in is odd. */
static float chain(const uint16_t *weight, const uint16_t *in, int n_in) {
    float sum = 0.0f;
    for (int k = 0; k < n_in; k++)
        sum = flushed(fmaf(flushed(bfloat16_to_float(weight[k])), flushed(bfloat16_to_float(in[k])), sum));
    return n_in % 2 ? sum + 0.0f : sum;
}

static uint16_t random_bfloat16(int lowest, int highest) {
    float x = uniform(1.0f, 1.9f);
    int exponent = lowest + (int)(next_random() % (uint32_t)(highest - lowest));
    return bfloat16_from_float(ldexpf(next_random() % 2 ? x : -x, exponent));
}

/* n_out not a multiple of a panel, n_in odd and even, rows for every height of a tile and for several blocks
 * of rows, NaN in every third; sizes: 0 ordinary, 1 results around the smallest normal number, 2 subnormal
 * rows, 3 subnormal weights. */
enum { N_SIZES = 4 };

static void check_products(const struct cpu_isa *isa, int n_out, int n_in, int n_rows, int sizes) {
    static const int exponents[N_SIZES][4] = {
        {-12, 12, -12, 12}, {-66, -58, -66, -60}, {4, 20, -133, -122}, {-133, -122, 4, 20}};
    static uint16_t weight[MOST_PANELS * PANEL_OUTPUTS][MOST_IN], in[MOST_ROWS][MOST_IN],
        rows[MOST_ROWS * (MOST_IN + 1)], packed[MOST_PANELS * PANEL_OUTPUTS * (MOST_IN + 1)];
    static float out[MOST_ROWS * MOST_PANELS * PANEL_OUTPUTS];
    const int *e = exponents[sizes];
    const int n_panels = (n_out + PANEL_OUTPUTS - 1) / PANEL_OUTPUTS;
    const int64_t panel_elements =
        panel_lines(DTYPE_BFLOAT16, n_in) * PANEL_LINE_BYTES / (int64_t)sizeof *packed;
    memset(packed, 0, sizeof packed);
    for (int o = 0; o < n_out; o++)
        for (int k = 0; k < n_in; k++) {
            weight[o][k] = random_bfloat16(e[0], e[1]);
            packed[o / PANEL_OUTPUTS * panel_elements + panel_element(DTYPE_BFLOAT16, o % PANEL_OUTPUTS, k)] =
                weight[o][k];
        }
    memset(rows, 0xff, sizeof rows); /* NaN, behind the last row too */
    struct matmul_job job = {.weight = packed,
                             .in = rows,
                             .out = out,
                             .n_out = n_out,
                             .n_in = n_in + n_in % 2,
                             .n_rows = n_rows,
                             .dtype = DTYPE_BFLOAT16};
    /* Leaves NaN on the stack, also where the k that an odd n_in lacks lies. */
    isa->matmul_panels(&job, 0, n_panels);
    job.n_in = n_in;
    for (int r = 0; r < n_rows; r++)
        for (int k = 0; k < n_in && r % 3 != 2; k++)
            rows[r * n_in + k] = in[r][k] = random_bfloat16(e[2], e[3]);
    memset(out, 0, sizeof out);
    isa->matmul_panels(&job, 0, n_panels);
    int n_zero = 0;
    for (int r = 0; r < n_rows; r++)
        for (int o = 0; o < n_out; o++) {
            if (r % 3 == 2) {
                assert_true(isnan(out[r * n_out + o]));
                continue;
            }
            float expected = chain(weight[o], in[r], n_in);
            n_zero += expected == 0;
            if (memcmp(&expected, &out[r * n_out + o], sizeof expected) != 0)
                fail_msg("%s: [%d, %d] x %d rows, sizes %d: [%d, %d] is %a, expected %a", isa->name, n_out,
                         n_in, n_rows, sizes, r, o, (double)out[r * n_out + o], (double)expected);
        }
    if (sizes > 0 && n_in == 1 && n_rows == MOST_ROWS)
        assert_int_equal(n_zero > 0, flushed(FLT_MIN / 2) == 0); /* the values are small enough */
}

static void bfloat16_products_are_defined(void **state) {
    (void)state;
    static const int shapes[][2] = {{16, 1}, {5, 2}, {83, 31}, {64, 64}, {96, 129}, {33, 401}};
    for (int t = 0; t < N_SETS; t++) {
        const struct cpu_isa *isa;
        if (cpu_isa_find(sets[t], &isa) != STATUS_OK) {
            /* A processor that does not compute what it is specified to, or a fault of the kernels. */
            if (strstr(status_message(), "sums differ"))
                fail_msg("%s", status_message());
            print_message("not run here: %s\n", status_message());
            continue;
        }
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
            for (int sizes = 0; sizes < N_SIZES; sizes++) {
                for (int n_rows = 1; n_rows <= 8; n_rows++)
                    check_products(isa, shapes[s][0], shapes[s][1], n_rows, sizes);
                check_products(isa, shapes[s][0], shapes[s][1], 17, sizes);
                check_products(isa, shapes[s][0], shapes[s][1], MOST_ROWS, sizes);
            }
    }
}

/* The flush ends with the products: what follows them keeps subnormals, and so does the caller. */
static void flush_ends_with_the_products(void **state) {
    (void)state;
    for (int t = 0; t < N_SETS; t++) {
        const struct cpu_isa *isa;
        if (cpu_isa_find(sets[t], &isa) != STATUS_OK)
            continue;
        uint16_t packed[2 * PANEL_OUTPUTS] = {0}, in[1] = {0x3f80};
        float bias = 0x1p-130f, out = -1.0f;
        struct matmul_job job = {.weight = packed,
                                 .bias = &bias,
                                 .in = in,
                                 .out = &out,
                                 .n_out = 1,
                                 .n_in = 1,
                                 .n_rows = 1,
                                 .dtype = DTYPE_BFLOAT16};
        isa->matmul_panels(&job, 0, 1);
        assert_true(out == 0x1p-130f);
        volatile float small = FLT_MIN;
        assert_true(small / 4 > 0);
    }
}

/* Values at the end of a row, between blocks, and not finite ones, are all seen. */
static void block_maxima_see_every_value(void **state) {
    (void)state;
    for (int t = 0; t < N_SETS; t++) {
        const struct cpu_isa *isa;
        if (cpu_isa_find(sets[t], &isa) != STATUS_OK)
            continue;
        for (int n = 1; n < 150; n++) {
            float values[150], maxima[3];
            for (int i = 0; i < n; i++)
                values[i] = -5.0f;
            for (int i = 0; i < n; i++) {
                values[i] = -4.0f;
                assert_true(isa->sample_block_maxima(values, n, maxima));
                for (int block = 0; block < (n + LOGIT_BLOCK - 1) / LOGIT_BLOCK; block++)
                    assert_true(maxima[block] == (block == i / LOGIT_BLOCK ? -4.0f : -5.0f));
                values[i] = i % 3 == 0 ? NAN : i % 3 == 1 ? INFINITY : -INFINITY;
                assert_false(isa->sample_block_maxima(values, n, maxima));
                values[i] = -5.0f;
            }
        }
    }
}

static void unknown_set_is_refused(void **state) {
    (void)state;
    const struct cpu_isa *isa;
    assert_int_equal(cpu_isa_find("sse9", &isa), STATUS_NO_DEVICE);
    assert_non_null(strstr(status_message(), "sse9"));
    assert_int_equal(cpu_isa_find(NULL, &isa), STATUS_OK);
    assert_int_equal(cpu_isa_find("auto", &isa), STATUS_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_within_ulps),
        cmocka_unit_test(exp_edges),
        cmocka_unit_test(log_within_ulps),
        cmocka_unit_test(gumbel_is_accurate),
        cmocka_unit_test(gelu_is_accurate),
        cmocka_unit_test(tanh_is_accurate),
        cmocka_unit_test(bfloat16_rounds_to_even),
        cmocka_unit_test(partial_loads_stay_inside),
        cmocka_unit_test(sum_is_the_tree),
        cmocka_unit_test(sets_give_equal_bits),
        cmocka_unit_test(bfloat16_products_are_defined),
        cmocka_unit_test(flush_ends_with_the_products),
        cmocka_unit_test(block_maxima_see_every_value),
        cmocka_unit_test(unknown_set_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
