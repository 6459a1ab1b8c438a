#include "worker/cli.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/base/clock.h"
#include "worker/base/log.h"
#include "worker/commands/commands.h"
#include "worker/job/byte_size.h"
#include "worker/job/nearest.h"
#include "worker/version.h"

enum { MAX_OVERRIDES = 64 };

enum option_id {
    OPTION_HELP = 1000,
    OPTION_QUIET,
    OPTION_SET,
    OPTION_SHARD,
    OPTION_RESTART,
    OPTION_STRICT,
    OPTION_DEVICE_MEMORY,
    OPTION_DEVICE,
    OPTION_BATCH_SIZES,
    OPTION_JSON,
    OPTION_PROMPT_TOKENS,
    OPTION_NEW_TOKENS,
    OPTION_REPEATS,
    OPTION_SEED,
    OPTION_PROMPTS,
    OPTION_LENGTHS,
    OPTION_SAMPLED,
    OPTION_MODEL_CONFIG,
    OPTION_LOGITS,
    OPTION_WRITE_MODEL,
    OPTION_SAMPLING /* --max-tokens and the like: the same as --set NAME=VALUE */
};

#define COMMON_OPTIONS                                                                                       \
    {"help", no_argument, NULL, OPTION_HELP}, {                                                              \
        "quiet", no_argument, NULL, OPTION_QUIET                                                             \
    }

static const struct option run_options[] = {COMMON_OPTIONS,
                                            {"set", required_argument, NULL, OPTION_SET},
                                            {"device", required_argument, NULL, OPTION_DEVICE},
                                            {"shard", required_argument, NULL, OPTION_SHARD},
                                            {"restart", no_argument, NULL, OPTION_RESTART},
                                            {"strict", no_argument, NULL, OPTION_STRICT},
                                            {0}};
static const struct option check_options[] = {
    COMMON_OPTIONS,
    {"set", required_argument, NULL, OPTION_SET},
    {"device", required_argument, NULL, OPTION_DEVICE},
    {"shard", required_argument, NULL, OPTION_SHARD},
    {"strict", no_argument, NULL, OPTION_STRICT},
    {"device-memory", required_argument, NULL, OPTION_DEVICE_MEMORY},
    {0}};
static const struct option prompt_options[] = {COMMON_OPTIONS,
                                               {"set", required_argument, NULL, OPTION_SET},
                                               {"device", required_argument, NULL, OPTION_DEVICE},
                                               {"max-tokens", required_argument, NULL, OPTION_SAMPLING},
                                               {"temperature", required_argument, NULL, OPTION_SAMPLING},
                                               {"top-p", required_argument, NULL, OPTION_SAMPLING},
                                               {"top-k", required_argument, NULL, OPTION_SAMPLING},
                                               {"min-p", required_argument, NULL, OPTION_SAMPLING},
                                               {"stop", required_argument, NULL, OPTION_SAMPLING},
                                               {"seed", required_argument, NULL, OPTION_SEED},
                                               {0}};
static const struct option bench_options[] = {
    COMMON_OPTIONS,
    {"set", required_argument, NULL, OPTION_SET},
    {"device", required_argument, NULL, OPTION_DEVICE},
    {"batch-sizes", required_argument, NULL, OPTION_BATCH_SIZES},
    {"prompt-tokens", required_argument, NULL, OPTION_PROMPT_TOKENS},
    {"new-tokens", required_argument, NULL, OPTION_NEW_TOKENS},
    {"repeats", required_argument, NULL, OPTION_REPEATS},
    {"json", required_argument, NULL, OPTION_JSON},
    {"prompts", required_argument, NULL, OPTION_PROMPTS},
    {"lengths", required_argument, NULL, OPTION_LENGTHS},
    {"sampled", no_argument, NULL, OPTION_SAMPLED},
    {"model-config", required_argument, NULL, OPTION_MODEL_CONFIG},
    {"logits", required_argument, NULL, OPTION_LOGITS},
    {"seed", required_argument, NULL, OPTION_SEED},
    {"write-model", required_argument, NULL, OPTION_WRITE_MODEL},
    {0}};
