/* Fuzzes prompt files: text and JSON lines as they are, and gzip where the input begins like it. Every line
 * must give one request, either whole or with a code and a message of one line; metadata must be the bytes of
 * the line; reading in two shards must give the same requests.
 *
 *   clang -fsanitize=fuzzer,address,undefined …   or, over given files,   cc -DFUZZ_STANDALONE … */
#include "tests/fuzz/fuzz_standalone.h"

#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/job/prompt_reader.h"
#include "worker/text/utf8.h"

static void check_request(const struct request *request) {
    if (request->error_code) {
        if (!request->error_message || strchr(request->error_message, '\n') ||
            !utf8_valid(request->error_message, strlen(request->error_message), &(size_t){0}))
            abort();
        return;
    }
    if (request->has_token_ids == (request->prompt.bytes != NULL))
        abort();
    if (request->sampling.n < 1 || request->sampling.max_tokens < 1 || !(request->sampling.top_p > 0))
        abort();
    if (request->metadata.bytes) {
        json_t *value = json_loadb(request->metadata.bytes, request->metadata.size,
                                   JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, NULL);
        if (!value)
            abort();
        json_decref(value);
    }
}

/* Number of requests of a shard. */
static int64_t read_all(const char *path, struct shard shard) {
    struct job job = {.prompts = (char *)path, .prompt_field = "prompt"};
    struct prompt_reader *reader;
    job.max_line_bytes = 4096;
    if (prompt_reader_open(&job, shard, &reader) != STATUS_OK)
        abort();
    int64_t n = 0;
    for (;;) {
        struct request request;
        bool end;
        enum status status = prompt_reader_next(reader, &request, &end);
        if (status != STATUS_OK && status != STATUS_DATA)
            abort();
        if (status != STATUS_OK || end)
            break;
        if (request.index != n++ || request.line != request.index * shard.count + shard.index + 1)
            abort();
        check_request(&request);
        request_free(&request);
    }
    prompt_reader_close(reader);
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char paths[2][64];
    if (!paths[0][0]) {
        const char *folder = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
        snprintf(paths[0], sizeof paths[0], "%s/pressrun-fuzz-%d.jsonl", folder, (int)getpid());
        snprintf(paths[1], sizeof paths[1], "%s/pressrun-fuzz-%d.txt", folder, (int)getpid());
    }
    int64_t n[2];
    for (int i = 0; i < 2; i++) {
        FILE *file = fopen(paths[i], "wb");
        if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0)
            abort();
        n[i] = read_all(paths[i], (struct shard){0, 1});
        int64_t even = read_all(paths[i], (struct shard){0, 2}),
                odd = read_all(paths[i], (struct shard){1, 2});
        if (n[i] != even + odd)
            abort();
        unlink(paths[i]);
    }
    if (n[0] != n[1])
        abort();
    return 0;
}
