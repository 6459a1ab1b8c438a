#!/usr/bin/env bash
# Answers that the head of the model may choose by itself (greedy, or a temperature alone), or whose large logits it lists
# (top_k), are those that are sampled from all logits: asking for log-probabilities, which need them, changes no token.
# Vocabularies of some thousand tokens, records of all kinds in one batch, batches of several widths, and steps that are
# recorded and replayed where the device does so.
source "${BASH_SOURCE[0]%/*}/lib.sh"
need jq
need_device

# model NAME JSON: random weights for a config.json in $work/NAME.
model() {
    mkdir "$work/$1.config"
    echo "$2" >"$work/$1.config/config.json"
    expect 0 "$pressrun" bench --model-config "$work/$1.config" --logits "$3" --device "$device" --write-model "$work/$1"
}

# run FOLDER MODEL SEQUENCES LINE...: the token ids of its answers, by record, in $work/FOLDER.ids. Lines: of the job.
run() {
    local folder=$work/$1
    tiny_job "$folder" "max_num_seqs: $3" <<<"$(printf '%s\n' 'dtype: bfloat16' 'seed: 5' 'output_token_ids: true' "${@:4}")"
    expect 0 "$pressrun" run "$folder/job.yaml" --set "model=$work/$2" --set "prompts=$work/prompts.jsonl" --quiet
    zcat "$folder/out.jsonl.gz" | jq -c '[.line, .sample, .token_ids]' >"$work/$1.ids"
    [[ $(grep -c '\[[0-9]' "$work/$1.ids") -eq 60 ]] || fail "$1: not 60 answers: $(head -n 3 "$work/$1.ids")"
}

llama='{"model_type": "llama", "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256, "vocab_size": 5003,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": true}'
model flat "$llama" flat
model peaked "${llama/5003/8192}" peaked

# Most are chosen by the head; every fifth is sampled from what it has listed, and some settings are not for it.
jq -n -c 'range(60) | {prompt_token_ids: [range(. % 7 + 1) as $i | ($i * 37 + . * 11) % 5000], max_tokens: (5 + . % 30),
    temperature: (if . % 3 == 0 then 0 else 0.3 + . % 4 end)} + (if . % 5 == 4 then {top_k: 20, top_p: 0.9} elif . % 11 == 3 then {min_p: 0.1} else {} end)' \
    >"$work/prompts.jsonl"

for of in flat peaked; do
    run "$of.one" "$of" 1
    for sequences in 1 4 20 64; do
        run "$of.$sequences" "$of" "$sequences"
        expect_same "$work/$of.one.ids" "$work/$of.$sequences.ids" "$of logits, $sequences sequences at once"
        run "$of.$sequences.logprobs" "$of" "$sequences" 'sampling: {logprobs: 1}'
        expect_same "$work/$of.one.ids" "$work/$of.$sequences.logprobs.ids" \
            "$of logits, $sequences sequences at once, with logprobs"
    done
done
# Answers differ from each other: else the comparison says nothing.
[[ $(jq -c '.[2]' "$work/flat.one.ids" | sort -u | wc -l) -gt 50 ]] || fail "answers of flat logits are all the same"
