"""test_site: the documentation site fails to build where an example gives something else, and says what was not run."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sphinx")
pytest.importorskip("myst_parser")
DOCS = Path(__file__).parents[1] / "docs"


def build(folder, page, *options, module=""):
    """Build a site of one page, and return the exit status and what was said."""
    source = folder / "docs"
    source.mkdir()
    shutil.copy(DOCS / "examples.py", source)
    (source / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(source)!r})\nextensions = ['examples', 'myst_parser']\n"
    )
    (source / "index.md").write_text(page)
    (source / "of_page.py").write_text(module)
    command = [sys.executable, "-m", "sphinx", "-W", *options, source, folder / "site"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def page(example, needs=""):
    return f"# A page\n\n{needs}\n\n```python\n{example}\n\n```\n"


def test_examples_that_hold(tmp_path):
    status, said = build(
        tmp_path, page(">>> import cbn\n>>> cbn.batch_norm([[1.0], [3.0]], training=True).shape\n(2, 1)")
    )
    assert status == 0, said
    assert "not run" not in said


@pytest.mark.parametrize("example", [">>> 1 + 1\n3", ">>> 1 / 0", ">>> nothing\n1"])
def test_an_example_that_does_not_hold(tmp_path, example):
    status, said = build(tmp_path, page(example))
    assert status != 0
    assert "an example gives something else" in said and "index" in said


def test_examples_that_need_what_is_missing(tmp_path):
    wrong = page(">>> 1 + 1\n3", "<!-- needs: sys no_such_library -->")
    status, said = build(tmp_path, wrong)
    assert status == 0 and "the examples were not run, they need no_such_library" in said
    assert "they need no_such_library" in (tmp_path / "site" / "index.html").read_text()
    (tmp_path / "again").mkdir()
    status, said = build(tmp_path / "again", wrong, "-D", "all_examples=1")
    assert status != 0 and "the examples need no_such_library" in said


@pytest.mark.parametrize(("given", "holds"), [(2, True), (3, False)])
def test_docstrings_are_run(tmp_path, given, holds):
    module = f'def two():\n    """Return 2.\n\n    >>> two()\n    {given}\n    """\n    return 2\n'
    status, said = build(tmp_path, "# A page\n\n```{eval-rst}\n.. autofunction:: of_page.two\n```\n", module=module)
    assert (status == 0) == holds, said
    assert ("of_page.two" in said and "an example gives something else" in said) != holds
