/* input_stream: the bytes of a file or of standard input, decompressed when they begin with gzip's magic
 * (RFC 1952; any number of members). Bounded memory. One thread reads; input_stream_stop and
 * input_stream_bytes_read may be called from any. */
#ifndef PRESSRUN_WORKER_JOB_INPUT_STREAM_H
#define PRESSRUN_WORKER_JOB_INPUT_STREAM_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/status.h"

struct input_stream;

/* Opens a file, or standard input for "-". STATUS_NO_INPUT when it is missing, unreadable or a folder. */
enum status input_stream_open(const char *path, struct input_stream **out);
void input_stream_close(struct input_stream *stream);

/* Up to capacity bytes; *size is 0 only at the end. STATUS_DATA: gzip is damaged, cut short, followed by
 * something else, or missing in a file named .gz; STATUS_IO; STATUS_STOPPED. The message does not name the
 * file: the caller knows the line too. */
enum status input_stream_read(struct input_stream *stream, void *out, size_t capacity, size_t *size);

/* Makes a waiting read and all later ones return STATUS_STOPPED. */
void input_stream_stop(struct input_stream *stream);

uint64_t input_stream_bytes_read(const struct input_stream *stream);  /* of the file, compressed */
uint64_t input_stream_bytes_total(const struct input_stream *stream); /* 0: unknown */

#endif
