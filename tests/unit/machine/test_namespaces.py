"""`--links`: what is refused, before anything is started."""

import os
import shutil

import pytest

from outpace.benchmarks.machine import links, mpiexec, namespaces
from outpace.comm.errors import UserError


def test_no_links_need_nothing() -> None:
    assert namespaces.inside("none", 1000) == []


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "tc" else f"/usr/sbin/{name}")
    with pytest.raises(UserError, match="needs the command tc, of iproute2"):
        namespaces.inside("all:rate=1gbit", 2)
    with pytest.raises(UserError, match="at most 253"):
        namespaces.inside("all:rate=1gbit", 254)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UserError, match="needs root"):
        namespaces.inside("all:rate=1gbit", 2)


def test_a_container_that_forbids_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/sbin/{name}")
    monkeypatch.setattr(namespaces, "_run", lambda *_: (1, "", "unshare: unshare failed: Operation not permitted\n"))
    with pytest.raises(UserError, match="unshare failed: Operation not permitted"):
        namespaces.inside("all:rate=1gbit", 2)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OUTPACE_LAUNCHER", "/bin/true", "needs Hydra, .*; /bin/true is another launcher"),
        ("OUTPACE_LAUNCHER", "srun --mpi=pmi2", "needs Hydra, .*; srun is another launcher"),
        ("OUTPACE_LAUNCHER", f"{mpiexec.mpiexec()[0]} -hosts a,b", "OUTPACE_LAUNCHER has -hosts"),
        ("SLURM_JOB_NUM_NODES", "2", "this Slurm job has 2 nodes"),
    ],
)
def test_other_hosts_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"--links {said}" if "needs" in said else f"--links makes hosts .*{said}"):
        namespaces.inside("all:rate=1gbit", 2)


@pytest.mark.parametrize(("here", "asked"), [(None, "all:rate=1gbit"), ("all:rate=1mbit", "none")])
def test_ranks_behind_other_links(monkeypatch: pytest.MonkeyPatch, here: str | None, asked: str) -> None:
    monkeypatch.delenv(namespaces.VARIABLE, raising=False)
    namespaces.check_behind("none")
    if here:
        monkeypatch.setenv(namespaces.VARIABLE, here)
        namespaces.check_behind(here)
    with pytest.raises(UserError, match="start them by `outpace run`"):
        namespaces.check_behind(asked)


def test_what_the_kernel_lacks_is_said_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "_run", lambda *_: (2, "", "RTNETLINK answers: Operation not supported\n"))
    with pytest.raises(UserError, match=r"--links: `mkdir .*`: RTNETLINK answers: Operation not supported"):
        namespaces.set_up(links.parse("all:rate=1gbit"), 2)
