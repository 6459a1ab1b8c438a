#!/usr/bin/env bash
# Runs the functional tests on a GPU under compute-sanitizer, several processes at a time:
#
#     tests/sanitize.sh BUILD [all|memcheck|initcheck|racecheck [PROGRAM [PATTERN]]]
#
# BUILD is the build folder; without a tool, and with `all`, the three run. PROGRAM, a shell pattern, picks programs of
# BUILD/tests/functional by name, PATTERN cases by theirs. PRESSRUN_SANITIZE_JOBS processes run at a time (8: they share
# the GPU), each for at most PRESSRUN_SANITIZE_LIMIT seconds (1200). A process has at most PRESSRUN_SANITIZE_CASES cases
# (8): the tool needs seconds to begin, so short cases share it. Those that take longest begin first.
#
# A process has one CPU (taskset, of util-linux): with several, the backend uploads matrices of more than 1 MiB with as
# many threads (kernels/cuda/weights.cu), and the tool loses track of kernels that threads launch at the same time.
#
# Cases run with `small` (tests/functional/arguments.h). One line per case and tool, with the seconds it took; behind
# a process that failed, the end of what it said. The last lines count, by tool, also where the script is stopped by
# SIGTERM or SIGINT. A case is clean where it ran and passed, the tool reported nothing in it, nor between the cases,
# and its process ended well, or failed in another case. Where a process does not end, the case at which it stood has
# failed, and those behind it did not run. What racecheck cannot follow (RACECHECK_CANNOT) is named and left out. Exit
# code: 0; 1 when a case was not clean, or there was none; 64 usage, 66 not built, 69 no compute-sanitizer or taskset, 77
# no GPU.
set -euo pipefail

SHOWN_LINES=30  # of a process that failed
GROUP_COST=40   # of cases that share a process, at most
STOP_SECONDS=20 # that processes have to end when the script is stopped

# Seconds under racecheck on an H100, eight processes beside each other: what of "PROGRAM CASE" matches first. They
# decide what begins first and what shares a process, and nothing else.
COSTS=(
    '55 * shakespeare_float32*'
    '40 test_restart *'
    '40 test_operations *attention: prompts*'
    '35 test_operations *matmul float32'
    '35 test_operations *matmul: a row alone*'
    '35 * shakespeare_bfloat16'
    '30 test_operations *a decode row alone*'
    '30 test_blocks test_attention'
    '30 test_invariance *gemma3_float32'
    '30 test_invariance *shakespeare*'
    '20 test_operations *attention*cut*'
    '20 test_operations *attention, [sq]*'
    '20 test_operations *norm: a row alone*'
    '20 test_network *gemma3*_float32_cuts'
    '20 test_network *_128x8_float32_cuts'
    '15 test_operations *matmul [gs]*'
    '15 test_operations *rope, float32'
    '15 test_operations *NaN in front*'
    '15 test_operations *decode rows*'
    '15 test_network shakespeare_bfloat16_cuts'
    '15 test_network *_float32_cuts'
    '15 test_invariance *'
    '15 test_matmul_tiles *two parts'
    '10 test_network *_float32_greedy'
    '10 test_network *_bfloat16_cuts'
    '10 test_score *_bfloat16'
    '10 test_blocks test_block'
    '10 test_blocks test_linear'
    '10 test_operations *network*'
    '5 *'
)

# Cases whose kernel racecheck reports without a race. In network.cu a row that has been read is written again when what
# was computed from it has come back from other blocks by st.async, and a slot of the ring is filled again when one lane
# has arrived for its warp, behind __syncwarp: it sees neither. The thread sanitizer of the emulator, which follows both,
# runs these cases (tests/README.md).
RACECHECK_CANNOT='test_operations cuda: network: *'

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
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ ! -d $build/tests/functional ]]; then
    echo "tests/sanitize.sh: $build/tests/functional is missing; build it with scons tests" >&2
    exit 66
fi
if ! command -v compute-sanitizer >/dev/null; then
    echo "tests/sanitize.sh: compute-sanitizer is not in PATH; it comes with the CUDA toolkit" >&2
    exit 69
fi
if ! command -v taskset >/dev/null; then
    echo "tests/sanitize.sh: taskset is not in PATH; it comes with util-linux" >&2
    exit 69
fi

# cpu_list: the CPUs that this process may use, one a line.
cpu_list() {
    local range ranges
    ranges=$(taskset -cp $$)
    for range in $(tr , ' ' <<<"${ranges##*: }"); do seq "${range%-*}" "${range#*-}"; done
}

