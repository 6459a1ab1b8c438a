#!/usr/bin/env bash
# kill -9 at every write, sync, rename, link and unlink of a job that seals 60 members and whose first record is its
# longest (so that all others wait for it). The same command must then give the records of an uninterrupted run,
# keep every sealed byte and generate no sealed record again.
#
# strace ends the worker at the entry of the n-th call of a name: that call has no effect any more, all before it have.
# It counts per name and thread. The first thread's calls are met without -f; the writing thread's with -f, where the
# first thread makes one pwrite64 (the head) and no fdatasync before the writing thread is done.
source "${BASH_SOURCE[0]%/*}/lib.sh"
need jq python3 strace
need_device
# Only reads and the program's own output remain untouched.
calls=write,pwrite64,writev,pwritev,pwritev2,fsync,fdatasync,sync_file_range,rename,renameat,renameat2,link,linkat
calls+=,unlink,unlinkat,ftruncate
if ! strace -f -qq -o "$work/probe" -e trace=fdatasync -e inject=fdatasync:signal=SIGKILL:when=1 true; then
    echo "needs a machine where strace may trace"
    exit 77
fi

n_records=60
jq -nc "range($n_records)"' | {prompt: "word \(.) of many", max_tokens: (if . == 0 then 24 else 1 + . % 3 end)}' \
    >"$work/prompts.jsonl"
new_job() {
    rm -rf "${work:?}/$1"
    tiny_job "$work/$1" 'seal_bytes: 1' <<<'sampling: {temperature: 0.9}'
    cp "$work/prompts.jsonl" "$work/$1"
}
run_job() {
    "$pressrun" run "$work/$1/job.yaml" --quiet
}

# The uninterrupted run, and what it does in which order.
new_job whole
expect 0 strace -f -qq -y -o "$work/trace" -e trace="$calls" "$pressrun" run "$work/whole/job.yaml" --quiet
records "$work/whole/out.jsonl.gz" >"$work/whole.records"
read -r _ sealed members < <(python3 reference/seals.py "$work/whole/out.jsonl.gz")
[[ $members -ge 50 && $sealed -eq $n_records ]] || fail "$members members with $sealed records"
python3 - "$work/trace" "$work/whole" <<'PYTHON'
import re, sys
lines = [line.split(None, 1)[1].rstrip() for line in open(sys.argv[1])]
folder = re.escape(sys.argv[2])
def last(pattern, before=None):
    found = [i for i, line in enumerate(lines[:before]) if re.match(pattern, line)]
    assert found, f"no {pattern} in the trace"
    return found[-1]
