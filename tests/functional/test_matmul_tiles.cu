/* Every tile shape of matmul on Hopper, with every kind of end, beside the portable kernel: equal bits; of a
 * head that samples, what it leaves of each kind of row. A device takes the shape that it is fastest with, so
 * tests of whole products reach some of them alone.
 * A case is a product, and says what cmocka would. */
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/cuda/matmul.cuh"
#include "kernels/memory_rows.h"
#include "tests/functional/arguments.h"

struct product {
    const char *name;
    int32_t n_out, n_in;
    bool accumulate, out_float32, has_bias;
    enum activation activation;
    float softcap;
    bool is_head = false;
    int n_row_counts = 4, n_small_row_counts = 2; /* of row_counts; with `small` */
};

static const product products[] = {
    {"store", 200, 520, false, false, false, ACTIVATION_NONE, 0, false, 4, 4},
    {"store, bias", 65, 71, false, false, true, ACTIVATION_NONE, 0, false, 6, 6},
    {"store, bias, gelu", 328, 130, false, false, true, ACTIVATION_GELU_TANH, 0},
    {"gated by silu", 136, 130, false, false, false, ACTIVATION_SILU_GATED, 0},
    {"gated by gelu", 36, 71, false, false, false, ACTIVATION_GELU_TANH_GATED, 0, false, 6},
    {"float32", 257, 130, false, true, false, ACTIVATION_NONE, 0},
    {"float32, soft cap", 100, 71, false, true, false, ACTIVATION_NONE, 30, false, 6},
    {"store, soft cap: no kernel", 100, 71, false, false, false, ACTIVATION_NONE, 30},
    {"float32, gelu: no kernel", 100, 71, false, true, false, ACTIVATION_GELU_TANH, 0},
    {"add", 200, 520, true, true, true, ACTIVATION_NONE, 0},
    {"add, many rows", 260, 130, true, true, true, ACTIVATION_NONE, 0, false, 6},
    {"add, two parts", 72, 4300, true, true, true, ACTIVATION_NONE, 0},
    {"head", 650, 71, false, true, false, ACTIVATION_NONE, 0, true, 6},
    {"head, soft cap", 330, 130, false, true, false, ACTIVATION_NONE, 30, true},
};
/* The last are more than are taken at a time (BAND_ROWS): whole bands, and some rows more. */
static const int32_t row_counts[] = {1, 33, 300, 128, 2048, 2500};

static struct backend backend;

static void must(enum status status) {
    if (status == STATUS_OK)
        return;
    printf("%s\n", status_message());
    exit(1);
}

/* Multiples of 1/128 in (-1, 1): exact in bfloat16, and far from subnormal. */
static std::vector<float> random_floats(size_t n) {
    static uint32_t state = 1;
    std::vector<float> values(n);
    for (float &value : values) {
        state = state * 1664525u + 1013904223u;
        value = (float)((int)(state >> 24) - 127) / 128;
    }
    return values;
}

/* Of values that bfloat16 holds. */
static std::vector<uint16_t> as_bfloat16(const std::vector<float> &values) {
    std::vector<uint16_t> halves;
    for (float value : values) {
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        halves.push_back((uint16_t)(bits >> 16));
    }
    return halves;
}

/* Bytes of `out` after a product that began with `before`. */
template <typename Launch>
static std::vector<unsigned char> result(const product &p, struct tensor *out,
                                         const std::vector<float> &before, const Launch &launch) {
    std::vector<unsigned char> bytes(before.size() * dtype_bytes(out->dtype));
    if (p.out_float32)
        memcpy(bytes.data(), before.data(), bytes.size());
    else
        memset(bytes.data(), 0xFF, bytes.size());
    must(backend.tensor_write(backend.context, out, (int32_t)out->rows, bytes.data()));
    must(launch());
    must(backend.tensor_read(backend.context, out, (int32_t)out->rows, bytes.data()));
    return bytes;
}

/* ---- the head ---- */

/* Device memory that the head writes beside the logits. */
struct head_state {
    struct tensor *entries; /* [rows] of struct head_entry */
    struct tensor *maxima;  /* [rows, groups of 32 tokens] */
};

enum { ENTRY_FLOATS = sizeof(struct head_entry) / sizeof(float), N_HEAD_ENDS = HEAD_SKIPS + 1 };

static struct head_entry entry_of(int32_t row) {
    struct head_entry entry = {};
    entry.key = 0x9E3779B97F4A7C15u * (uint64_t)(row + 1);
    entry.temperature = 0.75f + (float)(row % 7);
    entry.position = row;
    entry.end = (enum head_end)(row * 7 / 3 % N_HEAD_ENDS);
    return entry;
}

