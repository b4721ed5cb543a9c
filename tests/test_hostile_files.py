"""test_hostile_files: files that mean harm: refused, in words, and before they cost memory."""

import json
import os
import re
import socket
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import hostile
import hostile_npz
import hostile_tensors
import numpy as np
import pytest
from safetensors.numpy import save_file

import cbn
from cbn import containers, files, fold_command, reading

KINDS = [(".npz", name) for name in hostile_npz.NPZ] + [(".safetensors", name) for name in hostile_tensors.SAFETENSORS]
WRITERS = {cbn.BatchNorm: "BatchNorm.save", cbn.Moments: "Moments.save"}
MOST = 8 << 20  # bytes that a refusal may take: the text, a header of 128 KB as Python's objects, the parsers

# loads each file in a child of its own, which may map 64 MB, and prints the error and the memory that it took
MEASURE = """
import os, resource, sys
import cbn, json, zipfile, safetensors.numpy
from pathlib import Path
from cbn import files

def growth(read, path):
    mapped = 4096 * int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (mapped + (1 << 26),) * 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read(path)
        error = "nothing"
    except Exception as found:
        error = type(found).__name__
    return error, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)

READERS = {
    "BatchNorm.load": cbn.BatchNorm.load,
    "Moments.load": cbn.Moments.load,
    "read_arrays": lambda path: files.read_arrays(path, "x"),
}
for line in sys.stdin:
    path = Path(line.rstrip("\\n"))
    for name, read in READERS.items():
        sys.stdout.flush()
        child = os.fork()
        if not child:
            print(path.name, name, *growth(read, path), sep="|", flush=True)
            os._exit(0)
        os.waitpid(child, 0)
"""


def kinds(suffix):
    return hostile_npz.NPZ if suffix == ".npz" else hostile_tensors.SAFETENSORS


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_the_files_would_be_good_if_nothing_were_changed(tmp_path, suffix):
    """So that each of those below is refused for what is wrong with it."""
    path = tmp_path / f"x{suffix}"
    write = (
        hostile_npz.zipped(hostile_npz.members())
        if suffix == ".npz"
        else hostile_tensors.tensors(hostile_tensors.entries(), bytes(56))
    )
    write(path)
    assert cbn.BatchNorm.load(path).num_features == 3 and files.read_arrays(path, "x")["weight"].shape == (3,)
    if suffix == ".npz":
        hostile_npz.layer_of(1000, zipfile.ZIP_STORED)(path)
        assert cbn.BatchNorm.load(path).num_features == 1000


@pytest.mark.parametrize(("suffix", "kind"), KINDS, ids=[f"{kind}{suffix}" for suffix, kind in KINDS])
def test_refused_in_words(tmp_path, suffix, kind):
    path = tmp_path / f"bad{suffix}"
    kinds(suffix)[kind](path)
    for cls, writer in WRITERS.items():
        with pytest.raises(
            ValueError, match=rf"^path must be a file that {writer} wrote; got 'bad{suffix}': ."
        ) as error:
            cls.load(path)
        text = str(error.value)
        assert text.isprintable() and len(text) < 450


def test_refused_before_memory_is_taken(tmp_path):
    """Not more than a few megabytes, in RAM and as addresses; the files themselves are up to 64 MB."""
    for suffix, kind in KINDS:
        kinds(suffix)[kind](tmp_path / f"{KINDS.index((suffix, kind))}{suffix}")
    rows = measured(sorted(tmp_path.iterdir(), key=lambda path: int(path.stem)))
    assert len(rows) == 3 * len(KINDS)
    for name, reader, error, growth in rows:
        kind = KINDS[int(name.split(".")[0])]
        if reader.endswith(".load"):
            assert error == "ValueError" and int(growth) <= MOST, (kind, error, growth)
        else:  # takes any arrays, and unpacks 64 MB of them
            assert error in ("UserError", "nothing"), (kind, error, growth)


