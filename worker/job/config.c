/* The config file: one table of keys. */
#include <stdlib.h>
#include <string.h>

#include "worker/base/file.h"
#include "worker/job/field.h"
#include "worker/job/job.h"
#include "worker/job/nearest.h"
#include "worker/text/quote.h"
#include "worker/job/yaml_node.h"

enum config_type {
    CONFIG_DEVICE,
    CONFIG_ISA,
    CONFIG_RESERVE,
    CONFIG_INT32,
    CONFIG_UINT64,
    CONFIG_BYTES,
    CONFIG_REAL,
    CONFIG_BOOL
};

struct config_key {
    const char *name;
    enum config_type type;
    size_t offset;
    double minimum;
    double maximum;
    bool or_auto; /* the word auto, which stands for 0, is allowed too */
};

#define KEY(member, type, minimum, maximum, or_auto)                                                         \
    { #member, type, offsetof(struct config, member), minimum, maximum, or_auto }
#define GIB (1024.0 * 1024 * 1024)
#define TIB (1024.0 * GIB)

static const struct config_key keys[] = {
    KEY(device, CONFIG_DEVICE, 0, 0, false),
    KEY(threads, CONFIG_INT32, 0, 1024, true),
    KEY(cpu_isa, CONFIG_ISA, 0, 0, false),
    KEY(max_num_seqs, CONFIG_INT32, 0, 65536, true),
    KEY(max_num_batched_tokens, CONFIG_INT32, 0, 1 << 20, true),
    KEY(kv_reserve, CONFIG_RESERVE, 0, 0, false),
    KEY(gpu_memory_utilization, CONFIG_REAL, 0.01, 1, false),
    KEY(cpu_memory, CONFIG_BYTES, 0, 1024 * TIB, true),
    KEY(cuda_graphs, CONFIG_BOOL, 0, 0, false),
    KEY(cuda_network, CONFIG_BOOL, 0, 0, false),
    KEY(seal_seconds, CONFIG_REAL, 0.001, 86400, false),
    KEY(seal_bytes, CONFIG_BYTES, 1, GIB, false),
    KEY(max_waiting_bytes, CONFIG_BYTES, 1, TIB, false),
    KEY(read_ahead_records, CONFIG_UINT64, 1, 1 << 24, false),
    KEY(read_ahead_bytes, CONFIG_BYTES, 1, TIB, false),
    KEY(grace_s, CONFIG_REAL, 0, 86400, false),
    KEY(progress_seconds, CONFIG_REAL, 0.1, 86400, false),
};

static const char *const config_names[] = {"device",
                                           "threads",
                                           "cpu_isa",
                                           "max_num_seqs",
                                           "max_num_batched_tokens",
                                           "kv_reserve",
                                           "gpu_memory_utilization",
                                           "cpu_memory",
                                           "cuda_graphs",
                                           "cuda_network",
                                           "seal_seconds",
                                           "seal_bytes",
                                           "max_waiting_bytes",
                                           "read_ahead_records",
                                           "read_ahead_bytes",
                                           "grace_s",
                                           "progress_seconds",
                                           NULL};

void config_defaults(struct config *config) {
    *config = (struct config){
        .device = DEVICE_AUTO,
        .cpu_isa = "auto",
        .gpu_memory_utilization = 0.9,
        .cuda_graphs = true,
        .cuda_network = true,
        .seal_seconds = 2,
        .seal_bytes = 1 << 20,
        .max_waiting_bytes = 256 << 20,
        .read_ahead_records = 4096,
        .read_ahead_bytes = 64 << 20,
        .grace_s = 20,
        .progress_seconds = 5,
    };
}

void config_free(struct config *config) {
    config_defaults(config); /* owns nothing yet */
}

bool config_has_key(const char *name) {
    for (size_t i = 0; config_names[i]; i++)
        if (strcmp(config_names[i], name) == 0)
            return true;
    return false;
}

/* auto | cpu | cuda | cuda:N */
static enum status set_device(const struct field *field, struct config *config) {
    static const char *const choices[] = {"auto", "cpu", "cuda", "cuda:N", NULL};
    const struct yaml_node *node = field->node;
    if (node->kind == YAML_SCALAR && node->size > 5 && memcmp(node->text, "cuda:", 5) == 0) {
        char *end;
        long ordinal = strtol(node->text + 5, &end, 10);
        if (node->text[5] >= '0' && node->text[5] <= '9' && end == node->text + node->size &&
            ordinal < 1024) {
            config->device = DEVICE_CUDA;
            config->cuda_device = (int32_t)ordinal;
            return STATUS_OK;
        }
        return field_refuse(field, "cuda:N with the number of the device, for example cuda:0");
    }
    int choice = 0;
    TRY(field_choice(field, choices, &choice));
    if (choice > DEVICE_CUDA)
        return field_refuse(field, "cuda:N with the number of the device, for example cuda:0");
    config->device = choice;
    config->cuda_device = 0;
    return STATUS_OK;
}

static enum status set_isa(const struct field *field, struct config *config) {
    static const char *const choices[] = {"auto", "avx512_bf16", "avx512", "avx2", "portable", NULL};
    int choice = 0;
    TRY(field_choice(field, choices, &choice));
    config->cpu_isa = choices[choice];
    return STATUS_OK;
}

static enum status set_reserve(const struct field *field, struct config *config) {
    static const char *const choices[] = {"expected", "full", NULL};
    int choice = 0;
    TRY(field_choice(field, choices, &choice));
    config->kv_reserve = choice == 0 ? KV_RESERVE_EXPECTED : KV_RESERVE_FULL;
    return STATUS_OK;
}

static enum status config_set(const struct field *field, const struct config_key *key,
                              struct config *config) {
    void *member = (char *)config + key->offset;
    int64_t integer = 0;
    if (key->or_auto && yaml_node_is(field->node, "auto")) {
        if (key->type == CONFIG_INT32)
            *(int32_t *)member = 0;
        else
            *(uint64_t *)member = 0;
        return STATUS_OK;
    }
    switch (key->type) {
    case CONFIG_DEVICE:
        return set_device(field, config);
    case CONFIG_ISA:
        return set_isa(field, config);
    case CONFIG_RESERVE:
        return set_reserve(field, config);
    case CONFIG_INT32:
        TRY(field_integer(field, (int64_t)key->minimum, (int64_t)key->maximum, &integer));
        *(int32_t *)member = (int32_t)integer;
        return STATUS_OK;
    case CONFIG_UINT64:
        TRY(field_integer(field, (int64_t)key->minimum, (int64_t)key->maximum, &integer));
        *(uint64_t *)member = (uint64_t)integer;
        return STATUS_OK;
    case CONFIG_BYTES:
        return field_byte_size(field, (uint64_t)key->minimum, (uint64_t)key->maximum, member);
    case CONFIG_REAL:
        return field_real(field, key->minimum, key->maximum, member);
    case CONFIG_BOOL:
        return field_bool(field, member);
    }
    return STATUS_OK;
}

static enum status config_field(const struct field *field, struct config *config) {
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (strcmp(keys[i].name, field->key) == 0)
            return config_set(field, &keys[i], config);
    char hint[NEAREST_HINT_BYTES];
    return field_unknown(field, "config key",
                         nearest_hint(field->key, strlen(field->key), config_names, hint));
}

enum status config_load(const char *path, struct config *config) {
    struct yaml_tree tree;
    TRY(field_read_file(path, &tree));
    enum status status = STATUS_OK;
    for (struct yaml_node *node = tree.root ? tree.root->first_child : NULL; node && status == STATUS_OK;
         node = node->next) {
        struct field field = {path, NULL, "", node->key->text, node};
        status = config_field(&field, config);
    }
    yaml_tree_free(&tree);
    return status;
}

enum status config_override(const char *set_text, const char *key, const char *value, struct config *config) {
    struct yaml_tree tree;
    TRY(field_read_value(set_text, value, &tree));
    struct field field = {NULL, set_text, "config.", key, tree.root};
    enum status status = config_field(&field, config);
    yaml_tree_free(&tree);
    return status;
}