static const struct option plain_options[] = {COMMON_OPTIONS, {0}};

struct command {
    const char *name;
    enum status (*run)(const struct command_options *);
    const struct option *options;
    int n_targets; /* words it takes beside options */
    const char *usage;
    const char *summary; /* its line in the list of commands */
    const char *help;    /* lines of at most 80 columns */
};

static const struct command commands[] = {
    {"run", command_run, run_options, 1, "pressrun run JOB.yaml [options]", "run a job, or go on with it",
     "Runs a job: prompts in, gzip-compressed JSON Lines out. When it was interrupted\n"
     "or killed, the same command goes on where the output ends. On a finished job it\n"
     "says so and exits 0.\n\n"
     "  --set KEY=VALUE    use VALUE instead of the job's: a job key (seed=7), a sampling\n"
     "                     key (temperature=0) or a config key (config.threads=4); may\n"
     "                     be given many times\n"
     "  --device D         auto, cpu, cuda or cuda:N; short for --set config.device=D\n"
     "  --shard I/N        only the lines with (line - 1) mod N = I, I from 0; writes\n"
     "                     NAME.I-of-N.jsonl.gz\n"
     "  --restart          discard what an earlier run left under this output's name\n"
     "  --strict           exit 10 when any record failed\n"
     "  --quiet            no progress, no summary; warnings and errors stay\n\n"
     "Exit codes: 0 complete, 10 records failed (--strict), 64 bad command line, 65 bad\n"
     "data or model, 66 input missing, 69 no usable device, 70 device fault or internal\n"
     "error, 73 cannot create output, 74 I/O error, 75 stopped and resumable, 78 bad\n"
     "job or config, 80 does not fit in memory, 86 another worker writes this output,\n"
     "91 damaged output.\n"},
    {"check", command_check, check_options, 1, "pressrun check JOB.yaml [options]",
     "validate a job, print its plan",
     "Validates the job, the model and every prompt, and prints the plan: memory, batch\n"
     "size, an upper bound of steps. Writes nothing and needs no GPU.\n\n"
     "  --device-memory SIZE   plan for a GPU with SIZE free (80GiB), not this machine\n"
     "  --set KEY=VALUE        as in run\n"
     "  --device D             as in run\n"
     "  --shard I/N            as in run\n"
     "  --strict               exit 10 when any prompt is wrong\n"},
    {"prompt", command_prompt, prompt_options, 2, "pressrun prompt MODEL TEXT [options]",
     "answer one prompt on the terminal",
     "Answers one prompt with the model in the directory MODEL, as it is generated.\n\n"
     "  --max-tokens N         longest answer (default 16)\n"
     "  --temperature X        0: the most likely token (default: the model's, or 1)\n"
     "  --top-k N, --top-p X, --min-p X, --stop TEXT\n"
     "  --seed N               of the sampling (default 0)\n"
     "  --device D             auto, cpu, cuda or cuda:N\n"
     "  --set KEY=VALUE        any other key of a job or config, as in run\n"
     "  --quiet                the answer alone\n"},
    {"bench", command_bench, bench_options, 1, "pressrun bench JOB.yaml [options]",
     "measure throughput at different batch sizes",
     "Measures throughput at different batch sizes, with the job's model, dtype and\n"
     "config: random prompts, stop conditions ignored, one warm-up, the repeat of\n"
     "median time. Says why: shares of the floor, gaps, useful rows, time by operation.\n\n"
     "  --batch-sizes LIST     sequences at once (default 1,8,64)\n"
     "  --prompt-tokens N      (default 16)\n"
     "  --new-tokens N         (default 100)\n"
     "  --prompts N            of the whole job (default: as many as run at once)\n"
     "  --lengths equal|mixed  mixed: evenly up to --prompt-tokens and --new-tokens\n"
     "  --sampled              sample as the job says (default: the likeliest token)\n"
     "  --repeats N            (default 3)\n"
     "  --model-config PATH    make a model of random weights for this config.json, or\n"
     "                         the one in this directory; JOB.yaml may then be left out\n"
     "  --logits flat|peaked   of random weights (default flat)\n"
     "  --seed N               of random weights and sampling (default: the job's, or 0)\n"
     "  --write-model DIR      write the random model as a Hugging Face directory, and\n"
     "                         measure nothing\n"
     "  --json FILE            also write the rows as JSON Lines\n"
     "  --set KEY=VALUE        as in run\n"
     "  --device D             as in run\n"},
    {"verify", command_verify, plain_options, 1, "pressrun verify OUT.jsonl.gz",
     "check every byte of an output file",
     "Reads an output file and checks every seal, count and line. Needs nothing but the\n"
     "file.\n\n"
     "Exit codes: 0 complete, 90 well formed but not complete, 91 damaged.\n"},
    {"inspect", command_inspect, plain_options, 1, "pressrun inspect MODEL",
     "show what a model directory holds",
     "Prints what a model directory holds: family, shape, parameters, tokenizer,\n"
     "fingerprint, tensors.\n"},
};

