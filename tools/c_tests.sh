#!/usr/bin/env bash
# Builds the engine without Python.h, with the programs of tests/c, and runs them.
#
#   tools/c_tests.sh [plain] [address] [thread]      (all three if none is named)
#
# plain: as released, but with assertions. address: under the address, undefined-behaviour and leak
# sanitizers. thread: under the thread sanitizer. The BLAS library is the one of the installed
# package, or with SOFTPROMPT_BLAS=system the one of pkg-config. CC and PYTHON may be set.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cc=${CC:-gcc}
python=${PYTHON:-python3}
modes=("$@")
[ ${#modes[@]} -gt 0 ] || modes=(plain address thread)

if [ "${SOFTPROMPT_BLAS:-}" = system ]; then
    read -ra blas < <(pkg-config --cflags --libs openblas)
else
    # -P: the installed package, not the source tree in the current folder (unless that is installed)
    libs=$("$python" -P -c 'import importlib.util, pathlib
spec = importlib.util.find_spec("softprompt")
print(pathlib.Path(spec.origin).parent / "_libs" if spec else "")')
    [ -e "$libs/libsoftprompt_openblas.so" ] || {
        echo "c_tests.sh: softprompt is not installed for $python with its BLAS library" >&2
        exit 1
    }
    blas=(-DSP_BLAS_PREFIX=softprompt_ -L"$libs" -lsoftprompt_openblas "-Wl,-rpath,$libs")
fi

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

flags_of() {
    case $1 in
    plain) echo -O2 ;;
    address) echo -O1 -fsanitize=address,undefined -fno-sanitize-recover=all ;;
    thread) echo -O1 -fsanitize=thread ;;
    *) echo "c_tests.sh: unknown mode '$1' (plain, address, thread)" >&2 && return 1 ;;
    esac
}

export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0
export UBSAN_OPTIONS=print_stacktrace=1
# die_after_fork=0: the fork test makes threads in the child, which is what it is about
export TSAN_OPTIONS=halt_on_error=1:die_after_fork=0:suppressions=$root/tools/tsan.supp

passed=0 failed=0
for mode in "${modes[@]}"; do
    read -ra sanitize < <(flags_of "$mode")
    common=(-std=c11 -g -fno-omit-frame-pointer -fopenmp-simd -ffp-contract=off -fno-math-errno
        -pthread -Wall -Wextra -Werror -I"$root/csrc" "${sanitize[@]}")
    mkdir "$build/$mode"
    # two compilers at a time
    printf '%s\0' "$root"/csrc/{base,kernels,model}/*.c "$root"/tests/c/*.c |
        xargs -0 -P 2 -I{} sh -c 'src=$1 out=$2 && shift 2 &&
            exec "$@" -c "$src" -o "$out/$(basename "$(dirname "$src")")-$(basename "$src" .c).o"' \
            sh {} "$build/$mode" "$cc" "${common[@]}" "${blas[@]}"
    for test in "$root"/tests/c/test_*.c; do
        name=$(basename "$test" .c)
        program=$build/$mode/$name
        "$cc" "${common[@]}" "$build/$mode"/{base,kernels,model}-*.o "$build/$mode/c-tiny.o" \
            "$build/$mode/c-$name.o" "${blas[@]}" -lm -o "$program"
        if "$program"; then
            echo "ok      $mode $name"
            passed=$((passed + 1))
        else
            echo "FAILED  $mode $name"
            failed=$((failed + 1))
        fi
    done
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
