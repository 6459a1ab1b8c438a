#!/usr/bin/env bash
# Runs the tests that scons has built, one line each:
#
#     tests/run.sh BUILD cpu|cuda [unit|functional|end_to_end|memory|all [PATTERN]]
#
# BUILD is the build folder; PATTERN, a shell pattern, picks tests by name (without folder and suffix). Run from the
# repository root by `scons test` and `scons test-gpu`.
#
# A test is a program BUILD/tests/GROUP/test_* or a script tests/GROUP/*.sh. Programs of the group unit get no
# argument and need no device, so they run with cpu only; other programs get DEVICE, scripts BUILD and DEVICE.
# Exit 0 is ok and 77 is skipped, with the last line of the output as the reason; all else has failed, and the end
# of the output is shown. The last line counts. Exit code: 0, or 1 when a test failed or, on a GPU, none ran.
set -euo pipefail

# Tests that have a meaning on one device alone; on the other they are no part of the list. Elsewhere what cannot run is
# skipped, and counted.
declare -A only_on=(
    [memory/valgrind]=cpu          # the CUDA driver's own memory is not Valgrind-clean
    [end_to_end/restarts]=cpu      # elsewhere the memory for KV pages is not given in bytes
    [memory/device_memory]=cuda    # the CPU backend has no memory of its own
    [functional/matmul_tiles]=cuda # the tile shapes of one of its kernels
)

LIMIT_SECONDS=${PRESSRUN_TEST_LIMIT:-1800} # a test that runs longer hangs, busy machine or not
OUTPUT_LINES=30                           # shown of a failed test

usage() {
    echo "usage: tests/run.sh BUILD cpu|cuda [unit|functional|end_to_end|memory|all [PATTERN]]" >&2
    exit 64
}

[[ $# -ge 2 && $# -le 4 ]] || usage
build=$1 device=$2 only=${3:-all} pattern=${4:-*}
[[ $device == cpu || $device == cuda ]] || usage
case $only in unit | functional | end_to_end | memory | all) ;; *) usage ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ ! -x $build/pressrun ]]; then
    echo "tests/run.sh: $build/pressrun is missing; build it with scons" >&2
    exit 66
fi
build=$(cd "$build" && pwd)

# Every test works below this folder, so that even a killed one leaves nothing behind.
TMPDIR=$(mktemp -d "${TMPDIR:-/tmp}/pressrun-tests.XXXXXX")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
log=$TMPDIR/log

n_passed=0 n_failed=0 n_skipped=0

# run_test NAME COMMAND...
run_test() {
    local name=$1 began=$EPOCHREALTIME code=0 seconds verdict
    shift
    timeout --kill-after=10 "$LIMIT_SECONDS" "$@" >"$log" 2>&1 </dev/null || code=$?
    seconds=$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
    case $code in
    0) verdict=ok n_passed=$((n_passed + 1)) ;;
    77) verdict="SKIPPED ($(tail -n 1 "$log"))" n_skipped=$((n_skipped + 1)) ;;
    124 | 137) verdict="FAILED (killed, or longer than $LIMIT_SECONDS s)" n_failed=$((n_failed + 1)) ;;
    *) verdict="FAILED (exit $code)" n_failed=$((n_failed + 1)) ;;
    esac
    printf '%-36s %7s s  %s\n' "$name" "$seconds" "$verdict"
    if [[ $verdict == FAILED* ]]; then
        tail -n "$OUTPUT_LINES" "$log" | sed 's/^/    | /'
    fi
}

# run_group GROUP
run_group() {
    local group=$1 path name
    [[ $only == all || $only == "$group" ]] || return 0
    for path in "$build/tests/$group"/test_* "tests/$group"/*.sh; do
        [[ -f $path && ($path == *.sh || -x $path) ]] || continue
        name=$(basename "$path" .sh)
        name=${name#test_}
        # shellcheck disable=SC2053 # a pattern is meant
        [[ $path != */lib.sh && $name == $pattern ]] || continue
        [[ ${only_on[$group/$name]:-$device} == "$device" ]] || continue
        if [[ $path == *.sh ]]; then
            run_test "$group/$name" bash "$path" "$build" "$device"
        elif [[ $group == unit ]]; then
            run_test "$group/$name" "$path"
        else
            run_test "$group/$name" "$path" "$device"
        fi
    done
}

[[ $device == cuda ]] || run_group unit
run_group functional
run_group end_to_end
run_group memory

echo "$n_passed passed, $n_failed failed, $n_skipped skipped"
if [[ $n_failed -gt 0 ]]; then
    exit 1
elif [[ $n_passed -eq 0 && ($device == cuda || $n_skipped -eq 0) ]]; then
    echo "tests/run.sh: no test has run" >&2
    exit 1
fi
