#!/usr/bin/env bash
# Host memory: whole jobs of the tiny model under Valgrind, without an error and without a leak: one that ends well
# (with failing records, samples, log-probabilities, stop strings, resumed and verified), one that fails, one that is
# stopped. The same command finds each defect that tests/memory/planted.c plants.
# shellcheck source=tests/end_to_end/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../end_to_end/lib.sh"
[[ $device == cpu ]] || { echo "the driver's own memory is not Valgrind-clean; device memory: device_memory"; exit 77; }
need valgrind

# check CODE COMMAND...: under Valgrind, which turns any error or leak into exit 99.
check() {
    local wanted=$1
    shift
    expect "$wanted" valgrind --quiet --error-exitcode=99 --leak-check=full --show-leak-kinds=definite,indirect \
        --errors-for-leak-kinds=definite,indirect "$@"
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

# A job that fails before it writes, and one whose output belongs to another job.
check 66 "${run[@]}" --set prompts="$work/none.txt" --set output="$work/other.jsonl.gz"
check 73 "${run[@]}" --set seed=8

# A job that is stopped while it waits for its input, and resumed.
mkfifo "$work/pipe"
sleep 60 >"$work/pipe" &
holder=$!
(sleep 8 && pkill -TERM -f "run $work/job.yaml .*piped.jsonl.gz") &
check 75 "${run[@]}" --set prompts=- --set output="$work/piped.jsonl.gz" <"$work/pipe"
kill "$holder" 2>/dev/null || true
check 0 "${run[@]}" --set prompts=- --set output="$work/piped.jsonl.gz" <"$work/prompts.jsonl"
