"""hostile_npz: .npz files that mean harm, each as a function that writes it."""

import json
import struct
import zipfile
import zlib

import numpy as np
from hostile import MANY, NAMES, TEXTS, meta_of

from cbn import reading


def npy(shape="(3,)", descr="'<f4'", data=None, fortran="False", text=None, version=b"\x01\x00", length=None):
    """A member of .npz, whatever its header says."""
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}" if text is None else text
    text = text.encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    size = struct.pack("<H" if version[0] == 1 else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + version + size + text + (bytes(12) if data is None else data)


def meta_npy(meta):
    text = meta if isinstance(meta, bytes) else json.dumps(meta).encode()
    return npy(f"({len(text)},)", "'|u1'", text)


def members(**changes):
    """The members of a good file, some of them replaced, or left out for None."""
    content = {"meta": meta_npy(meta_of())} | {name: npy() for name in NAMES}
    content["num_batches_tracked"] = npy("()", "'<i8'", bytes(8))
    return {name: data for name, data in (content | changes).items() if data is not None}


def zipped(content, method=zipfile.ZIP_STORED, again=()):
    """A .npz file as a function of its path; `again` are members that come twice."""

    def write(path):
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, data in [*content.items(), *again]:
                archive.NameToInfo.pop(f"{name}.npy", None)  # else it warns of the second
                archive.writestr(f"{name}.npy", data)

    return write


def directory(entries, size=None, count=None):
    """An archive with the given bytes and a directory of entries (name, offset, stored size, size, method, flags)."""

    def write(path):
        files, listed = b"", b""
        for name, data, claimed, method, flags in entries:
            name = name.encode() + b".npy"
            start, crc = len(files), zlib.crc32(data)
            if data:
                head = (b"PK\3\4", 45, flags, method, 0, 0, crc, len(data), len(data), len(name), 0)
                files += struct.pack("<4s5H3L2H", *head) + name + data
            extra = struct.pack("<2HQ", 1, 8, claimed) if claimed >= 2**32 - 1 else b""
            claimed = min(claimed, 2**32 - 1)
            head = (b"PK\1\2", 45, 45, flags, method, 0, 0, crc, len(data), claimed, len(name), len(extra))
            listed += struct.pack("<4s6H3L5H2L", *head, 0, 0, 0, 0, start) + name + extra
        number = len(entries) if count is None else count
        end = (b"PK\5\6", 0, 0, number, number, len(listed) if size is None else size, len(files), 0)
        path.write_bytes(files + listed + struct.pack("<4s4H2LH", *end))

    return write


def overlapping(path):
    """All arrays are one and the same place of the file."""
    zipped(members(bias=None, running_mean=None, running_var=None))(path)
    content = bytearray(path.read_bytes())
    listed = content.index(b"PK\1\2")
    entry_end = content.index(b"weight.npy", listed) + 10
    entry = bytes(content[content.rindex(b"PK\1\2", 0, entry_end) : entry_end])
    end = content.index(b"PK\5\6")
    more = b"".join(entry.replace(b"weight", name) for name in (b"biases", b"weighs"))
    tail = bytearray(content[end:])
    struct.pack_into("<2HL", tail, 8, 5, 5, end - listed + len(more))
    path.write_bytes(bytes(content[:end]) + more + bytes(tail))


def crowded(path, number=400_000):
    """More members than its directory may have, which is 20 MB."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0)
    with path.open("wb") as file:
        for i in range(number):
            file.write(entry + b"%08d" % i)
        size = file.tell()
        file.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, number, number, size, 0))
        file.write(struct.pack("<4sLQL", b"PK\6\7", 0, size, 1))
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))


def layer_of(channels, method):
    """An honest file of as many channels, all of whose values are 0."""
    content = {name: npy(f"({channels},)", data=bytes(4 * channels)) for name in NAMES[:-1]}
    content["num_batches_tracked"] = npy("()", "'<i8'", bytes(8))
    return zipped({"meta": meta_npy(meta_of(num_features=channels)), **content}, method)


def lying(channels):
    """Headers, text and directory agree on so many channels; there are no more than 12 bytes of them."""
    entries = [("meta", meta_npy(meta_of(num_features=channels)), 0, 0, 0)]
    entries = [(name, data, len(data), method, flags) for name, data, _, method, flags in entries]
    for name in NAMES[:-1]:
        data = npy(f"({channels},)")
        entries.append((name, data, len(data) - 12 + 4 * channels, 0, 0))
    data = npy("()", "'<i8'", bytes(8))
    return directory([*entries, ("num_batches_tracked", data, len(data), 0, 0)])


def one_member(**header):
    """A file whose weight is a .npy member of that kind."""
    return zipped(members(weight=npy(**header)))


def with_meta(**changes):
    return zipped(members(meta=meta_npy(meta_of(**changes))))


def with_text(text):
    return zipped(members(meta=meta_npy(text)))


NPZ = {
    "8 GB declared": lying(MANY),
    "all of memory declared": lying(2**40),
    "deflated meta": zipped(members(meta=npy(f"({2**26},)", "'|u1'", bytes(2**26))), zipfile.ZIP_DEFLATED),
    "64 MB text": zipped(members(meta=npy(f"({2**26},)", "'|u1'", bytes(2**26)))),
    "deflated arrays": layer_of(2**22, zipfile.ZIP_DEFLATED),
    "bz2 arrays": layer_of(2**20, zipfile.ZIP_BZIP2),
    "lzma arrays": layer_of(2**20, zipfile.ZIP_LZMA),
    "deflated extra": zipped({**members(), "junk": bytes(2**26)}, zipfile.ZIP_DEFLATED),
    "crowded": crowded,
    "empty members": directory([("", b"", 0, 0, 0)] * (reading.LARGEST // 50)),
    "directory too long": directory([("meta", meta_npy(meta_of()), 10, 0, 0)], size=2**31),
    "directory elsewhere": directory([("meta", b"", 10, 0, 0)], count=65535),
    "unknown method": directory([("meta", meta_npy(meta_of()), 10, 77, 0)]),
    "encrypted": directory([("meta", meta_npy(meta_of()), len(meta_npy(meta_of())), 0, 1)]),
    "overlapping": overlapping,
    "meta twice": zipped(members(), again=[("meta", meta_npy(meta_of()))]),
    "weight twice": zipped(members(), again=[("weight", npy())]),
    "a zip inside": zipped(members(weight=b"PK\3\4" + bytes(100))),
    "other case": zipped({**members(weight=None), "WEIGHT": npy()}),
    "path as name": zipped({**members(weight=None), "../weight": npy()}),
    "terminal as name": zipped({**members(), "\x1b[2J\n": npy()}),
    "names without end": zipped({**members(), "x" * 60_000: npy()}),
    "header of 4 GB": one_member(version=b"\x02\x00", length=2**32 - 1),
    "header of 64 KB": one_member(length=65535),
    "header cut": one_member(length=7),
    "format 9.9": one_member(version=b"\x09\x09"),
    "parentheses": one_member(text="(" * 450),
    "many parentheses": one_member(text="(" * 9000),
    "minus signs": one_member(text="-" * 480 + "1"),
    "many minus signs": one_member(text="-" * 9000 + "1"),
    "code": one_member(text="__import__('os').abort()"),
    "not a dict": one_member(text="(3,)"),
    "other keys": one_member(text="{'descr': '<f4', 'shape': (3,), 'order': 1}"),
    "negative": one_member(shape="(-3,)"),
    "minus one": one_member(shape="(-1,)"),
    "huge": one_member(shape=f"({2**63},)"),
    "product overflows": one_member(shape=f"({2**32}, {2**32}, 3)"),
    "product of zero": one_member(shape=f"({2**62}, 0)"),
    "negative product": one_member(shape="(-1, -3)"),
    "float shape": one_member(shape="(3.0,)"),
    "text shape": one_member(shape="'3'"),
    "columns": one_member(shape="(3, 1)", fortran="True"),
    "fortran as text": one_member(fortran="'yes'"),
    "warnings": one_member(text="1if 1if 1"),
    "python 2": one_member(text="{'descr': '<f4', 'fortran_order': False, 'shape': (3L,), }"),
    "swapped": one_member(descr="'>f4'"),
    "objects": one_member(descr="'|O'"),
    "structured": one_member(descr="[('a', '<f4')]"),
    "structured objects": one_member(descr="[('a', '|O')]", data=bytes(24)),
    "subarray": one_member(shape="(1,)", descr="('<f4', (3,))"),
    "void": one_member(descr="'|V4'"),
    "texts": one_member(descr="'<U1'"),
    "huge texts": one_member(descr=f"'<U{2**28}'"),
    "empty texts": one_member(descr="'<U0'"),
    "a billion empty texts": one_member(shape="(1000000000,)", descr="'|S0'", data=b""),
    "dates": one_member(shape="(1,)", descr="'<M8[s]'"),
    "bools": one_member(descr="'|b1'", data=bytes(3)),
    "unsigned": one_member(descr="'<u8'", data=bytes(24)),
    "long double": one_member(descr="'<f16'", data=bytes(48)),
    "complex": one_member(shape="(3,)", descr="'<c8'", data=bytes(24)),
    "nan in a counter": zipped(members(num_batches_tracked=npy("()", "'<f8'", struct.pack("<d", np.nan)))),
    "counter below 0": zipped(members(num_batches_tracked=npy("()", "'<i8'", b"\xff" * 8))),
    "counter too large": zipped(members(num_batches_tracked=npy("()", "'<i8'", b"\xff" * 7 + b"\x7f"))),
    "huge channels, no arrays": with_meta(num_features=2**62, affine=False, track_running_stats=False),
    **{f"text: {name}": with_text(text) for name, text in TEXTS.items()},
}
