"""test_docs: every example in docstrings, README and docs runs; every public name is documented and has a section."""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
from cases import needs_openmp

import cbn

ROOT = Path(__file__).parent.parent
MODULES = [m.name for m in pkgutil.walk_packages(cbn.__path__, "cbn.") if not m.name.startswith("cbn._")]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
MARKED = [pytest.param(page, marks=needs_openmp) if page == "docs/threads.md" else page for page in PAGES]


OF_TORCH = tuple(f"cbn.interop.torch_{name}" for name in ("batch", "fixed", "modules", "operators", "sync"))


def imported(name):
    if name in OF_TORCH:
        pytest.importorskip("torch")
    return importlib.import_module(name)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    module = imported(name)
    if name == "cbn.interop.dask":
        pytest.importorskip("dask.array")
    assert module.__doc__.startswith(name.rpartition(".")[2] + ": ")
    assert doctest.testmod(module).failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    found = [test for name in MODULES if name not in OF_TORCH for test in finder.find(imported(name)) if test.examples]
    assert len(found) >= 9


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' get_weights() on torch
@pytest.mark.parametrize("page", MARKED)
def test_pages(page, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    for library in " ".join(re.findall("<!-- needs: (.+) -->", (ROOT / page).read_text())).split():
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)  # pages save files
    assert (
        doctest.testfile(str(ROOT / page), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0
    )


SYSTEMS = ("communicators", "dask", "flax", "keras", "mpi", "onnx", "sklearn", "torch")
PUBLIC = [(cbn, name) for name in cbn.__all__]
PUBLIC += [(m, n) for s in SYSTEMS for m in [importlib.import_module(f"cbn.interop.{s}")] for n in m.__all__]


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=[f"{module.__name__}.{name}" for module, name in PUBLIC])
def test_public_names(module, name):
    try:
        obj = getattr(module, name)
    except ImportError as error:  # names that stand for a library's
        pytest.skip(str(error))
    assert inspect.getdoc(obj)
    if inspect.isfunction(obj) and inspect.signature(obj).parameters:
        for parameter in inspect.signature(obj).parameters:
            assert parameter in obj.__doc__, f"{name} does not document {parameter}"


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=[f"{module.__name__}.{name}" for module, name in PUBLIC])
def test_reference(module, name):
    pages = " ".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.rst"))
    assert re.search(rf"\b{name}\b", pages), f"{name} has no place in the reference"
