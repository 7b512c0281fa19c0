"""CPU quotas of control groups, in made trees: which groups count, and what the ranks then share."""

import math
from pathlib import Path

import pytest

from outpace.benchmarks.machine.provenance import _quota_cores, ranks_share_cores

V2 = "- cgroup2 cgroup2 rw,nsdelegate"
V1 = "- cgroup cgroup rw,cpu,cpuacct"


def quota_of(folder: Path, groups: str, mounts: list[str], limits: dict[str, str]) -> float:
    """`mounts`: "branch folder source"; `limits`: a file of a folder -> its text, for version 1 "quota period"."""
    for name, text in limits.items():
        group = folder / name
        group.mkdir(parents=True, exist_ok=True)
        if "v1" in name:
            for part, number in zip(("quota", "period"), text.split(), strict=True):
                (group / f"cpu.cfs_{part}_us").write_text(number + "\n")
        else:
            (group / "cpu.max").write_text(text + "\n")
    (folder / "cgroup").write_text(groups)
    lines = ["22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"]
    for number, (branch, place, source) in enumerate(mount.split(" ", 2) for mount in mounts):
        lines.append(f"{30 + number} 22 0:{26 + number} {branch} {folder / place} rw,nosuid shared:4 {source}")
    (folder / "mountinfo").write_text("\n".join(lines) + "\n")
    return _quota_cores(folder)


@pytest.mark.parametrize(
    ("limits", "cores"),
    [
        ({"v2/user.slice/job_7": "50000 100000"}, 0.5),  # the group's own
        ({"v2/user.slice/job_7": "max 100000", "v2/user.slice": "150000 100000"}, 1.5),  # of one above
        ({"v2/user.slice/job_7": "300000 100000", "v2/user.slice": "20000 10000", "v2": "max 100000"}, 2),
        ({"v2/user.slice/job_7": "75000 100000", "v2/user.slice": "400000 100000"}, 0.75),
        ({"v2": "250000 100000", "v2/user.slice/job_7": "max 100000"}, 2.5),  # a container's
        ({"v2/user.slice/job_8": "10000 100000", "v2/other": "10000 100000"}, math.inf),  # of others
        ({}, math.inf),
    ],
)
def test_version_2(tmp_path: Path, limits: dict[str, str], cores: float) -> None:
    assert quota_of(tmp_path, "0::/user.slice/job_7\n", [f"/ v2 {V2}"], limits) == cores


@pytest.mark.parametrize(
    ("branch", "limits", "cores"),
    [
        ("/", {"v1/batch/a:b": "60000 120000"}, 0.5),
        ("/", {"v1/batch/a:b": "-1 100000", "v1/batch": "100000 50000", "v1": "-1 100000"}, 2),
        ("/", {"v1/batch/a:b": "-1 100000"}, math.inf),
        ("/batch", {"v1/a:b": "25000 100000", "v1": "300000 100000"}, 0.25),  # a container sees its branch only
        ("/batch", {"v1/a:b": "-1 100000", "v1": "300000 100000"}, 3),
        ("/docker/0123", {"v1": "70000 100000", "v1/batch/a:b": "10000 100000"}, 0.7),  # a group from outside
    ],
)
def test_version_1(tmp_path: Path, branch: str, limits: dict[str, str], cores: float) -> None:
    groups = "9:name=systemd:/elsewhere\n5:cpuset:/narrow\n3:cpu,cpuacct:/batch/a:b\n"
    mounts = [f"{branch} v1 {V1}", "/ v1-set - cgroup cgroup rw,cpuset"]
    trap = {"v1-set/narrow": "1000 100000", "v1-set/batch/a:b": "1000 100000"}  # no quotas: another hierarchy
    assert quota_of(tmp_path, groups, mounts, limits | trap) == cores


def test_both_versions(tmp_path: Path) -> None:
    groups, mounts = "2:cpu:/x\n0::/y\n", [f"/ v1 {V1}", f"/ unified {V2}"]
    assert quota_of(tmp_path, groups, mounts, {"v1/x": "-1 100000", "unified/y": "90000 60000"}) == 1.5
    assert quota_of(tmp_path, groups, mounts, {"v1/x": "100000 100000"}) == 1


def test_a_system_without_control_groups(tmp_path: Path) -> None:
    assert _quota_cores(tmp_path) == math.inf
    assert quota_of(tmp_path, "", [], {}) == math.inf


def test_two_ranks_in_half_a_core_share_it(tmp_path: Path) -> None:
    quota = quota_of(tmp_path, "0::/slice/job\n", [f"/ v2 {V2}"], {"v2": "max 100000", "v2/slice": "50000 100000"})
    assert ranks_share_cores([("node", frozenset({0, 1}), quota)] * 2)
