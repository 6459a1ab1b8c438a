#include "worker/job/job.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "worker/base/file.h"
#include "worker/job/field.h"
#include "worker/job/nearest.h"
#include "worker/job/prompt_reader.h"
#include "worker/text/quote.h"

static const char *const job_names[] = {
    "model", "prompts",     "output",       "config",           "dtype",    "kv_cache_dtype", "max_model_len",
    "seed",  "on_too_long", "prompt_field", "output_token_ids", "sampling", "max_line_bytes", "mode",
    NULL};

/* What job_load knows while it reads. */
struct loader {
    struct job *job;
    char *folder;                   /* of the job file: what its paths are relative to */
    char config_place[PLACE_BYTES]; /* where `config` was named */
};

static enum status set_dtype(const struct field *field, bool *is_given, enum dtype *dtype) {
    static const char *const choices[] = {"auto", "float32", "bfloat16", NULL};
    int choice = 0;
    TRY(field_choice(field, choices, &choice));
    *is_given = choice != 0;
    *dtype = choice == 1 ? DTYPE_FLOAT32 : DTYPE_BFLOAT16;
    return STATUS_OK;
}

static enum status set_output(const struct loader *loader, const struct field *field) {
    TRY(field_path(field, loader->folder, &loader->job->output));
    const char *output = loader->job->output;
    size_t size = strlen(output);
    if (size < 4 || strcmp(output + size - 3, ".gz") != 0 || output[size - 4] == '/')
        return field_refuse(field, "a file name that ends in .gz, such as out/answers.jsonl.gz");
    return STATUS_OK;
}

static enum status set_prompt_field(const struct loader *loader, const struct field *field) {
    TRY(field_text(field, &loader->job->prompt_field));
    if (request_key_is_known(loader->job->prompt_field))
        return field_refuse(field, "the name of a column that has no other meaning in a record");
    return STATUS_OK;
}

/* is_override: a later --set may replace what is set already. */
static enum status set_sampling(const struct loader *loader, const struct field *field, bool is_override) {
    struct sampling *sampling = &loader->job->sampling;
    uint32_t bit = sampling_field_of(field->key);
    if (bit == SAMPLING_SEED)
        return field_fail(field,
                          "the seed is a key of the job, not of its sampling; write \"seed: N\" at the "
                          "top level");
    if (bit == 0) {
        char hint[NEAREST_HINT_BYTES];
        return field_unknown(field, "sampling key",
                             nearest_hint(field->key, strlen(field->key), sampling_names, hint));
    }
    if (!is_override && (sampling->set & bit))
        return field_fail(field, "given twice, under two of its names; keep one");
    bool known;
    return field_sampling(field, sampling, &known);
}

static enum status set_sampling_block(const struct loader *loader, const struct field *block) {
    const struct yaml_node *root = block->node;
    if (yaml_node_value(root).type == YAML_NULL)
        return STATUS_OK; /* a block whose keys are all commented out */
    if (root->kind != YAML_MAPPING)
        return field_refuse(block, "a block of sampling keys, such as {max_tokens: 100, temperature: 0.8}");
    for (const struct yaml_node *node = root->first_child; node; node = node->next) {
        struct field field = {block->file, block->set_text, "sampling.", node->key->text, node};
        TRY(set_sampling(loader, &field, block->file == NULL));
    }
    return STATUS_OK;
}

static enum status set_job(struct loader *loader, const struct field *field, bool *known) {
    struct job *job = loader->job;
    const char *key = field->key;
    int64_t integer = 0;
    *known = true;
    if (strcmp(key, "model") == 0)
        return field_path(field, loader->folder, &job->model);
    if (strcmp(key, "prompts") == 0)
        return field_path(field, loader->folder, &job->prompts);
    if (strcmp(key, "output") == 0)
        return set_output(loader, field);
    if (strcmp(key, "config") == 0) {
        field_place(field, field->node, loader->config_place);
        return field_path(field, loader->folder, &job->config);
    }
    if (strcmp(key, "dtype") == 0)
        return set_dtype(field, &job->has_dtype, &job->dtype);
    if (strcmp(key, "kv_cache_dtype") == 0)
        return set_dtype(field, &job->has_kv_cache_dtype, &job->kv_cache_dtype);
    if (strcmp(key, "max_model_len") == 0) {
        TRY(field_integer(field, 1, MAX_MAX_TOKENS, &integer));
        job->max_model_len = (int32_t)integer;
        return STATUS_OK;
    }
    if (strcmp(key, "mode") == 0) {
        static const char *const choices[] = {"generate", "score", NULL};
        int choice = 0;
        TRY(field_choice(field, choices, &choice));
        job->mode = choice == 0 ? MODE_GENERATE : MODE_SCORE;
        return STATUS_OK;
    }
    if (strcmp(key, "seed") == 0) {
        TRY(field_integer(field, 0, INT64_MAX, &integer));
        job->seed = (uint64_t)integer;
        return STATUS_OK;
    }
    if (strcmp(key, "on_too_long") == 0) {
        static const char *const choices[] = {"error", "truncate_left", NULL};
        int choice = 0;
        TRY(field_choice(field, choices, &choice));
        job->on_too_long = choice == 0 ? ON_TOO_LONG_ERROR : ON_TOO_LONG_TRUNCATE_LEFT;
        return STATUS_OK;
    }
    if (strcmp(key, "prompt_field") == 0)
        return set_prompt_field(loader, field);
    if (strcmp(key, "max_line_bytes") == 0)
        return field_byte_size(field, 1, (uint64_t)1 << 30, &job->max_line_bytes);
    if (strcmp(key, "output_token_ids") == 0)
        return field_bool(field, &job->output_token_ids);
    if (strcmp(key, "sampling") == 0)
        return set_sampling_block(loader, field);
    *known = false;
    return STATUS_OK;
}

