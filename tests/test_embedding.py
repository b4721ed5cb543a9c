"""test_embedding: C, C++ and Cython programs on the installed package, and on the library that CMake installs."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cbn

ROOT = Path(__file__).parents[1]
HEADER = ROOT / "csrc/include/cbn.h"
C, CXX = os.environ.get("CC", "cc"), os.environ.get("CXX", "c++")
STRICT = ["-Wall", "-Wextra", "-pedantic", "-Werror"]
PREFIX = Path(cbn.get_include()).parent
LIBRARY = Path(cbn.get_library())


def needs(*programs):
    missing = [program for program in programs if not shutil.which(program)]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def run(*command, cwd=None, **environment):
    """What a command prints; its environment has no Python path, so that nothing is found by chance."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env={**inherited, **environment}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_output(program):
    """Whether a built example says what it should."""
    printed = run(program)
    if program.name == "normalize":
        expected = (ROOT / "docs/c-api.md").read_text().split("It prints\n\n```text\n")[1].split("```")[0]
        assert printed == expected
    else:
        assert "trained: mean 0.000000, deviation 0.999996\n" in printed
        assert "served from 4 threads: the same bits" in printed
        assert "refused: x must have more than 1 value per channel; got 1" in printed
        assert f"cbn {cbn.__version__}, instruction set" in printed


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Where CMake has installed the library, shared and static, quickly built."""
    folder = tmp_path_factory.mktemp("installed")
    options = ["-G", "Ninja", "-DCMAKE_BUILD_TYPE=Debug", f"-DCMAKE_INSTALL_PREFIX={folder}/prefix"]
    run("cmake", "-S", ROOT, "-B", folder / "build", *options)
    run("cmake", "--build", folder / "build")
    run("cmake", "--install", folder / "build")
    return folder / "prefix"


@needs(C)
def test_c_program_with_the_library_of_the_package(tmp_path):
    run(C, *STRICT, "-std=c99", ROOT / "examples/c/normalize.c", f"-I{cbn.get_include()}", LIBRARY,
        f"-Wl,-rpath,{LIBRARY.parent}", "-o", tmp_path / "normalize")  # fmt: skip
    check_output(tmp_path / "normalize")


@needs(CXX)
def test_cxx_program_with_the_library_of_the_package(tmp_path):
    run(CXX, *STRICT, "-std=c++11", ROOT / "examples/c/layer.cpp", f"-I{cbn.get_include()}", LIBRARY,
        f"-Wl,-rpath,{LIBRARY.parent}", "-pthread", "-o", tmp_path / "layer")  # fmt: skip
    check_output(tmp_path / "layer")


@pytest.mark.parametrize("standard", ["c99", "c11", "c17", "c++11", "c++17", "c++20"])
def test_header_alone(standard, tmp_path):
    compiler, only = (CXX, "-Wold-style-cast") if "+" in standard else (C, "-Wstrict-prototypes")
    if not shutil.which(compiler):
        pytest.skip(f"needs {compiler}")
    source = tmp_path / ("header.cpp" if "+" in standard else "header.c")
    source.write_text('#include "cbn.h"\n#include "cbn.h"\n')
    run(compiler, f"-std={standard}", *STRICT, "-Wconversion", only, f"-I{cbn.get_include()}", "-fsyntax-only", source)


@needs("nm")
def test_library_exports_what_the_header_declares():
    declared = set(re.findall(r"\b(cbn_\w+)\(", re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)))
    exported = {line.split()[-1] for line in run("nm", "-D", "--defined-only", LIBRARY).splitlines()}
    of_the_extension = {"cbn_fp_enter", "cbn_fp_leave"}
    assert exported == declared | of_the_extension


def test_header_of_the_package():
    assert (Path(cbn.get_include()) / "cbn.h").read_text() == HEADER.read_text()
    version, abi = cbn._load._core.version()
    lines = HEADER.read_text().splitlines()
    assert f'#define CBN_VERSION "{version}"' in lines and f"#define CBN_ABI_VERSION {abi}" in lines
    assert cbn.__version__ == version


@needs("cmake", "ninja")
@pytest.mark.parametrize("which", ["package", "shared", "static"])
def test_cmake_package(which, tmp_path, request):
    prefix = PREFIX if which == "package" else request.getfixturevalue("installed")
    if which == "static":
        prefix = shutil.copytree(prefix, tmp_path / "prefix", symlinks=True)  # it may be moved
    library = "-DCBN_EXAMPLES=cbn::static" if which == "static" else "-DCBN_EXAMPLES=cbn::cbn"
    run("cmake", "-S", ROOT / "examples/c", "-B", tmp_path / "build", "-G", "Ninja",
        f"-DCMAKE_PREFIX_PATH={prefix}", library)  # fmt: skip
    run("cmake", "--build", tmp_path / "build")
    for name in ("normalize", "layer"):
        check_output(tmp_path / "build" / name)
        linked = run("ldd", tmp_path / "build" / name)
        assert ("libcbn" in linked) == (which != "static")


@needs("cmake", "ninja", CXX)
@pytest.mark.parametrize("target", ["cbn::cbn", "cbn::static"])
def test_project_without_c(target, tmp_path, installed):
    (tmp_path / "CMakeLists.txt").write_text(f"""cmake_minimum_required(VERSION 3.20)
