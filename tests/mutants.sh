#!/usr/bin/env bash
# Do the tests notice? Breaks the code as each row of mutants.tsv says, in a copy, and runs the test that must fail:
#
#     tests/mutants.sh [PATTERN]      # rows whose file or test matches, for example 'worker/output/*' or resume
#
# Each test runs once on the unbroken code first: it must pass. The copy is built in build/mutants, where it stays for
# the next time. Not part of scons test: each row costs a build and a test.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
pattern=${1:-*}
root=$PWD
copy=${PRESSRUN_MUTANTS:-$root/build/mutants}
mkdir -p "$copy"
log=$copy/log

# The working tree as it is; what a row has changed is put back.
restore() {
    (cd "$root" && git ls-files -z | tar --null --files-from=- --ignore-failed-read -cf - 2>/dev/null) | tar -xf - -C "$copy"
}
# build GROUP NAME: what the test needs: its own program, or for a script all of the group's.
build() {
    local targets=(build/pressrun)
    if [[ -e tests/$1/test_$2.c ]]; then
        targets+=("build/tests/$1/test_$2")
    elif [[ $1 != end_to_end ]]; then
        targets+=("build/tests/$1")
    fi
    (cd "$copy" && scons -Q cuda=0 commit=mutant "${targets[@]}") >"$log" 2>&1
}
# run_test GROUP NAME
run_test() {
    bash "$copy/tests/run.sh" "$copy/build" cpu "$1" "$2" >"$log" 2>&1
}

n=0 n_missed=0
declare -A passes
missed() {
    n_missed=$((n_missed + 1))
    echo "MISSED: $*"
}
while IFS=$'\t' read -r file old new group name <&3; do
    [[ $file != \#* ]] || continue
    # shellcheck disable=SC2053 # a pattern is meant
    [[ $file == $pattern || $name == $pattern ]] || continue
    n=$((n + 1))
    restore
    if [[ -z ${passes[$group/$name]:-} ]]; then
        passes[$group/$name]=yes
        build "$group" "$name" && run_test "$group" "$name" && grep -Eq '^1 passed' "$log" || passes[$group/$name]=no
    fi
    if [[ ${passes[$group/$name]} == no ]]; then
        missed "$group/$name does not pass on the unbroken code: $(tail -n 1 "$log")"
        continue
    fi
    text=$(<"$copy/$file")
    if [[ $text != *"$old"* ]]; then
        missed "$file no longer holds: $old"
        continue
    fi
    printf '%s\n' "${text/"$old"/"$new"}" >"$copy/$file"
    if ! build "$group" "$name"; then
        missed "$file does not compile with: $new; $(grep -m 1 error: "$log")"
    elif run_test "$group" "$name"; then
        missed "$group/$name passes with $file: $old -> $new"
    elif ! grep -Eq ' 1 failed, 0 skipped$' "$log"; then
        missed "$group/$name did not run: $(tail -n 1 "$log")"
    else
        echo "noticed by $group/$name: $file: ${old#"${old%%[! ]*}"} -> ${new#"${new%%[! ]*}"}"
    fi
done 3<tests/mutants.tsv
restore
echo "$((n - n_missed)) of $n noticed"
[[ $n_missed -eq 0 && $n -gt 0 ]]
