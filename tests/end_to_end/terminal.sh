#!/usr/bin/env bash
# On a terminal the progress is a bar that is drawn over itself, in colour unless NO_COLOR; elsewhere plain lines.
source "${BASH_SOURCE[0]%/*}/lib.sh"
need script jq
need_device

tiny_job "$work" 'max_num_seqs: 4' 'progress_seconds: 0.2' \
    <<<'sampling: {temperature: 0.9, max_tokens: 1500, ignore_eos: true}'
jq -nc 'range(24) | {prompt: "bar \(.)"}' >"$work/prompts.jsonl"
escape=$'\033'

# on_terminal FILE: the run's output on a pseudo-terminal of 80 columns.
on_terminal() {
    script -qec "stty cols 80; '$pressrun' run '$work/job.yaml' --restart" "$work/$1" >/dev/null </dev/null
}
export TERM=xterm
on_terminal color
tr '\r' '\n' <"$work/color" >"$work/lines"
grep -q "${escape}\[32m\[[=> ]*\]${escape}\[0m [0-9]*/24 prompts, .* tok/s, occupancy .* %" "$work/lines" ||
    fail "no bar: $(head -c 300 "$work/color" | cat -v)"
[[ $(grep -c 'tok/s, occupancy' "$work/lines") -ge 2 ]] || fail "the bar was drawn once only"
# Every drawing fits in a line, so that the next one covers it.
sed "s/${escape}\[[0-9;]*[mK]//g" "$work/lines" | awk '/tok.s, occupancy/ && length > 79 { exit 1 }' || fail "a bar is too long"
grep -q 'complete' "$work/lines" || fail "no summary"

NO_COLOR=1 on_terminal plain
! grep -q "${escape}\[[0-9;]*m" "$work/plain" || fail "colour in spite of NO_COLOR"
tr '\r' '\n' <"$work/plain" | grep -q '^.*\[=*>* *\] [0-9]*/24 prompts' || fail "NO_COLOR: no bar"

TERM=dumb on_terminal dumb
! grep -q "$escape" "$work/dumb" || fail "control sequences on a dumb terminal"

"$pressrun" run "$work/job.yaml" --restart 2>"$work/stderr"
! grep -q "$escape" "$work/stderr" || fail "control sequences in a file"
grep -Eq '^pressrun: [0-9]+/24 prompts, .* tok/s, occupancy [0-9]+ %, ETA ' "$work/stderr" ||
    fail "no plain progress line: $(cat "$work/stderr")"
"$pressrun" run "$work/job.yaml" --restart --quiet 2>"$work/stderr"
[[ ! -s $work/stderr ]] || fail "--quiet: $(head -n 3 "$work/stderr")"
