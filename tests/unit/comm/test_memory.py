"""What memory there is, in made trees of /proc and of control groups, and the refusal of what needs more."""

import subprocess
import sys
from pathlib import Path

import pytest

from outpace.comm import memory
from outpace.comm.errors import UserError

V2 = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def proc_of(folder: Path, available_kb: int, groups: dict[str, tuple[str, int, int]], version: int) -> Path:
    """A /proc of a process in the group /job/step; `groups`: group -> its limit, what it uses, the cache in it."""
    proc, mount, names = folder / "proc", folder / "groups", V2 if version == 2 else V1
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemFree: 1 kB\nMemAvailable: {available_kb} kB\n")
    (proc / "self/cgroup").write_text("0::/job/step\n" if version == 2 else "9:cpu:/other\n4:memory:/job/step\n")
    source = "cgroup2 cgroup2 rw" if version == 2 else "cgroup cgroup rw,memory"
    (proc / "self/mountinfo").write_text(f"30 22 0:26 / {mount} rw,nosuid shared:4 - {source}\n")
    for group, (limit, used, cache) in groups.items():
        place = mount / group
        place.mkdir(parents=True, exist_ok=True)
        for name, text in zip(names, (limit, str(used), f"anon 5\n{names[2]} {cache}\nfile 7"), strict=True):
            (place / ("memory.stat" if name == names[2] else name)).write_text(text + "\n")
    return proc


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("groups", "left"),
    [
        ({}, 4096 * 1000),
        ({"job/step": ("3000000", 1_000_000, 0)}, 2_000_000),
        ({"job/step": ("3000000", 1_000_000, 400_000)}, 2_400_000),  # which it would give back
        ({"job/step": ("3000000", 0, 0), "job": ("1500000", 1_400_000, 0)}, 100_000),  # a neighbour's, in the same job
        ({"job/step": ("9000000", 0, 0)}, 4096 * 1000),
        ({"job/other": ("10", 0, 0)}, 4096 * 1000),
        ({"job/step": (str(2**63 - 4096), 50, 0)}, 4096 * 1000),  # version 1 has no word for none
    ],
)
def test_the_least_of_machine_and_groups(
    tmp_path: Path, version: int, groups: dict[str, tuple[str, int, int]], left: int
) -> None:
    assert memory.of_node(proc_of(tmp_path, 4000, groups, version)) == left


def test_a_group_without_a_limit(tmp_path: Path) -> None:
    assert memory.of_node(proc_of(tmp_path, 4000, {"job/step": ("max", 10, 0)}, 2)) == 4096 * 1000
    assert memory.of_node(tmp_path / "nowhere") == float("inf")


def test_limits_of_the_process_count() -> None:
    """As `ulimit -v` sets them: what is left of them, not what they are."""
    code = (
        "import resource, mmap; from outpace.comm import memory\n"
        "pages = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (pages + 2**29, pages + 2**29))\n"
        "print(memory.of_process()); memory.require(2**28, 'this')\n"
        "try: memory.require(2**30, 'that')\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    left, said = done.stdout.splitlines()
    assert 2**28 < float(left) <= 2**29 + 2**20
    assert said.startswith("that: it needs about 1.1 GB of memory; ")


def test_amounts_stand_in_the_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "of_node", lambda: 3.5e9)
    memory.require(3.4e9, "--this")
    with pytest.raises(UserError, match=r"^--this: it needs about 64 TB of memory; 3\.5 GB are available$"):
        memory.require(64e12, "--this")
