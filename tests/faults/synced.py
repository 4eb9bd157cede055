"""``redtier`` as on a machine whose power fails: what a journal had on the disk is known after a kill.

    python -m tests.faults.synced serve ...

Beside each journal, the file ``synced`` says which of its segments was synced last, and up to where.
"""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path
from typing import Final

SYNCED: Final = struct.Struct("<QQ")  # the number of a segment, and bytes of it


def cut_back(journal: Path) -> int:
    """Take from a journal all that was not synced when its process was killed; how many bytes that were."""
    note = journal / "synced"
    if not note.exists():
        return 0
    number, size = SYNCED.unpack(note.read_bytes())
    lost = 0
    for file in journal.glob("*.journal"):
        keep = size if int(file.stem) == number else 0
        if int(file.stem) >= number:
            lost += file.stat().st_size - keep
            os.truncate(file, keep) if keep else file.unlink()
    return lost


def main() -> None:
    from proxy.__main__ import main as redtier

    fdatasync = os.fdatasync

    def noted(file: int) -> None:
        fdatasync(file)
        path = Path(os.readlink(f"/proc/self/fd/{file}"))
        if path.suffix == ".journal":
            note = os.open(path.parent / "synced", os.O_WRONLY | os.O_CREAT)
            os.pwrite(note, SYNCED.pack(int(path.stem), os.lseek(file, 0, os.SEEK_CUR)), 0)
            os.close(note)

    os.fdatasync = noted
    sys.exit(redtier())


if __name__ == "__main__":
    main()
