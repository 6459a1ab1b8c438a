#!/usr/bin/env bash
# A model of every family from its directory alone: what inspect prints, the plan of check, and a job whose greedy
# answers are transformers'.
source "${BASH_SOURCE[0]%/*}/lib.sh"
need jq python3
need_device

# family NAME FAMILY LINE...: the model tests/models/NAME; each further LINE is a pattern of inspect's output.
family() {
    local name=$1 pattern folder=$work/$1
    # Nothing else of the repository is at hand, and nothing may be written beside the model.
    mkdir "$folder"
    cp -r "tests/models/$name" "$folder/model"
    chmod -R a-w "$folder/model"
    expect 0 "$pressrun" inspect "$folder/model"
    for pattern in "^family +$2\$" '^tokenizer +none' '^end tokens +0$' "${@:3}"; do
        grep -Eq -- "$pattern" "$work/stdout" || fail "inspect $name: no line '$pattern' in: $(cat "$work/stdout")"
    done

    python3 reference/greedy_text.py "$folder/model" "tests/golden/network_$name.safetensors" >"$folder/golden"
    jq -c '{prompt_token_ids, max_tokens: (.token_ids | length)}' "$folder/golden" >"$folder/prompts.jsonl"
    tiny_job "$folder" <<<$'dtype: float32\noutput_token_ids: true\nsampling: {temperature: 0}'
    expect 0 "$pressrun" check "$folder/job.yaml" --set "model=$folder/model"
    for pattern in '^model +.*model' '^memory +[0-9.]+ MiB: weights ' '^batch +[0-9]+ sequences' \
        '^prompts +[1-9][0-9]*, 0 wrong'; do
        grep -Eq -- "$pattern" "$work/stdout" || fail "check $name: no line '$pattern' in: $(cat "$work/stdout")"
    done
    expect 0 "$pressrun" run "$folder/job.yaml" --set "model=$folder/model" --quiet
    zcat "$folder/out.jsonl.gz" | jq -c .token_ids >"$folder/token_ids"
    jq -c .token_ids "$folder/golden" >"$folder/expected"
    expect_same "$folder/expected" "$folder/token_ids" "the answers of $name"
    expect 0 "$pressrun" verify "$folder/out.jsonl.gz"
    chmod -R u+w "$folder/model"
    n_families=$((n_families + 1))
}

n_families=0
family tiny_llama llama '^context +1024 positions, .*llama3 scaling by 8$'
family tiny_llama_linear llama '^context .*linear scaling by 4$' ' F16 ' '^dtype +float16 \(computed as float32'
family tiny_llama_yarn llama '^context .*yarn scaling by 4$' 'tied to the embedding'
family tiny_llama_64x4 llama '^shape .* 8 heads of 64 \(2 for keys and values\)'
family tiny_mistral mistral '^window +40 positions in 2 of 2 layers$' '^tensors +21$'
family tiny_mistral_128x4 mistral '^shape .* 4 heads of 128 \(1 for keys and values\)' '^window +300 positions'
family tiny_qwen2 qwen2 'self_attn.q_proj.bias' 'theta 1e\+06$'
family tiny_qwen2_window qwen2 '^window +40 positions in 2 of 3 layers$' ' F32 '
family tiny_qwen2_64x7 qwen2 '^shape .* 7 heads of 64 \(1 for keys and values\)'
family tiny_qwen3 qwen3 'self_attn.q_norm.weight'
family tiny_qwen3_128x8 qwen3 '^shape .* 8 heads of 128 \(1 for keys and values\)'
family tiny_gemma2 gemma2 '^window +40 positions in 2 of 3 layers$' '^soft caps +6 of scores, 10 of logits'
family tiny_gemma2_256x1 gemma2 '^shape .* 2 heads of 256 \(2 for keys' '^soft caps +50 of scores, 30 of logits'
family tiny_gemma3 gemma3_text '^window +40 positions in 3 of 4 layers$' \
    '^context .*theta 1e\+06, linear scaling by 8; in layers with a window theta 10000$'
family tiny_gemma3_256x4 gemma3_text '^window +300 positions in 1 of 2 layers$' \
    '^context .*theta 1e\+06; in layers with a window theta 10000$'

# None is left out.
n_models=$(find tests/models -mindepth 1 -maxdepth 1 -name 'tiny_*' | wc -l)
[[ $n_families -eq $n_models ]] || fail "$n_families of $n_models models tried"