/* A finite value and its token as the head compares them (candidate.cuh). */
static uint64_t candidate_of(float value, int32_t token) {
    uint32_t bits;
    value += 0.0f;
    memcpy(&bits, &value, sizeof bits);
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)bits << 32 | (0xFFFFFFFFu - (uint32_t)token);
}

static void head_state_begin(const head_state &state) {
    std::vector<struct head_entry> entries;
    for (int32_t row = 0; row < state.entries->rows; row++)
        entries.push_back(entry_of(row));
    std::vector<float> junk((size_t)state.maxima->rows * state.maxima->cols, NAN);
    must(backend.tensor_write(backend.context, state.entries, state.entries->rows, entries.data()));
    must(backend.tensor_write(backend.context, state.maxima, state.maxima->rows, junk.data()));
}

/* Whether what the head left of the rows is right. logits: of the portable kernel. drawn: what the shape
 * before found for drawn rows, or 0. */
static bool head_is_right(const product &p, int32_t n_rows, int32_t group, const head_state &state,
                          const std::vector<unsigned char> &logits, const std::vector<unsigned char> &got,
                          std::vector<uint64_t> *drawn) {
    const float *expected = reinterpret_cast<const float *>(logits.data());
    std::vector<struct head_entry> entries((size_t)state.entries->rows);
    std::vector<float> maxima((size_t)state.maxima->rows * state.maxima->cols);
    must(backend.tensor_read(backend.context, state.entries, state.entries->rows, entries.data()));
    must(backend.tensor_read(backend.context, state.maxima, state.maxima->rows, maxima.data()));
    const int64_t row_groups = state.maxima->cols * (HEAD_GROUP / group);
    for (int32_t row = 0; row < n_rows; row++) {
        const enum head_end end = entry_of(row).end;
        const float *values = expected + (int64_t)row * p.n_out;
        uint64_t best = 0;
        for (int32_t token = 0; token < p.n_out; token++)
            best = candidate_of(values[token], token) > best ? candidate_of(values[token], token) : best;
        const bool is_written = end == HEAD_WRITES || end == HEAD_LISTS;
        if (is_written && memcmp(got.data() + (size_t)row * p.n_out * 4, values, (size_t)p.n_out * 4) != 0) {
            printf("row %d has other logits\n", row);
            return false;
        }
        for (int32_t g = 0; end == HEAD_LISTS && g * group < p.n_out; g++) {
            float largest = -INFINITY;
            for (int32_t token = g * group; token < (g + 1) * group && token < p.n_out; token++)
                largest = fmaxf(largest, values[token]);
            if (maxima[(size_t)(row * row_groups + g)] != largest) {
                printf("row %d lists %g for group %d, expected %g\n", row,
                       (double)maxima[(size_t)(row * row_groups + g)], g, (double)largest);
                return false;
            }
        }
        uint64_t chosen = entries[(size_t)row].best;
        if (end == HEAD_DRAWS) {
            best = (*drawn)[(size_t)row] != 0 ? (*drawn)[(size_t)row] : chosen;
            (*drawn)[(size_t)row] = chosen;
        }
        if (end == HEAD_GREEDY || end == HEAD_DRAWS ? chosen != best || chosen == 0 : chosen != 0) {
            printf("row %d chose %016llx, expected %016llx\n", row, (unsigned long long)chosen,
                   (unsigned long long)best);
            return false;
        }
    }
    return true;
}

