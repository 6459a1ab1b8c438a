#!/usr/bin/env bash
# Signals: what is finished in order is sealed, exit 75, the same command goes on to the same records; a second signal
# ends at once; neither an open pipe nor an idle one holds the worker.
source "${BASH_SOURCE[0]%/*}/lib.sh"
need jq python3
need_device

sampling='sampling: {temperature: 0.9, max_tokens: 1500, ignore_eos: true}'
new_job() {
    rm -rf "$work/job"
    tiny_job "$work/job" 'seal_bytes: 1' 'max_num_seqs: 2' 'max_num_batched_tokens: 64' "$@" <<<"$sampling"
    jq -nc 'range(40) | {prompt: "signal \(.)", max_tokens: (if . < 3 then 2 else 700 end)}' >"$work/job/prompts.jsonl"
}
part=$work/job/out.jsonl.gz.part
n_sealed() {
    python3 reference/seals.py "$part" | cut -d ' ' -f 2
}

# wait_for WHAT COMMAND...: until the command succeeds, 30 seconds at most.
wait_for() {
    local what=$1 i
    shift
    for ((i = 0; i < 600; i++)); do
        "$@" && return 0
        sleep 0.05
    done
    fail "waited in vain for $what"
}
has_sealed() {
    [[ -e $part && $(n_sealed) -ge $1 ]]
}
# ends PID CODE WHAT: within 30 seconds.
is_gone() {
    ! kill -0 "$1" 2>/dev/null
}
ends() {
    local code=0
    wait_for "the end of the worker ($3)" is_gone "$1"
    wait "$1" || code=$?
    [[ $code -eq $2 ]] || fail "$3: exit code $code instead of $2: $(tail -n 1 "$work/stderr")"
}
start() {
    "$pressrun" run "$work/job/job.yaml" "$@" >"$work/stdout" 2>"$work/stderr" &
    worker=$!
}

new_job
expect 0 "$pressrun" run "$work/job/job.yaml" --quiet
records "$work/job/out.jsonl.gz" >"$work/whole"

for signal in TERM INT HUP USR1; do
    new_job
    # A background child of a script ignores SIGINT and would rightly go on doing so.
    python3 -c 'import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])' "$pressrun" run "$work/job/job.yaml" >"$work/stdout" 2>"$work/stderr" &
    worker=$!
    wait_for "the first seals" has_sealed 3
    kill -s "$signal" "$worker"
    ends "$worker" 75 "SIG$signal"
    sealed=$(n_sealed)
    grep -q "stopped by SIG$signal behind record $sealed; the same command goes on" "$work/stderr" ||
        fail "SIG$signal: $(tail -n 1 "$work/stderr")"
    [[ ! -e $work/job/out.jsonl.gz ]] || fail "SIG$signal: published although stopped"
    [[ $sealed -lt 40 ]] || fail "SIG$signal: the job was through before the signal"
    # Nothing lies behind the last seal, and the manifest says what happened.
    [[ $(python3 reference/seals.py "$part" | cut -d ' ' -f 1) -eq $(stat -c %s "$part") ]] ||
        fail "SIG$signal: an unsealed end"
    expect 90 "$pressrun" verify "$part"
    jq -e --argjson n "$sealed" '.state == "stopped" and (.complete | not) and .counts.records == $n' \
        "$work/job/out.jsonl.gz.manifest.json" >/dev/null || fail "SIG$signal: the manifest"
    zcat "$part" | jq -c 'del(.timing)' | cmp -s -n "$(zcat "$part" | jq -c 'del(.timing)' | wc -c)" - "$work/whole" ||
        fail "SIG$signal: what was sealed is not the beginning of the whole"
    expect 0 "$pressrun" run "$work/job/job.yaml" --quiet
    records "$work/job/out.jsonl.gz" >"$work/records"
    expect_same "$work/whole" "$work/records" "resumed behind SIG$signal"
    jq -e '.runs[-1].found.records + .runs[-1].metrics.records == 40' \
        "$work/job/out.jsonl.gz.manifest.json" >/dev/null || fail "SIG$signal: sealed records were generated again"
