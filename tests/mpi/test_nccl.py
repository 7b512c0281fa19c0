"""Messages of device arrays by NCCL, on a device and an NCCL that the CPU plays: nothing of it has run on a GPU."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cuda_on_cpu
import device_on_cpu
import harness
import nccl_on_cpu
import numpy as np
import pytest
from device_on_cpu import hold_without_any_wait
from harness import CheckedComm, RandomStart, execute, share, shared_model
from mpi4py import MPI

from outpace.algorithms import ad_psgd, allreduce_sgd, gossip_local_sgd, local_sgd, sign_sgd
from outpace.benchmarks import program
from outpace.benchmarks.machine.load import Look
from outpace.benchmarks.running.plan import Launch
from outpace.benchmarks.trace.run import Run
from outpace.benchmarks.trace.schema import KIND
from outpace.comm import arrays, gossip, nccl
from outpace.comm.bfloat16 import WireFormat
from outpace.comm.errors import LocalError, UserError
from outpace.comm.gossip import NOTHING


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Of this rank alone, for compiled kernels."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch, folder: Path) -> device_on_cpu.Cupy:
    return device_on_cpu.install(monkeypatch, folder, gpus=4)


@pytest.fixture
def model(comm: CheckedComm, cupy: device_on_cpu.Cupy, monkeypatch: pytest.MonkeyPatch) -> Iterator[nccl_on_cpu.Nccl]:
    """The NCCL of this rank, which carries the messages of `comm`."""
    arrays.load("cupy", comm)
    model = nccl_on_cpu.install(monkeypatch, cupy)
    nccl.connect(comm)
    yield model
    nccl.disconnect(comm)
    assert not cupy.device.races


PROGRAMS = [
    (allreduce_sgd, {}),
    (local_sgd, {"period": 2, "outer": "nesterov"}),
    (local_sgd, {"period": 2, "overlap": True}),
    (gossip_local_sgd, {"period": 1}),
    (gossip_local_sgd, {"period": 1, "dtype": "float32", "wire_dtype": "bfloat16"}),
    (sign_sgd, {"ties": "abstain"}),
    (sign_sgd, {"exchange": "server", "variant": "ef-signsgd"}),
    (sign_sgd, {"variant": "ef-signsgd"}),
    (sign_sgd, {"exchange": "int8", "variant": "sto-sign"}),
    (sign_sgd, {"vote": "sum"}),
    (sign_sgd, {"vote": "none"}),
]


@pytest.mark.skipif(cuda_on_cpu.COMPILER is None, reason="no C++ compiler to run the CUDA files on the CPU")
@pytest.mark.ranks(2)
@pytest.mark.parametrize(
    ("algorithm", "flags"), PROGRAMS, ids=[f"{each.__name__[19:]} {flags}" for each, flags in PROGRAMS]
)
def test_synchronous_programs_come_out_as_with_mpi(
    comm: CheckedComm,
    cupy: device_on_cpu.Cupy,
    model: nccl_on_cpu.Nccl,
    monkeypatch: pytest.MonkeyPatch,
    algorithm: Any,
    flags: dict[str, Any],
) -> None:
    """To the bit, with as many bytes from each rank to each, and without a device array for MPI."""
    monkeypatch.setattr(harness, "backend", cupy)
    runs = []
    for by_nccl in (True, False):
        apart = CheckedComm(MPI.Intracomm(comm).Dup())
        if not by_nccl:
            arrays.carry_device_arrays(apart, None)
            arrays.send_device_arrays(apart, "staged")
        problem = share(apart, "quadratic:dim=70,zeta=1,sigma=1", flags.get("dtype", "float64"))
        runs.append(execute(apart, algorithm, problem, 4, compute_time=1e-9, **flags))
        apart.Free()
    there, here = runs
    np.testing.assert_array_equal(there.x, here.x)  # sums have two terms
    np.testing.assert_array_equal(there.sent, here.sent)
    assert len(model.launched) >= 3
    assert not cupy.device.handed


@pytest.mark.ranks(4)
def test_ad_psgd_averages_by_nccl(
    comm: CheckedComm, cupy: device_on_cpu.Cupy, model: nccl_on_cpu.Nccl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its random pairs side by side: the sum of all models stays, and in each exchange a model goes each way."""
    monkeypatch.setattr(harness, "backend", cupy)
    problem = RandomStart(share(comm, "quadratic:dim=70"), comm.rank)
    start, launched = arrays.to_host(problem.x0()), len(model.launched)
    outcome = execute(comm, ad_psgd, problem, 10, compute_time=1e-2, step_size=1e-30)
    exchanges = int(np.count_nonzero(outcome.events["kind"] == KIND["exchange"]))
    assert comm.allreduce(exchanges) >= 2
    assert np.array_equal(outcome.x, start) == (exchanges == 0)
    np.testing.assert_allclose(outcome.mean, np.mean(comm.allgather(start), axis=0), rtol=0, atol=1e-12)
    assert model.launched[launched:] == ["group"] * exchanges
    assert 0 <= outcome.sent.sum() - exchanges * outcome.x.nbytes <= 64 * 11 * comm.size
    assert not cupy.device.handed


