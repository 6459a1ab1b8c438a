/* Runs the table of operation cases. On the CPU also: every instruction set and thread count
 * gives the bits of the first run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/functional/operations.h"
#include "tests/functional/run_cases.h"

static const uint64_t SEED = 20240607;

/* One case on one variant of the device. */
struct run {
    const struct operation_case *operation_case;
    struct backend_options options;
    const struct arguments *arguments;
    uint64_t *digest; /* written by the first variant, compared by the others */
    bool first;
};

static void run_case(void **state) {
    const struct run *run = *state;
    struct operations ops = {.device = run->arguments->device,
                             .options = run->options,
                             .seed = SEED,
                             .is_small = run->arguments->is_small};
    operations_run(&ops, run->operation_case);
    if (run->first)
        *run->digest = ops.digest;
    else if (*run->digest == 0)
        print_message("the pattern leaves the first run out: bits are not compared with it\n");
    else if (ops.digest != *run->digest)
        fail_msg("seed %llu: bits differ from those of the first run", (unsigned long long)SEED);
}

/* What is run beside the default on the CPU. */
static const struct {
    const char *isa;
    int n_threads;
} variants[] = {{"avx512_bf16", 1}, {"avx512_bf16", 2}, {"avx512", 1},  {"avx512", 2},
                {"avx2", 1},        {"avx2", 3},        {"portable", 2}};
enum { N_VARIANTS = sizeof variants / sizeof variants[0] };

int main(int argc, char **argv) {
    const struct arguments arguments = arguments_read(argc, argv);
    const char *device = arguments.device;
    bool cpu = strcmp(device, "cpu") == 0;
    struct backend backend;
    if (backend_open(device, NULL, &backend) != STATUS_OK) {
        printf("SKIPPED: operations on %s: %s\n", device, status_message());
        return ARGUMENTS_SKIPPED;
    }
    if (!arguments.is_list)
        printf("operations on %s\n", backend.device);
    backend.close(backend.context);

    struct run *runs = calloc((size_t)n_operation_cases * (1 + N_VARIANTS), sizeof *runs);
    struct CMUnitTest *tests = calloc((size_t)n_operation_cases * (1 + N_VARIANTS), sizeof *tests);
    uint64_t *digests = calloc((size_t)n_operation_cases, sizeof *digests);
    char(*names)[128] = calloc((size_t)n_operation_cases * (1 + N_VARIANTS), sizeof *names);
    if (!runs || !tests || !digests || !names)
        return 1;
    size_t n = 0;
    for (int v = -1; v < (cpu ? N_VARIANTS : 0); v++) {
        struct backend_options options = {.no_graphs = true, .n_threads = 2};
        if (v >= 0)
            options =
                (struct backend_options){.cpu_isa = variants[v].isa, .n_threads = variants[v].n_threads};
        if (v >= 0 && backend_open(device, &options, &backend) != STATUS_OK) {
            if (!arguments.is_list)
                printf("not run here: %s\n", status_message());
            continue;
        }
        if (v >= 0)
            backend.close(backend.context);
        for (int i = 0; i < n_operation_cases; i++, n++) {
            runs[n] = (struct run){&operation_cases[i], options, &arguments, &digests[i], v < 0};
            if (v < 0)
                snprintf(names[n], sizeof names[n], "%s: %s", device, operation_cases[i].name);
            else
                snprintf(names[n], sizeof names[n], "%s %s, %d threads: %s", device, variants[v].isa,
                         variants[v].n_threads, operation_cases[i].name);
            tests[n] =
                (struct CMUnitTest){.name = names[n], .test_func = run_case, .initial_state = &runs[n]};
        }
    }
    int failed = run_cases(&arguments, "operations", tests, n);
    free(runs);
    free(tests);
    free(digests);
    free(names);
    return failed;
}
