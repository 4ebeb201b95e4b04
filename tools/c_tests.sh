#!/usr/bin/env bash
# Builds the engine without Python.h, with the programs of tests/c, and runs them.
#
#   tools/c_tests.sh [plain] [address] [thread] [all]      (all three if none is named)
#
# plain: optimised as released, but with assertions. address: under the address, undefined-behaviour
# and leak sanitizers. thread: under the thread sanitizer. The programs run on each kernel path that
# the CPU has, and say on which; what no path changes (failing allocations, stopping), on the best
# one. The BLAS library is the one of the installed package scipy-openblas32, or with
# SOFTPROMPT_BLAS=system the one of pkg-config. CC and PYTHON may be set.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cc=${CC:-gcc}
python=${PYTHON:-python}
modes=()
for mode in "${@:-all}"; do
    case $mode in
    plain | address | thread) modes+=("$mode") ;;
    all) modes+=(plain address thread) ;;
    *) echo "c_tests.sh: unknown mode '$mode' (plain, address, thread, all)" >&2 && exit 2 ;;
    esac
done

# shellcheck source=tools/c_build.sh
. "$root/tools/c_build.sh"
find_blas

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

flags_of() {
    case $1 in
    plain) echo -O3 ;;
    address) echo -O1 -fsanitize=address,undefined -fno-sanitize-recover=all ;;
    thread) echo -O1 -fsanitize=thread ;;
    esac
}

export ASAN_OPTIONS=detect_leaks=1
export UBSAN_OPTIONS=print_stacktrace=1
# die_after_fork=0: the fork test makes threads in the child, which is what it is about
export TSAN_OPTIONS=halt_on_error=1:die_after_fork=0

# The leak sanitizer stops the process with ptrace, which some containers forbid. A program that
# leaks shows whether it works here.
check_leak_sanitizer() {
    echo '#include <stdlib.h>
void *volatile lost;
int main(void) { lost = malloc(1); lost = NULL; return 0; }' >"$build/leak.c"
    "$cc" -fsanitize=address "$build/leak.c" -o "$build/leak"
    if "$build/leak" 2>"$build/leak.txt"; then
        echo "c_tests.sh: the leak sanitizer overlooks a leak" >&2 && return 1
    elif ! grep -q 'detected memory leaks' "$build/leak.txt"; then
        echo "NOT RUN: the leak sanitizer cannot work here; only the engine's own count of live" \
            "bytes looks for leaks"
        ASAN_OPTIONS=detect_leaks=0
    fi
}

passed=0 failed=0
for mode in $(printf '%s\n' "${modes[@]}" | awk '!seen[$0]++'); do
    read -ra sanitize < <(flags_of "$mode")
    common=("${compile[@]}" "${sanitize[@]}")
    [ "$mode" != address ] || check_leak_sanitizer
    mkdir "$build/$mode"
    printf '%s\0' "$root"/csrc/{base,kernels,model}/*.c "$root"/tests/c/*.c |
        compile_into "$build/$mode" "${common[@]}"
    engine=("$build/$mode"/{base,kernels,model}-*.o "$build/$mode/c-tiny.o")
    for test in "$root"/tests/c/test_*.c "$root"/tests/c/corpus/fuzz_*.hex; do
        name=$(basename "$test" .c)
        program=$build/$mode/$name
        objects=("$build/$mode/c-$name.o") inputs=()
        if [ "${test##*.}" = hex ]; then # inputs of a fuzz target, kept from tools/c_fuzz.sh
            target=$(basename "${test%.hex}" -found)
            objects=("$build/$mode"/c-{fuzz,fuzz_main,"$target"}.o) inputs=("$test")
        fi
        "$cc" "${common[@]}" "${engine[@]}" "${objects[@]}" "${blas_link[@]}" -lm -o "$program"
        start=$SECONDS
        if "$program" "${inputs[@]}"; then
            echo "ok      $mode $name ($((SECONDS - start)) s)"
            passed=$((passed + 1))
        else
            echo "FAILED  $mode $name"
            failed=$((failed + 1))
        fi
    done
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