def looked_at(request: Any) -> None:
    while not request.Test():
        pass


def into(b: Any, a: Any) -> Any:
    b[...] = a
    return b


CALLS: dict[str, Callable[[CheckedComm, Any, Any], Any]] = {
    "Allreduce": lambda comm, a, b: comm.Allreduce(a, b),
    "Allreduce in place": lambda comm, a, b: comm.Allreduce(MPI.IN_PLACE, into(b, a)),
    "Iallreduce": lambda comm, a, b: comm.Iallreduce(a, b).Wait(),
    "Iallreduce looked at": lambda comm, a, b: looked_at(comm.Iallreduce(MPI.IN_PLACE, into(b, a))),
    "Allgather": lambda comm, a, b: comm.Allgather(a[1], b),
    "Allgather in place": lambda comm, a, b: comm.Allgather(MPI.IN_PLACE, into(b, a)),
    "Alltoall": lambda comm, a, b: comm.Alltoall(a, b),
    "Gather": lambda comm, a, b: comm.Gather(a[1], b, 1),
    "Bcast": lambda comm, a, b: comm.Bcast(into(b, a), 1),
    "Sendrecv": lambda comm, a, b: comm.Sendrecv(a, (comm.rank + 1) % comm.size, 0, b, (comm.rank - 1) % comm.size, 0),
}


@pytest.mark.ranks(4)
@pytest.mark.parametrize("name", CALLS)
def test_a_method_does_what_mpi_does(
    comm: CheckedComm, cupy: device_on_cpu.Cupy, model: nccl_on_cpu.Nccl, name: str
) -> None:
    """On what is launched just before, in the stream of the thread, complete on return, and counted alike."""
    call, numbers = CALLS[name], (np.arange(comm.size * 3).reshape(-1, 3) + 7 * comm.rank).astype(np.float32)
    expected = np.zeros_like(numbers)

    def scenario() -> bool:
        a, b = cupy.asarray(numbers), cupy.zeros(numbers.shape, np.float32)
        ready = arrays.mark(b)
        with arrays.own_stream(a) as stream:
            stream.wait_event(ready)
            a = a * 2
            call(comm, a, b)
        return np.array_equal(b.host, expected)

    counted = []
    for run in (lambda: call(comm, numbers * 2, expected), scenario):
        comm.meter.reset()
        run()
        counted.append(comm.meter.nbytes.tolist())
    assert counted[0] == counted[1]
    cupy.device.sites.clear()
    hold_without_any_wait(comm, cupy, scenario, of="nccl.py")


