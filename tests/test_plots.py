"""test_plots: what the command line's plots show, and of how much that is not ordinary they can be drawn."""

from types import SimpleNamespace

import numpy as np
import pytest

import cbn
from cbn import comparison, machine_command, plots
from cbn.distances import distances
from cbn.interop.verify_onnx import Agreement

pytest.importorskip("matplotlib")

CONVENTIONS = cbn.conventions.NAMES


def normal(*shape, scale=1.0):
    return (scale * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


def points(axes):
    """The x of each series of points, by its label."""
    return {line.get_label(): list(line.get_xdata()) for line in axes.lines if not line.get_label().startswith("_")}


def rows_of(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def drawn(figure, tmp_path):
    plots.save(figure, tmp_path / "p.png")
    return figure.axes


# --- check and bench ---


def test_check(tmp_path):
    rows = machine_command.check(("x.npy", normal(40, 3), 1), True)
    rows += machine_command.check(("$a$ $", normal(40, 3).astype(np.float64), 1), True)
    rows[1]["worst"]["backward"]["ulp"] = 1e9  # as if it were wrong
    single, double = drawn(plots.of_check(rows), tmp_path)
    assert single.get_title() == "float32" and double.get_title() == "float64"
    assert rows_of(single) == ["x.npy", "$a$ $"]
    shown = points(single)
    assert shown.pop("bound") == [1, 1] and tuple(shown) == machine_command.CHECKED
    for operation, (share,) in shown.items():
        entry = rows[0]["worst"][operation]
        assert share == entry["ulp"] / entry["bound"] <= 1
    assert points(double)["backward"] == [2] == [double.get_xlim()[1]]  # at the edge


def test_bench(tmp_path):
    rows = list(comparison.compare(comparison.Problem("NC", normal(64, 32), 1), lambda text: None))
    for axes, row in zip(drawn(plots.of_comparison(rows), tmp_path), rows, strict=True):
        speeds = {bars.get_label(): bars[0].get_width() for bars in axes.containers}
        assert list(speeds) == [name for name in row["seconds"] if name != "copy"]
        assert speeds["cbn"] == pytest.approx(row["gigabytes_per_second"])
        assert speeds["cbn"] / speeds["numpy"] == pytest.approx(row["speedup"]["numpy"])
        (copy,) = [lines for lines in axes.collections if lines.get_label() == "copy of the memory"]
        assert speeds["cbn"] / copy.get_segments()[0][0, 0] == pytest.approx(row["share_of_copy"])
        assert axes.get_title() == row["operation"]
    assert rows_of(axes.figure.axes[0]) == ["NC\n64x32"]


# --- explain ---


def explained(x, y, layer, before=None, given=("y", "state")):
    """What `explain` says, and the distances."""
    arrays = {"y": y, "state": layer.state_dict()}
    arrays = {name: arrays[name] for name in given} | ({"before": before} if before else {})
    found = cbn.explain(x, **arrays)
    return found, distances(found, x, **arrays)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_conventions(name, tmp_path):
    """Those are nearer than rounding explains of which `explain` says that they fit."""
    layer, x = cbn.BatchNorm(3, convention=name, dtype=np.float32), normal(8, 3, scale=0.01)
    if layer.convention.eps_place == "outside":  # which is for inference
        layer.eval()
    before = {key: value.copy() for key, value in layer.state_dict().items()}
    found, by_quantity = explained(x, layer(x), layer, before)
    for other in map(cbn.conventions.named, CONVENTIONS):
        for source, by_name in by_quantity["y"].items():
            ways = [way for way in found.ways if (way.normalized_with, way.eps_place) == (source, other.eps_place)]
            assert (by_name[other.name] <= 1) == any(way.least <= other.eps <= way.most for way in ways)
        if layer.training:
            own, with_found = by_quantity["running_var"].values()
            assert own[name] <= 1
            assert (with_found[other.name] <= 1) == (other.variance in found.variance)
    assert list(by_quantity) == ["y", "running_var"][: 1 + layer.training]  # of evaluation it has not moved
    pictures = drawn(plots.of_distances(by_quantity), tmp_path)
    assert [axes.get_title() for axes in pictures] == list(by_quantity)
    shown = dict(
        zip(CONVENTIONS, points(pictures[0])["with batch" if layer.training else "with running"], strict=False)
    )
    assert rows_of(pictures[0])[: len(CONVENTIONS)] == list(CONVENTIONS) and shown[name] <= 1


def test_another_eps_and_relu(tmp_path):
    x = normal(8, 3, scale=0.01)
    layer = cbn.BatchNorm(3, eps=2e-3, activation="relu")
    _, found = explained(x, layer(x), layer, given=("y",))
    assert list(found) == ["y"] and list(found["y"]["batch"]) == [*CONVENTIONS, "eps 0.002 inside"]
    assert [name for name, distance in found["y"]["batch"].items() if distance <= 1] == ["eps 0.002 inside"]
    drawn(plots.of_distances(found), tmp_path)


def test_states_alone(tmp_path):
    x, layer = normal(8, 3), cbn.BatchNorm(3, convention="onnx")
    y = layer(x)
    _, found = explained(x, y, layer, given=("state",))
    assert list(found) == ["running_var"]
    fits = [name for name, distance in found["running_var"]["its own momentum"].items() if distance <= 1]
    assert "onnx" in fits and "torch" not in fits and "keras" not in fits
    drawn(plots.of_distances(found), tmp_path)


@pytest.mark.parametrize("y", ["constant", "squared", "nan"])
def test_what_nothing_fits(y, tmp_path):
    x, layer = normal(8, 3), cbn.BatchNorm(3)
    x[:, 0] = 1
    y = {"constant": 0 * layer(x), "squared": layer(x) ** 2 - 3, "nan": layer(x) * [np.nan, 1, 1]}[y]
    pictures = drawn(plots.of_distances(explained(x, y, layer)[1]), tmp_path)
    assert all(np.isfinite(line.get_xdata()).all() for axes in pictures for line in axes.lines)


def test_distances_off_the_axis(tmp_path):
    """Too large ones stand at the edge, those that are not finite there with a marker of their own."""
    series = {"batch": {"a": 3.0, "b": 1e30, "c": 0.0}, "running": {"a": np.nan, "b": np.inf, "c": 1e9}}
    (axes,) = drawn(plots.of_distances({"y": series}), tmp_path)
    shown = points(axes)
    assert shown["with batch"] == [3, 1e9, 1e-2] and shown["with running"] == [1e9]
    assert shown["with running: not finite"] == [1e9, 1e9] and "with batch: no number" not in shown
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["with running: not finite"].get_color() == lines["with running"].get_color()
    assert "beyond 1e9 at the edge" in axes.get_xlabel()


# --- fold ---


def test_agreement(tmp_path):
    each = (
        Agreement(2e-7, 1e-4, "y"),
        Agreement(0.0, 1e-4, "a"),
        Agreement(3e-3, 1e-4, "wrong $x$ \033$"),
        Agreement(np.inf, 2e-2, "infinite"),
        Agreement(0.005, 1e-2, "/a/very/long/path/of/many/parts/as/torch/writes/them", counted=True),
    )
    (axes,) = drawn(plots.of_agreement(SimpleNamespace(each=each)), tmp_path)
    assert rows_of(axes)[:2] == ["infinite", "wrong $x$ ?$"] and rows_of(axes)[2].endswith("/as/torch/writes/them")
    shown = points(axes)
    assert shown["bound"] == [2e-2, 1e-4, 1e-2, 1e-4, 1e-4]
    assert shown["difference"][:2] == [0.005, 2e-7] and shown["difference, too large"][1] == 3e-3
    assert axes.get_xlim()[0] < shown["difference"][2] < 1e-9 and shown["difference, too large"][0] < axes.get_xlim()[1]


def test_many_values(tmp_path):
    each = tuple(Agreement(1e-9 * k, 1e-4, f"n{k}") for k in range(100))
    (axes,) = drawn(plots.of_agreement(SimpleNamespace(each=each)), tmp_path)
    assert rows_of(axes) == [f"n{k}" for k in range(99, 59, -1)] and "100 values" in axes.get_title()
