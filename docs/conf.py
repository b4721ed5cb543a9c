"""conf: how Sphinx builds the documentation site, with every example executed: python -m sphinx -W docs site."""

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import cbn

sys.path.insert(0, str(Path(__file__).parent))  # where examples.py stands

project = "cbn"
author = "the cbn developers"
version = release = cbn.__version__
extensions = [
    "examples",
    "hawkmoth",
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
root_doc = "index"

# --- pages ---

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
copybutton_exclude = ".linenos, .gp, .go"
html_theme = "pydata_sphinx_theme"
html_title = f"cbn {release}"
html_theme_options = {"navigation_with_keys": False, "show_nav_level": 2}
html_show_sourcelink = False

# links that are right in the repository, and the pages here that have those files
OUTSIDE = {"../SECURITY.md": "security.md", "../examples/service/README.md": "service.md"}

# --- reference ---

autodoc_typehints = "none"  # which stand in the stubs; the docstrings tell shapes and units, too
numpydoc_show_class_members = False
autosummary_generate = True
if find_spec("torch") is None:  # without which its modules cannot be read
    exclude_patterns = ["reference/torch.rst"]
    suppress_warnings = ["toc.excluded"]
hawkmoth_root = str(Path(__file__).parents[1] / "csrc" / "include")
hawkmoth_compiler = "gcc"  # which is asked where its headers are

# --- effects: scripts that run, and what they print and draw ---

sphinx_gallery_conf = {
    "examples_dirs": "../examples/effects",
    "gallery_dirs": "effects",
    "filename_pattern": ".*",
    "ignore_pattern": r"(script|networks)\.py",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "remove_config_comments": True,
}


def as_rst(app, lines, transform, options):
    """The comments of cbn.h are plain text, with `code` in single quotes."""
    lines[:] = [re.sub("`([^`]+)`", r"``\1``", line.strip().replace("*", r"\*")) for line in lines]


def inside(app, docname, source):
    for link, page in OUTSIDE.items():
        source[0] = source[0].replace(f"]({link}", f"]({page}")


def setup(app):
    app.connect("source-read", inside)
    app.connect("hawkmoth-process-docstring", as_rst)
