"""Devices: which one a rank uses, what a trace says of it, and what must be waited for, on a device that the CPU
plays."""

import itertools
import re
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import device_on_cpu
import harness
import numpy as np
import pytest
from device_on_cpu import hold_without_any_wait
from harness import CheckedComm, execute, share, shared_model
from mpi4py import MPI

from outpace.algorithms import ad_psgd, allreduce_sgd, choco_sgd, d_psgd, gossip_local_sgd, local_sgd
from outpace.benchmarks import problems
from outpace.benchmarks.machine import provenance
from outpace.benchmarks.machine.load import Look
from outpace.benchmarks.problems import Setting
from outpace.benchmarks.running import backend, execution, stragglers
from outpace.benchmarks.running.assembly import Assembly
from outpace.benchmarks.running.pace import PacedProblem
from outpace.benchmarks.running.plan import Launch, make_plan
from outpace.benchmarks.running.stragglers import Delays
from outpace.benchmarks.trace.recorder import EVENTS, Trace
from outpace.benchmarks.trace.run import Run
from outpace.benchmarks.trace.schema import KIND
from outpace.benchmarks.trace.snapshots import Snapshots
from outpace.comm import arrays, gossip
from outpace.comm.errors import UserError


@pytest.mark.ranks(2, 4)
@pytest.mark.parametrize(
    "left",
    [{}, {"SLURM_LOCALID": "0"}, {"OMPI_COMM_WORLD_LOCAL_RANK": "0", "SLURM_LOCALID": "0"}, {"PMI_LOCAL_RANK": "3"}],
    ids=lambda left: "+".join(left) or "none",
)
@pytest.mark.parametrize("told", [False, True], ids=["launcher silent", "launcher tells"])
def test_ranks_of_a_node_have_different_numbers(
    comm: CheckedComm, monkeypatch: pytest.MonkeyPatch, left: dict[str, str], told: bool
) -> None:
    """Whatever variables are left over of a launcher around this one: srun gives its one batch script number 0."""
    for name in arrays.LOCAL_RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    if told:
        monkeypatch.setenv("MPI_LOCALRANKID", str(comm.size - 1 - comm.rank))
    numbers = comm.allgather(arrays.local_rank(comm))
    assert numbers == (list(reversed(range(comm.size))) if told else list(range(comm.size)))


def test_each_node_counts_for_itself() -> None:
    ranks = [(node, {"SLURM_LOCALID": number}) for node, number in (("a", "1"), ("b", "0"), ("a", "0"), ("b", "1"))]
    assert [arrays.place_on_node(ranks, rank) for rank in range(4)] == [1, 0, 0, 1]
    ranks[0] = ("a", {})
    assert [arrays.place_on_node(ranks, rank) for rank in range(4)] == [0, 0, 1, 1]


def test_workers_that_share_a_gpu_are_emulated(comm: CheckedComm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "ranks_share_cores", lambda seats: False)
    assert provenance.claim_class(comm, False, ["A", "B"]) == "measured"
    assert provenance.claim_class(comm, False, ["A", "B", "A"]) == "emulated"


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> device_on_cpu.Cupy:
    return device_on_cpu.install(monkeypatch, tmp_path, gpus=4)


