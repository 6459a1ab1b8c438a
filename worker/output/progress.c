#include "worker/output/progress.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "worker/base/clock.h"
#include "worker/base/log.h"
#include "worker/output/progress_text.h"

enum { WINDOW = 32, MAX_COLUMNS = 100, LINE_BYTES = 512 };

static const double redraw_seconds = 0.1;
static const double window_seconds = 5;

struct moment {
    double elapsed_s;
    int64_t completion_tokens;
};

struct progress {
    struct progress_options options;
    double next_s;                /* clock of the next output */
    struct moment moment[WINDOW]; /* ring of earlier moments, for the rate of the last seconds */
    int n_moments;
    int next_moment;
};

enum status progress_open(const struct progress_options *options, struct progress **out) {
    *out = calloc(1, sizeof **out);
    RETURN_IF(!*out, STATUS_INTERNAL, "out of host memory");
    (*out)->options = *options;
    if ((*out)->options.line_seconds <= 0)
        (*out)->options.line_seconds = 5;
    return STATUS_OK;
}

/* Tokens per second since the oldest moment within the window. */
static double recent_rate(struct progress *progress, const struct progress_state *state) {
    struct moment oldest = {0};
    for (int i = 0; i < progress->n_moments; i++) {
        struct moment moment = progress->moment[(progress->next_moment + WINDOW - 1 - i) % WINDOW];
        oldest = moment;
        if (state->elapsed_s - moment.elapsed_s >= window_seconds)
            break;
    }
    double span = state->elapsed_s - oldest.elapsed_s;
    return span > 0 ? (double)(state->completion_tokens - oldest.completion_tokens) / span : 0;
}

/* Moments are kept so far apart that the ring spans the window. */
static void keep_moment(struct progress *progress, const struct progress_state *state) {
    int last = (progress->next_moment + WINDOW - 1) % WINDOW;
    if (progress->n_moments > 0 &&
        state->elapsed_s - progress->moment[last].elapsed_s < 2 * window_seconds / WINDOW)
        return;
    progress->moment[progress->next_moment] =
        (struct moment){.elapsed_s = state->elapsed_s, .completion_tokens = state->completion_tokens};
    progress->next_moment = (progress->next_moment + 1) % WINDOW;
    if (progress->n_moments < WINDOW)
        progress->n_moments++;
}

static int terminal_columns(void) {
    struct winsize size;
    int columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
    /* The last column stays free: writing it wraps on some terminals. */
    return columns - 1 < MAX_COLUMNS ? columns - 1 : MAX_COLUMNS;
}

void progress_update(struct progress *progress, const struct progress_state *state) {
    if (progress->options.is_quiet)
        return;
    double now = clock_seconds();
    if (now < progress->next_s)
        return;
    char line[LINE_BYTES];
    bool is_first = progress->next_s == 0;
    double rate = recent_rate(progress, state);
    keep_moment(progress, state);
    if (progress->options.is_terminal) {
        progress->next_s = now + redraw_seconds;
        progress_bar(state, rate, terminal_columns(), progress->options.use_color, line, sizeof line);
        log_set_status_line(line);
        return;
    }
    progress->next_s = now + progress->options.line_seconds;
    if (is_first && state->elapsed_s < progress->options.line_seconds)
        return; /* a short job needs no line before its summary */
    progress_line(state, rate, line, sizeof line);
    log_info("%s", line);
}

void progress_close(struct progress *progress) {
    if (!progress)
        return;
    if (progress->options.is_terminal && !progress->options.is_quiet)
        log_set_status_line(NULL);
    free(progress);
}
