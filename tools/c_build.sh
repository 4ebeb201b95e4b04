# What the scripts that build the engine without Python.h share; to be sourced. Expects `root` and
# `python`.

compile=(-std=c11 -g -fno-omit-frame-pointer -fopenmp-simd -ffp-contract=off -fno-math-errno
    -pthread -Wall -Wextra -Werror -I"$root/csrc")

# Sets `blas_compile` and `blas_link`: flags for the BLAS library, that of the installed package scipy-openblas32, or with
# SOFTPROMPT_BLAS=system the one of pkg-config.
find_blas() {
    if [ "${SOFTPROMPT_BLAS:-}" = system ]; then
        read -ra blas_compile < <(pkg-config --cflags openblas)
        read -ra blas_link < <(pkg-config --libs openblas)
        return
    fi
    # find_spec, not import: the package loads its library into the process when imported
    local libs
    libs=$("$python" -c 'import importlib.util, pathlib
spec = importlib.util.find_spec("scipy_openblas32")
print(pathlib.Path(spec.origin).parent / "lib" if spec else "")')
    [ -e "$libs/libscipy_openblas.so" ] || {
        echo "$(basename "$0"): the package scipy-openblas32 is not installed for $python" >&2
        exit 1
    }
    blas_compile=(-DSP_BLAS_PREFIX=scipy_)
    blas_link=(-L"$libs" -lscipy_openblas "-Wl,-rpath,$libs")
}

# Compiles the named sources into objects in a folder, two at a time: compile_into FOLDER FLAGS ...
# reads them from its input, each with a NUL after it.
compile_into() {
    local folder=$1
    shift
    xargs -0 -P 2 -I{} sh -c 'src=$1 out=$2 && shift 2 &&
        exec "$@" -c "$src" -o "$out/$(basename "$(dirname "$src")")-$(basename "$src" .c).o"' \
        sh {} "$folder" "$cc" "$@" "${blas_compile[@]}"
}
