"""setup: has CMake build the C library into the package, and compiles the Cython wrappers (stable ABI of 3.11)."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

VERSION = re.search(r'^#define CBN_VERSION "(.+)"$', Path("csrc/include/cbn.h").read_text(), re.MULTILINE)[1]
# free-threaded Pythons have no stable ABI before 3.15, so that a wheel of theirs is for one version
STABLE = not sysconfig.get_config_var("Py_GIL_DISABLED")
RPATH = {"linux": "$ORIGIN/lib", "darwin": "@loader_path/lib"}.get(sys.platform)


class BuildExt(build_ext):
    """First installs the C library into the package's folder: its header, its shared library and what finds them."""

    def run(self):
        package = Path(self.get_ext_fullpath("cbn._core")).parent.absolute()
        work = Path(self.build_temp, "cmake").absolute()
        for stale in (work, package / "lib"):  # of another compiler, of tools that were there only then
            shutil.rmtree(stale, ignore_errors=True)
        options = {
            "CMAKE_INSTALL_PREFIX": package,
            "CMAKE_INSTALL_LIBDIR": "lib",
            "CMAKE_INSTALL_BINDIR": ".",  # of a DLL, which is looked for beside the extension
            "CMAKE_C_FLAGS": f"{os.environ.get('CFLAGS', '')} -g0 -fno-asynchronous-unwind-tables",  # half the size
            "CBN_OPENMP": os.environ.get("CBN_OPENMP") or "ON",
            "CBN_STATIC": False,
            "CBN_NAMELINK": False,  # wheels have no symbolic links
        }
        defines = [f"-D{name}={value}" for name, value in options.items()]
        subprocess.run(["cmake", "-S", ".", "-B", work, "-G", "Ninja", *defines], check=True)
        subprocess.run(["cmake", "--build", work], check=True)
        subprocess.run(["cmake", "--install", work, "--strip"], check=True)
        (core,) = self.extensions
        core.extra_objects = [str(path) for path in package.glob("lib/libcbn*")]
        super().run()


# the last three: the code repeats itself more, so that it compresses better, and is as fast: the kernels are elsewhere
SMALL = ["-Os", "-g0", "-fno-asynchronous-unwind-tables", "-fno-plt"]
SMALL += ["-fno-schedule-insns2", "-fno-inline-functions-called-once", "-fno-tree-dominator-opts"]

CORE = Extension(
    "cbn._core",
    ["src/cbn/_core.pyx"],
    include_dirs=["csrc/include", np.get_include()],
    define_macros=[
        *([("Py_LIMITED_API", "0x030B0000")] if STABLE else []),
        ("NPY_TARGET_VERSION", "NPY_1_23_API_VERSION"),
        ("NPY_NO_DEPRECATED_API", "NPY_1_23_API_VERSION"),
        ("CYTHON_COMPRESS_STRINGS", "0"),  # the wheel compresses them better, with all the rest
    ],
    extra_compile_args=SMALL if RPATH else [],
    extra_link_args=[f"-Wl,-rpath,{RPATH}", "-Wl,-s"] if RPATH else [],  # -s: a tenth of the size is names of functions
    depends=[*map(str, Path("src/cbn").glob("*.p?[di]"))],
    py_limited_api=STABLE,
)

# the wheel has a limit: nobody sees the docstrings of a private module, and nobody pickles what a call is made of
Options.docstrings = False

setup(
    version=VERSION,
    cmdclass={"build_ext": BuildExt},
    ext_modules=cythonize([CORE], language_level=3, compiler_directives={"auto_pickle": False}),
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE else {},
)
