/* pressrun run, whole, with the tiny model: what becomes of a job whose input is damaged, grows, changes or
 * goes away. */
#include "tests/unit/output_fixture.h"

#include <signal.h>
#include <sys/wait.h>

#include "worker/base/log.h"
#include "worker/commands/commands.h"
#include "worker/run/stop_signal.h"

enum { N_PROMPTS = 40 };

static struct folder folder;

static const char *path_of(const char *name) {
    static char paths[4][300];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", folder.path, name);
    return path;
}

static int make_folder(void **state) {
    (void)state;
    folder_make(&folder);
    log_set_quiet(true);
    return 0;
}

static int drop_folder(void **state) {
    (void)state;
    folder_remove(&folder);
    return 0;
}

static struct buffer prompts(int first, int end) {
    struct buffer out = {0};
    for (int i = first; i < end; i++)
        assert_int_equal(buffer_printf(&out, "a word and %d more\n", i), STATUS_OK);
    return out;
}

static void write_prompts(const char *name, int first, int end) {
    struct buffer text = prompts(first, end);
    write_bytes(path_of(name), text.data, text.size);
    buffer_free(&text);
}

static void write_job(const char *prompts_name) {
    char text[1500], cwd[1000];
    assert_non_null(getcwd(cwd, sizeof cwd));
    int size =
        snprintf(text, sizeof text,
                 "model: %s/tests/models/tiny\nprompts: %s\noutput: out.jsonl.gz\nconfig: config.yaml\n"
                 "sampling: {max_tokens: 2}\n",
                 cwd, prompts_name);
    write_bytes(path_of("job.yaml"), text, (size_t)size);
    static const char config[] = "device: cpu\nthreads: 1\nmax_num_seqs: 4\n";
    write_bytes(path_of("config.yaml"), config, sizeof config - 1);
}

static enum status run(bool restart) {
    return command_run(&(struct command_options){
        .is_quiet = true, .target = path_of("job.yaml"), .shard = {.count = 1}, .restart = restart});
}

static void expect_run(enum status wanted, const char *words) {
    enum status got = run(false);
    if (got != wanted || (words && !strstr(status_message(), words)))
        fail_msg("status %d instead of %d: %s", (int)got, (int)wanted, status_message());
}

static int count_lines(const char *path) {
    struct buffer text = read_gzip(path);
    int n = 0;
    for (size_t i = 0; i < text.size; i++)
        n += text.data[i] == '\n';
    buffer_free(&text);
    return n;
}

static bool manifest_has(const char *words) {
    struct buffer text = read_bytes(path_of("out.jsonl.gz.manifest.json"));
    assert_int_equal(buffer_terminate(&text), STATUS_OK);
    bool has = strstr(text.data, words) != NULL;
    buffer_free(&text);
    return has;
}

/* A finished job says so as long as its prompts are those that it answered, or are gone. */
static void test_finished_job_knows_its_input(void **state) {
    (void)state;
    folder_empty(&folder);
    write_job("prompts.txt");
    write_prompts("prompts.txt", 0, N_PROMPTS);
    expect_run(STATUS_OK, NULL);
    assert_int_equal(count_lines(folder.name), N_PROMPTS);
    expect_run(STATUS_OK, NULL);

    struct buffer before = read_bytes(folder.name);
    write_prompts("prompts.txt", 0, N_PROMPTS + 1);
    expect_run(STATUS_CANNOT_CREATE, "has more prompts than the 40");
    write_prompts("prompts.txt", 0, N_PROMPTS - 1);
    expect_run(STATUS_CANNOT_CREATE, "has 39 prompts, but");
    write_prompts("prompts.txt", 1, N_PROMPTS + 1);
    expect_run(STATUS_CANNOT_CREATE, "are not those that");
    struct buffer after = read_bytes(folder.name);
    assert_int_equal(after.size, before.size);
    assert_memory_equal(after.data, before.data, before.size);
    buffer_free(&before);
    buffer_free(&after);

    assert_int_equal(remove(path_of("prompts.txt")), 0);
    expect_run(STATUS_OK, NULL);
    write_prompts("prompts.txt", 0, 3);
    assert_int_equal(run(true), STATUS_OK);
    assert_int_equal(count_lines(folder.name), 3);
}

