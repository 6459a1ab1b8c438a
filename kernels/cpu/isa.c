#include "kernels/cpu/isa.h"

#include <string.h>

extern const struct cpu_isa cpu_isa_portable;

#if defined(__x86_64__)
extern const struct cpu_isa cpu_isa_avx512;
extern const struct cpu_isa cpu_isa_avx2;

static bool runs_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

static bool runs_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif

static bool runs_portable(void) {
    return true;
}

/* Best first. */
static const struct {
    const struct cpu_isa *isa;
    bool (*runs)(void);
} tables[] = {
#if defined(__x86_64__)
    {&cpu_isa_avx512, runs_avx512},
    {&cpu_isa_avx2, runs_avx2},
#endif
    {&cpu_isa_portable, runs_portable},
};

enum { N_TABLES = sizeof tables / sizeof tables[0] };

enum status cpu_isa_find(const char *name, const struct cpu_isa **out) {
    bool any = !name || strcmp(name, "auto") == 0;
    for (int i = 0; i < N_TABLES; i++) {
        if (any ? tables[i].runs() : strcmp(name, tables[i].isa->name) == 0) {
            RETURN_IF(!tables[i].runs(), STATUS_NO_DEVICE,
                      "cpu_isa \"%s\": this processor does not have it; use auto", name);
            *out = tables[i].isa;
            return STATUS_OK;
        }
    }
    return status_fail(STATUS_NO_DEVICE, "cpu_isa \"%s\" is not built in; use auto, avx512, avx2 or portable",
                       name);
}
