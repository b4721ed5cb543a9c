"""test_effects: the frame of the effects, their layers, what every script must have; the site's build runs them all."""

import ast
import itertools
import runpy
import subprocess
import sys

import numpy as np
import pytest
from effects import FOLDER, imported

import cbn

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")

COMMON = ("script", "networks")
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.stem not in COMMON)
QUICKEST = FOLDER / "feature_scaling.py"

script, networks = map(imported, COMMON)

every_script = pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)


def start(*command, status=0):
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=300)
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run a script that ends before it measures, without a process of its own: its status, and what it said."""

    def run(path, *arguments):
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # which the frame sets
        with pytest.raises(SystemExit) as exit:
            runpy.run_path(str(path), run_name="__main__")
        return exit.value.code, *capsys.readouterr()

    return run


# --- every script ---


@every_script
def test_docstring(path):
    title, underline, empty, *text = ast.get_docstring(ast.parse(path.read_text())).splitlines()
    assert title and set(underline) == {"="} and len(underline) >= len(title) and not empty
    assert text[0].startswith("**Expected.** ")


@every_script
def test_help(path, refused):
    status, said, _ = refused(path, "--help")
    assert status == 0 and "--plot FILE" in said and "Exit status: 0, or 1" in said


@every_script
def test_wrong_plot(path, refused):
    status, said, errors = refused(path, "--plot", "plot.xyz")
    usage, error = errors.splitlines()
    assert status == 2 and not said and usage.startswith("usage: ")
    assert ": error: --plot must end in one of ." in error and error.endswith("; got plot.xyz")


def test_a_script_from_end_to_end(tmp_path):
    done = start(QUICKEST, "--plot", tmp_path / "plot.png")
    assert done.stdout.startswith("Seen: ")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


# --- the frame ---


def run(monkeypatch, *claims, arguments=()):
    """What the frame makes of claims: the results are handed on to `tell` and `draw`, and the figure is drawn on."""
    monkeypatch.setattr(sys, "argv", ["effect", *map(str, arguments)])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # which the frame sets
    drawn = []

    def tell(results):
        assert results == "results"
        yield from claims

    script.run("An effect\n=========", lambda: "results", tell, lambda *given: drawn.append(given))
    ((figure, results),) = drawn
    assert isinstance(figure, matplotlib.figure.Figure) and results == "results"


def test_claims_that_hold(monkeypatch, capsys):
    run(monkeypatch, (True, "It rains."), (np.True_, "It pours."))
    assert capsys.readouterr().out == "Seen: It rains. It pours.\n"


@pytest.mark.parametrize("false", [False, np.False_, None])
def test_a_claim_that_does_not_hold(monkeypatch, capsys, tmp_path, false):
    plot = tmp_path / "plot.png"
    with pytest.raises(script.UnexpectedError, match=r"^effect: NOT as expected: It pours\.$"):
        run(monkeypatch, (True, "It rains."), (false, "It pours."), (True, "It ends."), arguments=("--plot", plot))
    assert capsys.readouterr().out == "Seen: It rains. It pours. It ends.\n"
    assert plot.read_bytes().startswith(b"\x89PNG"), "a plot shows what is wrong"


EFFECT = """\"\"\"An effect
=========
\"\"\"
import sys

sys.path.insert(0, {folder!r})
from script import run