publish = last(rf'(rename|renameat2|link|linkat)\(.*out\.jsonl\.gz\.part", .*out\.jsonl\.gz"')
data = last(rf'(pwrite64|write)\(\d+<{folder}/out\.jsonl\.gz\.part>')
file_sync = last(rf'fsync\(\d+<{folder}/out\.jsonl\.gz\.part>\) += 0', publish)
manifest = rf'rename\(.*"{folder}/out\.jsonl\.gz\.manifest\.json"\)'
described, complete = last(manifest, publish), last(manifest)
# The name is on the disk before the manifest, which has syncs of its own, calls it complete.
folder_sync = last(rf'fsync\(\d+<{folder}>\) += 0', complete)
assert data < file_sync < publish < folder_sync < complete, (data, file_sync, publish, folder_sync, complete)
assert data < described < publish, (data, described, publish)
# Each member is synced before the next is written.
order = [line.split("(")[0] for line in lines if re.match(rf'(pwrite64|fdatasync)\(\d+<{folder}/out\.', line)]
assert order[0] == "pwrite64" and order[1:] == ["pwrite64", "fdatasync"] * (len(order) // 2), order
PYTHON
# Lines "NAME NUMBER STRACE_OPTION": every call, as strace must be asked for it.
awk '{ sub(/\(.*/, "", $2) } NR == 1 { first = $1 } $2 ~ /^[a-z0-9]+$/ { print $2, ++n[$1, $2], $1 == first ? "" : "-f" }' \
    "$work/trace" >"$work/calls"
n_calls=$(wc -l <"$work/calls")
[[ $n_calls -ge $((2 * n_records)) ]] || fail "$n_calls calls"
! grep -e -f "$work/calls" | grep -qv -e '^pwrite64 ' -e '^fdatasync ' || fail "a call that -f would not meet"

# kill_at JOB CALLS NUMBER [-f]: the run must have been killed, or (at the very end) be through.
kill_at() {
    local code=0
    # The braces keep the shell's own word about a killed child away.
    {
        timeout 60 strace "${@:4}" -qq -o /dev/null -e "trace=$2" -e "inject=$2:signal=SIGKILL:when=$3" \
            "$pressrun" run "$work/$1/job.yaml" --quiet >"$work/stdout" 2>"$work/stderr" || code=$?
    } 2>/dev/null
    [[ $code -eq 137 ]] || fail "not killed at $2 $3: exit code $code: $(tail -n 1 "$work/stderr")"
}

# resume JOB WHERE: checks everything that is promised of a job that was killed.
resume() {
    local folder=$work/$1 where=$2 sealed_bytes=0 sealed=0
    rm -f "$work/at_kill"
    if [[ -e $folder/out.jsonl.gz.part ]]; then
        read -r sealed_bytes sealed _ < <(python3 reference/seals.py "$folder/out.jsonl.gz.part")
        head -c "$sealed_bytes" "$folder/out.jsonl.gz.part" >"$work/at_kill"
        [[ ! -e $folder/out.jsonl.gz ]] || fail "$where: the final name exists beside .part"
        [[ ! -e $folder/out.jsonl.gz.manifest.json ]] || jq -e '.complete | not' "$folder/out.jsonl.gz.manifest.json" \
            >/dev/null || fail "$where: the manifest calls complete what is not published"
    elif [[ -e $folder/out.jsonl.gz ]]; then
        "$pressrun" verify "$folder/out.jsonl.gz" >/dev/null || fail "$where: published before it was complete"
        cp "$folder/out.jsonl.gz" "$work/at_kill"
        sealed_bytes=$(stat -c %s "$work/at_kill") sealed=$n_records
    fi
    run_job "$1" 2>"$work/stderr" || fail "$where: resumed with exit code $?: $(tail -n 1 "$work/stderr")"
    records "$folder/out.jsonl.gz" >"$work/records"
    expect_same "$work/whole.records" "$work/records" "$where: resumed records"
    [[ ! -e $folder/out.jsonl.gz.part ]] || fail "$where: .part remains"
    [[ $sealed_bytes -eq 0 ]] || cmp -s -n "$sealed_bytes" "$work/at_kill" "$folder/out.jsonl.gz" ||
        fail "$where: what was sealed is not the beginning of the final file"
    # The last run found what was sealed and generated the rest. A run that found a published file wrote nothing.
    jq -e --argjson sealed "$sealed" --argjson total "$n_records" '
        .complete and .state == "complete" and .counts.records == $total and
        (.runs[-1] | if .state == "complete" and .found.records != $sealed then
            $sealed == $total else .found.records + .metrics.records == $total end)' \
        "$folder/out.jsonl.gz.manifest.json" >/dev/null ||
        fail "$where: $sealed records were sealed; the manifest says $(jq -c '[.runs[] | [.state, .found.records,
            .metrics.records]]' "$folder/out.jsonl.gz.manifest.json")"
}

# On a GPU each start takes long: a sample.
n_kills=0
for ((i = 0; i < n_calls; i++)); do
    if [[ $device == cuda || $n_calls -gt 250 ]]; then
        [[ $i -lt 30 || $i -ge $((n_calls - 30)) || $((i % 12)) -eq 0 ]] || continue
        [[ $device == cpu || $((i % 5)) -eq 0 ]] || continue
    fi
    read -r name number option < <(sed -n "$((i + 1))p" "$work/calls")
    [[ $name$number$option != pwrite641-f ]] || continue # below
    new_job job
    # shellcheck disable=SC2086 # the option may be empty
    kill_at job "$name" "$number" $option
    resume job "killed at $name $number ${option:+of the writing thread}"
    n_kills=$((n_kills + 1))
done
# The writing thread's first call: a resumed run's first thread writes no head, so it does not come before.
new_job job
kill_at job fdatasync 1 -f
kill_at job pwrite64 1 -f
resume job "killed twice, at the writing thread's first call too"
n_kills=$((n_kills + 1))

# Killed again and again at the same place: each run adds something, and the last is through.
new_job job
for ((i = 0; ; i++)); do
    [[ $i -lt $n_records ]] || fail "killed $i times and no end"
    code=0
    {
        timeout 60 strace -f -qq -o /dev/null -e trace=fdatasync -e inject=fdatasync:signal=SIGKILL:when=9 \
            "$pressrun" run "$work/job/job.yaml" --quiet >"$work/stdout" 2>"$work/stderr" || code=$?
    } 2>/dev/null
    [[ $code -ne 0 ]] || break
    [[ $code -eq 137 ]] || fail "exit code $code: $(tail -n 1 "$work/stderr")"
done
records "$work/job/out.jsonl.gz" >"$work/records"
expect_same "$work/whole.records" "$work/records" "killed $i times"
jq -e --argjson total "$n_records" '([.runs[] | select(.state == "killed")] | length) == (.runs | length) - 1 and
    (.runs[-1] | .found.records + .metrics.records) == $total' "$work/job/out.jsonl.gz.manifest.json" >/dev/null ||
    fail "the manifest of a job that was killed $i times"
echo "killed at $n_kills of $n_calls calls, and $i times in one job"
