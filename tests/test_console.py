"""test_console: tables and progress, with rich and without, on terminals and elsewhere."""

import fcntl
import importlib.util
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest

import cbn
from cbn import console

LAYER = cbn.BatchNorm(4)
BATCHES = [np.random.default_rng(0).standard_normal((size, 4, 3, 2), np.float32) for size in (7, 20, 3, 20)]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def ansi(monkeypatch):
    """A terminal that knows escape codes, whatever the tests run in."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture(params=["rich", None])
def library(request, monkeypatch):
    """With rich or without."""
    if request.param:
        pytest.importorskip(request.param)
    else:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    return request.param


# --- progress ---


@pytest.mark.parametrize("sized", [True, False])
def test_progress_on_a_terminal(monkeypatch, library, sized):
    monkeypatch.setattr(sys, "stderr", Terminal())
    cbn.recompute_statistics(
        LAYER, BATCHES if sized else iter(zip(BATCHES, strict=True)), None if sized else lambda b: LAYER(*b)
    )
    text = sys.stderr.getvalue()
    assert "statistics: batch" in text and text.endswith("\x1b[2K" if library else "\r\x1b[K")
    shown = re.search(r"batch (\x1b\S*)?━", text) if library else "batch 1" in text
    assert shown and ("0/4" in text or "batch 1 of 4" in text) == sized


@pytest.mark.parametrize("total", [3, 0])
def test_each_step_is_told(monkeypatch, library, total):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with console.Progress("doing", total, done=1) as progress:
        progress("this")
        progress("that [bold]")
    text = sys.stderr.getvalue()
    if library:
        assert "doing this " in text and "doing that [bold] " in text and ("2/3" if total else "2/?") in text
    else:
        of = " of 3" if total else ""
        assert text == f"\r\x1b[Kdoing 2{of}: this\r\x1b[Kdoing 3{of}: that [bold]\r\x1b[K"


WILD = "a\x1b]0;title\x07\r\nb\x9b2J\udcff"  # what a file may be called, or a model's output
SHOWN = "a?]0;title???b?2J?"


def test_names_that_a_terminal_would_obey(monkeypatch, library):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "80")
    with console.Progress("doing", 1) as progress:
        progress(WILD)
    console.print_table(["name", WILD], [[WILD, "1"]], left=1)
    console.say(WILD)
    console.say(WILD, "bold")
    for text, times in ((sys.stderr.getvalue(), 1), (sys.stdout.getvalue(), 4)):
        assert text.count(SHOWN) == times + (times == 1 and bool(library))  # rich writes the bar once more at its end
        assert not set("\x07\x9b\udcff") & set(text) and "\x1b]" not in text


def test_long_lines_are_cut(monkeypatch, library):
    """So that a terminal does not break them, of which only the last row would be cleared."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "20")
    with console.Progress("doing", 3) as progress:
        progress("x" * 100)
    rows = without_codes(sys.stderr.getvalue()).replace("\r", "\n").splitlines()
    assert max(map(len, rows)) == (20 if library else 19)
    assert library or "doing 1 of 3: xxxxx" in rows


