#!/usr/bin/env bash
# Runs the functional tests on a GPU under one of compute-sanitizer's tools, a process per case, several at a time:
#
#     tests/sanitize.sh BUILD memcheck|racecheck|initcheck [PROGRAM [PATTERN]]
#
# BUILD is the build folder; PROGRAM, a shell pattern, picks programs of BUILD/tests/functional by name, PATTERN cases by
# theirs. PRESSRUN_SANITIZE_JOBS processes run at a time (8: they share the GPU), each for at most
# PRESSRUN_SANITIZE_LIMIT seconds (1200).
#
# Each program first runs by itself, which gives the names of its cases. One line per case; the last line counts. Exit
# code: 0; 1 when a case failed, was not finished, or the tool reported anything, or when there was no case; 64 usage, 66
# not built, 69 no compute-sanitizer.
set -euo pipefail

usage() {
    echo "usage: tests/sanitize.sh BUILD memcheck|racecheck|initcheck [PROGRAM [PATTERN]]" >&2
    exit 64
}

[[ $# -ge 2 && $# -le 4 ]] || usage
build=$1 tool=$2 programs=${3:-test_*} pattern=${4:-*}
case $tool in memcheck | racecheck | initcheck) ;; *) usage ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ ! -d $build/tests/functional ]]; then
    echo "tests/sanitize.sh: $build/tests/functional is missing; build it with scons tests" >&2
    exit 66
fi

if ! command -v compute-sanitizer >/dev/null; then
    echo "tests/sanitize.sh: compute-sanitizer is not in PATH; it comes with the CUDA toolkit" >&2
    exit 69
fi

# run_case TOOL LIMIT FOLDER PROGRAM CASE
run_case() {
    local tool=$1 limit=$2 folder=$3 program=$4 name=$5 code=0 verdict=ok began=$SECONDS log
    log=$folder/$(basename "$program").$BASHPID.log
    timeout --kill-after=10 "$limit" compute-sanitizer --tool "$tool" "$program" cuda "$name" small >"$log" 2>&1 \
        </dev/null || code=$?
    if [[ $code == 124 || $code == 137 ]]; then
        verdict="FAILED (longer than $limit s, or killed)"
    elif [[ $code != 0 ]]; then
        verdict="FAILED (exit $code)"
    elif ! grep -qE 'SUMMARY: 0 (errors|hazards displayed \(0 errors, 0 warnings\))' "$log"; then
        verdict="FAILED ($(grep -o 'SUMMARY.*' "$log" || echo "no summary"))"
    elif ! grep -qF "[       OK ] $name" "$log"; then
        verdict="FAILED (the case did not run)"
    fi
    # One write, so that lines of processes beside this one do not mix.
    printf '%-16s %-64s %5d s  %s\n%s' "$(basename "$program")" "$name" $((SECONDS - began)) "$verdict" \
        "$([[ $verdict == ok ]] || tail -n 30 "$log" | sed 's/^/    | /' && echo .)" | sed '$d'
    rm -f "$log"
}
export -f run_case

folder=$(mktemp -d "${TMPDIR:-/tmp}/pressrun-sanitize.XXXXXX")
trap 'rm -rf "$folder"' EXIT
: >"$folder/cases"
for program in "$build"/tests/functional/$programs; do
    [[ -x $program ]] || continue
    code=0
    "$program" cuda '*' small >"$folder/names" 2>&1 </dev/null || code=$?
    if [[ $code != 0 ]]; then
        echo "tests/sanitize.sh: $program cuda '*' small: exit $code without a sanitizer; its last lines:" >&2
        tail -n 10 "$folder/names" >&2
        exit 1
    fi
    sed -n 's/^\[ RUN      \] //p' "$folder/names" | while IFS= read -r name; do
        # shellcheck disable=SC2053 # a pattern is meant
        [[ $name == $pattern ]] && printf '%s\0%s\0' "$program" "$name"
    done >>"$folder/cases" || true
done

xargs -0 -r -n 2 -P "${PRESSRUN_SANITIZE_JOBS:-8}" bash -c 'run_case "$@"' bash "$tool" \
    "${PRESSRUN_SANITIZE_LIMIT:-1200}" "$folder" <"$folder/cases" | tee "$folder/results" || true

n_cases=$(($(tr -cd '\0' <"$folder/cases" | wc -c) / 2))
n=$(grep -c '^[^ ].* s  ok$' "$folder/results" || true)
n_failed=$(grep -c '^[^ ].* s  FAILED' "$folder/results" || true)
echo "$tool: $n of $n_cases cases clean, $n_failed failed"
[[ $n -gt 0 && $n == "$n_cases" ]]
