"""examples: runs the examples of each page, and of each docstring in the reference, when the site is built.

A page says what its examples need besides cbn in a comment: <!-- needs: torch keras -->. Where that is not installed
they are not run, and the build and the page say so; it fails if they must: -D all_examples=1.
"""

import contextlib
import doctest
import importlib.util
import os
import re
import sys
import tempfile

from sphinx.util import logging

LOG = logging.getLogger(__name__)


def needs(text):
    """The libraries that the examples of a page need."""
    found = re.search("<!-- needs: (.+) -->", text)
    return found[1].split() if found else []


def run(text, name, names):
    """Run the examples of a text with these names known, and warn of each that gives something else."""
    test = doctest.DocTestParser().get_doctest(text, names, name, name, 0)
    output = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # examples save files
        doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=output.append)
    if output:
        LOG.warning("an example gives something else:\n%s", "".join(output), location=name)


def run_page(app, docname, source):
    missing = [name for name in needs(source[0]) if importlib.util.find_spec(name) is None]
    if not missing:
        run(source[0], docname, {"__name__": "__main__"})
    elif app.config.all_examples:
        LOG.warning("the examples need %s", ", ".join(missing), location=docname)
    else:
        LOG.info("%s: the examples were not run, they need %s", docname, ", ".join(missing))
        note = f"> When this site was built, the examples of this page were not run: they need {', '.join(missing)}."
        source[0] = re.sub("<!-- needs: .+ -->", note, source[0])


def run_docstring(app, what, name, obj, options, lines):
    module = sys.modules.get(getattr(obj, "__module__", None) or "")
    run("\n".join(lines), name, dict(vars(module)) if module else {})


def setup(app):
    os.environ["KERAS_BACKEND"] = "torch"
    app.setup_extension("sphinx.ext.autodoc")
    app.add_config_value("all_examples", False, "", bool)
    app.connect("source-read", run_page)
    app.connect("autodoc-process-docstring", run_docstring, priority=1)  # before numpydoc rewrites it
    return {"parallel_read_safe": True}
