"""test_explain_command: `python -m cbn explain` on files of a user, and what it refuses."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from test_cli import refused, run

import cbn


def write_arrays(folder):
    """What a Keras-like system was given and made of it, twice."""
    rng = np.random.default_rng(0)
    layer = cbn.BatchNorm(3, axis=-1, convention="keras", momentum=0.9)
    layer(rng.standard_normal((8, 3)).astype(np.float32))
    np.savez(folder / "before.npz", **layer.state_dict())
    x = (0.1 * rng.standard_normal((8, 3))).astype(np.float32)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", layer(x))
    np.savez(folder / "state.npz", **layer.state_dict())


@pytest.fixture
def files(tmp_path):
    write_arrays(tmp_path)
    return tmp_path


def test_answer(files):
    arguments = [files / name for name in ("x.npy", "y.npy", "state.npz")]
    done = run("explain", *arguments, "--before", files / "before.npz", "--axis", -1, "--json", files / "found.json")
    assert "running_var is biased" in done.stdout and "momentum keeps 0.9 of the old value" in done.stdout
    assert "differs: eps is 0.001, the default of torch is 1e-05" in done.stdout
    found = json.loads((files / "found.json").read_text())
    assert [(way["normalized_with"], way["eps"]) for way in found["ways"]] == [("batch", [0.001])]
    assert (
        "differs: momentum"
        in run("explain", *arguments[::2], "--before", files / "before.npz", "--assumed", "keras").stdout
    )
    assert "eps 0.001 inside" in run("explain", *arguments[:2]).stdout
    save_file(dict(np.load(files / "state.npz")), files / "state.safetensors")
    same = run("explain", *arguments[:2], files / "state.safetensors", "--before", files / "before.npz", "--axis", -1)
    assert same.stdout == done.stdout


def test_plot(files):
    pytest.importorskip("matplotlib")
    x, y, state, plot = (files / name for name in ("x.npy", "y.npy", "state.npz", "p.png"))
    for given in ([y], [state], [y, state, "--before", files / "before.npz"]):
        run("explain", x, *given, "--plot", plot, status=1 if given == [state] else 0)
        assert plot.read_bytes().startswith(b"\x89PNG")
        plot.unlink()
    assert "--plot must end in one of ." in refused("explain", x, y, "--plot", y)
    plot.symlink_to("/dev/full")
    run("explain", x, y, "--plot", plot, "--json", files / "found.json", status=2)
    assert json.loads((files / "found.json").read_text())["ways"]  # the plot comes last
    taken = y.rename(files / "y.png")
    assert "--plot must be a file of its own; got" in refused("explain", x, taken, "--plot", taken)


def test_nothing_fits(files):
    np.save(files / "y.npy", np.load(files / "y.npy") ** 2 - 3)
    assert "nothing gives y" in run("explain", files / "x.npy", files / "y.npy", status=1).stdout


def test_refused(files):
    x, y, state = (files / name for name in ("x.npy", "y.npy", "state.npz"))
    assert "x.npy must be a file that can be read; got missing.npy: No such file" in refused(
        "explain", "missing.npy", y
    )
    assert "after x.npy there must be y.npy, state.npz or one of each; got" in refused("explain", x, y, y)
    assert "after x.npy there must be y.npy, state.npz or one of each; got x.txt" in refused("explain", x, "x.txt")
    assert "axis must lie between -2 and 1 for x of rank 2; got 5" in refused("explain", x, y, "--axis", 5)
    np.savez(state, weight=np.array([{}], object))
    assert "state.npz must be a .npz file of numbers; got" in refused("explain", x, state)
    for damage in (b"", b"PK", state.read_bytes()[:-30]):
        state.write_bytes(damage)
        assert "state.npz must be a .npz file of numbers; got" in refused("explain", x, state)
    done = run("explain", x, y, "--json", files / "none" / "a.json", status=2)
    assert "--json must be a file that can be written; got" in done.stderr
    assert "--json must be a file of its own; got" in refused("explain", x, y, "--json", x)
    bad = state.with_suffix(".safetensors")
    bad.write_bytes(b"nonsense" * 9)
    assert "state.npz must be a .safetensors file of numbers; got" in refused("explain", x, bad)
    y.write_bytes(b"no array")
    assert "y.npy must be a .npy file of numbers; got" in refused("explain", x, y)
