#!/usr/bin/env bash
# Fuzzes the engine's C interface with libFuzzer, under the address and undefined-behaviour
# sanitizers.
#
#   tools/c_fuzz.sh SECONDS [TARGET ...]      (tests/c/fuzz_TARGET.c; all, if none is named)
#
# Each target runs for SECONDS, from its kept inputs (tests/c/corpus) and from what earlier runs left
# in FUZZ_DIR (default: a new temporary folder, which stays). At the end the inputs that reach
# something new, some of all sizes, are written into tests/c/corpus. An input that fails ends
# the run; it stays in FUZZ_DIR. CC (default clang; it needs libFuzzer) and PYTHON may be set.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cc=${CC:-clang}
python=${PYTHON:-python}
kept=48 # inputs of a target in the repository
seconds=${1:?seconds for each target}
shift
work=${FUZZ_DIR:-$(mktemp -d)}
# shellcheck source=tools/c_build.sh
. "$root/tools/c_build.sh"
find_blas

targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    for path in "$root"/tests/c/fuzz_*.c; do
        name=$(basename "$path" .c)
        [ "$name" = fuzz_main ] || targets+=("${name#fuzz_}")
    done
fi

# a spec may hold any number as a value of an enumeration
# a sanitized loop is not vectorized, which clang would warn of
sanitize=(-O1 -Wno-pass-failed -fsanitize=address,undefined -fno-sanitize=enum
    -fno-sanitize-recover=all)
mkdir -p "$work/objects"
printf '%s\0' "$root"/csrc/{base,kernels,model}/*.c "$root"/tests/c/{tiny,fuzz}.c |
    compile_into "$work/objects" "${compile[@]}" "${sanitize[@]}" -fsanitize=fuzzer-no-link

export UBSAN_OPTIONS=print_stacktrace=1
for target in "${targets[@]}"; do
    program=$work/fuzz_$target
    "$cc" "${compile[@]}" "${sanitize[@]}" -fsanitize=fuzzer "$root/tests/c/fuzz_$target.c" \
        "$work"/objects/*.o "${blas_link[@]}" -lm -o "$program"
    mkdir -p "$work/$target" "$work/$target.seeds" "$work/$target.least"
    corpus=$root/tests/c/corpus/fuzz_$target.hex
    "$python" "$root/tools/fuzz_corpus.py" unpack "$work/$target.seeds" \
        "${corpus%.hex}"{,-found}.hex
    echo "== $target: $seconds s, inputs in $work"
    "$program" -max_total_time="$seconds" -max_len=512 -len_control=0 -timeout=20 \
        -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="$work/$target-" "$work/$target" \
        "$work/$target.seeds" 2>&1 | grep -v '^#.*\(NEW\|REDUCE\|RELOAD\|pulse\)'
    rm -f "$work/$target.least"/*
    "$program" -merge=1 -max_len=512 "$work/$target.least" "$work/$target" \
        "$work/$target.seeds" >"$work/$target.merge.txt" 2>&1
    "$python" "$root/tools/fuzz_corpus.py" pack "$work/$target.least" "$corpus" "$kept"
done
