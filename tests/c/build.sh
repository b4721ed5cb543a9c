# build.sh: how the C library is built without Python, warnings as errors; for the scripts beside it, which source it.
# CC is the compiler, $build the directory for what comes out.
export OMP_WAIT_POLICY=passive # many threads on few CPUs: those that wait must not spin
CC=${CC:-gcc}
build=$(mktemp -d)
trap 'kill $(jobs -p) 2> /dev/null || true; rm -rf "$build"' EXIT
warn="-std=c11 -Wall -Wextra -pedantic -Werror -D_DEFAULT_SOURCE -Icsrc/include"
[[ $CC != clang* ]] || warn+=" -Wno-pass-failed" # a loop that stays scalar is no fault
exact="-ffp-contract=off -fno-math-errno -fno-trapping-math -fno-strict-aliasing"
wrapped=-Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc,--wrap=posix_memalign
wrapped+=,--wrap=free,--wrap=pthread_create

isa_flags() { # source: the flags of an instruction set, as setup.py has them; fails where this machine has no such code
    case $(uname -m)-$1 in
        x86_64-isa_avx2) echo -mavx2 -mfma -mf16c ;;
        x86_64-isa_avx512)
            echo -mf16c -mavx512f -mavx512dq -mavx512bw -mavx512vl -mprefer-vector-width=512 ;;
        *-isa_avx*) return 1 ;;
    esac
}

library() { # name, compiler flags: compiles all of csrc to objects; with $kernels, the kernels are those of that name
    local name=$1 file source isa pids=()
    objects=()
    shift
    for file in csrc/*.c; do
        source=$(basename "$file" .c)
        isa=$(isa_flags "$source") || continue
        if [[ $source == isa_* && -n ${kernels:-} ]]; then
            objects+=("$build/$kernels-$source.o")
            continue
        fi
        "$CC" $warn $exact "$@" $isa -c "$file" -o "$build/$name-$source.o" &
        pids+=($!)
        objects+=("$build/$name-$source.o")
    done
    for pid in "${pids[@]}"; do wait "$pid"; done
}

tests() { # name, compiler flags: the library and its tests, as $build/name
    library "$@"
    local name=$1
    shift
    "$CC" $warn $exact "$@" tests/c/*.c "${objects[@]}" $wrapped -pthread -lm -o "$build/$name"
}
