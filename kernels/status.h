/* status: the one result type of pressrun, used on both sides of the door (kernels/ and worker/).
 *
 * A function that can fail returns enum status. STATUS_OK is 0; every other value below 128 is also the exit
 * code that the program ends with when nothing handles it (only main exits). The words that go with a failure
 * are kept per thread, like errno: whoever detects the failure writes them once with status_fail(), and
 * callers that know more (a file name, a line) put it in front with status_context(). Where a failure must
 * outlast what follows it, struct failure keeps both.
 *
 * Valid C11 and C++17. */
#ifndef PRESSRUN_KERNELS_STATUS_H
#define PRESSRUN_KERNELS_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

enum status {
    STATUS_OK = 0,
    STATUS_RECORD = 10,        /* wrong with one record only: it costs that record, never the job */
    STATUS_USAGE = 64,         /* command line is wrong */
    STATUS_DATA = 65,          /* bad data: prompts, model directory */
    STATUS_NO_INPUT = 66,      /* an input file is missing or unreadable */
    STATUS_NO_DEVICE = 69,     /* no usable device */
    STATUS_INTERNAL = 70,      /* device fault, out of host memory, or an error of ours */
    STATUS_CANNOT_CREATE = 73, /* the output cannot be created, or belongs to another job */
    STATUS_IO = 74,            /* reading or writing failed */
    STATUS_STOPPED = 75,       /* stopped by a signal; the same command resumes */
    STATUS_JOB = 78,           /* bad job or config file */
    STATUS_NO_FIT = 80,        /* does not fit in memory */
    STATUS_LOCKED = 86,        /* another worker holds the output */
    STATUS_INCOMPLETE = 90,    /* verify: well formed but not complete */
    STATUS_CORRUPT = 91        /* verify: damaged */
};

enum { STATUS_MESSAGE_BYTES = 2048 };

/* Sets this thread's message (printf format; cut at STATUS_MESSAGE_BYTES) and returns code. One line: what is
 * wrong, expected and actual, where, how to repair. */
enum status status_fail(enum status code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts text in front of this thread's message, for a caller that knows more ("job.yaml: "). Returns code. */
enum status status_context(enum status code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* This thread's last message; empty before the first failure. Never NULL. */
const char *status_message(void);

/* The first failure of several, with its message: over a cleanup that may fail itself, from one thread to
 * another, for every later call. Zero-initialised: none so far. */
struct failure {
    enum status code;
    char message[STATUS_MESSAGE_BYTES];
};

/* Keeps code and this thread's message, unless code is STATUS_OK or a failure is kept already. */
void failure_note(struct failure *failure, enum status code);

/* Returns what is kept, its message being this thread's; STATUS_OK: nothing is, and the message stays. */
enum status failure_result(const struct failure *failure);

#define TRY(call)                                                                                            \
    do {                                                                                                     \
        enum status try_status_ = (call);                                                                    \
        if (try_status_ != STATUS_OK)                                                                        \
            return try_status_;                                                                              \
    } while (0)

#define RETURN_IF(condition, code, ...)                                                                      \
    do {                                                                                                     \
        if (condition)                                                                                       \
            return status_fail((code), __VA_ARGS__);                                                         \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif
