/* control_group: limits as version 1 and version 2 write them, of the own group and of those that hold it,
 * below a made-up root; host_info: what they make of this machine's processors. */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "kernels/control_group.h"
#include "kernels/host_info.h"
#include "tests/unit/temp_folder.h"

struct file {
    const char *path; /* below the root */
    const char *text;
};

/* A new root that holds the files. */
static const char *new_root(const struct file *files, size_t n_files) {
    static int count;
    static char root[4096];
    char name[32];
    snprintf(name, sizeof name, "root%d", count++);
    snprintf(root, sizeof root, "%s", temp_path(name));
    for (size_t i = 0; i < n_files && files[i].path; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s%s", name, files[i].path);
        for (char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
            *slash = '\0';
            if (mkdir(temp_path(path), 0777) != 0)
                assert_int_equal(errno, EEXIST);
            *slash = '/';
        }
        temp_text(path, files[i].text);
    }
    return root;
}

enum { MAX_FILES = 6 };
#define OWN_V1                                                                                               \
    { "/proc/self/cgroup", "4:memory:/jobs/7\n2:cpuset:/cpu\n1:cpu,cpuacct:/jobs/7\n0::/init.scope\n" }
#define OWN_V2                                                                                               \
    { "/proc/self/cgroup", "0::/jobs/7\n" }

static void test_processors(void **state) {
    (void)state;
    static const struct {
        const char *what;
        int expected;
        struct file files[MAX_FILES];
    } cases[] = {
        {"nothing there", 0, {{0}}},
        {"no group named", 2, {{"/sys/fs/cgroup/cpu.max", "200000 100000\n"}}},
        {"no quota", 0, {OWN_V2, {"/sys/fs/cgroup/jobs/7/cpu.max", "max 100000\n"}}},
        {"rounded up", 3, {OWN_V2, {"/sys/fs/cgroup/jobs/7/cpu.max", "250000 100000\n"}}},
        {"not rounded", 2, {OWN_V2, {"/sys/fs/cgroup/jobs/7/cpu.max", "100000 50000\n"}}},
        {"at least one", 1, {OWN_V2, {"/sys/fs/cgroup/jobs/7/cpu.max", "1000 100000\n"}}},
        {"the group that holds it",
         2,
         {OWN_V2,
          {"/sys/fs/cgroup/jobs/7/cpu.max", "400000 100000\n"},
          {"/sys/fs/cgroup/jobs/cpu.max", "150000 100000\n"}}},
        {"the own one, within a larger",
         2,
         {OWN_V2,
          {"/sys/fs/cgroup/jobs/7/cpu.max", "150000 100000\n"},
          {"/sys/fs/cgroup/jobs/cpu.max", "400000 100000\n"}}},
        {"a container that sees its own at the top",
         5,
         {OWN_V2, {"/sys/fs/cgroup/cpu.max", "500000 100000\n"}}},
        {"version 1",
         2,
         {OWN_V1,
          {"/sys/fs/cgroup/cpu/jobs/7/cpu.cfs_quota_us", "150000\n"},
          {"/sys/fs/cgroup/cpu/jobs/7/cpu.cfs_period_us", "100000\n"}}},
        {"version 1 without a quota, in one that has it",
         4,
         {OWN_V1,
          {"/sys/fs/cgroup/cpu/jobs/7/cpu.cfs_quota_us", "-1\n"},
          {"/sys/fs/cgroup/cpu/jobs/7/cpu.cfs_period_us", "100000\n"},
          {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n"},
          {"/sys/fs/cgroup/cpu/cpu.cfs_period_us", "50000\n"}}},
        {"another controller's group",
         0,
         {{"/proc/self/cgroup", "2:cpuset:/jobs/7\n"},
          {"/sys/fs/cgroup/cpu/jobs/7/cpu.cfs_quota_us", "150000\n"},
          {"/sys/fs/cgroup/cpu/jobs/7/cpu.cfs_period_us", "100000\n"}}},
        {"not to be read", 0, {OWN_V2, {"/sys/fs/cgroup/jobs/7/cpu.max", "many\n"}}},
        {"no period", 0, {OWN_V2, {"/sys/fs/cgroup/jobs/7/cpu.max", "100000 0\n"}}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int n = control_group_processors(new_root(cases[i].files, MAX_FILES));
        if (n != cases[i].expected)
            fail_msg("%s: %d processors, expected %d", cases[i].what, n, cases[i].expected);
    }
}

static void test_memory(void **state) {
    (void)state;
    uint64_t limit, left;
    control_group_memory(new_root(NULL, 0), &limit, &left);
    assert_true(limit == UINT64_MAX && left == UINT64_MAX);
    static const struct file v2[] = {OWN_V2,
                                     {"/sys/fs/cgroup/jobs/7/memory.max", "max\n"},
                                     {"/sys/fs/cgroup/jobs/7/memory.current", "100\n"},
                                     {"/sys/fs/cgroup/jobs/memory.max", "5000\n"},
                                     {"/sys/fs/cgroup/jobs/memory.current", "4000\n"}};
    control_group_memory(new_root(v2, 5), &limit, &left);
    assert_int_equal(limit, 5000);
    assert_int_equal(left, 1000);
    /* The lowest limit is not where the least is left; more is used than allowed. */
    static const struct file v1[] = {OWN_V1,
                                     {"/sys/fs/cgroup/memory/jobs/7/memory.limit_in_bytes", "5000\n"},
                                     {"/sys/fs/cgroup/memory/jobs/7/memory.usage_in_bytes", "10\n"},
                                     {"/sys/fs/cgroup/memory/jobs/memory.limit_in_bytes", "6000\n"},
                                     {"/sys/fs/cgroup/memory/jobs/memory.usage_in_bytes", "6001\n"}};
    control_group_memory(new_root(v1, 5), &limit, &left);
    assert_int_equal(limit, 5000);
    assert_int_equal(left, 0);
}

/* Cached pages of files count as free: those of the group and of the groups in it. */
static void test_memory_of_files(void **state) {
    (void)state;
    static const struct {
        const char *what;
        uint64_t left;
        struct file files[MAX_FILES];
    } cases[] = {
        {"version 2",
         3800,
         {OWN_V2,
          {"/sys/fs/cgroup/jobs/7/memory.max", "5000\n"},
          {"/sys/fs/cgroup/jobs/7/memory.current", "5000\n"},
          {"/sys/fs/cgroup/jobs/7/memory.stat",
           "anon 1000\nfile 4000\nworkingset_inactive_file 9\ninactive_file2 7\ninactive_file 3300\n"
           "active_file 500\n"}}},
        {"version 1, whose inactive_file is the group's alone",
         2400,
         {OWN_V1,
          {"/sys/fs/cgroup/memory/jobs/7/memory.limit_in_bytes", "5000\n"},
          {"/sys/fs/cgroup/memory/jobs/7/memory.usage_in_bytes", "4500\n"},
          {"/sys/fs/cgroup/memory/jobs/7/memory.stat",
           "inactive_file 700\nactive_file 50\ntotal_inactive_file 1800\ntotal_active_file 100\n"}}},
        {"each group by its own",
         500,
         {OWN_V2,
          {"/sys/fs/cgroup/jobs/7/memory.max", "5000\n"},
          {"/sys/fs/cgroup/jobs/7/memory.current", "4500\n"},
          {"/sys/fs/cgroup/jobs/memory.max", "9000\n"},
          {"/sys/fs/cgroup/jobs/memory.current", "9000\n"},
          {"/sys/fs/cgroup/jobs/memory.stat", "inactive_file 2000\n"}}},
        {"not more than is used",
         5000,
         {OWN_V2,
          {"/sys/fs/cgroup/memory.max", "5000\n"},
          {"/sys/fs/cgroup/memory.current", "100\n"},
          {"/sys/fs/cgroup/memory.stat", "inactive_file 101\n"}}},
        {"not told",
         400,
         {OWN_V2,
          {"/sys/fs/cgroup/memory.max", "5000\n"},
          {"/sys/fs/cgroup/memory.current", "4600\n"},
          {"/sys/fs/cgroup/memory.stat", "anon 100\n"}}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint64_t limit, left;
        control_group_memory(new_root(cases[i].files, MAX_FILES), &limit, &left);
        assert_int_equal(limit, 5000);
        if (left != cases[i].left)
            fail_msg("%s: %llu bytes left, expected %llu", cases[i].what, (unsigned long long)left,
                     (unsigned long long)cases[i].left);
    }
}

/* One processor where the affinity mask holds one, and never more than it holds. */
static void test_affinity(void **state) {
    (void)state;
    cpu_set_t all, one;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    assert_in_range(host_processors(), 1, CPU_COUNT(&all));
    int first = 0;
    while (!CPU_ISSET(first, &all))
        first++;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(host_processors(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_processors),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_memory_of_files),
        cmocka_unit_test(test_affinity),
    };
    return cmocka_run_group_tests_name("control_group", tests, temp_folder_open, temp_folder_close);
}
