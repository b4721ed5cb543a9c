# build.sh: how the C library is built with warnings as errors, and its tests; for the scripts beside it, which source it.
# CC is the compiler, $build the directory for what comes out, $cmake_options more of CMake's. CMake and Ninja are
# installed there where they are missing.
export OMP_WAIT_POLICY=passive # many threads on few CPUs: those that wait must not spin
CC=${CC:-gcc}
build=$(mktemp -d)
trap 'kill $(jobs -p) 2> /dev/null || true; rm -rf "$build"' EXIT
warn="-Wall -Wextra -pedantic -Werror"
[[ $CC != clang* ]] || warn+=" -Wno-pass-failed" # a loop that stays scalar is no fault
wrapped=-Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc,--wrap=posix_memalign
wrapped+=,--wrap=free,--wrap=pthread_create

have_cmake() {
    cmake --version > /dev/null 2>&1 && ninja --version > /dev/null 2>&1 && return
    python3 -m venv "$build/cmake"
    "$build/cmake/bin/pip" install -q 'cmake>=3.20' ninja
    PATH=$build/cmake/bin:$PATH
}

library() { # name, compiler flags (without -O: as it is released): the static library, in $library from now on
    local name=$1 type=Release openmp=OFF
    shift
    have_cmake
    library=$build/$name/libcbn.a
    [[ " $*" != *" -O"* ]] || type=None
    [[ " $* " != *" -fopenmp "* ]] || openmp=ON
    cmake -S . -B "$build/$name" -G Ninja -DCMAKE_C_COMPILER="$CC" -DCMAKE_BUILD_TYPE=$type -DCBN_SHARED=OFF \
        -DCBN_OPENMP=$openmp -DCMAKE_C_FLAGS="$warn $*" ${cmake_options:-} > "$build/cmake.log" &&
        cmake --build "$build/$name" > "$build/cmake.log" || { cat "$build/cmake.log"; return 1; }
}

program() { # name, compiler flags, what the library has already been built with: its tests, as $build/name.tests
    local name=$1
    shift
    "$CC" -std=c11 -O2 $warn -D_DEFAULT_SOURCE -Icsrc/include "$@" ${test_sources:-tests/c/*.c} ${instead:-} "$library" $wrapped -pthread \
        -lm -o "$build/$name.tests"
}

serial() { # name: the tests of the library's kernels, without OpenMP, which only threads.c has
    instead=$build/threads.o
    "$CC" -std=c11 $warn -O2 -D_DEFAULT_SOURCE -Icsrc/include -c csrc/threads.c -o "$instead"
    program "$1"
    instead=
}

results() { # of a run of the tests, on stdin: each part's name and bits
    awk '/ bits / {print $1, $NF}'
}

tests() { # name, compiler flags: the library and its tests
    library "$@"
    program "$@"
}