/* Returns how many shapes were compared, or -1. */
static int compare(const product &p, int n_row_counts) {
    const int32_t most_rows = *std::max_element(row_counts, row_counts + n_row_counts);
    const bool gated = p.activation == ACTIVATION_SILU_GATED || p.activation == ACTIVATION_GELU_TANH_GATED;
    std::vector<uint16_t> weight = as_bfloat16(random_floats((size_t)p.n_out * p.n_in)),
                          other = as_bfloat16(random_floats((size_t)p.n_out * p.n_in)),
                          in = as_bfloat16(random_floats((size_t)most_rows * p.n_in));
    std::vector<float> bias = random_floats((size_t)p.n_out),
                       before = random_floats((size_t)most_rows * p.n_out);
    struct memory_rows rows = {weight.data(), (size_t)p.n_in * 2},
                       other_rows = {other.data(), (size_t)p.n_in * 2};
    struct row_source source = {memory_rows_read, &rows}, other_source = {memory_rows_read, &other_rows};
    struct tensor *w, *x, *y, *b = nullptr;
    struct backend_context *context = backend.context;
    if (gated)
        must(backend.weight_pair_new(context, DTYPE_BFLOAT16, p.n_out, p.n_in, source, other_source, &w));
    else
        must(backend.weight_new(context, DTYPE_BFLOAT16, p.n_out, p.n_in, source, &w));
    must(backend.weights_wait(context));
    must(backend.tensor_new(context, DTYPE_BFLOAT16, most_rows, p.n_in, &x));
    must(backend.tensor_write(context, x, most_rows, in.data()));
    must(backend.tensor_new(context, p.out_float32 ? DTYPE_FLOAT32 : DTYPE_BFLOAT16, most_rows, p.n_out, &y));
    if (p.has_bias)
        must(backend.vector_new(context, p.n_out, bias.data(), &b));
    head_state state = {};
    if (p.is_head) {
        must(backend.tensor_new(context, DTYPE_FLOAT32, most_rows, ENTRY_FLOATS, &state.entries));
        must(backend.tensor_new(context, DTYPE_FLOAT32, most_rows, head_groups_stride(p.n_out, HEAD_GROUP),
                                &state.maxima));
    }
    std::vector<uint64_t> drawn((size_t)most_rows, 0);
    int n_compared = 0;
    for (int count = 0; count < n_row_counts; count++) {
        const int32_t n_rows = row_counts[count];
        struct matmul_args args = {};
        args.weight = w;
        args.bias = b;
        args.in = x;
        args.out = y;
        args.n_rows = n_rows;
        args.activation = p.activation;
        args.accumulate = p.accumulate;
        args.softcap = p.softcap;
        matmul_params params;
        must(matmul_params_for(&args, &params));
        std::vector<unsigned char> expected =
            result(p, y, before, [&] { return matmul_mma(context, params); });
        if (p.is_head) {
            params.head = static_cast<struct head_entry *>(state.entries->data);
            params.maxima = static_cast<float *>(state.maxima->data);
            params.maxima_stride = (int32_t)state.maxima->cols;
        }
        for (int i = 0; i < matmul_wgmma_variants(); i++) {
            if (!matmul_wgmma_can(params, i))
                continue;
            char name[64];
            if (p.is_head)
                head_state_begin(state);
            std::vector<unsigned char> got = result(
                p, y, before, [&] { return matmul_wgmma_launch(context, params, x, i, name, sizeof name); });
            n_compared++;
            int32_t n_tokens = 0;
            if (p.is_head && sscanf(name, "%*dx%d", &n_tokens) == 1) {
                const int32_t group = head_group_tokens(n_tokens < 64 ? n_tokens : 64);
                if (head_is_right(p, n_rows, group, state, expected, got, &drawn))
                    continue;
                printf("%s, %d rows: %s\n", p.name, n_rows, name);
                return -1;
            }
            if (got != expected) {
                printf("%s, %d rows: %s differs from the portable kernel\n", p.name, n_rows, name);
                return -1;
            }
        }
    }
    for (struct tensor *tensor : {w, x, y, b, state.entries, state.maxima})
        backend.tensor_free(context, tensor);
    return n_compared;
}

/* How many of the cases fail. */
static int run(const struct arguments *arguments) {
    int n_run = 0, n_failed = 0;
    for (const product &p : products) {
        if (!arguments_match(arguments, p.name))
            continue;
        n_run++;
        if (arguments->is_list) {
            printf("%s\n", p.name);
            continue;
        }
        printf("[ RUN      ] %s\n", p.name);
        int n = compare(p, arguments->is_small ? p.n_small_row_counts : p.n_row_counts);
        bool ok = n >= 0 && (n == 0) == (strstr(p.name, "no kernel") != nullptr);
        printf("%d products\n%s %s\n", n, ok ? "[       OK ]" : "[  FAILED  ]", p.name);
        n_failed += !ok;
    }
    return n_run == 0 ? arguments_matched_nothing(arguments, "matmul_tiles") : n_failed != 0;
}

int main(int argc, char **argv) {
    const struct arguments arguments = arguments_read(argc, argv);
    enum status status = backend_open_cuda(nullptr, &backend);
    if (status == STATUS_NO_DEVICE || (status == STATUS_OK && !backend.context->has_wgmma)) {
        printf("SKIPPED: no GPU with wgmma\n");
        return ARGUMENTS_SKIPPED;
    }
    must(status);
    int code = run(&arguments);
    backend.close(backend.context);
    return code;
}
