/* normalizer: the component of tokenizer.json that rewrites text before it is cut: NFC, NFD, NFKC, NFKD,
 * Lowercase, Replace, Prepend, Strip, StripAccents and a Sequence of them. Immutable once read. */
#ifndef PRESSRUN_WORKER_TEXT_NORMALIZER_H
#define PRESSRUN_WORKER_TEXT_NORMALIZER_H

#include "worker/text/component.h"
#include "worker/text/normal_form.h"

enum { NORMALIZER_MAX_STEPS = 16 };

struct normalizer_step;

struct normalizer {
    struct normalizer_step *steps; /* [n_steps] */
    size_t n_steps;
};

/* Zero-initialised has no steps. STATUS_DATA. */
enum status normalizer_read(struct normalizer *normalizer, const struct component *component);
void normalizer_free(struct normalizer *normalizer);
/* Appends the names of the steps, "NFC, Replace". */
enum status normalizer_describe(const struct normalizer *normalizer, struct buffer *out);

/* Memory of normalizer_apply; zero-initialised. */
struct normalizer_scratch {
    struct buffer texts[2];
    struct normal_form_scratch form;
    struct regex_search *search;
};
void normalizer_scratch_free(struct normalizer_scratch *scratch);

/* Rewrites text (valid UTF-8). *out points to text, or into scratch until the next call. STATUS_RECORD (a
 * pattern that gives up), STATUS_INTERNAL. */
enum status normalizer_apply(const struct normalizer *normalizer, struct normalizer_scratch *scratch,
                             const char *text, size_t size, const char **out, size_t *out_size);

#endif
