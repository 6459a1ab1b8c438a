#include "worker/text/tokenizer_file.h"

#include <string.h>

#include "worker/base/file.h"
#include "worker/base/json_file.h"

enum { MAX_FILE_BYTES = 256 << 20 };

static bool is_key(const char *key, size_t size, const char *expected) {
    return size == strlen(expected) && memcmp(key, expected, size) == 0;
}

/* Goes over a value; its range, where it begins with the bracket. */
static bool skip_value(const struct tokenizer_file *file, struct json_reader *reader, char bracket,
                       struct file_range *range) {
    bool is_wanted = json_reader_peek(reader) == bracket;
    size_t begin = (size_t)(reader->at - file->text.data);
    if (!json_reader_skip(reader))
        return false;
    if (is_wanted)
        *range = (struct file_range){begin, (size_t)(reader->at - file->text.data)};
    return true;
}

static bool find_in_model(struct tokenizer_file *file, struct json_reader *reader) {
    if (json_reader_peek(reader) != '{')
        return json_reader_skip(reader);
    bool more, is_first = true;
    if (!json_reader_enter(reader, '{'))
        return false;
    for (; json_reader_next(reader, '{', is_first, &more); is_first = false) {
        const char *key;
        size_t size;
        struct file_range other;
        if (!more)
            return true;
        if (!json_reader_key(reader, &key, &size))
            return false;
        bool is_vocab = is_key(key, size, "vocab"), is_merges = is_key(key, size, "merges");
        if (!skip_value(file, reader, is_vocab ? '{' : '[',
                        is_vocab    ? &file->vocab
                        : is_merges ? &file->merges
                                    : &other))
            return false;
    }
    return false;
}

static bool find_ranges(struct tokenizer_file *file) {
    struct json_reader reader = {.at = file->text.data, .end = file->text.data + file->text.size};
    bool more, is_first = true, good = false;
    if (json_reader_enter(&reader, '{')) {
        for (; json_reader_next(&reader, '{', is_first, &more); is_first = false) {
            const char *key;
            size_t size;
            good = !more;
            if (!more || !json_reader_key(&reader, &key, &size) ||
                !(is_key(key, size, "model") ? find_in_model(file, &reader) : json_reader_skip(&reader)))
                break;
        }
    }
    json_reader_free(&reader);
    return good;
}

/* The whole text as a tree: for its error, or for what the short way could not take. */
static enum status parse_all(struct tokenizer_file *file) {
    file->vocab = file->merges = (struct file_range){0, 0};
    return json_parse(file->path, file->text.data, file->text.size, JSON_ALLOW_NUL, &file->root);
}

static enum status parse_rest(struct tokenizer_file *file) {
    struct file_range first = file->vocab, second = file->merges;
    if (first.begin > second.begin) {
        first = file->merges;
        second = file->vocab;
    }
    struct buffer rest = {0};
    size_t at = 0;
    const struct file_range ranges[] = {first, second};
    enum status result = buffer_reserve(&rest, 1);
    for (int i = 0; i < 2 && result == STATUS_OK; i++) {
        if (ranges[i].begin == ranges[i].end)
            continue;
        result = buffer_append(&rest, file->text.data + at, ranges[i].begin - at);
        if (result == STATUS_OK)
            result = buffer_append_text(&rest, file->text.data[ranges[i].begin] == '{' ? "{}" : "[]");
        at = ranges[i].end;
    }
    if (result == STATUS_OK)
        result = buffer_append(&rest, file->text.data + at, file->text.size - at);
    if (result == STATUS_OK &&
        json_parse(file->path, rest.data, rest.size, JSON_ALLOW_NUL, &file->root) != STATUS_OK)
        result = parse_all(file); /* it fails again, and names the place in the file */
    buffer_free(&rest);
    return result;
}

enum status tokenizer_file_open(struct tokenizer_file *file, const char *path) {
    file->path = path;
    TRY(file_read(path, MAX_FILE_BYTES, &file->text));
    TRY(buffer_reserve(&file->text, 1));
    TRY(find_ranges(file) ? parse_rest(file) : parse_all(file));
    RETURN_IF(!json_is_object(file->root), STATUS_DATA, "%s: the whole file is %s, expected an object", path,
              json_kind(file->root));
    return STATUS_OK;
}

void tokenizer_file_close(struct tokenizer_file *file) {
    json_decref(file->root);
    buffer_free(&file->text);
    *file = (struct tokenizer_file){0};
}

struct json_reader tokenizer_file_reader(const struct tokenizer_file *file, struct file_range range) {
    return (struct json_reader){.at = file->text.data + range.begin, .end = file->text.data + range.end};
}

enum status tokenizer_file_check(const struct tokenizer_file *file) {
    json_t *root = NULL;
    enum status result = json_parse(file->path, file->text.data, file->text.size, JSON_ALLOW_NUL, &root);
    json_decref(root);
    return result;
}

enum status tokenizer_file_refuse(const struct tokenizer_file *file, const char *member) {
    TRY(tokenizer_file_check(file));
    return status_fail(STATUS_DATA, "%s: %s cannot be read", file->path, member);
}
