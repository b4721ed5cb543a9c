"""hostile_tensors: .safetensors files that mean harm, each as a function that writes it."""

import json
import struct

from hostile import MANY, NAMES, TEXTS, meta_of

from cbn import reading


def tensors(header, data=b"", length=None):
    """A .safetensors file with this header, be it text or what JSON can hold."""

    def write(path):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)

    return write


def entries(meta=None, **changes):
    """The header of a good file, some of its entries changed."""
    header = {"__metadata__": {"cbn": meta if isinstance(meta, str) else json.dumps(meta or meta_of())}}
    for i, name in enumerate(NAMES[:-1]):
        header[name] = {"dtype": "F32", "shape": [3], "data_offsets": [12 * i, 12 * i + 12]}
    header["num_batches_tracked"] = {"dtype": "I64", "shape": [], "data_offsets": [48, 56]}
    for name, change in changes.items():
        header[name] = {**header.get(name, {}), **change} if isinstance(change, dict) else change
    return {name: entry for name, entry in header.items() if entry is not None}


def weight(**changes):
    return tensors(entries(weight=changes), bytes(56))


def many(channels):
    """The header of a file of so many channels, and no more than 56 bytes of them."""
    size = 4 * channels
    arrays = {n: {"shape": [channels], "data_offsets": [i * size, i * size + size]} for i, n in enumerate(NAMES[:-1])}
    arrays["num_batches_tracked"] = {"data_offsets": [4 * size, 4 * size + 8]}
    return tensors(entries(meta_of(num_features=channels), **arrays), bytes(56))


def filled(head, piece):
    """As many pieces of JSON as a header may have."""
    return tensors(head + piece * ((reading.LARGEST - len(head) - 3) // len(piece)) + b"0]}")


NOTHING = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
SAFETENSORS = {
    "8 GB declared": many(MANY),
    "all of memory declared": many(2**40),
    "header without end": tensors(b"{}", length=2**63),
    "longest header": tensors(b"{}", length=2**64 - 1),
    "header of 30 MB": tensors(b'{"a": "' + b"x" * 30_000_000 + b'"}'),
    "many tensors": tensors({f"t{i}": NOTHING for i in range(100_000)}),
    "many dicts": filled(b'{"a":[', b"{},"),
    "many dicts, wide text": filled('{"\U0001f600":['.encode(), b'{"":0},'),
    "text of 100 KB": tensors(entries(" " * 100_000), bytes(56)),
    "deep header": tensors(b"[" * 100_000),
    "header a list": tensors([1], bytes(56)),
    "header a number": tensors(b"1"),
    "empty": tensors(b"", length=0),
    "cut length": lambda path: path.write_bytes(b"\1\0\0"),
    "no metadata": tensors(entries(__metadata__=None), bytes(56)),
    "metadata a list": tensors({**entries(), "__metadata__": ["cbn"]}, bytes(56)),
    "meta a number": tensors({**entries(), "__metadata__": {"cbn": 5}}, bytes(56)),
    "meta a dict": tensors({**entries(), "__metadata__": {"cbn": {"format": "cbn.BatchNorm"}}}, bytes(56)),
    "entry a list": tensors({**entries(), "weight": [1]}, bytes(56)),
    "no offsets": tensors({**entries(), "weight": {"dtype": "F32", "shape": [3]}}, bytes(56)),
    "negative offset": weight(data_offsets=[-12, 0]),
    "reversed": weight(data_offsets=[12, 0]),
    "beyond": weight(data_offsets=[2**62, 2**62 + 12]),
    "offsets of floats": weight(data_offsets=[0.0, 12.0]),
    "offsets of texts": weight(data_offsets=["0", "12"]),
    "nan offset": tensors(json.dumps(entries(weight={"data_offsets": ["@", 12]})).replace('"@"', "NaN").encode()),
    "three offsets": weight(data_offsets=[0, 6, 12]),
    "one more byte": tensors(entries(), bytes(57)),
    "one byte less": tensors(entries(), bytes(55)),
    "negative shape": weight(shape=[-3]),
    "minus one": weight(shape=[-1]),
    "huge shape": weight(shape=[2**63]),
    "shape of zero": weight(shape=[0], data_offsets=[0, 0]),
    "other shape": weight(shape=[1, 3]),
    "shape a number": weight(shape=3),
    "dtype unknown": weight(dtype="F9"),
    "dtype a list": weight(dtype=["F32"]),
    "bool": weight(dtype="BOOL"),
    "8 bits": weight(dtype="F8_E4M3"),
    "other size": weight(dtype="F64"),
    "renamed": tensors(entries(weight=None, wieght={"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}), bytes(56)),
    "terminal as name": tensors(
        entries(**{"\x1b[2J": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}), bytes(56)
    ),
    **{f"text: {name}": tensors(entries(text.decode("utf-8", "replace")), bytes(56)) for name, text in TEXTS.items()},
}