# run_group FOLDER GROUP: GROUP is a file of tool, program and names of cases, a line each. xargs numbers the processes
# that run beside each other, from 0, in SLOT.
run_group() {
    local folder=$1 group=$2 log=$2.log found=$2.found code=0 whole='' stopped=no pid='' lines cpus
    trap 'stopped=yes; [[ -z $pid ]] || kill "$pid" 2>/dev/null' TERM INT
    touch "$folder/running/$BASHPID"
    mapfile -t lines <"$group"
    read -ra cpus <<<"$CPUS"
    local tool=${lines[0]} program=${lines[1]} names=("${lines[@]:2}") stamping began=$SECONDS
    mkfifo "$group.pipe"
    (
        trap '' TERM INT # it ends with what it reads
        while IFS= read -r line; do printf '%s %s\n' "$EPOCHSECONDS" "$line"; done
    ) <"$group.pipe" >"$log" &
    stamping=$!
    timeout --kill-after=10 "$LIMIT" taskset -c "${cpus[SLOT % ${#cpus[@]}]}" compute-sanitizer --tool "$tool" \
        "$program" cuda "$(IFS='|' && echo "${names[*]}")" small >"$group.pipe" 2>&1 </dev/null &
    pid=$!
    [[ $stopped == no ]] || kill "$pid"
    while :; do
        wait "$pid" && code=0 || code=$?
        kill -0 "$pid" 2>/dev/null || break # a signal, too, ends waiting
    done
    wait "$stamping" || true
    echo "$EPOCHSECONDS (exit code $code)" >>"$log"
    if [[ $stopped == yes ]]; then
        whole="not run (stopped)"
    elif [[ $code == 124 || $code == 137 ]]; then
        whole="FAILED (longer than $LIMIT s, or killed)"
    elif [[ $code != 0 ]]; then
        whole="FAILED (exit $code)"
    elif ! grep -qE 'SUMMARY: 0 (errors|hazards displayed \(0 errors, 0 warnings\))' "$log"; then
        whole="FAILED ($(grep -o 'SUMMARY.*' "$log" || echo "no summary"))"
    fi
    awk -f "$folder/verdicts" "$log" >"$found"
    # Whose fault it is that the process failed: of those cases that say so, or of that at which it stood, or nobody
    # knows: then all that ran have failed, or the first, if none did.
    local blamed=no name line seconds verdict
    if [[ $stopped == yes ]] || grep -qE "$(printf '\t(FAILED|stood)')" "$found"; then blamed=yes; fi
    for name in "${names[@]}"; do
        line=$(awk -F'\t' -v name="$name" '$3 == name { print $1 "\t" $2; exit }' "$found")
        seconds=${line%%$'\t'*} verdict=${line#*$'\t'}
        if [[ -z $line ]]; then
            seconds=0 verdict="not run"
            if [[ -z $whole ]]; then
                verdict="FAILED (the case did not run)"
            elif [[ $blamed == no && ! -s $found ]]; then
                seconds=$((SECONDS - began)) verdict=$whole blamed=yes
            fi
        elif [[ $verdict == stood ]]; then
            verdict=${whole:-FAILED (the case did not run to its end)}
        elif [[ $verdict == ok && -n $whole && $blamed == no ]]; then
            verdict=$whole
        fi
        printf '%-9s %-18s %-64s %5d s  %s\n' "$tool" "$(basename "$program")" "$name" "$seconds" "$verdict"
    done >"$group.lines"
    if grep -q ' s  FAILED' "$group.lines"; then
        tail -n "$SHOWN_LINES" "$log" | sed -E 's/^[0-9]+ /    | /' >>"$group.lines"
    fi
    flock "$folder" tee -a "$folder/results" <"$group.lines" # lines of processes beside this one do not mix
    rm -f "$log" "$found" "$group.lines" "$group.pipe" "$folder/running/$BASHPID"
}
export -f run_group
CPUS=$(cpu_list | tr '\n' ' ') LIMIT=${PRESSRUN_SANITIZE_LIMIT:-1200}
export SHOWN_LINES CPUS LIMIT

# stop: ends the processes that run, which tell how far they came.
stop() {
    trap '' TERM INT
    local i file
    kill "$queue" 2>/dev/null || true
    for ((i = 0; i < 10 * STOP_SECONDS; i++)); do
        for file in "$folder"/running/*; do
            [[ ! -e $file ]] || kill "$(basename "$file")" 2>/dev/null || rm -f "$file"
        done
        sleep 0.1
        [[ -n $(ls "$folder/running") ]] || break
    done
}

# cost_of "PROGRAM CASE"
cost_of() {
    local row
    for row in "${COSTS[@]}"; do
        # shellcheck disable=SC2053 # a pattern is meant
        if [[ $1 == ${row#* } ]]; then
            echo "${row%% *}"
            return
        fi
    done
}

# Of lines of costs and names, the dearest first -> those of groups, with the cost of the group and its number in front.
# A group takes names until one would make it too dear, or it is full.
# shellcheck disable=SC2016 # a program for awk
GROUPS_OF='{
    for (g = 1; g <= n && (count[g] == most || cost[g] + $1 > dearest); g++);
    if (g > n) n = g
    cost[g] += $1; count[g]++; names[g] = names[g] $2 "\n"
}
END { for (g = 1; g <= n; g++) printf "%d\n%s\n", cost[g], names[g] }'

folder=$(mktemp -d "${TMPDIR:-/tmp}/pressrun-sanitize.XXXXXX")
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/running"
: >"$folder/results"
# What a process said, each line behind the time -> a line per case that began: seconds, verdict, name. What the tool
# reports stands between the beginning and the end of the case that it belongs to.
cat >"$folder/verdicts" <<'AWK'
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
END { if (name != "") printf "%d\tstood\t%s\n", at - began[name], name }
AWK

n_cases=0 n_groups=0
for program in "$build"/tests/functional/$programs; do
    [[ -x $program ]] || continue
    code=0
    "$program" cuda '*' small list >"$folder/list" 2>&1 </dev/null || code=$?
    if [[ $code != 0 ]]; then
        echo "tests/sanitize.sh: $program cuda '*' small list: exit $code; it says:" >&2
        tail -n 10 "$folder/list" >&2
        exit $((code == 77 ? 77 : 1))
    fi
    : >"$folder/costs"
    while IFS= read -r name; do
        # shellcheck disable=SC2053 # a pattern is meant
        [[ $name == $pattern ]] || continue
        printf '%s\t%s\n' "$(cost_of "$(basename "$program") $name")" "$name" >>"$folder/costs"
        n_cases=$((n_cases + 1))
    done <"$folder/list"
    # Blocks of lines: a group's cost, its cases, an empty one.
    new=yes
    while IFS= read -r line; do
        if [[ $new == yes ]]; then
            printf '%s\t%s\n' "$line" "$n_groups" >>"$folder/groups"
            echo "$program" >"$folder/group$n_groups"
            new=no
        elif [[ -z $line ]]; then
            n_groups=$((n_groups + 1)) new=yes
        else
            echo "$line" >>"$folder/group$n_groups"
        fi
    done < <(sort -t $'\t' -k 1,1nr -s "$folder/costs" |
        awk -F '\t' -v most="${PRESSRUN_SANITIZE_CASES:-8}" -v dearest="$GROUP_COST" "$GROUPS_OF")
done
if [[ $n_cases == 0 ]]; then
    echo "tests/sanitize.sh: no case of $build/tests/functional/$programs matches '$pattern'" >&2
    exit 1
fi
for tool in "${tools[@]}"; do
    while IFS=$'\t' read -r _ g; do
        {
            echo "$tool" && read -r program && echo "$program"
            while IFS= read -r name; do
                # shellcheck disable=SC2053 # a pattern is meant
                if [[ $tool == racecheck && "$(basename "$program") $name" == $RACECHECK_CANNOT ]]; then
                    printf '%-9s %-18s %-64s       left out: RACECHECK_CANNOT\n' "$tool" \
                        "$(basename "$program")" "$name" | tee -a "$folder/results" >&2
                else
                    echo "$name"
                fi
            done
        } <"$folder/group$g" >"$folder/$tool$g"
        [[ $(wc -l <"$folder/$tool$g") -le 2 ]] || printf '%s\0' "$folder/$tool$g" >>"$folder/queue"
    done < <(sort -t $'\t' -k 1,1nr -s "$folder/groups")
done

# Behind it, so that a signal is heard at once.
xargs -0 -r -n 1 -P "${PRESSRUN_SANITIZE_JOBS:-8}" --process-slot-var=SLOT bash -c 'run_group "$@"' bash "$folder" \
    <"$folder/queue" &
queue=$!
trap stop TERM INT
wait "$queue" || true

all_clean=1
for tool in "${tools[@]}"; do
    n=$(grep -cE "^$tool +[^ ].* s  ok\$" "$folder/results" || true)
    n_failed=$(grep -cE "^$tool +[^ ].* s  FAILED" "$folder/results" || true)
    n_out=$(grep -cE "^$tool +[^ ].* left out" "$folder/results" || true)
    n_not=$((n_cases - n_out - n - n_failed))
    echo "$tool: $n of $((n_cases - n_out)) cases clean, $n_failed failed, $n_not not run, $n_out left out"
    [[ $n -gt 0 && $n == $((n_cases - n_out)) ]] || all_clean=0
done
echo "$SECONDS s"
[[ $all_clean == 1 ]]
