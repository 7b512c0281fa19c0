"""`--links`: what is refused, before anything is started."""

import os
import shutil

import pytest

from outpace.benchmarks.machine import links, namespaces
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


def test_another_launcher_is_refused() -> None:
    with pytest.raises(UserError, match="needs Hydra"):
        namespaces.reach_by(["/bin/true", "-n", "2"], ["10.0.0.1", "10.0.0.2"])


def test_what_the_kernel_lacks_is_said_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "_run", lambda *_: (2, "", "RTNETLINK answers: Operation not supported\n"))
    with pytest.raises(UserError, match=r"--links: `mkdir .*`: RTNETLINK answers: Operation not supported"):
        namespaces.set_up(links.parse("all:rate=1gbit"), 2)
