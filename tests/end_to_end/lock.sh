#!/usr/bin/env bash
# One output, one worker, one identity.
source "${BASH_SOURCE[0]%/*}/lib.sh"
need jq
need_device

tiny_job "$work" 'seal_bytes: 1' <<<'sampling: {temperature: 0.5, max_tokens: 3}'
jq -nc 'range(10) | {prompt: "lock \(.)"}' >"$work/prompts.jsonl"
part=$work/out.jsonl.gz.part
says() {
    local lines
    lines=$(grep -c '^pressrun: error: ' "$work/stderr") || true
    [[ $lines -eq 1 ]] && grep -Eq "^pressrun: error: .*$1" "$work/stderr" || fail "no '$1': $(cat "$work/stderr")"
}

# The first worker waits for its standard input and holds the output.
mkfifo "$work/pipe"
"$pressrun" run "$work/job.yaml" --quiet --set prompts=- <"$work/pipe" 2>"$work/first.stderr" &
worker=$!
exec 4>"$work/pipe"
head -n 1 "$work/prompts.jsonl" >&4
# Until its record is sealed: then it writes no more before it reads more.
for ((i = 0; i < 600; i++)); do
    [[ -e $part && $(zcat "$part" 2>"$work/zcat.stderr" | wc -l) -ge 1 ]] && break
    sleep 0.05
done
[[ $i -lt 600 ]] || fail "the first record is not sealed: $(cat "$work/first.stderr")"
before=$(sha256sum <"$part")
expect 86 "$pressrun" run "$work/job.yaml" --quiet
says 'another worker is writing this output'
expect 86 "$pressrun" run "$work/job.yaml" --quiet --restart
[[ $(sha256sum <"$part") == "$before" ]] || fail "the locked output was touched"
tail -n +2 "$work/prompts.jsonl" >&4
exec 4>&-
wait "$worker" || fail "the first worker: $(cat "$work/first.stderr")"
expect 0 "$pressrun" verify "$work/out.jsonl.gz"
grep -q 'complete, 10 records' "$work/stdout" || fail "$(cat "$work/stdout")"

# Standard input tells its format only when it is read: another identity than the file's.
expect 73 "$pressrun" run "$work/job.yaml" --quiet
says 'belongs to another job \(prompts: '
expect 0 "$pressrun" run "$work/job.yaml" --quiet --restart

# Another identity: refused, named, untouched; first the finished file, then a part.
for state in complete part; do
    before=$(sha256sum "$work"/out.jsonl.gz*)
    while IFS='|' read -r setting difference; do
        expect 73 "$pressrun" run "$work/job.yaml" --quiet --set "$setting"
        says "belongs to another job \\(.*$difference"
    done <<'END'
temperature=0.75|temperature: 0.5 there, 0.75 here
seed=5|seed
dtype=float32|dtype
max_tokens=4|max_tokens
stop=["x"]|stop
END
    [[ $(sha256sum "$work"/out.jsonl.gz*) == "$before" ]] || fail "$state: an output of another job was touched"
    # What does not change answers does not change the identity.
    if [[ $state == complete ]]; then
        expect 0 "$pressrun" run "$work/job.yaml" --set config.max_num_seqs=3 --set config.seal_bytes=99
        grep -q 'complete already' "$work/stderr" || fail "a config key changed the identity"
        mv "$work/out.jsonl.gz" "$part"
        truncate -s -400 "$part" # totals and the last records
    fi
done

# Other prompts under the same name: noticed as far as they were answered.
cp "$work/prompts.jsonl" "$work/prompts.kept"
sed -i '2s/lock/look/' "$work/prompts.jsonl"
expect 73 "$pressrun" run "$work/job.yaml" --quiet
says 'are not those that .*\.part answers'
head -n 3 "$work/prompts.kept" >"$work/prompts.jsonl"
expect 73 "$pressrun" run "$work/job.yaml" --quiet
says 'has 3 prompts, but .*\.part answers'
cp "$work/prompts.kept" "$work/prompts.jsonl"

# --restart discards; and a finished output too.
expect 0 "$pressrun" run "$work/job.yaml" --quiet --set temperature=0.75 --restart
zcat "$work/out.jsonl.gz" | jq -es 'length == 10' >/dev/null || fail "restarted: not 10 records"
jq -e '.counts.records == 10 and .runs[-1].found.records == 0 and
    .identity.values.temperature == 0.75' "$work/out.jsonl.gz.manifest.json" >/dev/null ||
    fail "restarted: the manifest: $(jq -c .identity.values "$work/out.jsonl.gz.manifest.json")"
expect 0 "$pressrun" run "$work/job.yaml" --quiet --restart
[[ ! -e $part ]] || fail ".part remains"

# Damage with good members behind it: refused, untouched.
mv "$work/out.jsonl.gz" "$part"
printf 'X' | dd of="$part" bs=1 seek=$(($(stat -c %s "$part") / 2)) conv=notrunc status=none
before=$(sha256sum <"$part")
expect 91 "$pressrun" run "$work/job.yaml" --quiet
says 'is damaged at byte .*sealed records follow'
[[ $(sha256sum <"$part") == "$before" ]] || fail "a damaged part was touched"
