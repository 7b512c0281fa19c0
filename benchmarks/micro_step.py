"""A step of a program beside the same step by hand: `outpace micro step --dim`.

Every program makes its steps here four times: by the suite as it is; by hand in mpi4py with NumPy, and with loops of
numba that look at each vector once; and its MPI calls alone. The gradient is a copy of a constant vector, the same for
all, and of a batch that is drawn for it; what the suite does beside, its records and its look for what is not finite,
is not done by hand. Two ranks: workers, or with a server a worker and its server.
"""

import functools
import importlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.problems import Problem
from outpace.benchmarks.running.assembly import Assembly
from outpace.benchmarks.running.plan import Launch, Plan, make_plan
from outpace.benchmarks.trace.recorder import STEPS
from outpace.benchmarks.trace.snapshots import Snapshots
from outpace.comm import clock
from outpace.comm.meter import MeteredComm
from outpace.comm.sign import compiled
from outpace.comm.topology import mixing_matrix

GAMMA: Final = 0.25
BATCH: Final = 16  # samples, as the programs' default
PROGRAMS: Final[dict[str, dict[str, Any]]] = {
    "allreduce_sgd": {},
    "d_psgd": {},
    "d2": {"dtype": "float32"},
    "ad_psgd": {},
    "a_psgd": {},
}
VECTORS: Final = 28  # of a rank: five of each kind by hand, the program's own, and the models that are compared
Array = np.ndarray[Any, Any]


class Constant(Problem):
    """Its gradient is a copy of a vector, of float32."""

    xp, n_samples, n_total = np, 1000, 1000

    def __init__(self, gradient: Array) -> None:
        self.dim, self._gradient = len(gradient), gradient

    def x0(self) -> Array:
        return np.zeros(self.dim, np.float32)

    def gradient(self, x: Array, batch: Array | None, out: Array) -> None:
        np.copyto(out, self._gradient)


class ByNumPy:
    """The arithmetic of the loops by hand, as one writes it in NumPy."""

    @staticmethod
    def draw(rng: np.random.Generator) -> Array:
        return rng.integers(Constant.n_samples, size=BATCH)

    copy = staticmethod(np.copyto)

    @staticmethod
    def descend(x: Array, g: Array, n: float) -> None:
        g /= np.float32(n)
        g *= np.float32(GAMMA)
        x -= g

    @staticmethod
    def mix(x: Array, r: Array, g: Array, own: float) -> None:
        g *= np.float32(GAMMA)
        x *= np.float32(own)
        r *= np.float32(1 - own)
        x += r
        x -= g

    @staticmethod
    def d2_message(x: Array, g: Array, c: Array, h: Array) -> None:
        g *= np.float32(GAMMA)
        np.subtract(x, g, out=h)
        h += c

    @staticmethod
    def d2_mix(x: Array, g: Array, c: Array, h: Array, r: Array, own: float) -> None:
        np.subtract(g, x, out=c)
        h *= np.float32(own)
        r *= np.float32(1 - own)
        np.add(h, r, out=x)
        c += x

    @staticmethod
    def halve(x: Array, s: Array) -> None:
        np.multiply(x, np.float32(0.5), out=s)

    @staticmethod
    def average(x: Array, r: Array, s: Array) -> None:
        r -= s
        x += r


class Fused(ByNumPy):
    """The same, each a loop that reads and writes every vector once."""

    @staticmethod
    @compiled
    def descend(x: Array, g: Array, n: float) -> None:
        rate = np.float32(GAMMA / n)
        for i in range(x.size):
            x[i] -= rate * g[i]

    @staticmethod
    @compiled
    def mix(x: Array, r: Array, g: Array, own: float) -> None:
        mine, other, rate = np.float32(own), np.float32(1 - own), np.float32(GAMMA)
        for i in range(x.size):
            x[i] = mine * x[i] + other * r[i] - rate * g[i]

    @staticmethod
    @compiled
    def d2_message(x: Array, g: Array, c: Array, h: Array) -> None:
        rate = np.float32(GAMMA)
        for i in range(x.size):
            h[i] = x[i] - rate * g[i] + c[i]

    @staticmethod
    @compiled
    def d2_mix(x: Array, g: Array, c: Array, h: Array, r: Array, own: float) -> None:
        mine, other, rate = np.float32(own), np.float32(1 - own), np.float32(GAMMA)
        for i in range(x.size):
            mixed = mine * h[i] + other * r[i]
            c[i] = mixed - x[i] + rate * g[i]
            x[i] = mixed

    @staticmethod
    @compiled
    def halve(x: Array, s: Array) -> None:
        half = np.float32(0.5)
        for i in range(x.size):
            s[i] = half * x[i]

    @staticmethod
    @compiled
    def average(x: Array, r: Array, s: Array) -> None:
        for i in range(x.size):
            x[i] += r[i] - s[i]


