"""The part file, both ways: whole, torn, cut, on a full disk."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from outpace.benchmarks.trace import parts
from outpace.benchmarks.trace.parts import Part, read_part
from outpace.benchmarks.trace.recorder import STEPS
from outpace.comm.errors import UserError

COMM = MPI.COMM_SELF
F8 = np.dtype("f8")


@pytest.mark.parametrize("cut", [0, 1, 7, 16, 17, 70, 100, 163])
def test_torn_part_keeps_whole_records(tmp_path: Path, cut: int) -> None:
    """A part cut anywhere in its last blocks reads as its whole records; nothing before them is lost."""
    target = tmp_path / "run.h5"
    part = Part(target, 0, {"rank": 0, "pid": 7})
    rows = np.zeros(3, dtype=STEPS)
    rows["step"] = [0, 1, 2]
    part.append("steps", rows[:1].tobytes())
    whole = part.path.stat().st_size
    part.append("steps", rows[1:].tobytes())
    part.close()
    os.truncate(part.path, whole + cut)
    (segment,) = read_part(part.path)
    assert segment.header == {"rank": 0, "pid": 7}
    after_header = max(0, cut - parts._BLOCK.size)
    assert segment.table("steps")["step"].tolist() == list(range(1 + after_header // 64))


def test_part_without_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.h5.part-0"
    path.write_bytes(b"not a part at all, whatever it is")
    with pytest.raises(UserError, match="not a part of a trace"):
        read_part(path)


def test_a_part_shorter_than_its_checkpoint_is_refused(tmp_path: Path) -> None:
    """After a power cut: filled up with zeros, it would hold rows of nothing."""
    target = tmp_path / "run.h5"
    part = Part(target, 0, {"rank": 0})
    nbytes = part.nbytes
    part.close()
    os.truncate(part.path, nbytes - 1)
    with pytest.raises(OSError, match="shorter than its checkpoint says"):
        Part(target, 0, {"rank": 0}, after=nbytes)
    assert part.path.stat().st_size == nbytes - 1


def test_full_disk_is_an_error(tmp_path: Path) -> None:
    part = Part(tmp_path / "run.h5", 0, {"rank": 0})
    with open("/dev/full", "wb", buffering=0) as full:
        part._file, kept = full, part._file
        with pytest.raises(OSError, match="No space left"):
            part.append("json", json.dumps({"a": 1}).encode())
        kept.close()