@pytest.mark.ranks(1, 2, 4)
def test_devices_are_shared_out(comm: CheckedComm, cupy: device_on_cpu.Cupy, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a batch script, where srun's variable says 0 to all ranks."""
    monkeypatch.setenv("SLURM_LOCALID", "0")
    assert arrays.load("auto", comm) is cupy
    assert len(set(provenance.gpus(comm, comm.size, gpu=True))) == comm.size


def test_a_default_stream_per_thread_is_refused(
    comm: CheckedComm, cupy: device_on_cpu.Cupy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On every rank, also where one of them has it."""
    if comm.rank == comm.size - 1:
        monkeypatch.setenv("CUPY_CUDA_PER_THREAD_DEFAULT_STREAM", "1")
    with pytest.raises(UserError, match=f"rank {comm.size - 1} has CUPY_CUDA_PER_THREAD_DEFAULT_STREAM set"):
        arrays.load("cupy", comm)
    assert arrays.load("auto", comm) is np


@pytest.mark.ranks(1)
def test_passes_over_a_shared_model_take_turns(comm: CheckedComm, cupy: device_on_cpu.Cupy) -> None:
    """Two streams, each pass launched before any other is over, every kind after every kind of the other stream that
    must not overtake it."""

    def scenario() -> bool:
        x, x_hat, update = cupy.asarray(np.arange(4.0)), cupy.zeros(4), cupy.ones(4)
        with arrays.own_stream(x) as stream:
            s, received, sent = cupy.zeros(4), cupy.full(4, 12.0), cupy.full(4, 4.0)
        model = shared_model(comm, x)
        passes = (
            (stream, lambda: model.weigh(0.5, s)),
            (None, lambda: model.descend(1.0, update)),
            (stream, lambda: model.average(received, sent)),
            (None, lambda: model.read(x_hat)),
            (stream, lambda: model.average(received, sent)),
            (None, lambda: model.read(x_hat)),
            (stream, lambda: model.weigh(0.25, s)),
            (None, lambda: model.descend(1.0, update)),
            (stream, lambda: model.weigh(0.5, s)),
        )
        for own, launch in passes:
            with own or nullcontext():
                launch()
        read, left = x_hat.get().tolist(), x.get().tolist()
        with stream:
            weighed = s.get().tolist()
        return (read, left, weighed) == ([15, 16, 17, 18], [14, 15, 16, 17], [7, 7.5, 8, 8.5])

    hold_without_any_wait(comm, cupy, scenario)


@pytest.mark.ranks(2)
def test_an_exchange_waits_for_what_it_sends_and_takes_in(
    comm: CheckedComm, cupy: device_on_cpu.Cupy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two exchanges with an update between, staged and by an MPI that reads device memory. What rank 0 takes in is
    there before it asks for it, so nothing waits by chance."""
    monkeypatch.setattr(gossip, "PIECE", 3)
    starts, updates = np.array([np.arange(7.0), np.arange(7.0) ** 2]), np.array([[1.0] * 7, [-4.0] * 7])

    def averaged(aware: bool) -> bool:
        arrays.send_device_arrays(comm, "direct" if aware else "staged")
        model = shared_model(comm, cupy.asarray(starts[comm.rank]))
        exchange = gossip.Exchange(comm, model, 1, [0.5, 0.5])
        update = cupy.asarray(updates[comm.rank])
        for turn in range(2):
            while comm.rank == 0 and not comm.Iprobe(1, 1):
                pass
            exchange.average_with(1 - comm.rank, [])
            if turn == 0:
                model.descend(1.0, update)
        expected = starts.mean(axis=0) - updates.mean(axis=0)
        return bool(np.array_equal(model.x.get(), expected))

    hold_without_any_wait(comm, cupy, lambda: averaged(False) & averaged(True), but="__")  # the turns: see above


@pytest.mark.ranks(2)
def test_what_an_exchange_costs(comm: CheckedComm, cupy: device_on_cpu.Cupy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait for each piece; a kernel each for what is sent and for the average, and a wait for all."""
    monkeypatch.setattr(gossip, "PIECE", 3)
    exchange = gossip.Exchange(comm, shared_model(comm, cupy.zeros(7)), 1, [0.5, 0.5])
    before = cupy.device.counted.copy()
    exchange.average_with(1 - comm.rank, [])
    cost = cupy.device.counted - before
    assert (cost["kernels"], cost["waits"]) == (2, 3 + 1)


@pytest.mark.ranks(1)
def test_a_copy_is_complete_on_return(comm: CheckedComm, cupy: device_on_cpu.Cupy) -> None:
    """Down, up from pinned memory, and where MPI reads the device's."""

    def scenario() -> bool:
        x, y = cupy.asarray(np.arange(3.0)), cupy.zeros(3)
        wire, up = arrays.twin(x, comm), arrays.twin(x, comm)
        arrays.copy(x, wire)
        down = wire.tolist()
        up[:] = 5
        arrays.copy(up, y)
        up[:] = 6
        y += 1
        arrays.copy(y, y)
        return down == [0, 1, 2] and y.host.tolist() == [6, 6, 6]

    hold_without_any_wait(comm, cupy, scenario)


class Slow:
    """A problem whose gradients keep the device busy."""

    def __init__(self, problem: Any, cupy: Any, seconds: float) -> None:
        self._problem, self._cupy, self._seconds = problem, cupy, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._problem, name)

    def gradient(self, x: Any, batch: np.ndarray | None, out: Any) -> None:
        self._problem.gradient(x, batch, out)
        self._cupy.spend(self._seconds)


@pytest.mark.ranks(2)
def test_exchanges_do_not_wait_for_gradients(
    comm: CheckedComm, cupy: device_on_cpu.Cupy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 40 gradients of 100 ms that a device computes, all but the last ones have been averaged before the last one is
    over, and no exchange took half as long as one of them. Where both threads use one stream it is a third of them. On
    a busy machine one of three runs has to show it."""
    monkeypatch.setattr(harness, "backend", cupy)
    shown = []
    while not any(shown) and len(shown) < 3:
        problem = Slow(share(comm, "quadratic:dim=100"), cupy, 0.1)
        outcome = execute(comm, ad_psgd, problem, 20, compute_time=1e-3)
        mine = outcome.events[outcome.events["kind"] == KIND["exchange"]]
        last_s = comm.allreduce(outcome.steps["t_s"].max(initial=0.0), MPI.MAX)
        early = comm.allreduce(np.count_nonzero(mine["t_end_s"] < last_s)) / 2
        longest_s = comm.allreduce((mine["t_end_s"] - mine["t_start_s"]).max(initial=0.0), MPI.MAX)
        print(early, longest_s)
        shown.append(early >= 38 and longest_s < 0.05)
        assert not comm.allreduce(len(cupy.device.races))
    assert any(shown)


def paced(comm: CheckedComm, problem: Any, diverged: Callable[[int], None] = lambda step: None) -> tuple[Any, Trace]:
    trace = Trace(comm, Snapshots(0, problem.dim, np.dtype("f8"), per_step=True))
    delays = Delays(stragglers.parse("none"), 0, comm.rank)
    return PacedProblem(problem, comm, trace, delays, 1e-9, 1, diverged), trace


@pytest.mark.ranks(1)
def test_a_gradient_does_not_pay_for_the_update_before_it(
    comm: CheckedComm, cupy: device_on_cpu.Cupy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which the device still works on when the gradient is launched."""
    monkeypatch.setattr(harness, "backend", cupy)
    problem, trace = paced(comm, share(comm, "quadratic:dim=10"))
    x, g = problem.x0(), problem.x0()
    launched_s = trace.now()
    cupy.spend(1.0)
    problem.gradient(x, np.arange(1), g)
    compute = np.frombuffer(trace.drain()["events"], EVENTS)[0]
    assert compute["t_end_s"] - launched_s >= 1
    assert compute["t_start_s"] - launched_s > 0.5
    np.testing.assert_array_equal(g.get(), g.host)


@pytest.mark.ranks(1)
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e308])
def test_what_is_not_finite_is_seen_at_once(
    comm: CheckedComm, cupy: device_on_cpu.Cupy, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """With its own step, also where the device computes; a large number is none of it."""
    monkeypatch.setattr(harness, "backend", cupy)
    seen = list[int]()
    problem, _ = paced(comm, Slow(share(comm, "quadratic:dim=10"), cupy, 0.0), seen.append)
    gradient = problem.problem.gradient

    def broken(x: Any, batch: np.ndarray | None, out: Any) -> None:
        gradient(x, batch, out)
        if problem.calls == 2:
            out[3:5] = value

    problem.problem.gradient = broken
    x, g = problem.x0(), problem.x0()
    for _ in range(4):
        problem.gradient(x, np.arange(1), g)
    assert seen == ([] if value == 1e308 else [2])


@pytest.mark.ranks(1)
def test_waits_of_a_step(comm: CheckedComm, cupy: device_on_cpu.Cupy, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for the gradient, one for what is sent, one for what was received; and the numbers of a batch go up once."""
    monkeypatch.setattr(harness, "backend", cupy)
    counted = []
    for steps in (5, 15):
        before = cupy.device.counted.copy()
        execute(comm, allreduce_sgd, share(comm, "digits:hidden=0"), steps, compute_time=1e-9, dtype="float32")
        counted.append(cupy.device.counted - before)
    more = counted[1] - counted[0]
    assert (more["waits"], more["uploads"]) == (3 * 10, 2 * 10)


@pytest.mark.parametrize(
    ("kinds", "aware"),
    [
        ("mpi,system", False),
        ("system,cuda,mpi", True),
        ("system, cuda:device", True),
        ("system,cuda:host", False),
        ("system,cuda:managed:device", True),
        ("", False),
    ],
)
def test_which_memory_an_mpi_reads(kinds: str, aware: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the words of MPI 4.1: memory of the host that CUDA has pinned is no device's."""
    monkeypatch.setattr(arrays, "_cuda_support_of_library", lambda: False)
    info = SimpleNamespace(Get=lambda name: kinds if name == "mpi_memory_alloc_kinds" else None, Free=lambda: None)
    assert arrays.cuda_aware(SimpleNamespace(Get_info=lambda: info)) is aware  # type: ignore[arg-type]


@pytest.mark.ranks(2)
def test_the_flag_decides_how_messages_travel(
    comm: CheckedComm, cupy: device_on_cpu.Cupy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else all ranks do the same, on duplicates as well: here one has an MPI that reads no device memory."""
    for aware, how in ((comm.rank == 0, "staged"), (True, "direct")):
        monkeypatch.setattr(arrays, "cuda_aware", lambda comm, aware=aware: aware)
        for asked in ("auto", "staged", "direct"):
            arrays.load("cupy", comm, asked)
            gossip_comm, x = comm.Dup(), cupy.zeros(3)
            expected = how if asked == "auto" else asked
            assert [arrays.device_messages(each) for each in (comm, gossip_comm)] == [expected] * 2
            assert (arrays.twin(x, gossip_comm) is x) == (expected == "direct")
            gossip_comm.Free()


@pytest.mark.ranks(2)
@pytest.mark.parametrize(
    ("program", "flags"),
    [
        (d_psgd, {}),
        (d_psgd, {"order": "adapt-combine", "topology": "one-peer"}),
        (choco_sgd, {"compressor": "identity"}),
        (local_sgd, {"overlap": True, "period": 2}),
    ],
    ids=["d_psgd", "one-peer", "choco_sgd", "local_sgd"],
)
def test_no_device_memory_in_non_blocking_collectives(
    comm: CheckedComm, cupy: device_on_cpu.Cupy, monkeypatch: pytest.MonkeyPatch, program: Any, flags: dict[str, Any]
) -> None:
    """Open MPI reads it in messages from point to point and in blocking collectives, but in no other."""
    here = execute(comm, program, share(comm, "quadratic:dim=9,zeta=1"), 4, compute_time=1e-9, **flags)
    monkeypatch.setattr(harness, "backend", cupy)
    arrays.send_device_arrays(comm, "direct")
    comm.meter.reset()
    there = execute(comm, program, share(comm, "quadratic:dim=9,zeta=1"), 4, compute_time=1e-9, **flags)
    np.testing.assert_allclose(there.x, here.x, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(there.sent, here.sent)
    calls = {call.strip() for call in cupy.device.handed}
    assert not [call for call in calls if re.search(r"\.I(neighbor|all|bcast|gather|scatter|reduce)", call)]
    assert calls or program is local_sgd
    assert not cupy.device.races


@pytest.mark.ranks(2)
@pytest.mark.parametrize(
    ("program", "flags"),
    [(local_sgd, {"outer": "nesterov", "rule": "adam", "period": 4}), (ad_psgd, {})],
    ids=["local_sgd", "ad_psgd"],
)
def test_no_kernel_is_compiled_in_the_timed_part(
    comm: CheckedComm,
    cupy: device_on_cpu.Cupy,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    program: Any,
    flags: dict[str, Any],
) -> None:
    """By a whole run with a given compute time, for which no gradient is timed; and it ends where it would have."""
    launch = Launch(
        problem="quadratic:dim=9,sigma=1",
        epochs=0.2,
        compute_time=1e-3,
        out=comm.bcast(tmp_path_factory.mktemp("run") / "run.h5"),
    )
    config = program.Config(step_size=0.1, **flags)
    plan = make_plan(program.__name__.rpartition(".")[2], config, launch, comm.size)
    compiled, calls = [], []
    start, run = Assembly._start, Assembly.run
    noted = cupy.device.compiled

    def started(self: Assembly) -> float:
        compiled.append(set(noted))
        calls.append(problem.calls)
        return start(self)

    def ended(self: Assembly, program: Any) -> Any:
        x = run(self, program)
        compiled.append(set(noted))
        return x

    monkeypatch.setattr(Assembly, "_start", started)
    monkeypatch.setattr(Assembly, "run", ended)
    setting = Setting(comm, [comm.rank], comm.size, "iid", 0, "float32", cupy)
    (problem,) = problems.build(launch.problem, setting)
    code = execution.execute(comm, program.run, plan, problem, setting, {}, 0, None, Look(comm))
    assert code == 0
    assert not compiled[-1] - compiled[-2]
    assert calls == [0, 0]  # by which problems draw
    if program is not ad_psgd:
        monkeypatch.setattr(harness, "backend", np)
        steps = plan.steps(problem.n_total)
        x = execute(
            comm, program, share(comm, launch.problem, "float32"), steps, dtype="float32", step_size=0.1, **flags
        ).x
        reached = comm.bcast(Run(launch.out).column("model", "x_mean") if comm.rank == 0 else None)
        mean = np.mean(comm.allgather(x), axis=0)
        np.testing.assert_allclose(reached, mean, rtol=0, atol=1e-6)


@pytest.mark.ranks(1)
def test_nobody_waits_for_a_snapshot(comm: CheckedComm, cupy: device_on_cpu.Cupy, tmp_path: Path) -> None:
    """Neither for what the device has still to do, nor for the copy, which is of the model as it was."""
    numbers = itertools.count()

    def fresh_store() -> Snapshots:
        return Snapshots(8, 5, np.dtype("f8"), per_step=True, path=tmp_path / f"models{next(numbers)}")

    def scenario() -> bool:
        x, store = cupy.asarray(np.arange(5.0)), fresh_store()
        for step in range(1, 4):
            store.offer(x, step, 0.0)
            x += 1
        return [store[tag].tolist() for tag in store.tags()] == [[tag - 1 + i for i in range(5)] for tag in (1, 2, 3)]

    hold_without_any_wait(comm, cupy, scenario)
    x, store = cupy.zeros(5), fresh_store()
    cupy.spend(2.0)
    start = time.monotonic()
    store.offer(x, 1, 0.0)
    assert time.monotonic() - start < 1
    assert store.tags().tolist() == [1]
    assert time.monotonic() - start >= 2


@pytest.mark.ranks(2)
@pytest.mark.parametrize("slower", ["numpy", "cupy"])
def test_auto_takes_what_is_faster(
    comm: CheckedComm, cupy: device_on_cpu.Cupy, monkeypatch: pytest.MonkeyPatch, slower: str
) -> None:
    """For the slowest worker, and so for all of them; which one it was is said, with both times."""

    def build(xp: Any) -> list[Any]:
        monkeypatch.setattr(harness, "backend", xp)
        late = SimpleNamespace(spend=time.sleep) if xp is np else cupy
        slow = comm.rank == 1 and slower == xp.__name__
        return [Slow(share(comm, "quadratic:dim=10"), late, 0.1 if slow else 0.0)]

    xp, (problem,), why = backend.chosen(comm, Launch(), 1, build)
    assert xp is problem.xp is (cupy if slower == "numpy" else np)
    assert re.fullmatch(r"a gradient takes \S+ ms on numpy and \S+ ms on cupy", why)
    assert comm.bcast(why) == why
    for asked in ("numpy", "cupy"):
        xp, (problem,), why = backend.chosen(comm, Launch(backend=asked), 1, build)
        assert (xp.__name__, problem.xp.__name__, why) == (asked, asked, "")


@pytest.mark.ranks(2)
@pytest.mark.parametrize("program", [d_psgd, gossip_local_sgd], ids=["d_psgd", "gossip_local_sgd"])
def test_gossip_in_halves(
    comm: CheckedComm, cupy: device_on_cpu.Cupy, monkeypatch: pytest.MonkeyPatch, program: Any
) -> None:
    """Models travel in half as many bytes and come out near where they would have; on a device at the same numbers."""
    runs = []
    for xp, wire_dtype in ((np, "same"), (np, "bfloat16"), (cupy, "bfloat16")):
        monkeypatch.setattr(harness, "backend", xp)
        comm.meter.reset()
        problem = share(comm, "quadratic:dim=50,zeta=1", "float32")
        flags = {"dtype": "float32", "compute_time": 1e-9, "wire_dtype": wire_dtype}
        runs.append(execute(comm, program, problem, 16, **flags))
    same, halves, on_device = runs
    exchanges = 16 if program is d_psgd else 2
    assert same.sent.sum() - halves.sent.sum() == exchanges * 50 * 2
    assert 1e-5 < np.abs(halves.x - same.x).max() < 0.02
    np.testing.assert_allclose(on_device.x, halves.x, rtol=0, atol=1e-6)
    with pytest.raises(UserError, match="--wire-dtype bfloat16"):
        program.Config(dtype="float64", wire_dtype="bfloat16").check(2)
