# extension.sh: cbn with an extension that is compiled otherwise than setup.py does; for the scripts that source it.
# They have sourced tests/c/build.sh, put the C library's path into $library, and named $python.

extension() { # compiler flags: leaves the package in $build/site, where PYTHONPATH points from now on
    local include
    "$python" -m pip install -q --target "$build/tools" 'Cython>=3.1'
    mkdir -p "$build/site"
    cp -r src/cbn "$build/site"
    PYTHONPATH=$build/tools "$python" -m cython -3 src/cbn/_core.pyx -o "$build/_core.c"
    include=$("$python" -c "import numpy, sysconfig; print(numpy.get_include(), sysconfig.get_path('include'))")
    "$CC" "$@" -fPIC -fno-strict-aliasing -shared -Icsrc/include $(printf -- '-isystem %s ' $include) \
        -DPy_LIMITED_API=0x030B0000 -DNPY_TARGET_VERSION=NPY_1_23_API_VERSION \
        -DNPY_NO_DEPRECATED_API=NPY_1_23_API_VERSION "$build/_core.c" "$library" -lm \
        -o "$build/site/cbn/_core.abi3.so"
    export PYTHONPATH=$build/site
}

preloaded() { # runtime libraries of the compiler, then a command: runs it with these loaded first
    local found=()
    while [[ $1 != -- ]]; do
        found+=("$("$CC" -print-file-name="$1")")
        shift
    done
    shift
    LD_PRELOAD="${found[*]}" "$@"
}