def measured(paths):
    """Path, reader, error and bytes of each load."""
    given = "".join(f"{path}\n" for path in paths)
    done = subprocess.run([sys.executable, "-c", MEASURE], input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [line.split("|") for line in done.stdout.splitlines()]


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_an_honest_file_takes_twelve_times_its_size(tmp_path, suffix):
    """At most, if its arrays are float16, and the layer's float64."""
    path, layer = tmp_path / f"x{suffix}", cbn.BatchNorm(500_000, dtype=np.float64)
    for name in ("weight", "bias", "running_mean", "running_var"):
        setattr(layer, name, np.ones(500_000, np.float16))
    layer.save(path)
    _, _, error, growth = measured([path])[0]
    assert error == "nothing" and path.stat().st_size < int(growth) < 12 * path.stat().st_size


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_command_line_unpacks_no_more_than_its_bound(tmp_path, monkeypatch, method):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.npy", hostile_npz.npy("(200000,)", data=bytes(800_000)))
    assert files.read_arrays(path, "x")["a"].shape == (200_000,)
    monkeypatch.setattr(files, "LARGEST_UNPACKED", 1000)
    if method == zipfile.ZIP_STORED:
        assert files.read_arrays(path, "x")["a"].shape == (200_000,)
    else:
        with pytest.raises(files.UserError, match="the archive's members must have at most"):
            files.read_arrays(path, "x")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_the_command_line_unpacks_only_what_has_a_bound(tmp_path, method):
    """zipfile unpacks each piece of these at once, however large it becomes."""
    path = tmp_path / "x.npz"
    hostile_npz.zipped({"a": hostile_npz.npy()}, method)(path)
    with pytest.raises(files.UserError, match="the archive must be stored or deflated; got another compression"):
        files.read_arrays(path, "x")


@pytest.mark.parametrize("order", "CF")
def test_the_command_line_reads_what_numpy_writes(tmp_path, order):
    for array in (np.asarray(np.arange(24.0).reshape(2, 3, 4), order=order), np.array(3), np.empty((0, 3), np.float16)):
        np.save(tmp_path / "x.npy", array)
        got = files.read_array(tmp_path / "x.npy", "x")
        np.testing.assert_array_equal(got, array)
        assert got.dtype == array.dtype and got.flags.writeable
        assert got.flags.f_contiguous == array.flags.f_contiguous and got.flags.c_contiguous == array.flags.c_contiguous


@pytest.mark.parametrize(
    ("header", "rule"),
    [
        ({"shape": f"({2**40},)"}, f"have {2**42} bytes of data"),
        ({"shape": "(-3,)"}, "have a header as NumPy writes it"),
        ({"shape": "(3L,)"}, "have a header as NumPy writes it"),  # Python 2
        ({"text": "1if 1if 1"}, "have a header as NumPy writes it"),  # Python's parser would warn
        ({"text": "-" * 9000 + "1"}, "have a header of at most 512 bytes"),
        ({"version": b"\2\0", "length": 2**32 - 1}, "be stored in .npy format 1.0"),
        ({"descr": "'|O'"}, "be numbers; got object"),
        ({"descr": "'|S0'", "shape": f"({10**9},)", "data": b""}, "be numbers; got |S0"),
        ({"data": bytes(13)}, "have 12 bytes of data"),
        ({"data": b""}, "have 12 bytes of data"),
    ],
    ids=str,
)
def test_the_command_line_refuses_arrays(tmp_path, header, rule):
    (tmp_path / "x.npy").write_bytes(hostile_npz.npy(**header))
    text = rf"^x must be a .npy file of numbers; got .*x.npy: x must {re.escape(rule)}"
    with pytest.raises(files.UserError, match=text):
        files.read_array(tmp_path / "x.npy", "x")


@pytest.mark.parametrize("name", ["\x1b[2J\r", "x" * 60_000])
def test_the_command_line_shows_names_of_files_in_one_short_line(tmp_path, name):
    path = tmp_path / "x.npz"
    hostile_npz.zipped({name: hostile_npz.npy(shape="(4,)")})(path)
    with pytest.raises(files.UserError, match=r"\?\[2J\?.npy must have 16 bytes of data|x{500}\.\.\.$") as error:
        files.read_arrays(path, "x")
    assert str(error.value).isprintable() and len(str(error.value)) < 1100


def odd_paths(folder, suffix):
    """A pipe that nobody writes to, a device, and a socket."""
    pipe, device, service = (folder / f"{name}{suffix}" for name in ("pipe", "device", "socket"))
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(service))
    return pipe, device, service


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_only_ordinary_files(tmp_path, suffix):
    layer, moments = cbn.BatchNorm(3), cbn.Moments(3, [1.0], [1.0])
    pipe, device, service = odd_paths(tmp_path, suffix)
    for path in (pipe, device):
        for use in (cbn.BatchNorm.load, cbn.Moments.load, layer.save, moments.save):
            with pytest.raises(ValueError, match=r"path must be an ordinary file; got '.*', a pipe or device"):
                use(path)
        with pytest.raises(files.UserError, match="x must be an ordinary file; got"):
            files.read_arrays(path, "x")
        with pytest.raises(ValueError, match=r"model\.onnx must be an ordinary file; got"):
            fold_command._read_model(SimpleNamespace(model=path))
    with pytest.raises(OSError, match="No such device"):
        cbn.BatchNorm.load(service)
    folder, loop, nothing = (tmp_path / f"{name}{suffix}" for name in ("folder", "loop", "nothing"))
    folder.mkdir()
    loop.symlink_to(loop)
    nothing.symlink_to(tmp_path / "none")
    for path, error in ((folder, IsADirectoryError), (loop, OSError), (nothing, FileNotFoundError)):
        with pytest.raises(error):
            cbn.BatchNorm.load(path)
    with pytest.raises(IsADirectoryError):
        layer.save(folder)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".cbn-")]


@pytest.mark.parametrize("use", [cbn.BatchNorm.load, cbn.Moments.load, cbn.BatchNorm(3).save])
def test_what_is_no_path(use):
    for path in (3, None, b"x.npz", ["x.npz"]):
        with pytest.raises(TypeError, match="path must be a str or path-like; got "):
            use(path)
    for path in ("", "x", ".npz", "x.npz\0.npz", "x.npz/"):
        with pytest.raises((ValueError, FileNotFoundError)):
            use(path + "none/none" if path.endswith("/") else path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_file_that_is_cut_while_it_is_read(tmp_path, suffix):
    """As by a program that writes a new file over the old one: an error, where a mapping would end the process."""
    path = tmp_path / f"x{suffix}"
    cbn.BatchNorm(10**5).save(path)
    container = containers._container_of(path)[1]
    with reading.opened(path) as file:
        contents = container(file)
        contents.meta()
        os.truncate(path, path.stat().st_size // 2)
        with pytest.raises((ValueError, EOFError, zipfile.BadZipFile)):
            for name in contents.names():
                contents.array(name, () if name == "num_batches_tracked" else (10**5,))


def test_pickles_inside_safetensors_files_are_bytes(tmp_path):
    """The format has no place for objects: what is no number is refused by its dtype."""
    path = tmp_path / "x.safetensors"
    save_file({"weight": np.frombuffer(b"cos\nabort\n(tR.", np.uint8)}, path, {"cbn": json.dumps(hostile.meta_of())})
    with pytest.raises(ValueError, match="the arrays must be weight, bias"):
        cbn.BatchNorm.load(path)
