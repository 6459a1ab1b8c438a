#!/usr/bin/env bash
# What each command prints, and what a job's keys do to its records.
source "${BASH_SOURCE[0]%/*}/lib.sh"
need jq
need_device

# prints PATTERN...: each matches a line of the last command's stdout.
prints() {
    local pattern
    for pattern in "$@"; do
        grep -Eq -- "$pattern" "$work/stdout" || fail "no line '$pattern' in: $(cat "$work/stdout")"
    done
}
tiny=tests/models/tiny

# ---- words ---------------------------------------------------------------------------------------------------------

expect 0 "$pressrun" --version
prints '^pressrun [0-9]+\.[0-9]+\.[0-9]+ ' 'libyaml [0-9].*zlib [0-9].*jansson [0-9].*xxHash [0-9]'
expect 0 "$pressrun" --help
prints 'pressrun run JOB.yaml' 'pressrun check' 'pressrun prompt' 'pressrun bench' 'pressrun verify' 'pressrun inspect'
for command in run check prompt bench verify inspect; do
    expect 0 "$pressrun" "$command" --help
    prints "^usage: pressrun $command "
    [[ $(wc -l <"$work/stdout") -ge 3 && ! -s $work/stderr ]] || fail "$command --help tells little"
done
# A full disk under standard output is an error, not silence.
if [[ -w /dev/full ]]; then
    for words in --help --version 'run --help' "inspect $tiny"; do
        code=0
        # shellcheck disable=SC2086 # several words
        "$pressrun" $words >/dev/full 2>"$work/stderr" || code=$?
        [[ $code -eq 74 ]] || fail "$words into a full disk: exit code $code"
    done
fi

expect 0 "$pressrun" inspect $tiny
prints '^family +gpt2$' '^shape +2 layers, 64 wide, 4 heads' '^context +2048' '^vocabulary +1000' '^end tokens +0$' \
    '^tokenizer +BPE, 1000 tokens, 743 merges; pre-tokenizer ByteLevel' '^fingerprint +[0-9a-f]{32}$' '^tensors +28$' \
    '^ +wte.weight +BF16 +\[1000, 64\]$'
