#include "worker/output/metrics.h"

#include <math.h>

/* Buckets are equally wide in the logarithm: bucket i holds [LOWEST * RATIO^i, LOWEST * RATIO^(i+1)), so that
 * the middle of a bucket is within 1 % of everything in it. */
static const double lowest_s = 1e-6;
static const double highest_s = 86400;

static double log_ratio(void) {
    return log(highest_s / lowest_s) / HISTOGRAM_BUCKETS;
}

void histogram_add(struct histogram *histogram, double seconds) {
    if (isnan(seconds))
        return;
    double value = seconds > 0 ? fmin(seconds, 1e9) : 0;
    int i = 0;
    if (value > lowest_s)
        i = (int)fmin(log(value / lowest_s) / log_ratio(), HISTOGRAM_BUCKETS - 1);
    if (histogram->n == 0 || value < histogram->minimum)
        histogram->minimum = value;
    if (histogram->n == 0 || value > histogram->maximum)
        histogram->maximum = value;
    histogram->n++;
    histogram->sum += value;
    histogram->bucket[i]++;
}

double histogram_percentile(const struct histogram *histogram, double percent) {
    if (histogram->n == 0)
        return 0;
    /* Nearest rank: the smallest value that percent of all do not exceed. */
    double rank = ceil(fmax(percent, 0) / 100 * (double)histogram->n);
    if (rank <= 1)
        return histogram->minimum;
    if (rank >= (double)histogram->n)
        return histogram->maximum;
    int64_t seen = 0;
    int i = 0;
    while (i < HISTOGRAM_BUCKETS - 1 && (double)(seen += histogram->bucket[i]) < rank)
        i++;
    double middle = lowest_s * exp((i + 0.5) * log_ratio());
    return fmin(fmax(middle, histogram->minimum), histogram->maximum);
}

const char *bound_name(enum bound bound) {
    switch (bound) {
    case BOUND_DEVICE:
        return "device";
    case BOUND_INPUT:
        return "input";
    case BOUND_OUTPUT:
        return "output";
    case BOUND_KV_MEMORY:
        return "KV memory";
    }
    return "unknown";
}

enum bound run_metrics_bound(const struct run_metrics *metrics) {
    /* A wait bounds the run when it is the longest of the three and took a tenth of the time; a run that
     * waits for less is as fast as its device. */
    double longest = 0.1 * metrics->generate_s;
    enum bound bound = BOUND_DEVICE;
    if (metrics->wait_output_s > longest) {
        longest = metrics->wait_output_s;
        bound = BOUND_OUTPUT;
    }
    if (metrics->wait_input_s > longest) {
        longest = metrics->wait_input_s;
        bound = BOUND_INPUT;
    }
    if (metrics->wait_kv_s > longest)
        bound = BOUND_KV_MEMORY;
    return bound;
}

double run_metrics_occupancy(const struct run_metrics *metrics) {
    bool has_body = metrics->n_steps_before_tail > 0;
    double slots = (double)(has_body ? metrics->slot_steps_before_tail : metrics->slot_steps);
    double steps = (double)(has_body ? metrics->n_steps_before_tail : metrics->n_steps);
    double places = steps * metrics->max_num_seqs;
    return places > 0 ? slots / places : 0;
}
