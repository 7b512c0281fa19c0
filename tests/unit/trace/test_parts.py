"""The part file, both ways: whole, damaged, cut, on a full disk."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from outpace.benchmarks.trace.parts import Damaged, Part, read_part
from outpace.benchmarks.trace.recorder import STEPS
from outpace.comm.errors import UserError

COMM = MPI.COMM_SELF
F8 = np.dtype("f8")


def three_blocks(target: Path) -> tuple[Path, list[int]]:
    """A part with its header and two blocks of rows; where its blocks end."""
    part = Part(target, 0, {"rank": 0, "pid": 7})
    rows = np.zeros(3, dtype=STEPS)
    rows["step"] = [0, 1, 2]
    ends = [part.nbytes]
    for some in (rows[:1], rows[1:]):
        part.append("steps", some.tobytes())
        ends.append(part.nbytes)
    part.close()
    return part.path, ends


@pytest.mark.parametrize("cut", [1, 7, 16, 23, 24, 70, 127, 151])
def test_what_stands_before_a_cut_is_kept(tmp_path: Path, cut: int) -> None:
    path, ends = three_blocks(tmp_path / "run.h5")
    os.truncate(path, ends[1] + cut)
    with pytest.raises(Damaged, match=f"damaged or cut at byte {ends[1]}$") as found:
        read_part(path)
    (segment,) = found.value.before
    assert segment.header == {"rank": 0, "pid": 7}
    assert segment.table("steps")["step"].tolist() == [0]


def test_any_damaged_byte_is_found_and_what_is_before_it_kept(tmp_path: Path) -> None:
    path, ends = three_blocks(tmp_path / "run.h5")
    whole = path.read_bytes()
    for at in range(len(whole)):
        for bit in (1, 128):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
            if at < ends[0]:
                with pytest.raises(UserError, match="not a part of a trace"):
                    read_part(path)
                continue
            kept = max(end for end in ends if end <= at)
            with pytest.raises(Damaged, match=f"damaged or cut at byte {kept}$") as found:
                read_part(path)
            (segment,) = found.value.before
            assert segment.table("steps")["step"].tolist() == list(range(ends.index(kept)))


def test_a_run_does_not_go_on_with_a_damaged_part(tmp_path: Path) -> None:
    path, ends = three_blocks(tmp_path / "run.h5")
    whole = path.read_bytes()
    damaged = whole[: ends[1] - 1] + b"?" + whole[ends[1] :]
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="damaged or cut at byte"):
        Part(tmp_path / "run.h5", 0, {"rank": 0}, after=ends[1])
    assert path.read_bytes() == damaged


def test_a_part_of_an_earlier_release_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.h5.part-0"
    path.write_bytes(b"OPB1" + bytes(100))
    with pytest.raises(UserError, match="of an earlier release"):
        read_part(path)


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