def test_the_width_is_that_of_the_terminal_with_the_progress(monkeypatch):
    """Also if standard output is a file."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("COLUMNS", raising=False)
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 30, 0, 0))
    with os.fdopen(follower, "w") as stream, open(os.devnull, "w") as file:
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(sys, "__stdout__", file)
        with console.Progress("doing", 3) as progress:
            progress("x" * 100)
        text = os.read(leader, 1 << 12).decode()
    os.close(leader)
    assert text == f"\r\x1b[Kdoing 1 of 3: {'x' * 15}\r\x1b[K"


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_for_terminals_only(monkeypatch, capsys, terminal):
    if terminal:
        monkeypatch.setattr(sys, "stderr", Terminal())
    with console.Progress("doing", 2, lines=False) as progress:
        progress("this")
    assert bool(sys.stderr.getvalue() if terminal else capsys.readouterr().err) == terminal


def test_lines_now_and_then(monkeypatch, capsys, library):
    """In files, and on terminals that know no escape codes."""
    for dumb in (False, True):
        with monkeypatch.context() as patch:
            if dumb:
                patch.setenv("TERM", "dumb")
                patch.setattr(sys, "stderr", Terminal())
            with console.Progress("doing", 2) as progress:
                progress("this")
                progress("that")
            assert (sys.stderr.getvalue() if dumb else capsys.readouterr().err) == "cbn: doing 1 of 2: this\n"


class Unsized:
    """A loader whose length is no concern of ours."""

    def __len__(self):
        raise NotImplementedError

    def __iter__(self):
        return iter(BATCHES)


def test_a_length_that_raises(monkeypatch, library):
    monkeypatch.setattr(sys, "stderr", Terminal())
    layer = cbn.BatchNorm(4)
    cbn.recompute_statistics(layer, Unsized())
    assert layer.num_batches_tracked == 4
    text = sys.stderr.getvalue()
    assert "statistics: " in text and "/4" not in text and "of 4" not in text


@pytest.mark.parametrize("wanted", [True, False])
def test_no_progress_elsewhere(monkeypatch, capsys, wanted):
    cbn.recompute_statistics(LAYER, BATCHES, progress=wanted)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys, "stderr", None)
    cbn.recompute_statistics(LAYER, BATCHES, progress=wanted)
    monkeypatch.setattr(sys, "stderr", Terminal())
    cbn.recompute_statistics(LAYER, BATCHES, progress=False)
    assert sys.stderr.getvalue() == ""


# --- tables ---

HEADER = ["name", "first", "second", "result"]
ROWS = [["a [b]", "1", "22", "ok"], ["longer", "3.5", "4 !", "FAILED"]]
PLAIN = """\
name    first  second  result
a [b]       1      22      ok
longer    3.5     4 !  FAILED
"""


def test_plain_tables(capsys, library):
    console.print_table(HEADER, ROWS, left=1)
    assert capsys.readouterr().out == PLAIN


def without_codes(text):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.mark.parametrize("columns", [80, 24, 5])
def test_tables_on_terminals(monkeypatch, library, columns):
    """Where it is too narrow the columns come one part after the other, and no word is cut as long as one fits."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "stdout", Terminal())
    console.print_table(HEADER, ROWS, left=1)
    text = sys.stdout.getvalue()
    assert ("\x1b[32m" in text and "\x1b[1;31m" in text) == bool(library)
    lines = without_codes(text).splitlines()
    if columns == 80:
        assert [line.rstrip() for line in lines if "─" not in line] == PLAIN.splitlines()
    elif columns == 24:
        assert max(map(len, lines)) <= 24
        assert [line.split() for line in lines if line.startswith("longer")] == [
            ["longer", "3.5", "4", "!"],
            ["longer", "FAILED"],
        ]
    elif library:  # which breaks the words
        assert max(map(len, lines)) == 5
        parts = [part.splitlines() for part in "\n".join(lines).split("\n\n")]
        first, second = (
            ["".join(line[cut] for line in part).replace(" ", "") for part in parts] for cut in (slice(1), slice(3, 5))
        )
        assert first == ["name─a[b]longer"] * 3 and second == ["first──13.5", "second──224!", "result──okFAILED"]
    else:
        assert [line.split()[-1] for line in lines if line.startswith("longer")] == ["3.5", "!", "FAILED"]


def test_tables_whose_columns_are_all_flush_left(monkeypatch, library):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stdout", Terminal())
    console.print_table(["a", "b"], [["c!", "d"]], left=2)
    assert [line.split() for line in without_codes(sys.stdout.getvalue()).splitlines() if "─" not in line] == [
        ["a", "b"],
        ["c!", "d"],
    ]
    assert "31m" not in sys.stdout.getvalue()  # a name with ! is none that is marked with it


def test_styled_lines(monkeypatch, capsys, library):
    console.say("[b] :x: 100", "bold")
    assert capsys.readouterr().out == "[b] :x: 100\n"
    monkeypatch.setattr(sys, "stdout", Terminal())
    console.say("[b] :x: 100", "bold red")
    assert sys.stdout.getvalue() == ("\x1b[1;31m[b] :x: 100\x1b[0m\n" if library else "[b] :x: 100\n")


