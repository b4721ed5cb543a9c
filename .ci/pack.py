"""pack: compresses the files of each wheel in a folder again, in place, as far as Deflate can: python pack.py FOLDER

zopfli needs seconds for it, and every unpacker reads it.
"""

import os
import sys
import zipfile
from pathlib import Path

import zopfli

for wheel in Path(sys.argv[1]).glob("*.whl"):
    packed = wheel.with_suffix(".packed")
    most = {"iterations": 30, "block_splitting_max": 0}  # as many blocks as pay
    with zipfile.ZipFile(wheel) as old, zopfli.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, **most) as new:
        for member in old.infolist():
            new.writestr(member, old.read(member))
    print(f"{wheel.name}: {wheel.stat().st_size} bytes packed into {packed.stat().st_size}")
    os.replace(packed, wheel)
