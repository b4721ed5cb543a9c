"""test_service_figures: the table in the README is what load.py makes of the measurements that lie beside it."""

import subprocess
import sys

from serving import SERVICE


def test_table(modules):
    code = "import json, load; print(load.table(json.load(open('results/load.json'))))"
    done = subprocess.run([sys.executable, "-c", code], cwd=SERVICE, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in (SERVICE / "README.md").read_text()
