"""setup: compiles the drivers, the kernels for each instruction set, and the Cython wrappers (stable ABI of 3.11)."""

import os
import platform
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup

OPENMP = ["-fopenmp"] if os.environ.get("CBN_OPENMP", "1") != "0" else []
# -ffp-contract=off and no fast-math: the same bits from every instruction set. The other two promise that nobody
# reads errno or floating-point exceptions, which lets loops be vectorized, and changes no result. Per-column numbers
# are float or double in the same memory: no strict aliasing.
CFLAGS = [
    "-std=c11",
    "-O3",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-strict-aliasing",
    "-fvisibility=hidden",
    "-fPIC",
    "-g0",
    "-fno-asynchronous-unwind-tables",
]
DRIVERS = [
    "moments",
    "forward",
    "backward",
    "double_backward",
    "images",
    "running",
    "plan",
    "job",
    "schedule",
    "threads",
    "dispatch",
]
ISA_FLAGS = {
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mf16c", "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"],
}
# where few CPUs still need the baseline, half the size is worth more than a tenth of the time
BASELINE_FLAGS = ["-O2"]
if platform.machine().lower() not in ("x86_64", "amd64"):
    ISA_FLAGS, BASELINE_FLAGS = {}, []
HEADERS = [str(path) for path in [*Path("csrc").glob("*.h"), *Path("csrc/include").glob("*.h")]]


def library(name, sources, flags):
    return name, {
        "sources": [f"csrc/{source}.c" for source in sources],
        "include_dirs": ["csrc/include"],
        "cflags": [*CFLAGS, *flags],
        "obj_deps": {"": HEADERS},
    }


LIBRARIES = [library("cbn_drivers", DRIVERS, ["-D_DEFAULT_SOURCE", *OPENMP])]
LIBRARIES += [library("cbn_baseline", ["isa_baseline"], BASELINE_FLAGS)]
LIBRARIES += [library(f"cbn_{isa}", [f"isa_{isa}"], flags) for isa, flags in ISA_FLAGS.items()]

CORE = Extension(
    "cbn._core",
    ["src/cbn/_core.pyx"],
    include_dirs=["csrc/include", np.get_include()],
    define_macros=[
        ("Py_LIMITED_API", "0x030B0000"),
        ("NPY_TARGET_VERSION", "NPY_1_23_API_VERSION"),
        ("NPY_NO_DEPRECATED_API", "NPY_1_23_API_VERSION"),
    ],
    extra_compile_args=["-O2", "-g0"],
    extra_link_args=[*OPENMP, "-Wl,-s"],  # without names of static functions, a tenth of the size
    libraries=["m"],
    depends=[*HEADERS, "src/cbn/_core.pxd", *map(str, Path("src/cbn").glob("*.pxi"))],
    py_limited_api=True,
)

setup(
    libraries=LIBRARIES,
    ext_modules=cythonize([CORE], language_level=3),
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
