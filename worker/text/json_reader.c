#include "worker/text/json_reader.h"

#include <string.h>

#include "worker/base/number.h"
#include "worker/text/utf8.h"

void json_reader_free(struct json_reader *reader) {
    buffer_free(&reader->texts[0]);
    buffer_free(&reader->texts[1]);
}

static void skip_blanks(struct json_reader *reader) {
    while (reader->at < reader->end &&
           (*reader->at == ' ' || *reader->at == '\n' || *reader->at == '\r' || *reader->at == '\t'))
        reader->at++;
}

static bool skip_byte(struct json_reader *reader, char byte) {
    skip_blanks(reader);
    if (reader->at == reader->end || *reader->at != byte)
        return false;
    reader->at++;
    return true;
}

char json_reader_peek(struct json_reader *reader) {
    skip_blanks(reader);
    return reader->at < reader->end ? *reader->at : '\0';
}

bool json_reader_enter(struct json_reader *reader, char bracket) {
    return skip_byte(reader, bracket);
}

bool json_reader_next(struct json_reader *reader, char bracket, bool is_first, bool *more) {
    *more = !skip_byte(reader, bracket == '{' ? '}' : ']');
    return !*more || is_first || skip_byte(reader, ',');
}

bool json_reader_key(struct json_reader *reader, const char **text, size_t *size) {
    return json_reader_string(reader, text, size) && skip_byte(reader, ':');
}

/* The four digits of \uXXXX. */
static bool read_unit(struct json_reader *reader, uint32_t *unit) {
    *unit = 0;
    if (reader->end - reader->at < 4)
        return false;
    for (int i = 0; i < 4; i++) {
        int digit = number_hex_digit(*reader->at++);
        if (digit < 0)
            return false;
        *unit = *unit << 4 | (uint32_t)digit;
    }
    return true;
}

/* Behind a backslash. */
static bool read_escape(struct json_reader *reader, struct buffer *text) {
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    if (reader->at == reader->end)
        return false;
    char name = *reader->at++;
    const char *known = memchr(names, name, sizeof names - 1);
    if (known)
        return buffer_append_byte(text, values[known - names]) == STATUS_OK;
    uint32_t code_point, low;
    if (name != 'u' || !read_unit(reader, &code_point) || (code_point >= 0xDC00 && code_point <= 0xDFFF))
        return false;
    if (code_point >= 0xD800 && code_point <= 0xDBFF) { /* the first of a pair of surrogates */
        if (reader->end - reader->at < 2 || reader->at[0] != '\\' || reader->at[1] != 'u')
            return false;
        reader->at += 2;
        if (!read_unit(reader, &low) || low < 0xDC00 || low > 0xDFFF)
            return false;
        code_point = 0x10000 + ((code_point - 0xD800) << 10) + (low - 0xDC00);
    }
    char bytes[4];
    return buffer_append(text, bytes, utf8_put(code_point, bytes)) == STATUS_OK;
}

bool json_reader_string(struct json_reader *reader, const char **text, size_t *size) {
    if (!skip_byte(reader, '"'))
        return false;
    const char *begin = reader->at;
    struct buffer *copy = NULL;
    bool is_ascii = true;
    for (;;) {
        while (reader->at < reader->end && *reader->at != '"' && *reader->at != '\\') {
            if ((unsigned char)*reader->at < 0x20)
                return false;
            is_ascii &= (unsigned char)*reader->at < 0x80;
            reader->at++;
        }
        if (reader->at == reader->end)
            return false;
        if (*reader->at == '"' && !copy) { /* the string as it stands there */
            *text = begin;
            *size = (size_t)(reader->at++ - begin);
            return is_ascii || utf8_valid(*text, *size, NULL);
        }
        if (!copy) {
            copy = &reader->texts[reader->turn];
            reader->turn = !reader->turn;
            buffer_clear(copy);
        }
        if (buffer_append(copy, begin, (size_t)(reader->at - begin)) != STATUS_OK)
            return false;
        if (*reader->at++ == '"')
            break;
        if (!read_escape(reader, copy))
            return false;
        begin = reader->at;
    }
    *text = copy->data;
    *size = copy->size;
    return utf8_valid(*text, *size, NULL);
}

bool json_reader_integer(struct json_reader *reader, int64_t *value) {
    bool is_negative = skip_byte(reader, '-');
    const char *begin = reader->at;
    *value = 0;
    for (; reader->at < reader->end && *reader->at >= '0' && *reader->at <= '9'; reader->at++) {
        if (reader->at - begin >= 18)
            return false;
        *value = *value * 10 + (*reader->at - '0');
    }
    size_t n = (size_t)(reader->at - begin);
    char next = reader->at < reader->end ? *reader->at : '\0';
    if (is_negative)
        *value = -*value;
    return n > 0 && !(n > 1 && *begin == '0') && next != '.' && next != 'e' && next != 'E';
}

/* From behind a quote to behind the closing one. */
static bool skip_string(struct json_reader *reader) {
    while (reader->at < reader->end) {
        char byte = *reader->at++;
        if (byte == '"')
            return true;
        if (byte == '\\' && reader->at < reader->end)
            reader->at++;
    }
    return false;
}

bool json_reader_skip(struct json_reader *reader) {
    skip_blanks(reader);
    const char *begin = reader->at;
    for (size_t depth = 0; reader->at < reader->end;) {
        char byte = *reader->at;
        bool is_close = byte == '}' || byte == ']';
        if (depth == 0 && (is_close || byte == ',' || byte == ':'))
            return reader->at > begin; /* behind a number, true, false or null */
        reader->at++;
        if (byte == '"' && !skip_string(reader))
            return false;
        if (byte == '{' || byte == '[')
            depth++;
        depth -= is_close;
        if (depth == 0 && (is_close || byte == '"'))
            return true;
    }
    return false;
}
