"""conf: how Sphinx builds the documentation site, with every example executed: python -m sphinx -W docs site."""

import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

from sphinx_gallery.sorting import ExplicitOrder

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
templates_path = ["_templates"]

# --- pages ---

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
copybutton_exclude = ".linenos, .gp, .go"
html_theme = "pydata_sphinx_theme"
html_title = f"cbn {release}"
html_theme_options = {"navigation_with_keys": False, "show_nav_level": 2}
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_sidebars = {"tutorial": []}  # which has no section to navigate

# links that are right in the repository, and the pages here that have those files
OUTSIDE = {
    r"\.\./CHANGELOG\.md": "changes.md",
    r"\.\./CONTRIBUTING\.md": "contributing.md",
    r"\.\./SECURITY\.md": "security.md",
    r"\.\./benchmarks/README\.md": "benchmarks.md",
    r"\.\./examples/service/README\.md": "service.md",
    r"\.\./examples/effects/(\w+)\.py": r"effects/\1.rst",
}

# --- reference ---

autodoc_typehints = "none"  # which stand in the stubs; the docstrings tell shapes and units, too
numpydoc_show_class_members = False
numpydoc_validation_checks = {"PR02", "PR10", "GL06", "GL07"}  # names and sections that are not there
autosummary_generate = True
autosummary_context = {  # others' classes, and scikit-learn's methods, which they document themselves
    "others": ["BaseException", "Module", "Protocol", "TransformerMixin", "BaseEstimator", "tuple"],
    "theirs": ["get_metadata_routing", "set_output", "set_fit_request", "set_partial_fit_request"],
}
if find_spec("torch") is None:  # without which its modules cannot be read
    exclude_patterns = ["reference/torch.rst"]
    suppress_warnings = ["toc.excluded"]
hawkmoth_root = str(Path(__file__).parents[1] / "csrc" / "include")
hawkmoth_compiler = os.environ.get("CC", "cc")  # which is asked where its headers are

# --- effects: scripts that run, and what they print and draw ---

STORY = (
    "feature_scaling learning_rate distributions initial_scale batch_size population regularization landscape "
    "conversion cancellation"
)
sphinx_gallery_conf = {
    "examples_dirs": "../examples/effects",
    "gallery_dirs": "effects",
    "filename_pattern": ".*",
    "within_subsection_order": ExplicitOrder([f"{name}.py" for name in STORY.split()]),
    "ignore_pattern": r"(script|networks)\.py",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
}


def as_rst(app, lines, transform, options):
    """The comments of cbn.h are plain text, with `code` in single quotes and a star at the start of each line."""
    plain = (line.strip().removeprefix("* ").replace("*", r"\*") for line in lines)
    lines[:] = [re.sub("`([^`]+)`", r"``\1``", line) for line in plain]


def as_page(app, docname, source):
    """Links as they are here; and examples without the empty line that ends them for doctest."""
    for link, page in OUTSIDE.items():
        source[0] = re.sub(rf"\]\({link}", f"]({page}", source[0])
    source[0] = re.sub("(```python\n.*?\n)\n```", r"\1```", source[0], flags=re.DOTALL)


def setup(app):
    app.connect("source-read", as_page, priority=900)  # after the examples ran
    app.connect("hawkmoth-process-docstring", as_rst)
