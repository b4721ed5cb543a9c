"""test_examples: every example runs as a user runs it, and says what it should."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

DIGITS = Path(__file__).parents[1] / "examples" / "digits.py"


def run(*arguments):
    return subprocess.run([sys.executable, str(DIGITS), *arguments], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def digits():
    return run("--epochs", "4")


def test_digits_succeeds(digits):
    assert digits.returncode == 0, digits.stdout + digits.stderr
    assert not digits.stderr


def test_digits_prints_a_row_for_each_epoch(digits):
    rows = re.findall(r"^(\d+) +([\d.]+) +([\d.]+)% +([\d.]+) +([\d.]+)%$", digits.stdout, re.MULTILINE)
    assert [int(row[0]) for row in rows] == [1, 2, 3, 4]
    losses, losses_without = [float(row[1]) for row in rows], [float(row[3]) for row in rows]
    assert losses[-1] < losses[0]
    assert losses[-1] < losses_without[-1], "batch norm must learn faster at this learning rate"


def test_digits_reports_accuracy_checks_and_serving(digits):
    accuracy = re.search(r"with running statistics ([\d.]+)%, required 95%: reached", digits.stdout)
    assert accuracy and float(accuracy[1]) >= 95
    assert digits.stdout.count("against the oracle") == 2
    assert digits.stdout.count("running_var") == 2
    assert "oracle: every layer agrees" in digits.stdout
    assert "serving after save and load: the same bits" in digits.stdout


def test_digits_repeats_itself(digits):
    assert run("--epochs", "4").stdout == digits.stdout


def test_digits_fails_if_the_accuracy_is_not_reached():
    result = run("--epochs", "1", "--learning-rate", "0.0001")
    assert result.returncode == 1
    assert "NOT reached" in result.stdout


def test_digits_refuses_a_wrong_number_of_epochs():
    result = run("--epochs", "0")
    assert result.returncode == 2
    assert "--epochs must be 1 or more; got 0" in result.stderr


def test_digits_plots_or_says_what_it_needs(tmp_path):
    result = run("--epochs", "2", "--plot", str(tmp_path / "curves.png"))
    if importlib.util.find_spec("matplotlib") is None:
        assert result.returncode == 2
        assert "--plot needs matplotlib" in result.stderr
        return
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
