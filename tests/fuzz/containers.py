"""containers: files of layers and of moments, whole, or with bytes changed: in the archive, or in what it holds."""

import io
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from rules import RAISED, must

import cbn

FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-")


def _whole():
    """Bytes of files that save wrote, by suffix and class."""
    layers = [cbn.BatchNorm(3), cbn.BatchNorm(2, renorm=True, convention="keras", dtype=np.float16)]
    moments = [cbn.moments(np.ones((4, 2))), cbn.Moments([1, 2], [0.0, 1.0], [0.0, 2.0])]
    found = []
    for suffix in (".npz", ".safetensors"):
        for value in (*layers, *moments):
            path = Path(FOLDER.name, "whole" + suffix)
            value.save(path)
            found.append((type(value), suffix, path.read_bytes()))
    return found


WHOLE = _whole()


def _changed(s, content):
    """The bytes with some others, at places that the source chooses."""
    content = bytearray(content)
    for _ in range(s.pick((1, 0, 2, 5))):
        at = (s.byte() << 8 | s.byte()) % (len(content) + 1)
        how = s.byte() % 4
        if how == 0:
            content[at : at + 1] = bytes([s.byte()])
        elif how == 1:
            content[at:at] = bytes(s.byte() for _ in range(1 + s.byte() % 8))
        elif how == 2:
            del content[at : at + 1 + s.byte() % 64]
        else:
            del content[at:]
    return bytes(content)


def _rebuilt(s, content):
    """An archive whose members are changed, and have the right checksums."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(written, "w") as new:
        for name in old.namelist():
            member = old.read(name)
            if s.rarely(3):
                name, member = (name + "x", member) if s.rarely(8) else (name, _changed(s, member))
            if not s.rarely(16):
                new.writestr(name, member, s.pick((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
    return written.getvalue()


def containers(s, r):
    cls, suffix, content = s.pick(WHOLE)
    how = s.byte() % 3
    if how == 0 and suffix == ".npz":
        content = _rebuilt(s, content)
    elif how == 2:
        content = s.rest()
    else:
        content = _changed(s, content)
    path = Path(FOLDER.name, "changed" + suffix)
    path.write_bytes(content)
    loaded = r.call("load", cls.load, path)
    if loaded is RAISED:
        return
    must(isinstance(loaded, cls), f"load must return a {cls.__name__}; got {type(loaded).__name__}")
    loaded.save(path)  # what was loaded is whole
    must(repr(cls.load(path)) == repr(loaded), "a loaded file must be as one that save wrote; got another")
    if isinstance(loaded, cbn.BatchNorm) and loaded.num_features < 100 and loaded.running_mean is not None:
        shape = [3, 3, 3, 3, 3][: (loaded._ranks or (4,))[0]]
        if -len(shape) <= loaded.axis < len(shape):
            shape[loaded.axis] = loaded.num_features
            r.call("layer", loaded.eval(), np.ones(shape, loaded.dtype))
