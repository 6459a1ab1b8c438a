#!/usr/bin/env bash
# Each row of bad_input.tsv ends with its exit code and one line that says what is wrong, and writes nothing; or
# costs one record of a job that is complete.
source "${BASH_SOURCE[0]%/*}/lib.sh"
need jq
need_device

# For the setup column.
replace() {
    cp --remove-destination "$(readlink -f "$1")" "$1"
}
edit() {
    jq "$2" "$(readlink -f "$1")" >edited
    rm "$1"
    mv edited "$1"
}

folder=$work/case
list_files() {
    (cd "$folder" && find . -printf '%p %y %s\n' | sort)
}

# check_case CODE MESSAGE COMMAND SETUP: prints what is wrong with the case, nothing when all is right.
check_case() {
    local code=$1 message=$2 command=$3 setup=$4 got=0 wanted=${1%+} line
    rm -rf "$folder"
    tiny_job "$folder" </dev/null
    mkdir "$folder/model"
    ln -s "$repo"/tests/models/tiny/* "$folder/model"
    sed -i '/^model:/s/:.*/: model/' "$folder/job.yaml"
    echo '{"prompt": "a good prompt"}' >"$folder/prompts.jsonl"
    [[ $code != record ]] || wanted=0
    (
        cd "$folder"
        [[ $setup == - ]] || eval "$setup"
        list_files >"$work/before"
        eval "\"\$pressrun\" $command" </dev/null >"$work/stdout" 2>"$work/stderr"
    ) || got=$?
    [[ $got -eq $wanted ]] || echo "exit code $got instead of $wanted: $(head -n 1 "$work/stderr")"
    if [[ $code == record ]]; then
        line=$(zcat "$folder/out.jsonl.gz" | jq -r 'select(.line == 1 and .text == null) | .error | .code + ": " + .message')
        got=0
        (cd "$folder" && eval "\"\$pressrun\" $command --strict" >/dev/null 2>"$work/stderr") || got=$?
        [[ $got -eq 10 ]] || echo "--strict: exit code $got instead of 10"
    else
        line=$(grep '^pressrun: error: ' "$work/stderr")
        [[ $line != *$'\n'* ]] || echo "more than one error line: $line"
        [[ $wanted -eq 64 || $(wc -l <"$work/stderr") -eq 1 ]] ||
            echo "stderr holds more than the error: $(head -n 3 "$work/stderr")"
        list_files >"$work/after"
        [[ $code == *+ ]] || cmp -s "$work/before" "$work/after" ||
            echo "files were written: $(diff "$work/before" "$work/after" | tail -n +2)"
        line=${line#pressrun: error: }
    fi
    [[ -n $line && $line =~ $message ]] || echo "message: $line"
}

n=0 n_wrong=0
while IFS=$'\t' read -r code message command setup <&3; do
    [[ $code != \#* ]] || continue
    n=$((n + 1))
    # A failing command within is what is expected here.
    wrong=$(set +e; check_case "$code" "$message" "$command" "$setup" 2>&1)
    if [[ -n $wrong ]]; then
        n_wrong=$((n_wrong + 1))
        printf 'pressrun %s\n    setup: %s\n    wanted %s: %s\n    %s\n' "$command" "$setup" "$code" "$message" "$wrong"
    fi
done 3<tests/end_to_end/bad_input.tsv
[[ $n -ge 90 ]] || fail "only $n rows were read"
[[ $n_wrong -eq 0 ]] || fail "$n_wrong of $n rows"
echo "$n rows"
