"""test_saving: a save that fails, is killed or has company leaves the old file or the new one, whole."""

import errno
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

import cbn
from cbn import containers

SUFFIXES = (".npz", ".safetensors")
TEMPORARY = re.compile(r"\.cbn-[0-9a-f]{32}\.(npz|safetensors)")

# saves with another content, and dies at the n-th event, before it: a line of cbn or of what it calls, or a write
KILLED = """
import os, signal, sys
import cbn, safetensors.numpy
from cbn import containers

path, suffix, step = sys.argv[1], sys.argv[2], int(sys.argv[3])
layer = cbn.BatchNorm(300)
layer.bias[...] = 2
layer.save(path + "/warm" + suffix)
os.unlink(path + "/warm" + suffix)
die_at, seen = None, 0

def trace(frame, event, argument):
    global seen
    seen += 1
    if seen == die_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return trace

def steps():
    global seen
    seen = 0
    sys.settrace(trace)
    layer.save(path + "/layer" + suffix)
    sys.settrace(None)
    return seen

total = steps()
for k in [*range(1, total, step), total]:
    cbn.BatchNorm(300).save(path + "/layer" + suffix)
    child = os.fork()
    if not child:
        die_at = k
        steps()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, k
    found = cbn.BatchNorm.load(path + "/layer" + suffix).bias
    assert (found == found[0]).all() and found[0] in (0, 2), k
    left = [name for name in os.listdir(path) if name != "layer" + suffix]
    print(int(found[0]), len(left), *left)
    for name in left:
        os.unlink(os.path.join(path, name))
"""


def python(code, *arguments, **options):
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_killed_at_any_time(tmp_path, suffix):
    rows = [line.split() for line in python(KILLED, tmp_path, suffix, 53).splitlines()]
    assert len(rows) > 15
    assert {row[0] for row in rows} == {"0", "2"}  # some were killed before the new file had its name, some after
    assert all(len(row) - 2 == int(row[1]) <= 1 and all(map(TEMPORARY.fullmatch, row[2:])) for row in rows)
    assert any(row[1] == "1" for row in rows)


FULL = """
import cbn, os, resource, signal, sys
from pathlib import Path

path = Path(sys.argv[1])
layer = cbn.BatchNorm(3000)
layer.save(path)
before = path.read_bytes()
layer.bias[...] = 2
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for size in (0, 1, 100, 5000, len(before) // 2, len(before) - 1):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        layer.save(path)
    except OSError as error:
        print(error.errno)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]
resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 4096, resource.RLIM_INFINITY))
layer.save(path)
assert (cbn.BatchNorm.load(path).bias == 2).all()
"""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_disk_that_is_full(tmp_path, suffix):
    """Written up to some byte, with the system's error then."""
    assert python(FULL, tmp_path / f"layer{suffix}").split() == [str(errno.EFBIG)] * 6