/* Every prompt in front of the damage is answered; the same command answers the rest when it is repaired. */
static void test_damaged_input_costs_no_prompt_before_it(void **state) {
    (void)state;
    folder_empty(&folder);
    write_job("prompts.txt.gz");
    struct buffer text = prompts(0, N_PROMPTS);
    gzFile file = gzopen(path_of("prompts.txt.gz"), "wb");
    assert_non_null(file);
    assert_int_equal(gzwrite(file, text.data, (unsigned)text.size), text.size);
    assert_int_equal(gzclose(file), Z_OK);
    buffer_free(&text);
    struct buffer whole = read_bytes(path_of("prompts.txt.gz"));
    write_bytes(path_of("prompts.txt.gz"), whole.data, whole.size - 4); /* the trailer is cut */

    expect_run(STATUS_DATA, "ends too early");
    assert_false(exists(folder.name));
    assert_int_equal(count_lines(folder.part), N_PROMPTS);
    assert_true(manifest_has("\"state\": \"failed\""));
    expect_run(STATUS_DATA, "ends too early");
    assert_int_equal(count_lines(folder.part), N_PROMPTS);

    write_bytes(path_of("prompts.txt.gz"), whole.data, whole.size);
    buffer_free(&whole);
    expect_run(STATUS_OK, NULL);
    assert_int_equal(count_lines(folder.name), N_PROMPTS);
    assert_true(manifest_has("\"complete\": true"));
}

/* Complete, but its name is taken meanwhile: nothing is lost, and the manifest does not call it complete. */
static void test_failure_to_publish_is_no_completion(void **state) {
    (void)state;
    folder_empty(&folder);
    write_job("prompts.fifo");
    assert_int_equal(mkfifo(path_of("prompts.fifo"), 0600), 0);
    pid_t writer = fork();
    if (writer == 0) {
        /* The reader of the pipe opens it first and the output later; the output is there before the end of
         * the input is. */
        int fd = open(path_of("prompts.fifo"), O_WRONLY);
        static const char line[] = "one prompt\n";
        bool good = fd >= 0 && write(fd, line, sizeof line - 1) == sizeof line - 1;
        while (good && !exists(path_of("out.jsonl.gz.manifest.json")))
            usleep(1000);
        FILE *taken = fopen(folder.name, "wb");
        good = good && taken && fputs("somebody else's", taken) >= 0 && fclose(taken) == 0;
        _exit(good ? 0 : 1);
    }
    expect_run(STATUS_CANNOT_CREATE, "has appeared meanwhile");
    int how;
    assert_int_equal(waitpid(writer, &how, 0), writer);
    assert_int_equal(how, 0);
    assert_true(manifest_has("\"state\": \"failed\""));
    assert_true(manifest_has("\"complete\": false"));
    assert_int_equal(count_lines(folder.part), 1);
}

/* While one of the signals is handled the others wait: the second would not see what the first notes. */
static void test_signals_wait_for_each_other(void **state) {
    (void)state;
    static const int numbers[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1};
    enum { N = sizeof numbers / sizeof *numbers };
    struct sigaction before[N], alarm_before, now;
    for (int i = 0; i < N; i++) {
        struct sigaction reset = {.sa_handler = SIG_DFL}; /* one that is ignored stays so */
        assert_int_equal(sigaction(numbers[i], &reset, &before[i]), 0);
    }
    assert_int_equal(sigaction(SIGALRM, NULL, &alarm_before), 0);
    assert_int_equal(stop_signal_install(5), STATUS_OK);
    for (int i = 0; i < N; i++) {
        assert_int_equal(sigaction(numbers[i], &before[i], &now), 0);
        for (int k = 0; k < N; k++)
            assert_int_equal(sigismember(&now.sa_mask, numbers[k]), 1);
    }
    assert_int_equal(sigaction(SIGALRM, &alarm_before, NULL), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finished_job_knows_its_input),
        cmocka_unit_test(test_damaged_input_costs_no_prompt_before_it),
        cmocka_unit_test(test_failure_to_publish_is_no_completion),
        cmocka_unit_test(test_signals_wait_for_each_other),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
