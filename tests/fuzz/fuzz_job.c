/* Fuzzes job files, config files and --set: the input is a job file and, behind a line "===", a config file
 * and, behind another, one --set. A refusal must be STATUS_JOB with a message of one line.
 *
 *   clang -fsanitize=fuzzer,address,undefined …   or, over given files,   cc -DFUZZ_STANDALONE … */
#include "tests/fuzz/fuzz_standalone.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/job/job.h"

/* Cuts the next part off data, up to a line "===". */
static size_t next_part(const uint8_t **data, size_t *size, const uint8_t **part) {
    static const char MARK[] = "\n===\n";
    const uint8_t *mark = memmem(*data, *size, MARK, strlen(MARK));
    size_t part_size = mark ? (size_t)(mark - *data) + 1 : *size;
    size_t used = mark ? part_size + strlen(MARK) - 1 : *size;
    *part = *data;
    *data += used;
    *size -= used;
    return part_size;
}

static void write_file(const char *path, const uint8_t *bytes, size_t size) {
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, size, file) != size || fclose(file) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char job_path[64], config_set[80];
    if (!job_path[0]) {
        /* In memory where there is such a file system: every input is written once. */
        const char *folder = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
        snprintf(job_path, sizeof job_path, "%s/pressrun-fuzz-%d.yaml", folder, (int)getpid());
        snprintf(config_set, sizeof config_set, "config=%s.config", job_path);
    }
    const char *config_path = config_set + strlen("config=");
    const uint8_t *part;
    size_t part_size = next_part(&data, &size, &part);
    write_file(job_path, part, part_size);
    const char *overrides[2];
    int n_overrides = 0;
    char set[512];
    if (size > 0) {
        part_size = next_part(&data, &size, &part);
        write_file(config_path, part, part_size);
        overrides[n_overrides++] = config_set;
    }
    if (size > 0) {
        snprintf(set, sizeof set, "%.*s", (int)(size < 500 ? size : 500), (const char *)data);
        overrides[n_overrides++] = set;
    }

    struct job job;
    struct config config;
    enum status status = job_load(job_path, overrides, n_overrides, &job, &config);
    if (status == STATUS_OK) {
        if (!job.model || !job.prompts || !job.output || job.sampling.n < 1 || job.sampling.max_tokens < 1)
            abort();
        job_free(&job);
        config_free(&config);
    } else if ((status != STATUS_JOB && status != STATUS_NO_INPUT) || !*status_message() ||
               strchr(status_message(), '\n')) {
        abort();
    }
    unlink(job_path);
    if (n_overrides > 0)
        unlink(config_path);
    return 0;
}