# --- real terminals ---


def on_terminal(*arguments, columns=100, stdout=None, interrupt_at=None, **environment):
    """What `python -m cbn` writes to a terminal, and its status. Control-C is pressed when some text has come."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k != "COLUMNS"} | environment
    process = subprocess.Popen(
        [sys.executable, "-m", "cbn", *map(str, arguments)],
        stdin=follower,
        stdout=follower if stdout is None else stdout,
        stderr=follower,
        env=environment,
    )
    os.close(follower)
    text = b""
    try:
        while part := os.read(leader, 1 << 16):
            text += part
            if interrupt_at and interrupt_at in text:
                process.send_signal(signal.SIGINT)
                interrupt_at = None
    except OSError:  # what Linux says when the last writer has gone
        pass
    os.close(leader)
    return text.decode(), process.wait(timeout=60)


@pytest.fixture
def array(tmp_path):
    np.save(tmp_path / "x.npy", BATCHES[0])
    return tmp_path / "x.npy"


@pytest.mark.parametrize("columns", [120, 40])
def test_terminal(array, columns):
    pytest.importorskip("rich")
    text, status = on_terminal("check", "--input", array, columns=columns)
    assert status == 0 and "\x1b[32m" in text and "checking x.npy float32" in text and "0/1" in text
    assert (
        text.rstrip().endswith("Self-check: 1 of 1 ok\x1b[0m")
        and text.count("\x1b[?25l") == text.count("\x1b[?25h") - 1
    )
    table = without_codes(text.rpartition("Self-check against")[2].partition("A cell is")[0])
    assert all(len(line.rstrip()) <= columns for line in table.splitlines()[1:]) and "same" in table
    assert table.count("x.npy") == (1 if columns == 120 else 4)


@pytest.mark.parametrize("columns", [100, 30])
def test_config_on_a_terminal(columns):
    pytest.importorskip("rich")
    text, status = on_terminal("config", columns=columns)
    rows = without_codes(text).splitlines()
    assert status == 0 and rows[0].split() == ["what", "detected"] and "\x1b[1m" in text
    assert max(len(row.rstrip()) for row in rows) <= columns
    assert ["numpy", np.__version__] in [row.split() for row in rows]


def test_explain_on_a_terminal(tmp_path):
    pytest.importorskip("rich")
    x = np.random.default_rng(0).standard_normal((8, 3)) / 20
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", cbn.BatchNorm(3, eps=1e-3, dtype=np.float64)(x))
    text, status = on_terminal("explain", tmp_path / "x.npy", tmp_path / "y.npy")
    assert status == 0 and re.search(r"\x1b\[32mfits: .*keras", text) and "\x1b[33mdiffers: eps is 0.001" in text


def test_interrupt_takes_the_bar_away():
    pytest.importorskip("rich")
    text, status = on_terminal("bench", interrupt_at=b"comparing forward")
    assert status == 130 and "Traceback" not in text and text.endswith("\x1b[2K") and "Comparison" not in text


def test_no_colors_where_they_are_not_wanted(array):
    text, status = on_terminal("check", "--input", array, NO_COLOR="1")
    assert status == 0 and "Self-check: 1 of 1 ok" in text and not re.search(r"\x1b\[[0-9;]*3[0-9]", text)


def test_pipes_beside_a_terminal(array, tmp_path):
    """Progress goes to the terminal; the file gets plain text."""
    with open(tmp_path / "out.txt", "wb") as file:
        text, status = on_terminal("check", "--input", array, columns=30, stdout=file)
    assert status == 0 and "\x1b[" in text and "Self-check" not in text
    plain = (tmp_path / "out.txt").read_bytes()
    assert b"\x1b" not in plain and plain.isascii() and plain.endswith(b"Self-check: 1 of 1 ok\n")
    assert b"layout  dtype" in plain and b"bits  result\n" in plain


def test_rich_comes_when_it_is_used():
    done = subprocess.run([sys.executable, "-c", "import cbn.cli, sys; sys.exit('rich' in sys.modules)"])
    assert done.returncode == 0