class MpiAlone:
    """No arithmetic at all."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arrays: None


class ByHand:
    """The steps of the programs between two ranks, or, where they need no other one, of a rank alone. The model is x,
    of the server where there is one."""

    def __init__(self, comm: MeteredComm, gradient: Array, passes: Any) -> None:
        self.comm, self.peer, self.passes, self.gradient = MPI.Intracomm(comm), 1 - comm.rank, passes, gradient
        self.lock, self.due, self.rng = threading.Lock(), threading.Semaphore(0), np.random.default_rng(comm.rank)
        self.x, self.g, self.c, self.h, self.r = (np.full_like(gradient, 0) for _ in range(5))
        peers = [self.peer] if comm.size > 1 else []
        self.graph = self.comm.Create_dist_graph_adjacent(peers, peers)
        self.own = float(mixing_matrix("ring:lazy=1", 2)[0, 0])

    def run(self, name: str, steps: int) -> tuple[list[float], Array]:
        """When each step ended, and the model."""
        self.x.fill(0)
        self.c.fill(0)
        step, ends = getattr(self, name), []
        averaging = threading.Thread(target=self._averagings, args=(steps,)) if name == "ad_psgd" else None
        if averaging:
            averaging.start()
        for _ in range(steps):
            step()
            ends.append(time.monotonic())
        if averaging:
            averaging.join()
        return ends, self.x

    def allreduce_sgd(self) -> None:
        self.passes.draw(self.rng)
        self.passes.copy(self.g, self.gradient)
        self.comm.Allreduce(MPI.IN_PLACE, self.g)
        self.passes.descend(self.x, self.g, 2.0)

    def d_psgd(self) -> None:
        self.passes.draw(self.rng)
        request = self.graph.Ineighbor_allgather(self.x, self.r)
        self.passes.copy(self.g, self.gradient)
        request.Wait()
        self.passes.mix(self.x, self.r, self.g, 0.5)

    def d2(self) -> None:
        self.passes.draw(self.rng)
        self.passes.copy(self.g, self.gradient)
        self.passes.d2_message(self.x, self.g, self.c, self.h)
        self.graph.Ineighbor_allgather(self.h, self.r).Wait()
        self.passes.d2_mix(self.x, self.g, self.c, self.h, self.r, self.own)

    def ad_psgd(self) -> None:
        self.passes.draw(self.rng)
        with self.lock:
            self.passes.copy(self.h, self.x)
        self.passes.copy(self.g, self.gradient)
        with self.lock:
            self.passes.descend(self.x, self.g, 1.0)
        self.due.release()

    def _averagings(self, steps: int) -> None:
        """One for each gradient of either rank, in a thread of its own."""
        for k in range(2 * steps):
            if k % 2 == 0:
                self.due.acquire()
            with self.lock:
                self.passes.halve(self.x, self.c)
            self.comm.Sendrecv(self.c, self.peer, 0, self.r, self.peer, 0)
            with self.lock:
                self.passes.average(self.x, self.r, self.c)

    def a_psgd(self) -> None:
        if self.comm.rank == 0:
            self.passes.draw(self.rng)
            self.passes.copy(self.g, self.gradient)
            self.comm.Send(self.g, 1)
            self.comm.Recv(self.x, 1)
        else:
            self.comm.Recv(self.g, 0)
            self.passes.descend(self.x, self.g, 1.0)
            self.comm.Send(self.x, 0)


def by_the_suite(comm: MeteredComm, name: str, gradient: Array, steps: int) -> tuple[list[float], Array]:
    """The same of the program, run as `outpace run` does, without snapshots."""
    program: Any = importlib.import_module(f"outpace.algorithms.{name}")
    plan = make_plan(name, program.Config(step_size=GAMMA, **PROGRAMS[name]), Launch(), comm.size)
    problem = Constant(gradient)
    assembly = Assembly(comm, plan, problem, Snapshots(0, problem.dim, gradient.dtype, per_step=True), steps)
    x = assembly.run(program.run)
    return np.frombuffer(assembly.trace.drain()["steps"], STEPS)["t_s"].tolist(), x


def alone(comm: MeteredComm, steps: int, dim: int = 1000) -> Iterator[tuple[str, Callable[[], None]]]:
    """Each program with its steps on one rank, whose gradients take no time: the suite's own overhead."""

    def run(program: Any, plan: Plan) -> None:
        problem = Constant(np.zeros(dim, np.float32))
        assembly = Assembly(comm, plan, problem, Snapshots(0, dim, np.dtype("f4"), per_step=True), steps)
        # Not the paced problem: pacing is no part of the overhead.
        program.run(comm, problem, plan.config, assembly.budget, assembly.trace)
        if assembly.trace.steps != steps:
            raise RuntimeError(f"{plan.name} made {assembly.trace.steps} steps of {steps}")

    for name in ("allreduce_sgd", "d_psgd", "ad_psgd"):
        program: Any = importlib.import_module(f"outpace.algorithms.{name}")
        yield name, functools.partial(run, program, make_plan(name, program.Config(), Launch(), comm.size))


