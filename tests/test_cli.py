"""test_cli: `python -m cbn` as a user runs it, its files, its errors, and its exit status."""

import importlib.util
import json
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import cbn
from cbn import cli, machine_command, reference, selfcheck

COMMANDS = ("check", "bench", "config", "explain", "fold")
LAYOUTS = ["NC", "NCL", "NCHW", "NCHW 7x7 planes", "NCHW channels_last", "NCHW strided", "NCHW mean 1e6 std", "NHWC"]


def run(*arguments, status=0):
    command = [sys.executable, "-m", "cbn", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def refused(*arguments):
    """The one line that a wrong request gets."""
    done = run(*arguments, status=2)
    assert done.stdout == "" and done.stderr.count("\n") == 1
    return done.stderr


@pytest.fixture
def saved(tmp_path):
    def save(array, name="x.npy"):
        np.save(tmp_path / name, array, allow_pickle=True)
        return tmp_path / name

    return save


def normal(*shape, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


# --- the parts ---


def test_config_shows_what_was_detected(capsys):
    output = run("config").stdout
    cbn.show_config()
    assert output == capsys.readouterr().out
    assert cbn.__version__ in output and ", ".join(cbn.available_isas()) in output and np.__version__ in output


def test_everything_and_its_json(tmp_path):
    done = run("--quick", "--json", tmp_path / "all.json")
    result = json.loads((tmp_path / "all.json").read_text())
    assert result["ok"] is True
    assert result["config"]["cbn"] == cbn.__version__ and result["config"]["isas"] == list(cbn.available_isas())
    assert [(row["layout"], row["dtype"]) for row in result["check"]] == [
        (layout, str(dtype))
        for dtype in selfcheck.dtypes()
        for layout in LAYOUTS
        if dtype.itemsize > 2 or "1e6" not in layout
    ]
    for row in result["check"]:
        assert row["ok"] and row["same_bits"] and list(row["worst"]) == list(machine_command.CHECKED)
        assert all(0 < entry["ulp"] <= entry["bound"] for entry in row["worst"].values())
    rows = result["comparison"]
    assert [row["operation"] for row in rows] == 2 * ["forward", "backward", "inference"]
    for row in rows:
        seconds, traffic = row["seconds"], np.prod(row["shape"]) * 4 * (3 if row["operation"] == "backward" else 2)
        assert row["ok"] and row["agrees"]["cbn"] and row["agrees"]["numpy"] and min(seconds.values()) > 0
        assert row["gigabytes_per_second"] == pytest.approx(traffic / seconds["cbn"] / 1e9)
        assert row["speedup"]["numpy"] == pytest.approx(seconds["numpy"] / seconds["cbn"])
        assert ("torch" in seconds) == (importlib.util.find_spec("torch") is not None)
        assert "x".join(map(str, row["shape"])) in done.stdout
    checks = len(result["check"])
    assert f"Self-check: {checks} of {checks} ok" in done.stdout and done.stdout.count(" FAILED") == 0
    lines = done.stderr.splitlines()
    assert lines and all(line.startswith("cbn: ") for line in lines) and "\r" not in done.stderr


def test_parts_run_alone(tmp_path):
    run("check", "--quick", "--json", tmp_path / "check.json")
    assert json.loads((tmp_path / "check.json").read_text()).keys() == {"config", "check", "ok"}
    output = run("bench", "--quick").stdout
    assert "GB/s" in output and "Self-check" not in output


# --- the user's own array ---


@pytest.mark.parametrize(
    ("x", "axis"),
    [
        (normal(40, 5, 3, 3), None),
        (normal(6, 4, 4, 10, dtype=np.float64), -1),
        (np.asfortranarray(normal(30, 20)), 0),
        (normal(30, 20).astype(">f4"), 1),
    ],
    ids=["NCHW", "NHWC", "fortran", "byteswapped"],
)
def test_input_is_checked_and_compared(x, axis, saved, tmp_path):
    run("--input", saved(x), *([] if axis is None else ["--axis", axis]), "--json", tmp_path / "x.json")
    result = json.loads((tmp_path / "x.json").read_text())
    (row,) = result["check"]
    assert row["layout"] == "x.npy" and row["shape"] == list(x.shape) and row["axis"] == (1 if axis is None else axis)
    assert row["dtype"] == x.dtype.newbyteorder("=").name and row["ok"]
    assert {tuple(r["shape"]) for r in result["comparison"]} == {x.shape}


def test_bad_input_is_refused_in_one_line(saved, tmp_path):
    assert "--input must be a file that can be read; got missing.npy: No such file" in refused("--input", "missing.npy")
    assert "--input must be a file that can be read; got" in refused("check", "--input", tmp_path)
    pickled = tmp_path / "pickled.npy"
    pickled.write_bytes(pickle.dumps([1.0, 2.0]))
    assert "--input must be a .npy file of numbers; got" in refused("bench", "--input", pickled)
    assert "--input must be numbers; got object" in refused("--input", saved(np.array([[{}, 1.0]])))
    (tmp_path / "empty.npy").touch()
    assert "--input must be a .npy file of numbers; got" in refused("--input", tmp_path / "empty.npy")
    cut = saved(normal(8, 3), "cut.npy")
    cut.write_bytes(cut.read_bytes()[:-8])
    assert "--input must be a .npy file of numbers; got" in refused("--input", cut)
    assert "--input must have dtype float16, float32 or float64; got int64" in refused(
        "--input", saved(np.ones((2, 3), int))
    )
    assert "--input must have rank 2 or more; got shape (5,)" in refused("--input", saved(normal(5)))
    assert "--axis must lie between -2 and 1 for rank 2; got 2" in refused("--input", saved(normal(8, 3)), "--axis", 2)
    for shape in (1, 3), (0, 3), (5, 0):
        assert "2 or more values per channel of axis 1; got shape" in refused("--input", saved(normal(*shape)))


def test_options_that_do_not_fit_are_refused(tmp_path):
    assert "--axis must come with --input; got it alone" in refused("--axis", 1)
    assert "--json must be a file that can be written; got" in refused("--json", tmp_path / "none" / "x.json")
    assert "--json must be a file that can be written; got" in refused("--json", tmp_path)
    assert "--json must be a file that can be written; got" in refused("--json", tmp_path / (300 * "x"))
    full = run("config", "--json", "/dev/full", status=2).stderr
    assert full == "cbn: --json must be a file that can be written; got /dev/full: No space left on device\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("folds", "SUBCOMMAND must be one of {names}; got folds; did you mean fold?"),
        ("x.npy", "SUBCOMMAND must be one of {names}; got x.npy"),
        ("--quick check", "check must come first; got --quick check"),
        ("--quick config", "config must come first; got --quick config"),
        ("config --plot p.png", "arguments must be those that `python -m cbn config --help` names; got --plot p.png"),
        ("config --input x.npy", "arguments must be those that `python -m cbn config --help` names; got --input x.npy"),
        ("--speed", "arguments must be those that `python -m cbn --help` names; got --speed"),
        ("check --qui", "arguments must be those that `python -m cbn check --help` names; got --qui"),
        ("bench out.json", "arguments must be those that `python -m cbn bench --help` names; got out.json"),
        ("check --axis one", "--axis must be an integer; got one"),
        ("check --axis", "--axis must have a value; got none"),
        ("bench --quick=1", "--quick must have no value; got 1"),
        ("explain", "x.npy, y.npy|state.npz must be given; got none"),
        ("explain x.npy", "y.npy|state.npz must be given; got none"),
        (
            "explain x.npy y.npy --assumed torhc",
            "--assumed must be one of {conventions}; got torhc; did you mean torch?",
        ),
        ("explain x.npy y.npy --axis 1.5", "--axis must be an integer; got 1.5"),
        ("fold model.onnx", "out.onnx must be given; got none"),
        ("fold a.onnx b.onnx c.onnx", "arguments must be those that `python -m cbn fold --help` names; got c.onnx"),
    ],
)
def test_wrong_arguments(arguments, text, capsys):
    assert cli.main(arguments.split()) == 2
    wanted = text.format(names=", ".join(COMMANDS), conventions=", ".join(cbn.conventions.NAMES))
    assert capsys.readouterr() == ("", f"cbn: {wanted}\n")


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_help(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([*([name] if name else []), "--help"])
    text = capsys.readouterr().out
    assert text.startswith(f"usage: python -m cbn{f' {name}' if name else ''} ")
    assert "exit status: 0" in text and "--json" in text and ("1 if " in text) == (name != "config")
    assert f"  python -m cbn {name or 'bench'} " in text.partition("example")[2]
    assert ("--plot" in text) == (name != "config") and max(map(len, text.splitlines())) < 100
    if name is None:
        lines = [line.split(maxsplit=1) for line in text.splitlines()]
        assert all(any(line[:1] == [one] and len(line) == 2 for line in lines) for one in COMMANDS)


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"cbn {cbn.__version__}\n"


# --- plots ---


@pytest.mark.parametrize("part", ["check", "bench", None])
def test_plots(part, saved, tmp_path):
    pytest.importorskip("matplotlib")
    run(*([part] if part else []), "--input", saved(normal(40, 3)), "--plot", tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    run(*([part] if part else []), "--input", saved(normal(40, 3)), "--plot", tmp_path / "p.SVG")
    assert b"<svg" in (tmp_path / "p.SVG").read_bytes()


def test_plots_that_cannot_be_written(saved, tmp_path):
    pytest.importorskip("matplotlib")
    x = saved(normal(40, 3))
    kinds = "--plot must end in one of .png, .svg, .pdf, .jpg; got"
    for name in ("p.numbers", "p", "p.pgf", "p.ps"):  # .pgf would give names in models to LaTeX
        assert kinds in refused("check", "--plot", tmp_path / name)
    assert "--plot must be a file that can be written; got" in refused("check", "--plot", tmp_path / "none" / "p.png")
    both = tmp_path / "p.png"
    assert "--plot must be a file of its own; got" in refused("check", "--plot", both, "--json", both)
    (tmp_path / "full.png").symlink_to("/dev/full")
    done = run("check", "--input", x, "--plot", tmp_path / "full.png", "--json", tmp_path / "x.json", status=2)
    assert "cbn: --plot must be a file that can be written; got" in done.stderr and "No space left" in done.stderr
    assert json.loads((tmp_path / "x.json").read_text())["ok"]  # the plot comes last


def test_plot_without_matplotlib_names_the_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["bench", "--plot", str(tmp_path / "p.png")]) == 2
    assert capsys.readouterr().err == (
        "cbn: --plot must have matplotlib (pip install 'cbn[plot]'); got no such module\n"
    )


# --- when something is wrong ---


def test_results_that_differ_from_the_oracle_fail(monkeypatch, capsys, saved, tmp_path):
    def another_oracle(*args, **kwargs):
        dx, *rest = true_oracle(*args, **kwargs)
        return dx * 1.01, *rest

    true_oracle = reference.batch_norm_backward
    monkeypatch.setattr(reference, "batch_norm_backward", another_oracle)
    assert cli.main(["--input", str(saved(normal(50, 6))), "--json", str(tmp_path / "x.json")]) == 1
    output = capsys.readouterr().out
    assert f"FAILED: x.npy float32: backward dx with {cbn.available_isas()[-1]}: " in output
    assert "Self-check: 0 of 1 ok" in output and "marked with ! differ from the oracle" in output
    result = json.loads((tmp_path / "x.json").read_text())
    assert result["ok"] is False
    assert {(f["operation"], f["quantity"], f["isa"]) for f in result["check"][0]["failures"]} == {
        (operation, "dx", isa) for operation in ("backward", "fused", "masked") for isa in cbn.available_isas()
    }
    assert [row["ok"] for row in result["comparison"]] == [True, False, True]


def test_bits_that_differ_fail(monkeypatch, capsys, saved):
    def forward(*args, num_threads, **kwargs):
        y, mean, inv_std = cbn.batch_norm_forward(*args, num_threads=num_threads, **kwargs)
        return (np.nextafter(y, np.float32(2)) if num_threads == 3 else y), mean, inv_std

    monkeypatch.setattr(selfcheck, "batch_norm_forward", forward)
    assert cli.main(["check", "--input", str(saved(normal(50, 6)))]) == 1
    output = capsys.readouterr().out
    assert "FAILED: x.npy float32: other bits with baseline and 3 threads" in output and "2 threads" not in output
    assert "Same bits for all instruction sets and numbers of threads: NO" in output


def started(*arguments, **options):
    return subprocess.Popen([sys.executable, "-m", "cbn", *arguments], text=True, stderr=subprocess.PIPE, **options)


def test_interrupt_ends_quietly():
    process = started("bench", stdout=subprocess.PIPE)
    assert process.stderr.readline().startswith("cbn: comparing")
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and output == ""
    assert all(line.startswith("cbn: comparing") for line in errors.splitlines())


def test_a_full_disk():
    with open("/dev/full", "w") as full:
        _, errors = started("config", stdout=full).communicate(timeout=30)
    assert errors == "cbn: the output, or a file, must be there and have room; got No space left on device\n"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError(), "memory must be enough for this; got no more"),
        (MemoryError("Unable to allocate 2 TiB"), "memory must be enough for this; got Unable to allocate 2 TiB"),
        (OSError(5, "Input/output error", "x\033.npy"), "x?.npy must be there and have room; got Input/output error"),
    ],
)
def test_what_the_system_lacks_is_named(error, text, monkeypatch, capfd):
    def lacking():
        raise error

    monkeypatch.setattr(cli, "_drop_output", lambda: None)
    monkeypatch.setattr(machine_command.runtime, "config", lacking)
    assert cli.main(["config"]) == 2
    assert capfd.readouterr().err == f"cbn: {text}\n"


def test_a_reader_that_leaves_ends_it_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    process = started("config", stdout=writer)
    os.close(writer)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 141 and errors == ""