@pytest.mark.ranks(2)
def test_an_exchange_is_launched_when_the_peer_is_there(
    comm: CheckedComm, cupy: device_on_cpu.Cupy, model: nccl_on_cpu.Nccl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not behind a gradient that the device computes."""
    there, launch = [], model.launch
    hail = comm.Irecv(NOTHING, 0, 5) if comm.rank == 1 else comm.Isend(NOTHING, 1, 5)

    def launched(*arguments: Any) -> None:
        there.append(hail == MPI.REQUEST_NULL)
        launch(*arguments)

    monkeypatch.setattr(model, "launch", launched)
    start = np.arange(7.0) * (1 + comm.rank)
    exchange = gossip.Exchange(comm, shared_model(comm, cupy.asarray(start)), 1, [0.5, 0.5])
    cupy.spend(40.0)
    begun = time.monotonic()
    exchange.average_with(1 - comm.rank, [hail])
    assert time.monotonic() - begun < 30
    assert there == [True]
    np.testing.assert_array_equal(exchange.model.x.host, 1.5 * np.arange(7.0))


@pytest.mark.ranks(2)
def test_halves_by_nccl(comm: CheckedComm, cupy: device_on_cpu.Cupy, model: nccl_on_cpu.Nccl) -> None:
    """The sum of both models stays, though each is rounded on its way."""
    starts = np.random.default_rng(7).standard_normal((2, 1000)).astype(np.float32)
    shared = shared_model(comm, cupy.asarray(starts[comm.rank]))
    exchange = gossip.Exchange(comm, shared, 1, [0.5, 0.5], WireFormat("bfloat16", 0, comm.rank))
    comm.meter.reset()
    for _ in range(20):
        exchange.average_with(1 - comm.rank, [])
    models = np.stack(comm.allgather(shared.x.get())).astype(float)
    np.testing.assert_allclose(models.sum(axis=0), starts.astype(float).sum(axis=0), rtol=0, atol=1e-5)
    assert np.abs(models[0] - models[1]).max() < 0.05
    assert comm.meter.nbytes.sum() == 20 * 2 * 1000


@pytest.mark.ranks(2)
def test_a_sum_under_way_and_gradients_do_not_wait_for_each_other(
    comm: CheckedComm, cupy: device_on_cpu.Cupy, model: nccl_on_cpu.Nccl
) -> None:
    """Rank 1 comes to the sum when rank 0 has computed on."""
    x = cupy.ones(5)
    if comm.rank == 1:
        comm.recv(source=0)
    request = comm.Iallreduce(MPI.IN_PLACE, x)
    try:
        assert (cupy.ones(3) * 7).get().tolist() == [7.0] * 3
    finally:
        if comm.rank == 0:
            comm.send(None, 1)
    cupy.spend(40.0)
    begun = time.monotonic()
    request.Wait()
    assert time.monotonic() - begun < 30
    assert x.host.tolist() == [2.0] * 5


@pytest.mark.ranks(2)
def test_what_cannot_be_is_refused_on_every_rank(
    comm: CheckedComm, cupy: device_on_cpu.Cupy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one rank alone sees it; and MPI goes on carrying all."""
    last = comm.size - 1
    arrays.load("cupy", comm)
    model = nccl_on_cpu.install(monkeypatch, cupy)
    with monkeypatch.context() as patch:
        patch.setattr(model, "available", comm.rank < last)
        with pytest.raises(UserError, match=f"--fabric nccl: rank {last} has CuPy without NCCL; allowed here: mpi"):
            nccl.connect(comm)
    with monkeypatch.context() as patch:
        patch.setattr(cupy.cuda.runtime, "deviceGetPCIBusId", lambda number: f"0000:{max(1, number):02x}:00.0")
        patch.setattr(cupy.cuda.runtime, "getDeviceProperties", lambda number: {"uuid": bytes([max(1, number)])})
        with pytest.raises(UserError, match="ranks 0 and 1 share a GPU"):
            nccl.connect(comm)

    def fail(*arguments: Any) -> None:
        raise model.NcclError("unhandled system error")

    with monkeypatch.context() as patch:
        patch.setattr(model, "get_unique_id", fail)
        with pytest.raises(UserError, match="--fabric nccl: unhandled system error"):
            nccl.connect(comm)
    with monkeypatch.context() as patch:
        patch.setattr(model, "NcclCommunicator", fail)
        with pytest.raises(LocalError, match="--fabric nccl: unhandled system error"):
            nccl.connect(comm)
    assert arrays.carrier(comm) is None
    assert arrays.device_messages(comm) == "staged"


@pytest.mark.ranks(2)
def test_sums_alone_are_reduced(comm: CheckedComm, cupy: device_on_cpu.Cupy, model: nccl_on_cpu.Nccl) -> None:
    for reduce in (comm.Allreduce, comm.Iallreduce):
        with pytest.raises(UserError, match="carries sums"):
            reduce(MPI.IN_PLACE, cupy.ones(3), MPI.MAX)


@pytest.mark.ranks(2)
def test_a_whole_run(
    comm: CheckedComm,
    cupy: device_on_cpu.Cupy,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Its trace says what carried its messages, and so does a figure where it was not MPI."""
    out = comm.bcast(tmp_path_factory.mktemp("run") / "run.h5")
    launch = Launch(problem="quadratic:dim=9", backend="cupy", fabric="nccl", epochs=0.1, compute_time=1e-3, out=out)
    arguments = comm, allreduce_sgd.run, "allreduce_sgd", allreduce_sgd.Config(step_size=0.1), launch, Look(comm)
    with pytest.raises(UserError, match="rank 0 has CuPy without NCCL"):
        program._main(*arguments)
    model = nccl_on_cpu.install(monkeypatch, cupy)
    assert program._main(*arguments) == 0
    assert model.launched.count("sum") >= 2
    assert not cupy.device.handed
    assert arrays.carrier(comm) is None
    if comm.rank == 0:
        run = Run(out)
        told = [run.attrs[name] for name in ("fabric", "device_messages")]
        assert (*told, run.config["fabric"], run.name) == ("nccl", "direct", "nccl", "AllReduce-SGD, NCCL")