enum { N_COMMANDS = sizeof commands / sizeof *commands };

static void print_usage(FILE *out) {
    fprintf(out, "pressrun %s: batch text generation, from a YAML job to gzip-compressed JSON lines\n\n",
            pressrun_version());
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(out, "  %-38s%s\n", commands[i].usage, commands[i].summary);
    fprintf(out, "  %-38s%s\n\npressrun COMMAND --help tells more.\n", "pressrun --version",
            "versions of this program and its libraries");
}

static enum status usage_error(const struct command *command) {
    log_error("%s", status_message());
    if (command)
        fprintf(stderr, "usage: %s; more: pressrun %s --help\n", command->usage, command->name);
    else
        print_usage(stderr);
    return STATUS_USAGE;
}

static enum status parse_count(const char *name, const char *text, int64_t least, int64_t most,
                               int64_t *out) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    RETURN_IF(errno || end == text || *end || value < least || value > most, STATUS_USAGE,
              "--%s: \"%s\" is not a whole number from %lld to %lld", name, text, (long long)least,
              (long long)most);
    *out = value;
    return STATUS_OK;
}

static enum status parse_either(const char *name, const char *text, const char *no, const char *yes,
                                bool *out) {
    *out = strcmp(text, yes) == 0;
    RETURN_IF(!*out && strcmp(text, no) != 0, STATUS_USAGE, "--%s: \"%s\" is neither %s nor %s", name, text,
              no, yes);
    return STATUS_OK;
}

/* Overrides that are made of other options: owned here, freed by cli_main. */
struct parsed {
    struct command_options options;
    const char *overrides[MAX_OVERRIDES];
    char *made[MAX_OVERRIDES];
    int n_made;
};

static enum status add_override(struct parsed *parsed, const char *text) {
    RETURN_IF(parsed->options.n_overrides == MAX_OVERRIDES, STATUS_USAGE, "more than %d values are set",
              MAX_OVERRIDES);
    parsed->overrides[parsed->options.n_overrides++] = text;
    return STATUS_OK;
}

/* --max-tokens 5 becomes --set max_tokens=5; a stop string is quoted, so that it means itself. */
static enum status add_named(struct parsed *parsed, const char *prefix, const char *name, const char *value) {
    RETURN_IF(parsed->n_made == MAX_OVERRIDES, STATUS_USAGE, "more than %d values are set", MAX_OVERRIDES);
    struct buffer text = {0};
    TRY(buffer_printf(&text, "%s%s=", prefix, name));
    for (char *c = text.data; c < text.data + text.size; c++)
        if (*c == '-')
            *c = '_';
    bool is_quoted = strcmp(name, "stop") == 0;
    if (is_quoted)
        TRY(buffer_append_byte(&text, '\''));
    for (const char *c = value; *c; c++) {
        if (is_quoted && *c == '\'')
            TRY(buffer_append_byte(&text, '\''));
        TRY(buffer_append_byte(&text, *c));
    }
    if (is_quoted)
        TRY(buffer_append_byte(&text, '\''));
    TRY(buffer_terminate(&text));
    parsed->made[parsed->n_made++] = text.data;
    return add_override(parsed, text.data);
}

