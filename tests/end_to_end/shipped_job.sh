#!/usr/bin/env bash
# The job that ships: its output is whole, readable by everybody's tools, equal in every run, and says what PyTorch
# says.
source "${BASH_SOURCE[0]%/*}/lib.sh"
need jq python3
need_device

output=$work/shakespeare.jsonl.gz
run_shipped() {
    "$pressrun" run jobs/shakespeare.yaml --quiet --set config.device="$device" --set "output=$1"
}

# One output, three readers.
expect 0 run_shipped "$output"
[[ ! -s $work/stderr ]] || fail "--quiet, but stderr holds: $(head -n 1 "$work/stderr")"
[[ ! -e $output.part ]] || fail "$output.part is still there"
zcat "$output" >"$work/zcat"
gzip -t "$output"
python3 -c 'import gzip, sys; sys.stdout.buffer.write(gzip.open(sys.argv[1]).read())' "$output" >"$work/python"
expect_same "$work/zcat" "$work/python" "zcat and Python's gzip"
python3 - "$output" <<'PYTHON'
import gzip, json, sys
with gzip.open(sys.argv[1], "rt", encoding="utf-8") as file:
    records = [json.loads(line) for line in file]
assert len(records) == 300, len(records)
PYTHON

# Every record is good. jq -e fails when a condition is false.
check_all() {
    jq -es "$2" <"$work/zcat" >/dev/null || fail "$1"
}
check_all "not lines 1 to 300 in order" 'map(.line) == [range(1; 301)]'
check_all "a record has failed" 'all(.error == null and .sample == 0)'
check_all "a text is missing" 'all((.text | type) == "string")'
check_all "finish_reason" 'all(.finish_reason == "stop" or .finish_reason == "length")'
# The tokenizer has one token per character: a text that max_tokens ended is 120 characters.
check_all "a length is wrong" 'all(if .finish_reason == "length" then (.text | length) == 120 and
    .usage.completion_tokens == 120 else .usage.completion_tokens <= 120 end)'
check_all "a stop string is in a text" 'all(.text | contains("\n\n\n") | not)'
check_all "timing is missing or negative" 'all(.timing | [.queue_s, .prefill_s, .decode_s, .total_s,
    .time_to_first_token_s, .time_per_output_token_s] | all(type == "number" and . >= 0))'
jq -Rn '[inputs | length]' <jobs/openings.txt >"$work/lengths"
check_all "prompt_tokens" "map(.usage.prompt_tokens) == $(tr -d '\n ' <"$work/lengths")"

# The manifest and verify agree with the records.
manifest=$output.manifest.json
jq -e --slurpfile records "$work/zcat" '
    .state == "complete" and .complete and .expected_records == 300 and (.runs | length) == 1
    and .counts.records == 300 and .counts.lines == 300 and .counts.errors == 0
    and .counts.prompt_tokens == ($records | map(.usage.prompt_tokens) | add)
    and .counts.completion_tokens == ($records | map(.usage.completion_tokens) | add)
    and .runs[0].state == "complete" and .runs[0].found.records == 0
    and .runs[0].metrics.records == 300
    and .runs[0].metrics.completion_tokens == .counts.completion_tokens' "$manifest" >/dev/null ||
    fail "the manifest does not agree with the records: $(jq -c .counts "$manifest")"
expect 0 "$pressrun" verify "$output"
grep -q ': complete, 300 records in 300 lines, 0 failed' "$work/stdout" || fail "verify: $(cat "$work/stdout")"

# The same command again: nothing to do, nothing touched.
before=$(sha256sum "$output" "$manifest")
expect 0 "$pressrun" run jobs/shakespeare.yaml --set config.device="$device" --set "output=$output"
grep -q 'complete already (300 records)' "$work/stderr" || fail "no word that the job is complete"
[[ $(sha256sum "$output" "$manifest") == "$before" ]] || fail "a finished job was written again"

# Another run, cut differently into batches: equal but for timing.
expect 0 run_shipped "$work/again.jsonl.gz" # the output's name is no part of the identity
expect 0 "$pressrun" run jobs/shakespeare.yaml --quiet --set config.device="$device" --set config.max_num_seqs=37 \
    --set config.threads=1 --set "output=$work/narrow.jsonl.gz"
records "$output" >"$work/first"
for other in again narrow; do
    records "$work/$other.jsonl.gz" >"$work/other"
    expect_same "$work/first" "$work/other" "$other"
done

# Greedy float32 texts are PyTorch's.
python3 reference/greedy_text.py weights/shakespeare tests/golden/network_shakespeare.safetensors \
    >"$work/golden"
jq -c '{prompt, max_tokens: (.token_ids | length)}' <"$work/golden" >"$work/golden.jsonl"
expect 0 "$pressrun" run jobs/shakespeare.yaml --quiet --set config.device="$device" --set dtype=float32 \
    --set temperature=0 --set 'stop=[]' --set output_token_ids=true --set "prompts=$work/golden.jsonl" \
    --set "output=$work/golden.jsonl.gz"
jq -c '[.text, .token_ids]' <"$work/golden" >"$work/wanted"
zcat "$work/golden.jsonl.gz" | jq -c '[.text, .token_ids]' >"$work/got"
[[ $(wc -l <"$work/got") -ge 5 ]] || fail "hardly any golden text"
expect_same "$work/wanted" "$work/got" "greedy text beside PyTorch"