@pytest.mark.parametrize("failing", ["fsync", "replace", "open"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_each_call_of_the_system_fails(tmp_path, monkeypatch, suffix, failing):
    path, layer = tmp_path / f"layer{suffix}", cbn.BatchNorm(3)
    layer.save(path)
    before = path.read_bytes()
    layer.bias[...] = 2
    calls = []

    def fail(*arguments, **options):
        calls.append(arguments)
        raise OSError(errno.EIO, "failed")

    monkeypatch.setattr(containers.os, failing, fail)
    with pytest.raises(OSError, match="failed"):
        layer.save(path)
    assert calls and path.read_bytes() == before and names(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch, suffix):
    """The file is synchronized, then renamed, and then the folder is; one that cannot be does no harm."""
    path, order = tmp_path / f"layer{suffix}", []
    fsync, replace = os.fsync, os.replace

    def synchronized(handle):
        kind = "folder" if os.path.samestat(os.fstat(handle), tmp_path.stat()) else "file"
        order.append(kind)
        fsync(handle)
        if kind == "folder":
            raise OSError(errno.EINVAL, "not here")

    def replaced(*arguments):
        order.append("replace")
        replace(*arguments)

    monkeypatch.setattr(containers.os, "fsync", synchronized)
    monkeypatch.setattr(containers.os, "replace", replaced)
    cbn.BatchNorm(3).save(path)
    assert order == ["file", "replace", "folder"] and cbn.BatchNorm.load(path).num_features == 3


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_through_links(tmp_path, suffix):
    """The link stays, and the file that it leads to is replaced, or made."""
    real, link, chained = (tmp_path / name / f"x{suffix}" for name in ("a", "b", "c"))
    for path in (real, link, chained):
        path.parent.mkdir()
    link.symlink_to(real)
    chained.symlink_to(link)
    for channels in (3, 4):
        cbn.BatchNorm(channels).save(chained)
        assert cbn.BatchNorm.load(real).num_features == channels and chained.is_symlink() and link.is_symlink()
    assert [names(path.parent) for path in (real, link, chained)] == [[real.name]] * 3
    link.unlink()
    link.symlink_to(tmp_path / "none" / real.name)
    with pytest.raises(FileNotFoundError):
        cbn.BatchNorm(3).save(chained)


NOBODY = """
import os, sys, uuid, zipfile
import cbn, safetensors.numpy
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    cbn.BatchNorm(3).save(sys.argv[1])
except PermissionError:
    print("refused")
"""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_folder_that_may_not_be_written(suffix):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"layer{suffix}"
        cbn.BatchNorm(3).save(path)
        path.chmod(0o666)
        before = path.read_bytes()
        path.parent.chmod(0o555)
        try:
            assert python(NOBODY, path) == "refused\n"
        finally:
            path.parent.chmod(0o700)
        assert path.read_bytes() == before and names(path.parent) == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("mode", [0o600, 0o400, 0o664])
def test_the_permissions_stay(tmp_path, monkeypatch, suffix, mode):
    """Also while the new file is written beside the old one."""
    path, written, fsync = tmp_path / f"layer{suffix}", [], os.fsync
    path.touch()
    path.chmod(mode)

    def synchronized(handle):
        written.append(os.fstat(handle).st_mode & 0o777)
        fsync(handle)

    monkeypatch.setattr(containers.os, "fsync", synchronized)
    cbn.BatchNorm(3).save(path)
    assert cbn.BatchNorm.load(path).num_features == 3
    assert written[0] == path.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_option_that_no_file_can_hold(tmp_path, suffix):
    layer = cbn.BatchNorm(3)
    layer.activation = b"relu"
    with pytest.raises(TypeError, match=r"options must be numbers, texts and flags; got b'relu'"):
        layer.save(tmp_path / f"layer{suffix}")
    assert names(tmp_path) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_long_names(tmp_path, suffix):
    path = tmp_path / ("n" * (255 - len(suffix)) + suffix)
    cbn.BatchNorm(3).save(path)
    assert cbn.BatchNorm.load(path).num_features == 3


MANY = """
import cbn, sys, numpy as np
for k in range(int(sys.argv[2])):
    layer = cbn.BatchNorm(1000)
    layer.weight[...] = layer.bias[...] = layer.running_mean[...] = layer.running_var[...] = k + float(sys.argv[3])
    layer.save(sys.argv[1])
"""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_saved_by_many_at_once(tmp_path, suffix):
    """Whoever loads in between finds the file of one of them."""
    path = tmp_path / f"layer{suffix}"
    cbn.BatchNorm(1000).save(path)
    stop, seen = threading.Event(), []

    def look():
        while not stop.is_set():
            state = cbn.BatchNorm.load(path).state_dict()
            seen.append({float(value) for name in ("bias", "running_mean") for value in np.unique(state[name])})

    def work(first):
        for k in range(15):
            layer = cbn.BatchNorm(1000)
            layer.bias[...] = layer.running_mean[...] = first + k
            layer.save(path)

    others = [subprocess.Popen([sys.executable, "-c", MANY, path, "15", str(1000 * k)]) for k in (1, 2)]
    reader = threading.Thread(target=look, daemon=True)
    writers = [threading.Thread(target=work, args=(100 * k,)) for k in (1, 2)]
    for thread in (reader, *writers):
        thread.start()
    try:
        for writer in writers:
            writer.join()
        assert [other.wait() for other in others] == [0, 0]
    finally:
        stop.set()
    reader.join()
    assert len(seen) > 1 and all(len(values) == 1 for values in seen)
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize(("own", "given"), [("float32", "bfloat16"), ("bfloat16", "float32"), ("float64", "float16")])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_parameters_of_another_dtype(tmp_path, suffix, own, given):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    own, given = (np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name) for name in (own, given))
    layer = cbn.BatchNorm(3, dtype=own)
    layer.weight = np.array([1, -2, 0.5]).astype(given)
    layer.save(tmp_path / f"layer{suffix}")
    loaded = cbn.BatchNorm.load(tmp_path / f"layer{suffix}").weight
    assert loaded.dtype == own and loaded.tolist() == [1, -2, 0.5]
    layer.weight = np.ones(3, np.uint16)  # which a file could not tell from bfloat16
    with pytest.raises(ValueError, match=r"weight must be (numbers|floats); got (U16|uint16)"):
        layer.save(tmp_path / f"layer{suffix}")
    assert cbn.BatchNorm.load(tmp_path / f"layer{suffix}").weight.tolist() == [1, -2, 0.5]