static enum status apply_option(struct parsed *parsed, int id, const struct option *option,
                                const char *value) {
    struct command_options *options = &parsed->options;
    int64_t count = 0;
    switch (id) {
    case OPTION_QUIET:
        options->is_quiet = true;
        return STATUS_OK;
    case OPTION_SET:
        return add_override(parsed, value);
    case OPTION_SHARD:
        return shard_parse(value, &options->shard);
    case OPTION_RESTART:
        options->restart = true;
        return STATUS_OK;
    case OPTION_STRICT:
        options->strict = true;
        return STATUS_OK;
    case OPTION_DEVICE_MEMORY:
        RETURN_IF(
            !byte_size_parse(value, strlen(value), &options->device_memory) || options->device_memory == 0,
            STATUS_USAGE, "--device-memory: \"%s\" is not a size; write it like 80GiB or 512MiB", value);
        return STATUS_OK;
    case OPTION_DEVICE:
        return add_named(parsed, "config.", "device", value);
    case OPTION_SAMPLING:
        return add_named(parsed, "sampling.", option->name, value);
    case OPTION_BATCH_SIZES:
        options->batch_sizes = value;
        return STATUS_OK;
    case OPTION_JSON:
        options->json_path = value;
        return STATUS_OK;
    case OPTION_PROMPT_TOKENS:
        TRY(parse_count(option->name, value, 1, 1 << 24, &count));
        options->prompt_tokens = (int32_t)count;
        return STATUS_OK;
    case OPTION_NEW_TOKENS:
        TRY(parse_count(option->name, value, 1, 1 << 24, &count));
        options->new_tokens = (int32_t)count;
        return STATUS_OK;
    case OPTION_PROMPTS:
        TRY(parse_count(option->name, value, 1, 1 << 24, &count));
        options->n_prompts = (int32_t)count;
        return STATUS_OK;
    case OPTION_LENGTHS:
        return parse_either(option->name, value, "equal", "mixed", &options->mixed_lengths);
    case OPTION_LOGITS:
        return parse_either(option->name, value, "flat", "peaked", &options->peaked_logits);
    case OPTION_SAMPLED:
        options->draws = true;
        return STATUS_OK;
    case OPTION_MODEL_CONFIG:
        options->model_config = value;
        return STATUS_OK;
    case OPTION_WRITE_MODEL:
        options->write_model = value;
        return STATUS_OK;
    case OPTION_REPEATS:
        TRY(parse_count(option->name, value, 1, 1000, &count));
        options->repeats = (int32_t)count;
        return STATUS_OK;
    case OPTION_SEED:
        TRY(parse_count(option->name, value, 0, INT64_MAX, &count));
        return add_named(parsed, "", "seed", value);
    default:
        return status_fail(STATUS_USAGE, "an option is unknown");
    }
}

static enum status unknown_option(const struct command *command, const char *word) {
    const char *names[32];
    size_t n = 0;
    for (const struct option *option = command->options; option->name && n + 1 < sizeof names / sizeof *names;
         option++)
        names[n++] = option->name;
    names[n] = NULL;
    const char *dashes = word;
    while (*dashes == '-')
        dashes++;
    char hint[NEAREST_HINT_BYTES];
    return status_fail(STATUS_USAGE, "option \"%s\" is unknown%s", word,
                       nearest_hint(dashes, strcspn(dashes, "="), names, hint));
}

