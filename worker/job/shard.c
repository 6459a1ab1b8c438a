#include "worker/job/prompt_reader.h"

#include <errno.h>
#include <stdlib.h>

#include "worker/text/quote.h"

enum { MAX_SHARDS = 1000000 };

static bool parse_number(const char **at, int32_t *out) {
    if (**at < '0' || **at > '9')
        return false;
    char *end;
    errno = 0;
    long value = strtol(*at, &end, 10);
    if (errno || value > MAX_SHARDS)
        return false;
    *at = end;
    *out = (int32_t)value;
    return true;
}

enum status shard_parse(const char *text, struct shard *out) {
    char shown[QUOTE_BYTES];
    size_t size = 0;
    while (text[size])
        size++;
    const char *at = text;
    bool is_good = parse_number(&at, &out->index) && *at++ == '/' && parse_number(&at, &out->count) && !*at;
    RETURN_IF(!is_good, STATUS_USAGE,
              "--shard %s: expected i/n with i from 0 to n - 1 and n up to %d, for example 0/4",
              quote(text, size, shown), MAX_SHARDS);
    RETURN_IF(out->count < 1 || out->index >= out->count, STATUS_USAGE,
              "--shard %s: i counts from 0 to n - 1, and n is at least 1", quote(text, size, shown));
    return STATUS_OK;
}
