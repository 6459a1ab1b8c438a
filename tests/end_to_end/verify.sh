#!/usr/bin/env bash
# Damage to a small output file, through the program: every cut and every 7th bit. (Every single bit, and the reasons
# named: tests/unit/test_verify.c.)
source "${BASH_SOURCE[0]%/*}/lib.sh"
need python3
need_device

tiny_job "$work" 'seal_bytes: 1' <<<'sampling: {temperature: 0.5, max_tokens: 2}'
printf '{"prompt": "verify"}\n{"prompt": ""}\n' >"$work/prompts.jsonl"
expect 0 "$pressrun" run "$work/job.yaml" --quiet
expect 0 "$pressrun" verify "$work/out.jsonl.gz"
grep -q 'complete, 2 records in 2 lines, 1 failed' "$work/stdout" || fail "$(cat "$work/stdout")"
[[ ! -s $work/stderr ]] || fail "stderr of a good file: $(cat "$work/stderr")"

python3 - "$pressrun" "$work/out.jsonl.gz" "$work" <<'PYTHON'
import os, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from threading import get_ident
sys.path.insert(0, "reference")
from seals import sealed
program, good, folder = sys.argv[1:]
data = open(good, "rb").read()
wrong = []

def check(what, changed, wanted):
    damaged = f"{folder}/damaged.{get_ident()}"
    with open(damaged, "wb") as file:
        file.write(changed)
    done = subprocess.run([program, "verify", damaged], capture_output=True, text=True)
    lines = done.stderr.splitlines()
    if done.returncode != wanted or len(lines) != 1 or not lines[0].startswith("pressrun: error: "):
        wrong.append(f"{what}: exit code {done.returncode} instead of {wanted}: {done.stderr[:200]}")

def cut(size):
    is_seal = size > 0 and sealed(data[:size])[0] == size
    check(f"cut to {size} bytes", data[:size], 90 if is_seal else 91)

def flip(bit):
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    check(f"bit {bit} flipped", bytes(flipped), 91)

bits = range(0, 8 * len(data), 7)
with ThreadPoolExecutor(os.cpu_count()) as pool:
    list(pool.map(cut, range(len(data))))
    list(pool.map(flip, bits))
check("a byte more", data + b"\0", 91)
check("twice", data + data, 91)
if wrong:
    sys.exit("FAILED: %d of %d cases:\n%s" % (len(wrong), len(data) + len(bits), "\n".join(wrong[:10])))
print(f"{len(data)} cuts and {len(bits)} bits of {len(data)} bytes")
PYTHON
