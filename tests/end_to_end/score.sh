#!/usr/bin/env bash
# A scoring job with good, long, too long, empty and wrong prompts: what its records hold, that batch size and
# being killed change none of it, and what is refused.
source "${BASH_SOURCE[0]%/*}/lib.sh"
need jq python3
need_device

n_records=40
jq -nc "range($n_records)"' | . as $i |
    if . == 3 then {prompt: ""}
    elif . == 5 then {prompt_token_ids: [range(2049) | . % 1000], custom_id: "too long"}
    elif . == 7 then {prompt_token_ids: [range(2048) | (. * 7) % 1000], custom_id: "as long as it goes"}
    elif . == 9 then {prompt_token_ids: [1, 1000]}
    elif . == 11 then {promt: "a"}
    elif . == 13 then {prompt_token_ids: [42], metadata: {one: true}}
    elif . == 15 then {prompt: "n is checked all the same", n: 0}
    elif . == 17 then {prompt: "and else passed over", n: 3, logprobs: 5, max_tokens: 9, stop: "e"}
    else {prompt: ("word \(.) of many" * (1 + . % 7)), metadata: $i} end' >"$work/prompts.jsonl"

# new_job NAME [CONFIG_LINE...]
new_job() {
    rm -rf "${work:?}/$1"
    tiny_job "$work/$1" "${@:2}" <<<$'mode: score\ndtype: float32\noutput_token_ids: true'
    cp "$work/prompts.jsonl" "$work/$1"
}

new_job whole 'seal_bytes: 1'
expect 0 "$pressrun" check "$work/whole/job.yaml"
grep -q "prompts  *$n_records, 5 wrong, 34 sequences" "$work/stdout" || fail "check: $(grep prompts "$work/stdout")"
n_scored=$(sed -n 's/^upper bound  *\([0-9]*\) scored tokens, [0-9]* steps$/\1/p' "$work/stdout")
expect 0 "$pressrun" run "$work/whole/job.yaml"
output=$work/whole/out.jsonl.gz
grep -q "^  scored .* tokens, mean negative log-probability" "$work/stderr" || fail "the summary does not tell"
records "$output" >"$work/whole.records"

# What the records hold.
zcat "$output" >"$work/whole.lines"
jq -es --argjson n "$n_records" 'length == $n and ([.[].line] == [range(1; $n + 1)]) and
    [.[] | select(.error) | [.line, .error.code]] ==
        [[4, "empty_prompt"], [6, "prompt_too_long"], [10, "invalid_value"], [12, "unknown_key"], [16, "invalid_value"]]
    ' "$work/whole.lines" >/dev/null || fail "errors: $(jq -c 'select(.error)' "$work/whole.lines")"
jq -es 'map(select(.error == null)) | all(.[];
    (keys - ["custom_id", "metadata"] ==
        ["line", "perplexity", "prompt_logprobs", "prompt_token_ids", "timing", "usage"]) and
    (.timing | keys == ["prefill_s", "queue_s", "total_s"]) and
    .usage == {prompt_tokens: (.prompt_token_ids | length), completion_tokens: 0} and
    (.prompt_logprobs | length) == .usage.prompt_tokens and .prompt_logprobs[0] == null and
    all(.prompt_logprobs[1:][]; . < 0) and
    if .usage.prompt_tokens == 1 then .perplexity == null else
        (.prompt_logprobs[1:] | add / length) as $mean |
            ((.perplexity | log) + $mean) | . < 1e-5 and . > -1e-5 end)' "$work/whole.lines" >/dev/null ||
    fail "the records: $(jq -c 'select(.error == null)' "$work/whole.lines" | cut -c 1-200 | head -n 3)"
jq -es '.[7].usage.prompt_tokens == 2048 and .[7].custom_id == "as long as it goes" and .[13].metadata == {one: true}' \
    "$work/whole.lines" >/dev/null || fail "the longest prompt, or the shortest"

# Totals: check foretold them; the summary's and verify's are those of the records.
jq -e --argjson n "$n_scored" '.identity.values.mode == "score" and .counts.completion_tokens == 0 and
    .runs[-1].metrics.scored_tokens == $n' "$output.manifest.json" >/dev/null || fail "the manifest: $n_scored foretold"
