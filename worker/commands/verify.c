/* pressrun verify: is an output file whole? */
#include <math.h>
#include <stdio.h>

#include "worker/commands/commands.h"
#include "worker/output/writer.h"

enum status command_verify(const struct command_options *options) {
    struct verify_report report = {0};
    enum status result = output_verify(options->target, &report);
    if (result == STATUS_OK || result == STATUS_INCOMPLETE)
        printf("%s: %s, %lld records in %lld lines, %lld failed, %lld tokens in, %lld out, %lld members, "
               "%llu bytes "
               "(%llu of text)\n",
               options->target, report.is_complete ? "complete" : "incomplete",
               (long long)report.counts.n_records, (long long)report.counts.n_lines,
               (long long)report.counts.n_errors, (long long)report.counts.prompt_tokens,
               (long long)report.counts.completion_tokens, (long long)report.counts.n_members,
               (unsigned long long)report.file_bytes, (unsigned long long)report.text_bytes);
    if ((result == STATUS_OK || result == STATUS_INCOMPLETE) && report.scored_tokens > 0) {
        double mean = -report.logprob_sum / (double)report.scored_tokens;
        printf(
            "%s: %lld tokens scored in %lld records, mean negative log-probability %.6f, perplexity %.6g\n",
            options->target, (long long)report.scored_tokens, (long long)report.n_scored_records, mean,
            exp(mean));
    }
    verify_report_free(&report);
    return result;
}
