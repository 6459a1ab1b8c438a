#include "worker/output/progress_text.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { BAR_LEAST = 8, BAR_MOST = 30 };

const char *figure_count(double value, char out[FIGURE_BYTES]) {
    static const char *const units[] = {"", "K", "M", "G", "T", "P"};
    int unit = 0;
    if (!isfinite(value))
        value = 0;
    /* 999.5 and above would round to four digits. */
    while (fabs(value) >= (unit ? 999.5 : 1000) && unit < 5) {
        value /= 1000;
        unit++;
    }
    int decimals = unit == 0 && value == floor(value) ? 0 : fabs(value) < 9.995 ? 2 : fabs(value) < 99.95;
    snprintf(out, FIGURE_BYTES, "%.*f%s", decimals, value, units[unit]);
    return out;
}

const char *figure_duration(double seconds, char out[FIGURE_BYTES]) {
    if (!(seconds >= 0) || seconds > 1e9) {
        snprintf(out, FIGURE_BYTES, "-");
        return out;
    }
    int64_t whole = (int64_t)(seconds + 0.5);
    int64_t hours = whole / 3600;
    int minutes = (int)(whole / 60 % 60), rest = (int)(whole % 60);
    if (hours)
        snprintf(out, FIGURE_BYTES, "%" PRId64 ":%02d:%02d", hours, minutes, rest);
    else
        snprintf(out, FIGURE_BYTES, "%d:%02d", minutes, rest);
    return out;
}

const char *figure_latency(double seconds, char out[FIGURE_BYTES]) {
    double value = seconds < 0.9995e-3 ? seconds * 1e6 : seconds < 0.9995 ? seconds * 1e3 : seconds;
    const char *unit = seconds < 0.9995e-3 ? "us" : seconds < 0.9995 ? "ms" : "s";
    int decimals = value < 9.995 ? 2 : value < 99.95;
    snprintf(out, FIGURE_BYTES, "%.*f %s", decimals, value, unit);
    return out;
}

/* Share of the job that is done, 0..1; negative when unknown. */
static double share_done(const struct progress_state *state) {
    if (state->n_total > 0)
        return fmin(1, (double)state->n_done / (double)state->n_total);
    return state->fraction >= 0 ? fmin(1, state->fraction) : -1;
}

double progress_eta(const struct progress_state *state) {
    double done = (double)(state->n_done - state->n_resumed);
    if (done <= 0 || state->elapsed_s <= 0)
        return -1;
    if (state->n_total >= 0)
        return fmax(0, (double)(state->n_total - state->n_done)) * state->elapsed_s / done;
    /* The share of the input that this run did: the whole share less what was resumed of it. */
    double share = state->fraction;
    if (share <= 0 || state->n_done <= 0)
        return -1;
    double ours = fmin(1, share) * done / (double)state->n_done;
    return fmax(0, 1 - share) / ours * state->elapsed_s;
}

static void describe(const struct progress_state *state, double tokens_per_s, char *out, size_t out_size) {
    char rate[FIGURE_BYTES], eta[FIGURE_BYTES], total[FIGURE_BYTES] = "", errors[48] = "";
    if (state->n_total >= 0)
        snprintf(total, sizeof total, "/%" PRId64, state->n_total);
    if (state->n_errors > 0)
        snprintf(errors, sizeof errors, " (%" PRId64 " failed)", state->n_errors);
    snprintf(out, out_size, "%" PRId64 "%s prompts%s, %s tok/s, occupancy %.0f %%, ETA %s", state->n_done,
             total, errors, figure_count(tokens_per_s, rate), 100 * state->occupancy,
             figure_duration(progress_eta(state), eta));
}

void progress_line(const struct progress_state *state, double tokens_per_s, char *out, size_t out_size) {
    describe(state, tokens_per_s, out, out_size);
}

void progress_bar(const struct progress_state *state, double tokens_per_s, int columns, bool use_color,
                  char *out, size_t out_size) {
    char words[256], bar[BAR_MOST + 1];
    describe(state, tokens_per_s, words, sizeof words);
    double share = share_done(state);
    int length = (int)strlen(words);
    int room = columns - length - 3; /* brackets and a blank */
    int width = room < BAR_MOST ? room : BAR_MOST;
    if (columns > 0 && length > columns)
        words[columns] = '\0';
    if (share < 0 || width < BAR_LEAST) {
        snprintf(out, out_size, "%s", words);
        return;
    }
    int filled = (int)(share * width);
    memset(bar, '=', (size_t)filled);
    memset(bar + filled, ' ', (size_t)(width - filled));
    bar[width] = '\0';
    if (filled < width)
        bar[filled] = '>';
    snprintf(out, out_size, "%s[%s]%s %s", use_color ? "\033[32m" : "", bar, use_color ? "\033[0m" : "",
             words);
}
