#!/usr/bin/env bash
# A job whose sequences outgrow the KV memory: some start again from their prompts, and the answers are, byte for
# byte, those of a job in which none has to.
source "${BASH_SOURCE[0]%/*}/lib.sh"
need jq
if [[ $device != cpu ]]; then
    echo "of the CPU alone: elsewhere the memory for KV pages is not given in bytes"
    exit 77
fi

# Short answers first, so that the long ones that follow are not expected.
tiny_job "$work" "max_num_seqs: 12" "max_num_batched_tokens: 64" "cpu_memory: 1500KiB" <<'END'
max_model_len: 256
sampling: {temperature: 0.8, max_tokens: 200, ignore_eos: true}
END
jq -nc 'range(60) | {prompt: "restart \(.)"} + (if . < 30 then {max_tokens: 3} else {} end) +
    (if . % 7 == 0 then {n: 2} else {} end) + (if . % 5 == 0 then {stop: "th", logprobs: 1} else {} end)' \
    >"$work/prompts.jsonl"

run() { # run NAME KV_RESERVE: leaves the records in $work/NAME, and prints the count of restarts
    expect 0 "$pressrun" run "$work/job.yaml" --quiet --restart --set "config.kv_reserve=$2"
    expect 0 "$pressrun" verify "$work/out.jsonl.gz"
    records "$work/out.jsonl.gz" >"$work/$1"
    jq '.runs[-1].metrics | .restarts' "$work/out.jsonl.gz.manifest.json"
}
[[ $(run full full) -eq 0 ]] || fail "kv_reserve: full starts sequences again"
n=$(run expected expected)
[[ $n -ge 3 ]] || fail "only $n restarts: the test shows nothing"
expect_same "$work/full" "$work/expected" "kv_reserve: expected"
jq -e '.runs[-1].metrics | .replayed_rows > 0 and .kv_pages_peak == .kv_pages' "$work/out.jsonl.gz.manifest.json" \
    >/dev/null || fail "the metrics of restarts"
expect 78 "$pressrun" run "$work/job.yaml" --set config.kv_reserve=some
grep -q 'kv_reserve.*expected or full' "$work/stderr" || fail "a wrong kv_reserve: $(cat "$work/stderr")"