static enum status parse(const struct command *command, int argc, char **argv, struct parsed *parsed,
                         bool *wants_help) {
    struct command_options *options = &parsed->options;
    const char *targets[2] = {0};
    int n_targets = 0;
    opterr = 0;
    optind = 1;
    *wants_help = false;
    while (optind < argc) {
        int index = 0, before = optind;
        int id = getopt_long(argc, argv, "+:h", command->options, &index);
        if (id == -1) { /* a word, or what follows "--" */
            if (optind >= argc)
                break;
            RETURN_IF(n_targets == command->n_targets, STATUS_USAGE, "\"%s\" is one word too many",
                      argv[optind]);
            targets[n_targets++] = argv[optind++];
            continue;
        }
        RETURN_IF(id == ':', STATUS_USAGE, "option \"%s\" lacks its value", argv[before]);
        RETURN_IF(id == '?' && optopt >= OPTION_HELP, STATUS_USAGE, "option \"%s\" takes no value",
                  argv[before]);
        if (id == '?')
            return unknown_option(command, argv[before]);
        if (id == OPTION_HELP || id == 'h') {
            *wants_help = true;
            return STATUS_OK;
        }
        TRY(apply_option(parsed, id, &command->options[index], optarg));
    }
    RETURN_IF(n_targets < command->n_targets && !options->model_config, STATUS_USAGE, "%s is missing",
              n_targets == 1                                               ? "the prompt's text"
              : command->run == command_verify                             ? "the output file"
              : command->n_targets == 2 || command->run == command_inspect ? "the model directory"
                                                                           : "the job file");
    options->target = targets[0];
    options->prompt = targets[1];
    return STATUS_OK;
}

static bool is_terminal_that_moves(void) {
    const char *term = getenv("TERM");
    return isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0;
}

static enum status run_command(const struct command *command, int argc, char **argv, double start_s) {
    struct parsed parsed = {.options = {.start_s = start_s,
                                        .shard = {.index = 0, .count = 1},
                                        .batch_sizes = "1,8,64",
                                        .prompt_tokens = 16,
                                        .new_tokens = 100,
                                        .repeats = 3}};
    parsed.options.overrides = parsed.overrides;
    parsed.options.is_terminal = is_terminal_that_moves();
    const char *no_color = getenv("NO_COLOR");
    parsed.options.use_color = parsed.options.is_terminal && !(no_color && *no_color);
    bool wants_help;
    enum status result = parse(command, argc, argv, &parsed, &wants_help);
    if (result != STATUS_OK) {
        usage_error(command);
    } else if (wants_help) {
        printf("usage: %s\n\n%s", command->usage, command->help);
    } else {
        log_set_quiet(parsed.options.is_quiet);
        result = command->run(&parsed.options);
        if (result == STATUS_STOPPED)
            log_info("%s", status_message());
        else if (result != STATUS_OK)
            log_error("%s", status_message());
    }
    for (int i = 0; i < parsed.n_made; i++)
        free(parsed.made[i]);
    return result;
}

static enum status run_line(int argc, char **argv) {
    double start_s = clock_seconds();
    const char *name = argc > 1 ? argv[1] : "";
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        struct buffer text = {0};
        enum status result = version_write(&text);
        fwrite(text.data, 1, text.size, stdout);
        buffer_free(&text);
        return result;
    }
    bool is_help = strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0;
    if (is_help && argc == 2) {
        print_usage(stdout);
        return STATUS_OK;
    }
    char *asked[] = {argv[0], is_help ? argv[2] : NULL, "--help", NULL};
    if (is_help) { /* pressrun help COMMAND */
        argv = asked;
        argc = 3;
        name = asked[1];
    }
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(name, commands[i].name) == 0)
            return run_command(&commands[i], argc - 1, argv + 1, start_s);
    const char *names[N_COMMANDS + 1] = {0};
    for (int i = 0; i < N_COMMANDS; i++)
        names[i] = commands[i].name;
    char hint[NEAREST_HINT_BYTES];
    if (!*name)
        status_fail(STATUS_USAGE, "a command is missing");
    else
        status_fail(STATUS_USAGE, "command \"%s\" is unknown%s", name,
                    nearest_hint(name, strlen(name), names, hint));
    return usage_error(NULL);
}

enum status cli_main(int argc, char **argv) {
    enum status result = run_line(argc, argv);
    if (fflush(stdout) != 0 && result == STATUS_OK) {
        log_error("standard output: %s", strerror(errno));
        result = STATUS_IO;
    }
    return result;
}