done

# An ignored signal (nohup) stays ignored.
new_job
(trap '' HUP; exec "$pressrun" run "$work/job/job.yaml" --quiet) >"$work/stdout" 2>"$work/stderr" &
worker=$!
wait_for "the first seals" has_sealed 3
kill -HUP "$worker"
ends "$worker" 0 "an ignored SIGHUP"

# grace_s: 0 leaves no time to seal, and a second signal takes it away: both end at once, and both are resumable.
new_job 'grace_s: 0'
start --quiet
wait_for "the first seals" has_sealed 3
kill -TERM "$worker"
ends "$worker" 75 "grace_s: 0"
new_job
start --quiet
wait_for "the first seals" has_sealed 3
kill -STOP "$worker" # so that both signals meet it at once
kill -TERM "$worker"
kill -HUP "$worker"
kill -CONT "$worker"
ends "$worker" 75 "a second signal"
jq -e '.state == "running"' "$work/job/out.jsonl.gz.manifest.json" >/dev/null || fail "a second signal waits its turn"
expect 0 "$pressrun" run "$work/job/job.yaml" --quiet
records "$work/job/out.jsonl.gz" >"$work/records"
expect_same "$work/whole" "$work/records" "resumed behind a second signal"

# A pipe that stays open: records are sealed while the worker waits for more, and SIGTERM ends the wait (by itself, not
# because grace_s is over).
new_job 'seal_seconds: 0.05' 'grace_s: 3600'
mkfifo "$work/pipe"
"$pressrun" run "$work/job/job.yaml" --set prompts=- <"$work/pipe" >"$work/stdout" 2>"$work/stderr" &
worker=$!
exec 4>"$work/pipe"
head -n 3 "$work/job/prompts.jsonl" >&4
wait_for "records of an open pipe" has_sealed 3
kill -TERM "$worker"
ends "$worker" 75 "SIGTERM while waiting for standard input"
[[ $(n_sealed) -eq 3 ]] || fail "$(n_sealed) records sealed instead of 3"
exec 4>&-
# The whole input from the pipe: resumed, equal.
"$pressrun" run "$work/job/job.yaml" --quiet --set prompts=- <"$work/job/prompts.jsonl" 2>"$work/stderr" ||
    fail "resumed from standard input: $(tail -n 1 "$work/stderr")"
records "$work/job/out.jsonl.gz" >"$work/records"
expect_same "$work/whole" "$work/records" "resumed from standard input"

# What is finished and not sealed yet is sealed on the way out.
new_job 'seal_seconds: 86400' 'progress_seconds: 0.1'
sed -i '/^seal_bytes/d' "$work/job/config.yaml"
"$pressrun" run "$work/job/job.yaml" --set prompts=- <"$work/pipe" >"$work/stdout" 2>"$work/stderr" &
worker=$!
exec 4>"$work/pipe"
head -n 3 "$work/job/prompts.jsonl" >&4
wait_for "three finished records" grep -q '^pressrun: 3 prompts' "$work/stderr"
! has_sealed 1 || fail "sealed too early for what is tested here"
kill -TERM "$worker"
ends "$worker" 75 "SIGTERM with unsealed records"
[[ $(n_sealed) -eq 3 ]] || fail "$(n_sealed) of 3 finished records were sealed"
exec 4>&-

# Before anything came, and with the pipe's other end still silent.
new_job 'grace_s: 3600'
"$pressrun" run "$work/job/job.yaml" --set prompts=- <"$work/pipe" >"$work/stdout" 2>"$work/stderr" &
worker=$!
exec 4>"$work/pipe"
has_part() {
    [[ -s $part ]]
}
wait_for "the head" has_part
sleep 0.2
kill -INT "$worker" 2>/dev/null || true # ignored here: a background child
kill -TERM "$worker"
ends "$worker" 75 "SIGTERM before any input"
exec 4>&-
