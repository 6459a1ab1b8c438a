/* bench: what one point of pressrun bench measured, and how it is shown. Private to bench.c and
 * bench_report.c. */
#ifndef PRESSRUN_WORKER_COMMANDS_BENCH_H
#define PRESSRUN_WORKER_COMMANDS_BENCH_H

#include "worker/base/buffer.h"
#include "worker/commands/commands.h"
#include "worker/run/floor.h"
#include "worker/run/session.h"

/* Steps of one kind: those that only decode, and those that hold prompt rows. */
struct step_sums {
    int64_t n_steps;
    int64_t n_rows;     /* without padding */
    int64_t n_launched; /* with it */
    double seconds;     /* steps, and the gaps before them */
    double gap_s;       /* in which the host had nothing queued though there was work */
    double floor_s;
    double floor_bytes;
};

/* One batch size: the pass that took the median time of all repeats. */
struct point {
    int32_t batch_size;
    struct job_work work;
    int64_t new_tokens; /* of all sequences */
    double total_s;     /* submit to last token */
    struct step_sums decode, prompt;
    double job_floor_s;
    double best_batch; /* that the job's floor takes */
    double host_s;     /* of the engine's thread, without waiting for the device */
    int64_t launches_per_decode_step;
    int64_t n_restarts;
    int64_t replayed_rows;
    bool has_gaps;
    double gap_s; /* median device time between steps that decode, of a pass of its own; when has_gaps */
    bool has_operations;
    double operation_s[OPERATION_COUNT]; /* of a pass of its own */
};

/* Writes what is the same for all points, and the table's head; a point's line, and where its time went. */
void bench_print_head(const struct session *session, const struct command_options *options,
                      const struct floor *floor);
void bench_print_point(const struct point *point);
/* The smallest batch within 3 % of the best. */
void bench_print_choice(const struct point *points, int32_t n_points);
/* One JSON line. */
enum status bench_append_row(const struct session *session, const struct command_options *options,
                             const struct floor *floor, const struct point *point, struct buffer *rows);

#endif
