"""test_service_figures: the table in the README is what load.py makes of the measurements that lie beside it."""

import re
import shutil
import subprocess
import sys

from serving import SERVICE


def test_table(modules):
    code = "import json, load; print(load.table(json.load(open('results/load.json'))))"
    done = subprocess.run([sys.executable, "-c", code], cwd=SERVICE, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in (SERVICE / "README.md").read_text()


def test_the_readme_gets_its_table(modules, tmp_path):
    shutil.copytree(SERVICE, tmp_path / "service")
    readme = tmp_path / "service" / "README.md"
    text = readme.read_text()
    readme.write_text(re.sub(r"^\| cold start.*\n", "", text, flags=re.MULTILINE))
    assert readme.read_text() != text
    command = [sys.executable, str(tmp_path / "service" / "load.py"), "--readme"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert readme.read_text() == text
