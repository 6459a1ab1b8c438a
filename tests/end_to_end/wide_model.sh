#!/usr/bin/env bash
# Rows of a wide model, few at a time: its matrices have more columns than a kernel of few rows holds at once, and
# steps are short enough for kernels to overlap. Answers are those of one sequence at a time, again and again.
source "${BASH_SOURCE[0]%/*}/lib.sh"
need jq
need_device

# Enough steps to meet a rare mistake; a CPU, where kernels do not overlap, only has to run them.
tokens=400 times=4
[[ $device == cuda ]] || tokens=6 times=1

cat >"$work/config.json" <<'EOF'
{
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "vocab_size": 512,
  "hidden_size": 2048,
  "intermediate_size": 2048,
  "num_hidden_layers": 2,
  "num_attention_heads": 32,
  "num_key_value_heads": 32,
  "max_position_embeddings": 1024,
  "rms_norm_eps": 1e-5,
  "rope_theta": 10000.0,
  "hidden_act": "silu",
  "tie_word_embeddings": true,
  "bos_token_id": null,
  "eos_token_id": null
}
EOF
expect 0 "$pressrun" bench --model-config "$work/config.json" --logits peaked --set dtype=bfloat16 \
    --write-model "$work/model"
for i in {1..16}; do
    jq -cn --argjson i "$i" --argjson n "$tokens" \
        '{prompt_token_ids: [range($i * 3 + 1) | (. * 37 + $i) % 512], max_tokens: $n, temperature: 0, logprobs: 0}'
done >"$work/prompts.jsonl"
cat >"$work/job.yaml" <<'EOF'
model: model
prompts: prompts.jsonl
output: out.jsonl.gz
dtype: bfloat16
sampling: {ignore_eos: true}
EOF

# generate SEQUENCES: the records of a run of so many at a time.
generate() {
    expect 0 "$pressrun" run "$work/job.yaml" --restart --quiet --set config.device="$device" \
        --set config.max_num_seqs="$1"
    records "$work/out.jsonl.gz"
}

generate 1 >"$work/alone"
for sequences in 4 8 16; do
    for ((i = 1; i <= times; i++)); do
        generate "$sequences" >"$work/together"
        expect_same "$work/alone" "$work/together" "answers of $sequences sequences at a time, run $i"
    done
done