run(__doc__, dict, lambda results: [(False, "It pours.")], lambda figure, results: figure.subplots())
"""


@pytest.fixture
def failing(tmp_path):
    """A gallery of one effect that is not as expected, and the effect."""
    path = tmp_path / "gallery" / "pouring.py"
    path.parent.mkdir()
    path.write_text(EFFECT.format(folder=str(FOLDER)))
    (path.parent / "README.rst").write_text("Gallery\n=======\n")
    return path


def test_a_failing_effect_ends_in_one_line_and_status_1(failing, tmp_path):
    done = start(failing, "--plot", tmp_path / "plot.png", status=1)
    assert done.stdout == "Seen: It pours.\n"
    assert done.stderr == "pouring.py: NOT as expected: It pours.\n"


def test_a_failing_effect_fails_the_site(failing, tmp_path):
    pytest.importorskip("sphinx_gallery")
    conf = "{'examples_dirs': 'gallery', 'filename_pattern': '.*', 'abort_on_example_error': True}"
    (tmp_path / "conf.py").write_text(f"extensions = ['sphinx_gallery.gen_gallery']\nsphinx_gallery_conf = {conf}\n")
    (tmp_path / "index.rst").write_text("Site\n====\n\n.. toctree::\n\n   auto_examples/index\n")
    done = start("-m", "sphinx", "-q", tmp_path, tmp_path / "site", status=2)
    assert "pouring.py: NOT as expected: It pours." in done.stderr and "--plot" not in done.stderr


def test_other_errors_have_a_traceback(failing):
    failing.write_text(failing.read_text().replace("dict, ", "lambda: 1 / 0, "))
    errors = start(failing, status=1).stderr
    assert errors.startswith("Traceback") and errors.endswith("ZeroDivisionError: division by zero\n")


def test_without_a_display_it_says_how_to_get_the_plot(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "sphinx_gallery", raising=False)
    run(monkeypatch, (True, "It rains."))
    assert capsys.readouterr() == (
        "Seen: It rains.\n",
        "There is no display to show the plot on; --plot FILE writes it.\n",
    )


@pytest.mark.parametrize("file", ["plot.PNG", "a.b.svg"])
def test_a_plot_that_can_be_written(tmp_path, file):
    assert script.refused(tmp_path / file) is None


@pytest.mark.parametrize(
    "file, rule",
    [
        ("png", "end in one of ."),
        ("missing/plot.png", "be in a folder that exists"),
        ("folder.png", "be a file that can be written"),
    ],
)
def test_a_plot_that_cannot(tmp_path, file, rule):
    (tmp_path / "folder.png").mkdir()
    assert script.refused(tmp_path / file).startswith(rule)


@pytest.mark.parametrize("there", [False, True])
def test_a_plot_where_nothing_may_be_written(monkeypatch, tmp_path, there):
    plot = tmp_path / "plot.png"
    if there:
        plot.touch()
    asked = []
    monkeypatch.setattr(script.os, "access", lambda path, mode: asked.append((path, mode)))  # root may write everywhere
    assert script.refused(plot) == "be a file that can be written"
    assert asked == [(plot if there else tmp_path, script.os.W_OK)]


def test_progress_is_for_terminals_alone(capsys):
    assert list(script.followed(range(3), "steps")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_until():
    assert script.until([0.1, 0.5, 0.2, 0.6], 0.5) == 2
    assert script.until([0.1, np.nan], 0.5) is None


def test_band():
    axes = matplotlib.figure.Figure().subplots()
    script.band(axes, [1, 2], np.array([[1, 5], [2, 3], [6, 4]]), color="red", label="runs")
    (line,), (filled,) = axes.lines, axes.collections
    assert line.get_ydata().tolist() == [2, 4] and line.get_label() == "runs"
    assert filled.get_datalim(axes.transData).extents.tolist() == [1, 1, 2, 6]


# --- layers and networks ---

RNG = np.random.default_rng(0)
X = RNG.normal(size=(7, 4))


class Recorded:
    """A generator that always gives the same numbers."""

    def random(self, shape):
        return np.random.default_rng(1).random(shape)


def slope(function, array, step=1e-6):
    """The derivative of a number by every value of an array, which is moved meanwhile."""
    result = np.empty_like(array)
    for index in np.ndindex(array.shape):
        value = array[index]
        array[index] = value + step
        above = function()
        array[index] = value - step
        result[index] = (above - function()) / (2 * step)
        array[index] = value
    return result


@pytest.mark.parametrize(
    "layer",
    [networks.Sigmoid(), networks.ReLU(), networks.Dropout(0.4, Recorded())],
    ids=lambda layer: type(layer).__name__,
)
def test_gradient_of_a_layer(layer):
    x, dy = X.copy(), RNG.normal(size=X.shape)
    expected = slope(lambda: float((layer(x) * dy).sum()), x)
    layer(x)
    np.testing.assert_allclose(layer.backward(dy), expected, rtol=1e-6, atol=1e-8)


def norm(features):
    return cbn.BatchNorm1d(features, dtype=np.float64)


BETWEEN = {
    "nothing": lambda features: [networks.Sigmoid()],
    "norm before": lambda features: [norm(features), networks.Sigmoid()],
    "norm after": lambda features: [networks.Sigmoid(), norm(features)],
    "norm and dropout": lambda features: [norm(features), networks.ReLU(), networks.Dropout(0.3, Recorded())],
}


def stack(name):
    return networks.Stack(networks.initial_weights(np.random.default_rng(2), (4, 6, 5, 3), np.float64), BETWEEN[name])


@pytest.mark.parametrize("name", BETWEEN)
def test_gradient_of_a_network(name):
    network, labels = stack(name), np.array([0, 1, 2, 0, 1, 2, 2])

    def loss():
        return network.backward(X, labels, len(labels))

    loss()
    found = [(parameter, gradient.copy()) for parameter, gradient in network.parameters()]
    normed = name.startswith("norm")
    biases = 1 if name in ("norm before", "norm and dropout") else 3  # of linear layers
    assert len(found) == 3 + biases + (4 if normed else 0)
    for parameter, gradient in found:
        np.testing.assert_allclose(gradient, slope(loss, parameter), rtol=1e-5, atol=1e-8)


def test_modes_of_a_network():
    network = stack("norm and dropout")
    layers = [layer for layer in network.layers if hasattr(layer, "training")]
    assert len(layers) == 4 and all(layer.training for layer in layers)
    assert network.train(False) is network and not any(layer.training for layer in layers)
    assert all(layer.training for layer in network.train().layers if layer in layers)


def test_sigmoid_weights_keep_the_deviation_of_a_signal():
    rng = np.random.default_rng(0)
    x = 0.1 * rng.normal(size=(200, 400))
    (weight,) = networks.sigmoid_weights(rng, (400, 400), np.float64)
    assert networks.Sigmoid()(x @ weight).std() == pytest.approx(0.1, rel=0.1)


def test_dropout_keeps_the_mean_and_rests_in_inference():
    layer, ones = networks.Dropout(0.25, np.random.default_rng(0)), np.ones((200, 500), np.float32)
    y = layer(ones)
    assert y.dtype == np.float32 and set(np.unique(y)) == {0, np.float32(4 / 3)}
    assert abs(y.mean() - 1) < 0.01
    assert np.array_equal(layer.train(False)(ones), ones)


def test_batches_are_epochs_in_new_orders():
    found = list(itertools.islice(networks.batches(np.random.default_rng(0), 10, 4), 4))
    assert [len(batch) for batch in found] == [4] * 4
    epochs = [np.concatenate(found[:2]), np.concatenate(found[2:])]
    assert all(len(set(epoch)) == 8 and set(epoch) <= set(range(10)) for epoch in epochs)
    assert not np.array_equal(*epochs)


def test_steps_train():
    (x, labels), _ = networks.load_data(np.random.default_rng(0))
    weights = networks.initial_weights(np.random.default_rng(0), (64, 20, 10), np.float32)
    network = networks.Stack(weights, lambda features: [cbn.BatchNorm1d(features), networks.ReLU()])
    numbers, losses = zip(*networks.steps(network, (x, labels), np.random.default_rng(0), 0.2, 50, 60), strict=True)
    assert numbers == tuple(range(1, 61))
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) / 3
    assert network.norms[0].num_batches_tracked == 60