static enum status refuse_unknown(const struct field *field) {
    char hint[NEAREST_HINT_BYTES];
    if (field->file && sampling_field_of(field->key))
        return field_unknown(field, "job key",
                             "; it is a sampling key: write it inside the block \"sampling:\"");
    if (config_has_key(field->key))
        return field_unknown(field, "job key",
                             field->file ? "; it is a config key: write it into the config file"
                                         : "; it is a config key: write config.KEY=value");
    const char *const *names = job_names;
    /* A mistyped sampling key on the command line is nearest among those. */
    if (!field->file && !nearest_name(field->key, strlen(field->key), job_names))
        names = sampling_names;
    return field_unknown(field, "job key", nearest_hint(field->key, strlen(field->key), names, hint));
}

static enum status apply_file(struct loader *loader, const char *path, const struct yaml_tree *tree) {
    for (struct yaml_node *node = tree->root ? tree->root->first_child : NULL; node; node = node->next) {
        struct field field = {path, NULL, "", node->key->text, node};
        bool known;
        TRY(set_job(loader, &field, &known));
        if (!known)
            return refuse_unknown(&field);
    }
    return STATUS_OK;
}

/* One --set; config keys wait until the config file is read (want_config). */
static enum status apply_override(struct loader *loader, const char *text, bool want_config,
                                  struct config *config) {
    char shown[QUOTE_BYTES], key[64];
    const char *equals = strchr(text, '=');
    RETURN_IF(!equals || equals == text || (size_t)(equals - text) >= sizeof key, STATUS_JOB,
              "--set %s: expected key=value, for example --set sampling.temperature=0.2",
              quote(text, strlen(text), shown));
    memcpy(key, text, (size_t)(equals - text));
    key[equals - text] = '\0';

    bool is_config = strncmp(key, "config.", 7) == 0;
    if (is_config != want_config)
        return STATUS_OK;
    if (is_config)
        return config_override(text, key + 7, equals + 1, config);

    struct yaml_tree tree;
    TRY(field_read_value(text, equals + 1, &tree));
    bool is_sampling = strncmp(key, "sampling.", 9) == 0;
    struct field field = {NULL, text, is_sampling ? "sampling." : "", is_sampling ? key + 9 : key, tree.root};
    bool known = true;
    enum status status = STATUS_OK;
    if (!is_sampling)
        status = set_job(loader, &field, &known);
    if (status == STATUS_OK && (is_sampling || (!known && sampling_field_of(key))))
        status = set_sampling(loader, &field, true);
    else if (status == STATUS_OK && !known)
        status = refuse_unknown(&field);
    yaml_tree_free(&tree);
    return status;
}

static enum status apply_overrides(struct loader *loader, const char *const *overrides, int n_overrides,
                                   bool want_config, struct config *config) {
    for (int i = 0; i < n_overrides; i++)
        TRY(apply_override(loader, overrides[i], want_config, config));
    return STATUS_OK;
}

static enum status load_config(const struct loader *loader, struct config *config) {
    const char *path = loader->job->config;
    if (!path)
        return STATUS_OK;
    enum status status = config_load(path, config);
    return status == STATUS_NO_INPUT ? status_context(status, "%s: config: ", loader->config_place) : status;
}

/* Nothing is sampled when prompts are scored: a sampling key of the job is a mistake. Those of records and of
 * generation_config.json are passed over, so that one file of prompts serves both modes. */
