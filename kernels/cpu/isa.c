#include "kernels/cpu/isa.h"

#include <string.h>

extern const struct cpu_isa cpu_isa_portable;

#if defined(__x86_64__)
extern const struct cpu_isa cpu_isa_avx512;
extern const struct cpu_isa cpu_isa_avx2;

static bool has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

#ifdef HAVE_AVX512_BF16
extern const struct cpu_isa cpu_isa_avx512_bf16;

static bool has_avx512_bf16(void) {
    return has_avx512() && __builtin_cpu_supports("avx512bf16");
}
#endif
#endif

static bool has_portable(void) {
    return true;
}

/* Best first. */
static const struct table {
    const struct cpu_isa *isa;
    bool (*has)(void);
    const struct cpu_isa *equal; /* another, whose bfloat16 sums it must give to be used; NULL: no question */
} tables[] = {
#if defined(__x86_64__)
#ifdef HAVE_AVX512_BF16
    {&cpu_isa_avx512_bf16, has_avx512_bf16, &cpu_isa_avx512},
#endif
    {&cpu_isa_avx512, has_avx512, NULL},
    {&cpu_isa_avx2, has_avx2, NULL},
#endif
    {&cpu_isa_portable, has_portable, NULL},
};

enum { N_TABLES = sizeof tables / sizeof tables[0] };

/* A bfloat16 of any sign and mantissa with a biased exponent in [lowest, lowest + n). */
static uint16_t random_bfloat16(uint64_t *state, unsigned lowest, unsigned n) {
    *state = *state * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX generator */
    unsigned bits = (unsigned)(*state >> 32);
    return (uint16_t)((bits & 0x807f) | (lowest + (bits >> 16) % n) << 7);
}

/* Whether two tables give the same bits for products of bfloat16, among them sums that round and sums and
 * operands that are subnormal. The dot product of AVX512-BF16 is specified to (its order, flushing and
 * rounding: Intel Software Developer's Manual, volume 2, VDPBF16PS), and was tried on AMD's Zen 4. */
static bool equal_sums(const struct cpu_isa *a, const struct cpu_isa *b) {
    enum { ROWS = 9, IN = 134, OUT = PANEL_STEP * PANEL_OUTPUTS };
    uint16_t weight[OUT * IN], in[ROWS * IN]; /* any values are a packed weight */
    float out[2][ROWS * OUT];
    uint64_t state = 1;
    for (int i = 0; i < OUT * IN; i++) /* the last panel: with subnormals */
        weight[i] = i < OUT * IN * 3 / 4 ? random_bfloat16(&state, 120, i < OUT * IN / 2 ? 4 : 20)
                                         : random_bfloat16(&state, 0, 8);
    for (int i = 0; i < ROWS * IN; i++)
        in[i] = i / IN % 2 == 0 ? random_bfloat16(&state, 0, 8) : random_bfloat16(&state, 110, 20);
    struct matmul_job job = {
        .weight = weight, .in = in, .out = out[0], .n_out = OUT, .n_in = IN, .dtype = DTYPE_BFLOAT16};
    for (job.n_rows = ROWS / 2; job.n_rows <= ROWS; job.n_rows += ROWS - ROWS / 2) {
        job.out = out[0];
        a->matmul_panels(&job, 0, OUT / PANEL_OUTPUTS);
        job.out = out[1];
        b->matmul_panels(&job, 0, OUT / PANEL_OUTPUTS);
        if (memcmp(out[0], out[1], (size_t)job.n_rows * OUT * sizeof **out) != 0)
            return false;
    }
    return true;
}

enum status cpu_isa_find(const char *name, const struct cpu_isa **out) {
    bool any = !name || strcmp(name, "auto") == 0;
    for (int i = 0; i < N_TABLES; i++) {
        const struct table *table = &tables[i];
        if (!any && strcmp(name, table->isa->name) != 0)
            continue;
        bool has = table->has();
        bool is_equal = has && (!table->equal || equal_sums(table->isa, table->equal));
        RETURN_IF(!any && !has, STATUS_NO_DEVICE, "cpu_isa \"%s\": this processor does not have it; use auto",
                  name);
        RETURN_IF(!any && !is_equal, STATUS_NO_DEVICE,
                  "cpu_isa \"%s\": on this processor its sums differ from those of %s; use auto", name,
                  table->equal->name);
        if (is_equal) {
            *out = table->isa;
            return STATUS_OK;
        }
    }
    return status_fail(STATUS_NO_DEVICE,
                       "cpu_isa \"%s\" is not built in; use auto, avx512_bf16, avx512, avx2 or portable",
                       name);
}