project(without_c LANGUAGES CXX)
find_package(cbn 0.1 REQUIRED)
find_package(Threads REQUIRED)
add_executable(layer {ROOT}/examples/c/layer.cpp)
target_link_libraries(layer PRIVATE {target} Threads::Threads)
""")
    run("cmake", "-S", tmp_path, "-B", tmp_path / "build", "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={installed}")
    run("cmake", "--build", tmp_path / "build")
    check_output(tmp_path / "build/layer")


@needs("cmake", "ninja", C)
def test_part_of_another_project(tmp_path):
    (tmp_path / "CMakeLists.txt").write_text(f"""cmake_minimum_required(VERSION 3.20)
project(whole LANGUAGES C)
add_subdirectory({ROOT} cbn EXCLUDE_FROM_ALL)
add_executable(normalize {ROOT}/examples/c/normalize.c)
target_link_libraries(normalize PRIVATE cbn::static)
install(TARGETS normalize)
""")
    options = ["-G", "Ninja", "-DCMAKE_BUILD_TYPE=Debug", f"-DCMAKE_INSTALL_PREFIX={tmp_path}/prefix"]
    run("cmake", "-S", tmp_path, "-B", tmp_path / "build", *options)
    run("cmake", "--build", tmp_path / "build")
    run("cmake", "--install", tmp_path / "build")
    check_output(tmp_path / "prefix/bin/normalize")
    assert [path.name for path in (tmp_path / "prefix").rglob("*") if path.is_file()] == ["normalize"]


@needs("cmake")
def test_cmake_refuses(tmp_path):
    command = ["cmake", "-S", str(ROOT), "-B", str(tmp_path), "-G", "Ninja", "-DCBN_SHARED=OFF", "-DCBN_STATIC=OFF"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode and "CBN_SHARED or CBN_STATIC must be ON; got OFF and OFF" in done.stderr


@needs("pkg-config", C)
@pytest.mark.parametrize("which", ["package", "shared", "static", "deep"])
def test_pkg_config(which, tmp_path, request):
    prefix, folder = PREFIX if which == "package" else request.getfixturevalue("installed"), "lib"
    if which == "deep":  # as Debian's are
        build, prefix, folder = prefix.parent / "build", tmp_path / "deep", "lib/of/platform"
        run("cmake", "-S", ROOT, "-B", build, f"-DCMAKE_INSTALL_PREFIX={prefix}", f"-DCMAKE_INSTALL_LIBDIR={folder}")
        run("cmake", "--install", build)
    if which == "static":
        prefix = shutil.copytree(prefix, tmp_path / "prefix")
        for shared in prefix.glob("lib/*.so*"):
            shared.unlink()
    options = ["--static"] if which == "static" else []
    flags = run("pkg-config", *options, "--cflags", "--libs", "cbn", PKG_CONFIG_PATH=f"{prefix}/{folder}/pkgconfig")
    run(C, *STRICT, ROOT / "examples/c/normalize.c", *flags.split(), f"-Wl,-rpath,{prefix}/{folder}",
        "-o", tmp_path / "normalize")  # fmt: skip
    check_output(tmp_path / "normalize")
    version = run("pkg-config", "--modversion", "cbn", PKG_CONFIG_PATH=f"{prefix}/{folder}/pkgconfig")
    assert version.strip() == cbn.__version__


@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD")
def test_another_library_is_refused(tmp_path):
    """One of another version that was loaded before, by the program that Python is embedded in, say."""
    version = cbn.__version__.encode()
    content = LIBRARY.read_bytes()
    assert content.count(version + b"\0") == 1
    other = tmp_path / LIBRARY.name
    other.write_bytes(content.replace(version + b"\0", b"9.9.9\0"))
    libraries = ":".join(map(str, [*PREFIX.parent.glob("cbn.libs/*"), other]))
    done = subprocess.run(
        [sys.executable, "-c", "import cbn"],
        env={**os.environ, "LD_PRELOAD": libraries},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert f"ImportError: the C library must be that of cbn {cbn.__version__}; got 9.9.9, which" in done.stderr


needs_cython = pytest.mark.skipif(importlib.util.find_spec("Cython") is None, reason="needs Cython")


def install(example, site):
    run(sys.executable, "-m", "pip", "install", "-q", "--no-build-isolation", "--no-deps", "--target", site, example)


def python(code, site):
    return run(sys.executable, "-c", f"import sys; sys.path.insert(0, {str(site)!r})\n{code}")


@needs_cython
def test_cython_example(tmp_path):
    install(shutil.copytree(ROOT / "examples/cython", tmp_path / "source"), tmp_path / "site")
    code = """
