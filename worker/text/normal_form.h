/* normal_form: Unicode's normal forms (UAX #15) as the reference computes them.
 *
 * utf8proc composes and decomposes; which characters take part is decided by the reference's table
 * (unicode_class), so that a character which the reference's Unicode version does not know stays as it is,
 * whatever utf8proc's version knows of it. (utf8proc's must be as new as the reference's, and is, since 2.2.)
 */
#ifndef PRESSRUN_WORKER_TEXT_NORMAL_FORM_H
#define PRESSRUN_WORKER_TEXT_NORMAL_FORM_H

#include <stdbool.h>

#include "worker/base/buffer.h"
#include "worker/text/code_map.h"

struct normal_form {
    int flag; /* one of FORM_NFC, FORM_NFD, FORM_NFKC, FORM_NFKD */
    struct code_map flags;
};

enum status normal_form_init(struct normal_form *form, int flag);
void normal_form_free(struct normal_form *form);

/* Memory of normal_form_apply; zero-initialised. */
struct normal_form_scratch {
    struct buffer codes; /* a stretch of text as code points */
    struct buffer keys;
};
void normal_form_scratch_free(struct normal_form_scratch *scratch);

/* *changed false: the text (valid UTF-8) has the form already, and out is left alone. Else out is the text in
 * it. */
enum status normal_form_apply(const struct normal_form *form, struct normal_form_scratch *scratch,
                              const char *text, size_t size, struct buffer *out, bool *changed);

#endif
