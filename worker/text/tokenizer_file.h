/* tokenizer_file: tokenizer.json as a tree, but for its two long members, the model's vocabulary and merges,
 * which are read as they stand in the file: as trees they would take ten times their size, and most of the
 * time of opening. */
#ifndef PRESSRUN_WORKER_TEXT_TOKENIZER_FILE_H
#define PRESSRUN_WORKER_TEXT_TOKENIZER_FILE_H

#include <jansson.h>

#include "worker/base/buffer.h"
#include "worker/text/json_reader.h"

struct file_range { /* in tokenizer_file.text; empty when there is no such member of the expected kind */
    size_t begin;
    size_t end;
};

struct tokenizer_file {
    const char *path; /* the caller's */
    struct buffer text;
    struct file_range vocab;  /* model.vocab, an object */
    struct file_range merges; /* model.merges, a list */
    json_t *root;             /* an object, in which these two are empty */
};

/* Zero-initialised file. STATUS_NO_INPUT, STATUS_IO, STATUS_DATA. Release it also after an error. */
enum status tokenizer_file_open(struct tokenizer_file *file, const char *path);
void tokenizer_file_close(struct tokenizer_file *file);

struct json_reader tokenizer_file_reader(const struct tokenizer_file *file, struct file_range range);
/* For a range that its reader could not read. check: STATUS_DATA, with the place, when the file is no valid
 * JSON; refuse: the same, and STATUS_DATA that names the member when it is. */
enum status tokenizer_file_check(const struct tokenizer_file *file);
enum status tokenizer_file_refuse(const struct tokenizer_file *file, const char *member);

#endif