[[ ! -s $work/stderr ]] || fail "inspect: $(cat "$work/stderr")"
mkdir "$work/no_tokenizer"
cp $tiny/config.json $tiny/*.safetensors "$work/no_tokenizer"
expect 0 "$pressrun" inspect "$work/no_tokenizer"
prints '^tokenizer +none'
expect 0 "$pressrun" inspect tests/models/tiny_llama
prints '^family +llama$' '^shape +2 layers, 64 wide, 4 heads of 32 \(2 for keys and values\), MLP 176$' \
    '^context +1024 positions, rotary, theta 10000, llama3 scaling by 8$' '^tokenizer +none' '^end tokens +0$'

# ---- check ---------------------------------------------------------------------------------------------------------

tiny_job "$work/check" <<<'sampling: {max_tokens: 8}'
jq -nc 'range(5) | {prompt: "check \(.)"}' >"$work/check/prompts.jsonl"
before=$(ls "$work/check")
expect 0 "$pressrun" check "$work/check/job.yaml"
prints '^model ' '^device ' '^memory +[0-9.]+ MiB: weights ' '^batch +[0-9]+ sequences' \
    '^prompts +5, 0 wrong, 5 sequences' '^upper bound +40 output tokens, [0-9]+ steps'
expect 0 env CUDA_VISIBLE_DEVICES= "$pressrun" check "$work/check/job.yaml" --device-memory 80GiB
prints '^device +a GPU with 80.0 GiB'
expect 0 "$pressrun" check "$work/check/job.yaml" --shard 0/2
prints '^prompts +3, 0 wrong'
echo '{"prompt": "x", "top_k": -9}' >>"$work/check/prompts.jsonl"
expect 0 "$pressrun" check "$work/check/job.yaml"
prints '^prompts +6, 1 wrong'
grep -Eq '^pressrun: warning: line 6: invalid_value: .*top_k' "$work/stderr" || fail "check: $(cat "$work/stderr")"
expect 10 "$pressrun" check "$work/check/job.yaml" --strict
[[ $(ls "$work/check") == "$before" ]] || fail "check has written something"

# A tokenizer with more ids than the model is said once; a prompt that needs one of them is a record error.
grep -q 'has ids up to' "$work/stderr" && fail "check warns of a tokenizer that fits: $(cat "$work/stderr")"
mkdir "$work/small"
cp tests/models/tiny_llama/{config.json,model.safetensors} $tiny/tokenizer.json "$work/small"
jq -nc '{prompt: "a"}, {prompt: "the king and the people together"}' >"$work/check/prompts.jsonl"
expect 0 "$pressrun" check "$work/check/job.yaml" --set "model=$work/small"
prints '^prompts +2, 1 wrong'
[[ $(grep -c 'has ids up to 999, but the vocabulary of config.json ends at 511' "$work/stderr") == 1 ]] &&
    grep -q 'line 2: invalid_value: prompt: token .* outside the model' "$work/stderr" || fail "check: $(cat "$work/stderr")"

# ---- run, and prompt beside it -------------------------------------------------------------------------------------

tiny_job "$work/run" <<<'sampling: {max_tokens: 24, temperature: 0, ignore_eos: true}'
for ((i = 0; i < 4; i++)); do echo "prompt number $i"; done >"$work/run/prompts.txt"
run() {
    expect 0 "$pressrun" run "$work/run/job.yaml" --restart --quiet "$@"
    [[ ! -s $work/stderr ]] || fail "--quiet: $(head -n 3 "$work/stderr")"
}
lines() {
    records "$work/run/out.jsonl.gz"
}
# holds WHAT FILTER: a condition on the list of records.
holds() {
    zcat "$work/run/out.jsonl.gz" | jq -es "$2" >/dev/null || fail "$1: $(lines | head -n 4)"
}

run --set "prompts=$work/run/prompts.txt"
lines >"$work/greedy"
# A finished job says so, unless it is to be quiet.
for quiet in '' --quiet; do
    # shellcheck disable=SC2086 # no word, or one
    expect 0 "$pressrun" run "$work/run/job.yaml" --set "prompts=$work/run/prompts.txt" $quiet
    [[ -z $quiet && $(wc -l <"$work/stderr") -eq 1 || $quiet && ! -s $work/stderr ]] ||
        fail "a finished job, $quiet: $(cat "$work/stderr")"
done
while IFS= read -r prompt <&3; do
    expect 0 "$pressrun" prompt $tiny "$prompt" --device "$device" --set config.threads=1 --temperature 0 \
        --max-tokens 24 --set ignore_eos=true
    { sed -n "$(grep -nxF "$prompt" "$work/run/prompts.txt" | cut -d : -f 1)p" "$work/greedy" | jq -j .text; echo; } \
        >"$work/wanted"
    expect_same "$work/wanted" "$work/stdout" "prompt beside run"
    grep -Eq '^pressrun: [0-9]+ prompt tokens, 24 tokens, first token after' "$work/stderr" || fail "prompt's summary"
done 3<"$work/run/prompts.txt"

# The seed is one value, however it is given.
expect 0 "$pressrun" prompt $tiny seeded --device "$device" --seed 3 --quiet
cp "$work/stdout" "$work/seeded"
expect 0 "$pressrun" prompt $tiny seeded --device "$device" --set seed=3 --quiet
expect_same "$work/seeded" "$work/stdout" "--seed 3 and --set seed=3"
expect 0 "$pressrun" prompt $tiny seeded --device "$device" --quiet
cmp -s "$work/seeded" "$work/stdout" && fail "the seed changes nothing"

# It streams: the first bytes are there while it works on the rest.
mkfifo "$work/pipe"
"$pressrun" prompt $tiny 'once upon' --device "$device" --set config.threads=1 --max-tokens 2000 \
    --set ignore_eos=true >"$work/pipe" 2>/dev/null &
worker=$!
exec 4<"$work/pipe"
head -c 1 <&4 >"$work/first"
kill -0 "$worker" 2>/dev/null && [[ $(stat -c %s "$work/first") -eq 1 ]] || fail "prompt does not stream"
cat <&4 >/dev/null
exec 4<&-
wait "$worker" || fail "prompt of 2000 tokens"

# The same prompts in every way they can come.
gzip -c "$work/run/prompts.txt" >"$work/run/prompts.txt.gz"
head -n 2 "$work/run/prompts.txt" | gzip >"$work/run/members.txt.gz"
tail -n 2 "$work/run/prompts.txt" | gzip >>"$work/run/members.txt.gz"
sed 's/$/\r/' "$work/run/prompts.txt" >"$work/run/crlf.txt"
{ printf '\357\273\277'; cat "$work/run/prompts.txt"; } >"$work/run/bom.txt"
jq -Rc '{prompt: .}' "$work/run/prompts.txt" >"$work/run/objects.jsonl"
jq -Rc '{text: .}' "$work/run/prompts.txt" >"$work/run/column.ndjson"
for prompts in prompts.txt.gz members.txt.gz crlf.txt bom.txt objects.jsonl; do
    run --set "prompts=$work/run/$prompts"
    lines >"$work/other"
    expect_same "$work/greedy" "$work/other" "$prompts"
done
run --set "prompts=$work/run/column.ndjson" --set prompt_field=text
lines >"$work/other"
expect_same "$work/greedy" "$work/other" "prompt_field"
for prompts in prompts.txt prompts.txt.gz objects.jsonl; do
    "$pressrun" run "$work/run/job.yaml" --restart --quiet --set prompts=- <"$work/run/$prompts" ||
        fail "$prompts as standard input"
    lines >"$work/other"
    expect_same "$work/greedy" "$work/other" "$prompts as standard input"
done
: >"$work/run/empty.txt"
run --set "prompts=$work/run/empty.txt"
holds "no prompts, no records" 'length == 0'
expect 0 "$pressrun" verify "$work/run/out.jsonl.gz"

# ---- records -------------------------------------------------------------------------------------------------------

metadata='{"z" :1.0,  "a":"\u00e9 é", "list":[1e30, null,{}] }'
cat >"$work/run/prompts.jsonl" <<END
{"custom_id": "first", "prompt": "prompt number 0", "metadata": $metadata}
{"prompt": "prompt number 1", "n": 2, "temperature": 1}
{"prompt": "prompt number 2", "logprobs": 2, "max_tokens": 3}
{"custom_id": "first", "prompt": "prompt number 1", "max_new_tokens": 5}
{"prompt": "prompt number 3", "temperature": 1, "seed": 7}
{"prompt": "another prompt", "temperature": 1, "seed": 7, "n": 1}
{"custom_id": "bad", "prompt": "", "metadata": 7}
{"prompt_token_ids": [5, 6, 7], "max_tokens": 4}
END
run
lines >"$work/mixed"
zcat "$work/run/out.jsonl.gz" | sed -n 1p | grep -qF "\"metadata\":$metadata" || fail "metadata is not copied as it is"
holds "lines and samples" 'map([.line, .sample // 0]) == [[1,0],[2,0],[2,1],[3,0],[4,0],[5,0],[6,0],[7,0],[8,0]]'
holds "custom_id" '[.[0,4,7].custom_id] == ["first", "first", "bad"] and (map(has("custom_id")) | map(select(.)) | length) == 3'
holds "greedy text" ".[0].text == $(sed -n 1p "$work/greedy" | jq .text)"
holds "two samples of one prompt are equal" '.[1].text != .[2].text'
holds "logprobs" '.[3] | (.token_ids | length) == 3 and (.logprobs.token_logprobs | length) == 3 and
    (.logprobs.top | map(length)) == [2, 2, 2] and .logprobs.token_logprobs[0] == .logprobs.top[0][0][1] and
    .token_ids[0] == .logprobs.top[0][0][0] and (.logprobs.token_logprobs | all(. < 0 and . > -30))'
holds "token_ids without being asked" '.[0] | has("token_ids") or has("logprobs") | not'
holds "max_new_tokens" '.[4].usage.completion_tokens == 5'
holds "a failed record" '.[7] | .error.code == "empty_prompt" and .metadata == 7 and (has("text") | not) and
    (has("usage") | not)'
holds "prompt_token_ids" '.[8].usage == {prompt_tokens: 3, completion_tokens: 4}'

# A record with a seed of its own does not depend on its line; one without depends on its id alone.
tac "$work/run/prompts.jsonl" >"$work/run/turned.jsonl"
run --set "prompts=$work/run/turned.jsonl"
lines >"$work/turned"
jq -s 'map(select(.custom_id == "first" or (.usage.prompt_tokens == 3)) | del(.line)) | sort' "$work/mixed" >"$work/a"
jq -s 'map(select(.custom_id == "first" or (.usage.prompt_tokens == 3)) | del(.line)) | sort' "$work/turned" >"$work/b"
expect_same "$work/a" "$work/b" "records by custom_id in another order"
[[ $(jq -s '.[5].text' "$work/mixed") == "$(jq -s '.[3].text' "$work/turned")" ]] || fail "a seed depends on the line"

# Stop strings are cut, stop tokens end, and both say stop.
text=$(sed -n 2p "$work/greedy" | jq -r '.text[6:9]')
jq -nc --arg s "$text" '{prompt: "prompt number 1", stop: $s}, {prompt: "prompt number 1", stop: ["none such", $s]}' \
    >"$work/run/prompts.jsonl"
run --set output_token_ids=true
holds "stop string" "all(.finish_reason == \"stop\" and (.text | length) <= 6) and
    .[0].text == .[1].text and (.[0].text as \$t | $(sed -n 2p "$work/greedy" | jq .text) | startswith(\$t))"
jq -nc '{prompt: "prompt number 1"}' >"$work/run/prompts.jsonl"
run --set output_token_ids=true
ids=$(zcat "$work/run/out.jsonl.gz" | jq -c .token_ids)
holds "token_ids" '.[0].token_ids | length == 24'
jq -nc --argjson ids "$ids" '{prompt: "prompt number 1", stop_token_ids: [$ids[5]]}' >"$work/run/prompts.jsonl"
run --set output_token_ids=true
holds "stop token" ".[0] | .finish_reason == \"stop\" and .token_ids[-1] == $ids[5] and (.token_ids | length) <= 6"

# Token ids in and out: a model without a tokenizer runs where all prompts are token ids.
jq -nc '{prompt_token_ids: [1, 2, 3]}, {prompt: "text"}, {prompt_token_ids: [512]},
    {prompt_token_ids: [4], stop: "x"}, {prompt_token_ids: [5, 6], stop_token_ids: [7], n: 2}' >"$work/run/prompts.jsonl"
run --set model=tests/models/tiny_llama --set max_tokens=10
holds "token ids in and out" '(map(.line) == [1, 2, 3, 4, 5, 5]) and .[0].text == "" and
    (.[0].token_ids | length) == 10 and .[0].usage == {prompt_tokens: 3, completion_tokens: 10} and
    .[1].error.code == "invalid_prompt" and (.[1].error.message | test("prompt_token_ids")) and
    .[2].error.code == "invalid_value" and .[3].error.code == "invalid_value" and
    .[4].token_ids == .[5].token_ids and .[4].sample == 0'
expect 0 "$pressrun" verify "$work/run/out.jsonl.gz"

# Half precision is computed in the job's dtype, and that is said once.
expect 0 "$pressrun" run "$work/run/job.yaml" --restart --set model=tests/models/tiny_llama_linear --set max_tokens=2
[[ $(grep -c 'matrices stored as F16 are computed in' "$work/stderr") == 1 ]] || fail "F16: $(cat "$work/stderr")"
for dtype in auto bfloat16; do
    expect 0 "$pressrun" check "$work/run/job.yaml" --set model=tests/models/tiny_llama_linear --set dtype=$dtype
    computed=${dtype/auto/float32}
    prints "^model .*, $computed, KV cache $computed,"
    [[ $(grep -c "float16 is computed in $computed$" "$work/stderr") == 1 ]] || fail "F16: $(cat "$work/stderr")"
done

# A prompt that is too long: an error, or cut from the left to leave room for the answer.
jq -nc '{prompt_token_ids: [range(40) | . + 1], max_tokens: 4}, {prompt_token_ids: [range(36) | . + 5], max_tokens: 4}' \
    >"$work/run/prompts.jsonl"
run --set max_model_len=40
holds "too long" '.[0].error.code == "prompt_too_long" and .[1].usage.completion_tokens == 4'
run --set max_model_len=40 --set on_too_long=truncate_left
holds "truncated" '.[0].usage == {prompt_tokens: 36, completion_tokens: 4, truncated_tokens: 4} and
    .[0].text == .[1].text and (.[1].usage | has("truncated_tokens") | not)'
# max_tokens is cut to the room that is left.
run --set max_model_len=38 --set on_too_long=truncate_left
holds "room left" '.[1].usage.completion_tokens == 2 and .[1].finish_reason == "length"'

# ---- bench ---------------------------------------------------------------------------------------------------------

expect 0 "$pressrun" bench "$work/run/job.yaml" --batch-sizes 1,4 --new-tokens 8 --repeats 1 --json "$work/bench.jsonl"
prints '^device ' '^ +batch +tokens/s' '^ +1 ' '^ +4 '
jq -es 'map(.batch_size) == [1, 4] and all(.bench == "engine" and .new_tokens == 8 and .prompt_tokens == 16 and
    .tokens_per_s > 0 and .prefill_tokens_per_s > 0 and .decode_tokens_per_s > 0 and .decode_step_us > 0 and
    (.floor_share == null or (.floor_share > 0 and .floor_share <= 1)) and (.device | length) > 0 and (.commit | length) > 0)' "$work/bench.jsonl" >/dev/null ||
    fail "bench rows: $(cat "$work/bench.jsonl")"
expect 0 "$pressrun" verify "$work/run/out.jsonl.gz" # bench leaves the job's output alone

# A whole job of mixed lengths, and what says why.
expect 0 "$pressrun" bench "$work/run/job.yaml" --batch-sizes 3 --prompts 12 --lengths mixed --prompt-tokens 40 \
    --new-tokens 9 --sampled --repeats 2 --json "$work/bench.jsonl"
jq -e --arg device "$device" '.batch_size == 3 and .prompts == 12 and .lengths == "mixed" and .sampling == "job" and
    .logits == "trained" and .decode_steps > 8 and .prefill_steps > 1 and .useful_rows_share > 0 and
    .useful_rows_share <= 1 and has("gap_us") and (if $device == "cpu" then .gap_us == null else .gap_us >= 0 end) and
    .host_gap_us >= 0 and .host_us_per_token > 0 and .job_floor_tokens_per_s > 0 and
    .job_floor_batch == 12 and .prefill_step_us > 0 and has("job_floor_share") and has("steps_floor_share") and
    ($device != "cpu" or (.operation_s | .matmul > 0 and .head > 0 and .attention_decode > 0 and .sample > 0))' \
    "$work/bench.jsonl" >/dev/null || fail "a bench row: $(cat "$work/bench.jsonl")"

# Random weights for a config.json alone: the model in memory, and the directory.
echo '{"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 64, "vocab_size": 300, "n_positions": 128}' \
    >"$work/shape.json"
expect 0 "$pressrun" bench --model-config "$work/shape.json" --logits peaked --seed 3 --batch-sizes 1,2 --new-tokens 4 \
    --repeats 1 --device "$device" --json "$work/bench.jsonl"
prints 'random weights, peaked logits' 'is the smallest of these within 3 % of the best'
jq -es 'map(.model) == ["random-3", "random-3"] and all(.logits == "peaked")' "$work/bench.jsonl" >/dev/null ||
    fail "bench rows of random weights: $(cat "$work/bench.jsonl")"
expect 0 "$pressrun" bench --model-config "$work/shape.json" --seed 3 --write-model "$work/random"
expect 0 "$pressrun" inspect "$work/random"
expect 73 "$pressrun" bench --model-config "$work/random" --write-model "$work/random"
expect 0 "$pressrun" bench --model-config "$work/random" --seed 3 --set dtype=bfloat16 --write-model "$work/again"
cmp -s "$work/shape.json" "$work/again/config.json" || fail "the config.json that is written"
expect 64 "$pressrun" bench "$work/run/job.yaml" --write-model "$work/third"
expect 64 "$pressrun" bench
expect 64 "$pressrun" bench --model-config "$work/shape.json" --logits steep
expect 66 "$pressrun" bench --model-config "$work/nowhere.json"