static enum status check_mode(const struct job *job) {
    for (int i = 0; job->mode == MODE_SCORE && i < N_SAMPLING_NAMES; i++)
        RETURN_IF(job->sampling.set & sampling_field_of(sampling_names[i]), STATUS_JOB,
                  "%s: sampling.%s: has no meaning with mode: score, which samples nothing; remove it",
                  job->path, sampling_names[i]);
    return STATUS_OK;
}

/* Whether two paths name one file: the same file, or, where it is not there yet, the same name in the same
 * folder. */
static bool is_same_path(const char *a, const char *b) {
    struct stat a_stat, b_stat;
    if (stat(a, &a_stat) == 0 && stat(b, &b_stat) == 0)
        return a_stat.st_dev == b_stat.st_dev && a_stat.st_ino == b_stat.st_ino;
    return strcmp(a, b) == 0;
}

static enum status check_whole(const struct job *job) {
    const struct {
        const char *name;
        const char *value;
    } required[] = {{"model", job->model}, {"prompts", job->prompts}, {"output", job->output}};
    for (size_t i = 0; i < sizeof required / sizeof *required; i++)
        RETURN_IF(!required[i].value, STATUS_JOB, "%s: %s: missing; add a line \"%s: ...\" to the job",
                  job->path, required[i].name, required[i].name);

    const struct {
        const char *name;
        const char *path;
    } others[] = {
        {"prompts", job->prompts}, {"model", job->model}, {"config", job->config}, {"job", job->path}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        RETURN_IF(others[i].path && is_same_path(job->output, others[i].path), STATUS_JOB,
                  "%s: output: '%s' is the %s too; give the output a name of its own", job->path, job->output,
                  others[i].name);

    enum prompt_format format;
    RETURN_IF(!prompt_format_of_name(job->prompts, &format), STATUS_JOB,
              "%s: prompts: '%s' has no known ending; expected .txt or .jsonl, either with .gz behind it, or "
              "\"-\" for standard input",
              job->path, job->prompts);
    return STATUS_OK;
}

static enum status load_file(struct loader *loader) {
    struct yaml_tree tree;
    TRY(field_read_file(loader->job->path, &tree));
    enum status status = apply_file(loader, loader->job->path, &tree);
    yaml_tree_free(&tree);
    return status;
}

/* The job's overrides may name another config file, so those of the config come behind it. */
static enum status apply_values(struct loader *loader, const char *const *overrides, int n_overrides,
                                struct config *config) {
    TRY(apply_overrides(loader, overrides, n_overrides, false, config));
    TRY(load_config(loader, config));
    return apply_overrides(loader, overrides, n_overrides, true, config);
}

static enum status begin(struct loader *loader, const char *path, struct job *job, struct config *config) {
    *job = (struct job){.path = strdup(path), .prompt_field = strdup("prompt")};
    sampling_init(&job->sampling);
    config_defaults(config);
    *loader = (struct loader){.job = job, .folder = path_folder(path)};
    RETURN_IF(!job->path || !job->prompt_field || !loader->folder, STATUS_INTERNAL, "out of host memory");
    return STATUS_OK;
}

static enum status end(struct loader *loader, enum status status, struct config *config) {
    free(loader->folder);
    if (status != STATUS_OK) {
        job_free(loader->job);
        config_free(config);
    }
    return status;
}

enum status job_load(const char *path, const char *const *overrides, int n_overrides, struct job *job,
                     struct config *config) {
    struct loader loader;
    enum status status = begin(&loader, path, job, config);
    if (status == STATUS_OK)
        status = load_file(&loader);
    if (status == STATUS_OK)
        status = apply_values(&loader, overrides, n_overrides, config);
    if (status == STATUS_OK)
        status = check_mode(job);
    if (status == STATUS_OK)
        status = check_whole(job);
    return end(&loader, status, config);
}

enum status job_from_values(const char *model, const char *const *values, int n_values, struct job *job,
                            struct config *config) {
    struct loader loader;
    enum status status = begin(&loader, "command line", job, config);
    if (status == STATUS_OK && !(job->model = strdup(model)))
        status = status_fail(STATUS_INTERNAL, "out of host memory");
    if (status == STATUS_OK)
        status = apply_values(&loader, values, n_values, config);
    if (status == STATUS_OK && job->mode == MODE_SCORE)
        status = status_fail(STATUS_JOB, "mode: score is for jobs: write one, and run it with pressrun run");
    return end(&loader, status, config);
}

void job_free(struct job *job) {
    free(job->path);
    free(job->model);
    free(job->prompts);
    free(job->output);
    free(job->config);
    free(job->prompt_field);
    sampling_free(&job->sampling);
    *job = (struct job){0};
}