import numpy as np, cbn, standardize
x = np.random.default_rng(0).normal(1e6, 3, (5, 40001))
expected = cbn.batch_norm(x, training=True, eps=0, axis=0)
assert standardize.standardize(x, num_threads=2) == 5
np.testing.assert_array_equal(x, expected)
assert standardize.standardize(np.empty((0, 3))) == 0
assert standardize.library() == cbn.__version__
for arguments in ((None,), (np.ones((2, 2)), -1.0), (np.ones((2, 2)), 0.0, 0), (np.ones((2, 2), np.float32),)):
    try:
        standardize.standardize(*arguments)
    except (TypeError, ValueError):
        continue
    raise AssertionError(arguments)
"""
    python(code, tmp_path / "site")
    modules = list((tmp_path / "site").glob("standardize*.so"))
    assert len(modules) == 1
    if shutil.which("ldd"):
        assert "libcbn" not in run("ldd", modules[0]), "capsules need no library"


@needs_cython
def test_cython_module_refuses_another_binary_interface(tmp_path):
    example = shutil.copytree(ROOT / "examples/cython", tmp_path / "source")
    include = tmp_path / "include"
    include.mkdir()
    text = HEADER.read_text()
    older = re.sub(r"(#define CBN_ABI_VERSION) \d+", r"\1 999", text)
    assert older != text
    (include / "cbn.h").write_text(older)
    setup = example / "setup.py"
    setup.write_text(setup.read_text().replace("cbn.get_include()", repr(str(include))))
    install(example, tmp_path / "site")
    code = "try:\n    import standardize\nexcept ImportError as error:\n    print(error)"
    printed = python(code, tmp_path / "site")
    assert printed == "cbn must have the binary interface 999; got 1\n"