def measure(comm: MeteredComm, dim: int, rounds: int, steps: int) -> Iterator[tuple[str, dict[str, list[float]]]]:
    """Each program with the seconds of a step, `rounds` samples of every kind taken in turns: rank 0's, from the end of
    the first of its `steps` on. Collective, on 2 ranks. Raises RuntimeError where the kinds do not agree."""
    for name in PROGRAMS:
        differ = comm.rank if name not in ("ad_psgd", "a_psgd") else 0  # there nobody knows who makes how many
        gradient = np.random.default_rng(7).standard_normal(dim, np.float32) * np.float32(1 + differ)
        kinds: dict[str, Callable[[int], tuple[list[float], Array]]] = {
            "ours": functools.partial(by_the_suite, comm, name, gradient),
            **{kind: functools.partial(ByHand(comm, gradient, passes).run, name) for kind, passes in PASSES.items()},
        }
        _validate(comm, name, gradient, {kind: run(3)[1].copy() for kind, run in kinds.items() if kind != "MPI alone"})
        samples: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for kind, run in kinds.items():
                comm.Barrier()
                ends, _ = run(steps)
                if name == "ad_psgd" and ends:
                    ends[-1] = clock.now(comm)  # when the averagings have ended as well
                if len(ends) > 1:  # a server has none
                    samples[kind].append((ends[-1] - ends[0]) / (len(ends) - 1))
        yield name, samples


def _validate(comm: MeteredComm, name: str, gradient: Array, models: dict[str, Array]) -> None:
    """After 3 steps all have the same models, whose mean is known."""
    mean = (gradient if name in ("ad_psgd", "a_psgd") else 1.5 * gradient / (1 + comm.rank)) * (-3 * GAMMA)
    for kind, x in models.items():
        total = x.astype(np.float64)
        if name == "a_psgd":
            agree = np.allclose(total, mean, rtol=1e-5, atol=1e-6)
        else:
            comm.Allreduce(MPI.IN_PLACE, total)
            agree = np.allclose(total / 2, mean, rtol=1e-5, atol=1e-6)
            if name != "ad_psgd":
                agree = agree and np.allclose(x, models["ours"], rtol=1e-5, atol=1e-6)
        if not agree:
            raise RuntimeError(f"rank {comm.rank}: {name}, {kind}: another model than it must be")


PASSES: Final[dict[str, Any]] = {"NumPy": ByNumPy, "fused": Fused, "MPI alone": MpiAlone()}
