"""Tests under mpiexec: every rank runs the same pytest. A failure on one rank is a failure on all, and says where."""

import sys
import traceback
from collections.abc import Iterator

import pytest
from harness import CheckedComm
from mpi4py import MPI

from outpace.comm import threads

WORLD = MPI.COMM_WORLD


def pytest_sessionstart(session: pytest.Session) -> None:
    if WORLD.rank > 0:  # rank 0 reports for all; a failure is told by its own rank
        session.config.pluginmanager.unregister(name="terminalreporter")


def pytest_internalerror(excrepr: object) -> None:
    threads.abort(WORLD, str(excrepr), 1)  # the other ranks would wait for this one


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """Agree on the outcome. A rank that never comes here is ended by the time limit of faulthandler."""
    error = None
    try:
        return (yield)
    except (Exception, pytest.fail.Exception) as exc:
        error = exc
        # At once and past pytest's capture: the other ranks may be waiting for this one in vain.
        with pyfuncitem.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"rank {WORLD.rank}: {pyfuncitem.nodeid}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        raise
    finally:
        failed = [rank for rank, bad in enumerate(WORLD.allgather(error is not None)) if bad]
        if failed and error is None:
            pytest.fail(f"failed on rank(s) {failed}", pytrace=False)


def pytest_runtest_setup(item: pytest.Item) -> None:
    marker = item.get_closest_marker("ranks")
    if marker and WORLD.size not in marker.args:
        pytest.skip(f"for {', '.join(map(str, marker.args))} ranks, not {WORLD.size}")


@pytest.fixture
def comm() -> Iterator[CheckedComm]:
    """A communicator of its own for every test, so that a stray message cannot reach the next one."""
    comm = CheckedComm(WORLD.Dup())
    yield comm
    comm.Free()
    assert not comm.left
