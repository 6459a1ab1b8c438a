# What the scripts share; sourced with the script's own arguments (BUILD DEVICE), from the repository root.
#
# A script says what is wrong with `fail` (exit 1) and what it lacks with `need` (exit 77: skipped). Everything it
# writes goes below $work, which is removed when it ends.
# shellcheck shell=bash
set -euo pipefail

if [[ $# -ne 2 ]]; then
    echo "usage: ${0##*/} BUILD cpu|cuda" >&2
    exit 64
fi
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
pressrun=$(cd "$1" && pwd)/pressrun
device=$2
cd "$repo"
work=$(mktemp -d "${TMPDIR:-/tmp}/pressrun-e2e.XXXXXX")
trap 'rm -rf "$work"' EXIT
unset NO_COLOR

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# need TOOL...: a missing one makes the test skipped.
need() {
    local tool
    for tool in "$@"; do
        # The command must also work: a shim may stand for a tool that is not there.
        if ! command -v "$tool" >/dev/null || ! "$tool" --version >/dev/null 2>&1; then
            echo "needs $tool"
            exit 77
        fi
    done
}

# need_device: skipped where the device cannot be used.
need_device() {
    [[ $device == cuda ]] || return 0
    local code=0
    "$pressrun" prompt tests/models/tiny x --device cuda --max-tokens 1 >"$work/device" 2>&1 || code=$?
    if [[ $code -eq 69 ]]; then
        echo "needs a GPU: $(tail -n 1 "$work/device")"
        exit 77
    fi
    rm -f "$work/device"
}

# expect CODE COMMAND...: stdout and stderr go to $work/stdout and $work/stderr.
expect() {
    local wanted=$1 code=0
    shift
    "$@" >"$work/stdout" 2>"$work/stderr" || code=$?
    if [[ $code -ne $wanted ]]; then
        tail -n 20 "$work/stderr" >&2
        fail "exit code $code instead of $wanted: $*"
    fi
}

# records FILE: its records without what may differ between two runs.
records() {
    zcat "$1" | jq -c 'del(.timing)'
}

# expect_same FILE FILE WHAT
expect_same() {
    if ! cmp -s "$1" "$2"; then
        diff "$1" "$2" | head -n 10 >&2 || true
        fail "$3: $1 and $2 differ"
    fi
}

# tiny_job FOLDER [CONFIG_LINE...]: FOLDER/job.yaml, a job of the tiny model from prompts.jsonl to out.jsonl.gz, with
# further lines of the job from stdin and further lines of its config as arguments. One CPU thread: what is tested
# here is no matter of speed.
tiny_job() {
    local folder=$1
    shift
    mkdir -p "$folder"
    printf '%s\n' "device: $device" "threads: 1" "$@" >"$folder/config.yaml"
    {
        printf '%s\n' "model: $repo/tests/models/tiny" "prompts: prompts.jsonl" "output: out.jsonl.gz" \
            "config: config.yaml"
        cat
    } >"$folder/job.yaml"
}
