#!/usr/bin/env bash
# Runs the functional tests on a GPU under compute-sanitizer, several processes at a time:
#
#     tests/sanitize.sh BUILD [all|memcheck|initcheck|racecheck [PROGRAM [PATTERN]]]
#
# BUILD is the build folder; without a tool, and with `all`, the three run. PROGRAM, a shell pattern, picks programs of
# BUILD/tests/functional by name, PATTERN cases by theirs. PRESSRUN_SANITIZE_JOBS processes run at a time (8: they share
# the GPU), each for at most PRESSRUN_SANITIZE_LIMIT seconds (1200). A process has at most PRESSRUN_SANITIZE_CASES cases
# (8): the tool needs seconds to begin, so short cases share it.
#
# Cases run with `small` (tests/functional/arguments.h). One line per case and tool, with the seconds it took; behind a
# process that failed, the end of what it said. The last lines count, by tool. A case is clean where it ran and passed,
# its process ended well, and the tool reported nothing in it, nor between the cases. Exit code: 0; 1 when a case was not
# clean, or there was none; 64 usage, 66 not built, 69 no compute-sanitizer, 77 no GPU.
set -euo pipefail

SHOWN_LINES=30 # of a process that failed

usage() {
    echo "usage: tests/sanitize.sh BUILD [all|memcheck|initcheck|racecheck [PROGRAM [PATTERN]]]" >&2
    exit 64
}

[[ $# -ge 1 && $# -le 4 ]] || usage
build=$1 programs=${3:-test_*} pattern=${4:-*}
case ${2:-all} in
all) tools=(racecheck memcheck initcheck) ;; # the longest first
memcheck | racecheck | initcheck) tools=("$2") ;;
*) usage ;;
esac
cases_each=${PRESSRUN_SANITIZE_CASES:-8}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ ! -d $build/tests/functional ]]; then
    echo "tests/sanitize.sh: $build/tests/functional is missing; build it with scons tests" >&2
    exit 66
fi
if ! command -v compute-sanitizer >/dev/null; then
    echo "tests/sanitize.sh: compute-sanitizer is not in PATH; it comes with the CUDA toolkit" >&2
    exit 69
fi

# What a process said, each line behind the time -> a line per case: seconds, verdict, name. What the tool reports stands
# between the beginning and the end of the case that it belongs to.
# shellcheck disable=SC2016 # a program for awk
verdicts='
function name_of(line) { return substr(line, index(line, "] ") + 2) }
{ at = $1; line = substr($0, length($1) + 2) }
line ~ /^\[ RUN      \] / { name = name_of(line); began[name] = at; reported = 0 }
line ~ /^========= +[^ ]/ { if (name != "") reported = 1 }
line ~ /^\[       OK \] / {
    printf "%d\t%s\t%s\n", at - began[name], reported ? "FAILED (the tool reports something)" : "ok", name
    name = ""
}
line ~ /^\[  (FAILED|ERROR|SKIPPED)  \] / && name != "" {
    printf "%d\tFAILED (the case itself)\t%s\n", at - began[name], name
    name = ""
}
'

