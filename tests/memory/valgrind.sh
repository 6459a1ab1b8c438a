#!/usr/bin/env bash
# Host memory: whole jobs of the tiny model under Valgrind, without an error and without a leak: one that ends well
# (with failing records, samples, log-probabilities, stop strings, verified), some that fail at once or on the way, one
# that is stopped and resumed. The same command finds each defect that tests/memory/planted.c plants. On the CPU only.
# shellcheck source=tests/end_to_end/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../end_to_end/lib.sh"
need valgrind

# check CODE COMMAND...: under Valgrind, which turns any error or leak into exit 99.
# Fair: else the engine's thread may keep the others from running until it is done.
valgrind=(valgrind --fair-sched=try --quiet --error-exitcode=99 --leak-check=full "--show-leak-kinds=definite,indirect"
    "--errors-for-leak-kinds=definite,indirect")
check() {
    local wanted=$1
    shift
    expect "$wanted" "${valgrind[@]}" "$@"
}

planted=$(dirname "$pressrun")/tests/memory/planted
for defect in leak read overrun; do
    check 99 "$planted" "$defect"
done
check 0 "$planted" none

cat >"$work/prompts.jsonl" <<'END'
{"custom_id": "a", "prompt": "First Citizen:", "max_tokens": 40, "temperature": 0}
{"custom_id": "b", "prompt": "Before we proceed", "n": 2, "logprobs": 3, "metadata": {"k": [1, "two"]}}
{"custom_id": "c", "prompt_token_ids": [5, 6, 7, 8], "top_k": 5, "top_p": 0.9, "repetition_penalty": 1.2}
{"custom_id": "d", "prompt": "hear me speak", "stop": [" the", "\n\n"], "seed": 3}
{"custom_id": "e", "prompt": "unknown", "max_tokns": 3}
{"custom_id": "f", "prompt": ""}
END
cat >"$work/job.yaml" <<END
model: $repo/tests/models/tiny
prompts: prompts.jsonl
output: out.jsonl.gz
seed: 7
sampling:
  max_tokens: 24
END
run=("$pressrun" run "$work/job.yaml" --quiet --set config.device=cpu --set config.threads=2)

check 0 "${run[@]}" --set config.seal_bytes=1
[[ $(zcat "$work/out.jsonl.gz" | wc -l) -eq 7 ]] || fail "$(zcat "$work/out.jsonl.gz" | wc -l) lines instead of 7"
check 0 "${run[@]}"
check 0 "$pressrun" verify "$work/out.jsonl.gz"
check 0 "$pressrun" check "$work/job.yaml" --set config.device=cpu
check 0 "$pressrun" prompt tests/models/tiny 'First' --device cpu --max-tokens 3
check 0 "$pressrun" inspect tests/models/tiny
check 10 "${run[@]}" --restart --strict

sed -e '/^seed/,$d' -e 's/out\.jsonl/scored.jsonl/' "$work/job.yaml" >"$work/score.yaml"
echo 'mode: score' >>"$work/score.yaml"
score=("$pressrun" run "$work/score.yaml" --quiet --set config.device=cpu --set config.max_num_batched_tokens=7)
check 0 "${score[@]}" --set config.max_num_seqs=3
check 0 "$pressrun" verify "$work/scored.jsonl.gz"

# Jobs that fail: before anything is written, at another job's output, on the way.
check 66 "${run[@]}" --set prompts="$work/none.txt" --set output="$work/other.jsonl.gz"
check 73 "${run[@]}" --set seed=8
gzip -c "$work/prompts.jsonl" | head -c -9 >"$work/cut.jsonl.gz"
check 65 "${run[@]}" --set prompts="$work/cut.jsonl.gz" --set output="$work/other.jsonl.gz"

# A tokenizer that is refused in its thread, and a tensor that is refused before the last one was queued.
cp -r tests/models/tiny "$work/broken"
sed -i 's/h\.1\.ln_2\.bias/h.1.ln_2.bixs/' "$work/broken/model.safetensors"
check 65 "${run[@]}" --set model="$work/broken" --set output="$work/other.jsonl.gz"
cp tests/models/tiny/model.safetensors "$work/broken"
echo '{"model": {"type": "WordPiece"}}' >"$work/broken/tokenizer.json"
check 65 "${run[@]}" --set model="$work/broken" --set output="$work/other.jsonl.gz"

# A job that is stopped once it has sealed a record, with others in flight, others waiting and its input open; resumed.
mkfifo "$work/pipe"
cp "$work/prompts.jsonl" "$work/piped.jsonl"
for ((i = 0; i < 10; i++)); do echo '{"prompt": "and so on", "max_tokens": 120, "ignore_eos": true}'; done >>"$work/piped.jsonl"
piped=(--set prompts=- --set output="$work/piped.jsonl.gz" --set config.seal_bytes=1 --set config.max_num_seqs=1
    --set config.grace_s=3600)
"${valgrind[@]}" "${run[@]}" "${piped[@]}" <"$work/pipe" >"$work/stdout" 2>"$work/stderr" &
worker=$!
exec 4>"$work/pipe"
cat "$work/piped.jsonl" >&4
for ((i = 0; i < 1200; i++)); do # a minute
    [[ $(zcat "$work/piped.jsonl.gz.part" 2>/dev/null | wc -l) -lt 1 ]] || break
    sleep 0.05
done
kill -TERM "$worker"
code=0
wait "$worker" || code=$?
exec 4>&-
[[ $code -eq 75 && $i -lt 1200 ]] || fail "stopped: exit code $code instead of 75: $(tail -n 20 "$work/stderr")"
n_sealed=$(zcat "$work/piped.jsonl.gz.part" | wc -l)
[[ $n_sealed -lt 17 ]] || fail "stopped too late for what is tested here: $n_sealed lines"
check 0 "${run[@]}" "${piped[@]}" <"$work/piped.jsonl"
[[ $(zcat "$work/piped.jsonl.gz" | wc -l) -eq 17 ]] || fail "resumed: $(zcat "$work/piped.jsonl.gz" | wc -l) lines"
