/* commands: what the subcommands do, behind the command line (cli.c fills these structs; nothing here reads
 * argv or the environment). Each returns the status that becomes the exit code; on failure status_message()
 * tells why. */
#ifndef PRESSRUN_WORKER_COMMANDS_COMMANDS_H
#define PRESSRUN_WORKER_COMMANDS_COMMANDS_H

#include <stdbool.h>
#include <stdint.h>

#include "worker/job/prompt_reader.h"

struct command_options {
    double start_s; /* clock_seconds() at the start of the process */
    bool is_quiet;
    bool is_terminal; /* stderr is one that can move its cursor */
    bool use_color;
    const char *target;           /* JOB.yaml, MODEL or OUT */
    const char *const *overrides; /* [n_overrides] "key=value" of --set */
    int n_overrides;
    struct shard shard;
    bool restart;            /* run: discard earlier output */
    bool strict;             /* run: record errors make exit 10 */
    uint64_t device_memory;  /* check: bytes of the device to plan for; 0: this machine's */
    const char *prompt;      /* prompt: the text */
    const char *batch_sizes; /* bench: "1,8,64" */
    const char *json_path;   /* bench: where the rows go too; NULL: to the table alone */
    int32_t prompt_tokens;   /* bench */
    int32_t new_tokens;      /* bench */
    int32_t repeats;         /* bench */
    int32_t n_prompts;       /* bench: of the whole job; 0: one per sequence of the batch */
    bool mixed_lengths;      /* bench: lengths differ, up to prompt_tokens and new_tokens */
    bool draws;              /* bench: sample as the job says; else the most likely token */
    const char
        *model_config;  /* bench: config.json, or its folder, to make random weights for; NULL: the job's */
    bool peaked_logits; /* bench: of random weights */
    const char *write_model; /* bench: write the random model into this directory, and nothing else */
};

enum status command_run(const struct command_options *options);
enum status command_check(const struct command_options *options);
enum status command_prompt(const struct command_options *options);
enum status command_bench(const struct command_options *options);
enum status command_verify(const struct command_options *options);
enum status command_inspect(const struct command_options *options);

#endif