# run_group LIMIT VERDICTS GROUP: GROUP is a file of tool, program and names of cases, a line each.
run_group() {
    local limit=$1 verdicts=$2 group=$3 log=$3.log found=$3.found code=0 whole=ok name line seconds verdict lines
    mapfile -t lines <"$group"
    local tool=${lines[0]} program=${lines[1]} names=("${lines[@]:2}")
    local began=$SECONDS
    {
        timeout --kill-after=10 "$limit" compute-sanitizer --tool "$tool" "$program" cuda \
            "$(IFS='|' && echo "${names[*]}")" small 2>&1 </dev/null || echo "exit code $?"
    } | while IFS= read -r line; do printf '%s %s\n' "$EPOCHSECONDS" "$line"; done >"$log"
    code=$(sed -nE '$s/^[0-9]+ exit code ([0-9]+)$/\1/p' "$log")
    if [[ $code == 124 || $code == 137 ]]; then
        whole="FAILED (longer than $limit s, or killed)"
    elif [[ -n $code ]]; then
        whole="FAILED (exit $code)"
    elif ! grep -qE 'SUMMARY: 0 (errors|hazards displayed \(0 errors, 0 warnings\))' "$log"; then
        whole="FAILED ($(grep -o 'SUMMARY.*' "$log" || echo "no summary"))"
    fi
    awk "$verdicts" "$log" >"$found"
    # Whose fault it is that the process failed: of those cases that say so, or nobody knows.
    local blamed=no
    grep -q "$(printf '\tFAILED')" "$found" && blamed=yes
    for name in "${names[@]}"; do
        line=$(awk -F'\t' -v name="$name" '$3 == name { print $1 "\t" $2; exit }' "$found")
        seconds=${line%%$'\t'*} verdict=${line#*$'\t'}
        if [[ -z $line ]]; then
            seconds=$((SECONDS - began)) verdict="FAILED (the case did not run to its end)"
            [[ $whole == ok ]] || verdict=$whole
        elif [[ $verdict == ok && $whole != ok && $blamed == no ]]; then
            verdict="$whole"
        fi
        printf '%-9s %-18s %-64s %5d s  %s\n' "$tool" "$(basename "$program")" "$name" "$seconds" "$verdict"
    done >"$group.lines"
    if grep -q ' s  FAILED' "$group.lines"; then
        tail -n "$SHOWN_LINES" "$log" | sed -E 's/^[0-9]+ /    | /' >>"$group.lines"
    fi
    flock "$(dirname "$group")" cat "$group.lines" # lines of processes beside this one do not mix
    rm -f "$log" "$found" "$group.lines"
}
export -f run_group
export SHOWN_LINES

folder=$(mktemp -d "${TMPDIR:-/tmp}/pressrun-sanitize.XXXXXX")
trap 'rm -rf "$folder"' EXIT
n_cases=0 n_groups=0
: >"$folder/queue"
for program in "$build"/tests/functional/$programs; do
    [[ -x $program ]] || continue
    code=0
    "$program" cuda '*' list >"$folder/list" 2>&1 </dev/null || code=$?
    if [[ $code != 0 ]]; then
        echo "tests/sanitize.sh: $program cuda '*' list: exit $code; it says:" >&2
        tail -n 10 "$folder/list" >&2
        exit $((code == 77 ? 77 : 1))
    fi
    names=()
    while IFS= read -r name; do
        # shellcheck disable=SC2053 # a pattern is meant
        [[ $name == $pattern ]] && names+=("$name")
    done <"$folder/list"
    # Dealt like cards, since neighbours take as long as each other.
    n=$(((${#names[@]} + cases_each - 1) / cases_each))
    for ((g = 0; g < n; g++)); do
        printf '%s\n' "$program" >"$folder/group$n_groups"
        for ((i = g; i < ${#names[@]}; i += n)); do printf '%s\n' "${names[i]}"; done >>"$folder/group$n_groups"
        n_groups=$((n_groups + 1))
    done
    n_cases=$((n_cases + ${#names[@]}))
done
if [[ $n_cases == 0 ]]; then
    echo "tests/sanitize.sh: no case of $build/tests/functional/$programs matches '$pattern'" >&2
    exit 1
fi
for tool in "${tools[@]}"; do
    for ((g = 0; g < n_groups; g++)); do
        { echo "$tool" && cat "$folder/group$g"; } >"$folder/$tool$g"
        printf '%s\0' "$folder/$tool$g" >>"$folder/queue"
    done
done

xargs -0 -r -n 1 -P "${PRESSRUN_SANITIZE_JOBS:-8}" bash -c 'run_group "$@"' bash \
    "${PRESSRUN_SANITIZE_LIMIT:-1200}" "$verdicts" <"$folder/queue" | tee "$folder/results" || true

all_clean=1
for tool in "${tools[@]}"; do
    n=$(grep -cE "^$tool +[^ ].* s  ok\$" "$folder/results" || true)
    n_failed=$(grep -cE "^$tool +[^ ].* s  FAILED" "$folder/results" || true)
    echo "$tool: $n of $n_cases cases clean, $n_failed failed"
    [[ $n -gt 0 && $n == "$n_cases" ]] || all_clean=0
done
echo "$SECONDS s"
[[ $all_clean == 1 ]]