expect 0 "$pressrun" verify "$output"
verified=$(sed -n 's/.*: \([0-9]*\) tokens scored in 35 records, mean negative log-probability \([0-9.]*\), .*/\1 \2/p' \
    "$work/stdout")
[[ $verified == "$n_scored $(jq -s '[.[] | .prompt_logprobs // [] | .[1:][]] | -add / length' "$work/whole.lines" |
    python3 -c 'print("%.6f" % float(input()))')" ]] || fail "verify: $(tail -n 1 "$work/stdout")"

# The same whatever runs together, and however prompts are cut.
for setting in max_num_seqs=1 max_num_seqs=7 max_num_seqs=64 'max_num_seqs=7 max_num_batched_tokens=20'; do
    new_job other
    overrides=()
    for value in $setting; do
        overrides+=(--set "config.$value")
    done
    expect 0 "$pressrun" run "$work/other/job.yaml" --quiet "${overrides[@]}"
    records "$work/other/out.jsonl.gz" >"$work/records"
    expect_same "$work/whole.records" "$work/records" "$setting"
done

# A prompt that is too long loses its beginning, where the job says so.
new_job other
expect 0 "$pressrun" run "$work/other/job.yaml" --quiet --set on_too_long=truncate_left
zcat "$work/other/out.jsonl.gz" | jq -es '.[5] | .usage ==
    {prompt_tokens: 2048, completion_tokens: 0, truncated_tokens: 1} and .prompt_token_ids[:2] == [1, 2]' >/dev/null ||
    fail "truncate_left"

# What has no meaning is refused; another mode is another job.
expect 78 "$pressrun" run "$work/other/job.yaml" --set temperature=0
grep -q "sampling.temperature: has no meaning with mode: score" "$work/stderr" || fail "$(cat "$work/stderr")"
expect 73 "$pressrun" run "$work/whole/job.yaml" --set mode=generate
grep -q "mode: score there, generate here" "$work/stderr" || fail "$(cat "$work/stderr")"
expect 78 "$pressrun" prompt tests/models/tiny a --device "$device" --set mode=score
expect 64 "$pressrun" bench "$work/whole/job.yaml"

# Killed at a few places, and resumed by the same command.
if ! command -v strace >/dev/null ||
    ! strace -f -qq -o "$work/probe" -e trace=fdatasync -e inject=fdatasync:signal=SIGKILL:when=1 true; then
    echo "needs a machine where strace may trace"
    exit 77
fi
for at in 1 2 9 "$n_records"; do
    new_job job 'seal_bytes: 1'
    code=0
    {
        timeout 60 strace -f -qq -o /dev/null -e trace=fdatasync -e "inject=fdatasync:signal=SIGKILL:when=$at" \
            "$pressrun" run "$work/job/job.yaml" --quiet >"$work/stdout" 2>"$work/stderr" || code=$?
    } 2>/dev/null
    [[ $code -eq 137 ]] || fail "not killed at fdatasync $at: exit code $code: $(tail -n 1 "$work/stderr")"
    [[ ! -e $work/job/out.jsonl.gz ]] || fail "published before it was complete"
    expect 0 "$pressrun" run "$work/job/job.yaml" --quiet
    records "$work/job/out.jsonl.gz" >"$work/records"
    expect_same "$work/whole.records" "$work/records" "killed at fdatasync $at"
    jq -e --argjson n "$n_records" '.complete and (.runs | length) == 2 and
        (.runs[-1] | .found.records + .metrics.records) == $n' "$work/job/out.jsonl.gz.manifest.json" >/dev/null ||
        fail "the manifest of a job that was killed at fdatasync $at"
    expect 0 "$pressrun" verify "$work/job/out.jsonl.gz"
    grep -q ": $n_scored tokens scored in 35 records, mean negative log-probability ${verified#* }," "$work/stdout" ||
        fail "verify after a kill: $(tail -n 1 "$work/stdout")"
done
