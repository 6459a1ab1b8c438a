/* job: what to generate (job.yaml) and how to run on this machine (config.yaml). Immutable once loaded;
 * nothing is opened for writing before both are valid. Formats: docs/job.md. */
#ifndef PRESSRUN_WORKER_JOB_JOB_H
#define PRESSRUN_WORKER_JOB_JOB_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "worker/model/sampling.h"

enum job_mode {
    MODE_GENERATE,
    MODE_SCORE /* log-probabilities of the prompts' tokens; nothing is sampled */
};

enum on_too_long { ON_TOO_LONG_ERROR, ON_TOO_LONG_TRUNCATE_LEFT };

struct job {
    char *path;    /* the job file, as given */
    char *model;   /* model directory; resolved against the folder of the file that names it */
    char *prompts; /* .txt, .jsonl, .gz of either, or "-" */
    char *output;  /* NAME; must end in .gz */
    char *config;  /* config file, or NULL */
    enum job_mode mode;
    bool has_dtype;
    enum dtype dtype; /* default: the dtype of the model's weights */
    bool has_kv_cache_dtype;
    enum dtype kv_cache_dtype; /* default: dtype */
    int32_t max_model_len;     /* 0: the model's context length */
    uint64_t seed;             /* default 0 */
    enum on_too_long on_too_long;
    uint64_t max_line_bytes;  /* longest input line; 0: the default, 16 MiB */
    char *prompt_field;       /* JSONL column that holds the prompt; default "prompt" */
    bool output_token_ids;    /* write token_ids into records (always with logprobs) */
    struct sampling sampling; /* job level; nothing is set in it where mode is MODE_SCORE */
};

enum { DEVICE_AUTO, DEVICE_CPU, DEVICE_CUDA };

enum kv_reserve { KV_RESERVE_EXPECTED, KV_RESERVE_FULL };

struct config {
    int device;                     /* DEVICE_* */
    int32_t cuda_device;            /* ordinal */
    int32_t threads;                /* CPU backend threads; 0: all available */
    const char *cpu_isa;            /* static text: auto | avx512_bf16 | avx512 | avx2 | portable */
    int32_t max_num_seqs;           /* 0: automatic */
    int32_t max_num_batched_tokens; /* 0: automatic */
    enum kv_reserve kv_reserve;     /* pages that a sequence gets when it begins; default: expected */
    double gpu_memory_utilization;  /* (0, 1], default 0.9 */
    uint64_t cpu_memory;         /* bytes for KV cache and activations on cpu; 0: half of what is available */
    bool cuda_graphs;            /* default true */
    bool cuda_network;           /* default true */
    double seal_seconds;         /* default 2 */
    uint64_t seal_bytes;         /* default 1 MiB of text */
    uint64_t max_waiting_bytes;  /* finished records that wait for an earlier one; default 256 MiB */
    uint64_t read_ahead_records; /* default 4096 */
    uint64_t read_ahead_bytes;   /* default 64 MiB */
    double grace_s;              /* default 20 */
    double progress_seconds;     /* plain progress lines; default 5 */
};

/* Loads JOB.yaml and its config, applies overrides "key=value" in order ("sampling.temperature=0.2",
 * "config.max_num_seqs=8"; values as YAML scalars or flow lists), validates everything.
 * STATUS_JOB: file:line:column, key, what is allowed, nearest known key. STATUS_NO_INPUT: file missing. */
enum status job_load(const char *path, const char *const *overrides, int n_overrides, struct job *job,
                     struct config *config);
/* A job without a file, for one prompt: the model's directory and "key=value" texts as above. prompts and
 * output stay NULL. */
enum status job_from_values(const char *model, const char *const *values, int n_values, struct job *job,
                            struct config *config);
/* The longest input line, in bytes. */
static inline uint64_t job_max_line_bytes(const struct job *job) {
    return job->max_line_bytes ? job->max_line_bytes : (uint64_t)16 << 20;
}
void job_free(struct job *job);
/* Loads a config file alone, or sets one key of it from the value of --set ("config.KEY=value" without its
 * "config."). config holds the defaults or earlier values. Errors as for job_load. */
bool config_has_key(const char *name);
enum status config_load(const char *path, struct config *config);
enum status config_override(const char *set_text, const char *key, const char *value, struct config *config);
void config_defaults(struct config *config);
void config_free(struct config *config);

#endif
