#!/usr/bin/env bash
# Three shards together hold every line once and say what the unsharded job says.
source "${BASH_SOURCE[0]%/*}/lib.sh"
need jq
need_device

tiny_job "$work" <<<'sampling: {temperature: 0.8, max_tokens: 5}'
jq -nc 'range(100) | {prompt: "shard \(.)"} + (if . % 7 == 0 then {n: 2} else {} end) +
    (if . % 11 == 0 then {custom_id: "id-\(.)"} else {} end) + (if . == 50 then {temperature: -1} else {} end)' \
    >"$work/prompts.jsonl"
expect 0 "$pressrun" run "$work/job.yaml" --quiet
records "$work/out.jsonl.gz" >"$work/whole"

for i in 0 1 2; do
    expect 0 "$pressrun" run "$work/job.yaml" --quiet --shard "$i/3"
    expect 0 "$pressrun" verify "$work/out.$i-of-3.jsonl.gz"
    zcat "$work/out.$i-of-3.jsonl.gz" | jq -es --argjson i "$i" 'all((.line - 1) % 3 == $i)' >/dev/null ||
        fail "shard $i holds another's lines"
    jq -e '.complete and .expected_records == .counts.records' "$work/out.$i-of-3.jsonl.gz.manifest.json" \
        >/dev/null || fail "the manifest of shard $i"
done
zcat "$work"/out.?-of-3.jsonl.gz | jq -sc 'sort_by(.line, .sample)[] | del(.timing)' >"$work/joined"
expect_same "$work/whole" "$work/joined" "the shards together"

# More shards than lines: the surplus is complete and empty.
head -n 2 "$work/prompts.jsonl" >"$work/two.jsonl"
expect 0 "$pressrun" run "$work/job.yaml" --quiet --set "prompts=$work/two.jsonl" --shard 3/4
expect 0 "$pressrun" verify "$work/out.3-of-4.jsonl.gz"
grep -q 'complete, 0 records' "$work/stdout" || fail "the surplus shard: $(cat "$work/stdout")"

# A shard resumes only as itself.
cp "$work/out.0-of-3.jsonl.gz" "$work/out.1-of-3.jsonl.gz"
expect 73 "$pressrun" run "$work/job.yaml" --quiet --shard 1/3
grep -q 'belongs to another job (.*shard' "$work/stderr" || fail "another shard's file: $(cat "$work/stderr")"

# The recipe of jobs/README.md, word for word; only the answers are cut short.
mkdir -p "$work/recipe/bin" "$work/recipe/out"
cp -r jobs "$work/recipe"
ln -s "$repo/weights" "$repo/configs" "$work/recipe"
cat >"$work/recipe/bin/pressrun" <<END
#!/bin/sh
exec '$pressrun' "\$@" --set config.device='$device' --set max_tokens=2
END
chmod +x "$work/recipe/bin/pressrun"
awk '/^## Shards in a shell/ { here = 1 } /^```$/ && inside { exit } inside { print } here && /^```sh$/ { inside = 1 }' \
    jobs/README.md >"$work/recipe/loop.sh"
grep -q 'pressrun run .*--shard' "$work/recipe/loop.sh" || fail "jobs/README.md has no loop over shards"
(cd "$work/recipe" && PATH=$PWD/bin:$PATH expect 0 bash loop.sh)
[[ $(cat "$work/stdout") == "every line once" ]] || fail "the recipe says: $(head -n 5 "$work/stdout")"
