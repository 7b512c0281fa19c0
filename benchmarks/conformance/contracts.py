"""The contracts that are tried out: each runs the program of a row on `comm` and raises what `verdict` has.

All are collective. `xp` is the array module that the program computes with.
"""

import functools
import tracemalloc
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

import numpy as np

from outpace.benchmarks.conformance.row import Row, configurations, ring_allreduce
from outpace.benchmarks.conformance.trial import (
    Allocations,
    CheckedComm,
    Outcome,
    RandomStart,
    Shown,
    execute,
    share,
    shares,
)
from outpace.benchmarks.conformance.verdict import NotApplicable, hold
from outpace.comm import arrays
from outpace.comm.agreement import on_root
from outpace.comm.errors import UserError
from outpace.comm.layout import Layout

PROBLEM: Final = "quadratic:dim=10,sigma=0.3,zeta=1"
STEPS: Final = 25


def leaves_no_message(comm: CheckedComm, row: Row, xp: ModuleType = np) -> None:
    """A run of each configuration ends, and every message that was sent has been received."""
    for config in configurations(row, comm.size):
        problem = share(comm, row.problem(PROBLEM), servers=row.servers(config), xp=xp)
        execute(comm, row.program, problem, STEPS, **row.pace, **config)


def learns_and_counts(comm: CheckedComm, row: Row, xp: ModuleType = np) -> None:
    """The mean model improves, and all workers together compute exactly the gradients of the budget."""
    # Uneven speeds draw an asynchronous program to the fast workers' minima: it gets workers that share one.
    problem, steps = row.problem(PROBLEM if row.spread and row.synchronous else "quadratic:dim=10,sigma=0.3"), 40
    for config in configurations(row, comm.size):
        servers = row.servers(config)
        n, mine = comm.size - servers, share(comm, problem, servers=servers, xp=xp)
        everyone = shares(problem, n)
        start = _distance(everyone, everyone[0].x0())
        for pace in row.paces:
            outcome = execute(comm, row.program, mine, steps, **pace, **{"step_size": 0.1, **config})
            _counts(comm, row, config, outcome, everyone[0].n_total, steps)
            loss = comm.bcast(_distance(everyone, outcome.mean))
            if loss < 0.2 * start:
                break
        fell = f"the mean model's distance from the least loss is {loss:.3g} after {steps} steps, {start:.3g} at first"
        hold(comm, loss < 0.2 * start, f"{told(config)}{fell}; a fifth of that is allowed")


def _distance(everyone: list[Any], x: np.ndarray) -> float:
    """Of the workers' mean loss at x from its least."""
    return float(np.mean([share.loss(x) for share in everyone]) - everyone[0].f_star)


def _counts(comm: CheckedComm, row: Row, config: dict[str, Any], outcome: Outcome, n_total: int, steps: int) -> None:
    """The run has made what its budget says."""
    n = comm.size - row.servers(config)
    gradients, samples = counted(comm, row, config, outcome)
    due = row.gradients(config, n, steps)
    hold(comm, gradients == due, f"{told(config)}{gradients} steps are recorded, {due} were to be made")
    _, due = row.work(row.program.Config(**config), n_total, n, steps)
    hold(comm, samples == due, f"{told(config)}gradients over {samples} samples, {due} were to be used")
    if row.synchronous:
        hold(comm, len(outcome.steps) == steps, f"{told(config)}made {len(outcome.steps)} steps of {steps}")
        hold(comm, outcome.x.shape == (10,), f"{told(config)}returns shape {outcome.x.shape} for a model of (10,)")


def equals_its_reference(comm: CheckedComm, row: Row, xp: ModuleType = np, steps: int = STEPS) -> None:
    """To 1e-12, on every graph that allows n, and once on a network. Catches a gradient at the wrong model, a wrong
    weight, a torn buffer."""
    if row.reference is None:
        raise NotApplicable("no reference(shares, cfg, steps)")
    every = configurations(row, comm.size)
    for problem, chosen in ((row.problem(PROBLEM), every), ("digits:hidden=5", every[:1])):
        everyone = on_root(comm, functools.partial(shares, problem, comm.size))
        mine = share(comm, problem, xp=xp)
        for config in chosen:
            x = execute(comm, row.program, mine, steps, **config).x
            cfg = row.program.Config(**config, dtype="float64")
            X = comm.bcast(on_root(comm, functools.partial(row.reference.run, everyone, cfg, steps)))
            apart = np.abs(x - X[comm.rank]).max()
            why = f"{told(config)}{apart:.1e} from the reference after {steps} steps on {problem}; 1e-12 is allowed"
            hold(comm, apart <= 1e-12, why)


def repeats_exactly(comm: CheckedComm, row: Row, xp: ModuleType = np) -> None:
    """A synchronous program is a function of its seed."""
    if not row.synchronous:
        raise NotApplicable("asynchronous")
    problem, config = share(comm, row.problem(PROBLEM), xp=xp), configurations(row, comm.size)[0]
    first, second = (execute(comm, row.program, problem, STEPS, seed=3, **config).x for _ in range(2))
    apart = np.abs(first - second).max()
    hold(comm, apart <= 1e-13, f"two runs with one seed end {apart:.1e} apart")
    other = execute(comm, row.program, problem, STEPS, seed=4, **config).x
    hold(comm, np.abs(other - first).max() > 1e-3, "another seed gives the same result")


def goes_on_from_a_checkpoint(comm: CheckedComm, row: Row, xp: ModuleType = np) -> None:
    """A synchronous program ends at the same bits, with each of its options: a state that is not kept, or one that
    set-up overwrites, shows. An asynchronous one computes exactly the gradients of its budget."""
    for config in configurations(row, comm.size):
        problem = share(comm, row.problem(PROBLEM), servers=row.servers(config), xp=xp)
        if row.synchronous:
            x, paused = (execute(comm, row.program, problem, STEPS, pause=pause, **config) for pause in (False, True))
            hold(comm, paused.pauses == 1, f"{told(config)}paused {paused.pauses} times for one checkpoint")
            same = np.array_equal(paused.x, x.x)
            hold(comm, same, f"{told(config)}another result than without the checkpoint: is all given to budget.keep?")
        else:
            workers = comm.size - row.servers(config)
            steps = -(-40 * 40 * workers // row.gradients(config, workers, 40))  # 40 gradients of each worker
            paused = execute(comm, row.program, problem, steps, pause=True, **row.pace, **config)
            due = row.gradients(config, workers, steps)
            hold(comm, paused.pauses >= 1, f"{told(config)}did not pause for a checkpoint")
            made, _ = counted(comm, row, config, paused)
            hold(comm, made == due, f"{told(config)}{made} steps with checkpoints between, {due} were to be made")


def sends_what_its_cost_says(comm: CheckedComm, row: Row, xp: ModuleType = np) -> None:
    """The meter against the formula, to the byte; both are bytes sent."""
    if row.cost is None:
        raise NotApplicable("no cost(n, dim, degrees)")
    dim, n = 10, comm.size
    every = configurations(row, n)
    on_graphs = [config for config in every if {**config, **row.variants[0]} == config]  # others may send other amounts
    for config in on_graphs if row.gossip else every[:1]:
        servers = row.servers(config)
        problem = share(comm, row.problem(PROBLEM), servers=servers, xp=xp)
        outcome = execute(comm, row.program, problem, STEPS, agreement=1000, **config)
        matrices = row.program.Config.mixing(config.get("topology", "complete"), n)
        degrees = np.mean([(W > 0).sum(axis=0) - 1 for W in matrices], axis=0)  # to how many a worker sends
        sent = np.array(comm.allgather(outcome.sent.sum()))
        cost = row.cost(n, dim, degrees)
        if row.synchronous:
            rounds, _ = row.work(row.program.Config(**config), 1024, n, STEPS)
            sent = sent - ring_allreduce(n, 1)  # one agreement on the end, a single byte
            due = np.broadcast_to(rounds * cost, n)
            why = f"{told(config)}sent {sent[comm.rank]:g} bytes in {rounds} rounds; {due[comm.rank]:g} is their cost"
            hold(comm, sent[comm.rank] == due[comm.rank], why)
            told_of = int(outcome.events["nbytes"].sum())
            why = f"{told(config)}its phases tell of {told_of} bytes, {sent[comm.rank]:g} were sent"
            hold(comm, told_of == sent[comm.rank], why)
        else:
            least, most = cost
            gradients = comm.allreduce(len(outcome.steps))
            # Less, of each worker but the desk, the ask that is told that no ticket is left, the answer, the last ask.
            by_message = not (row.program.Config.rounds or row.program.Config.granted)
            tickets = 112 * (n - max(1, servers)) if by_message else 0
            each = (sent.sum() - tickets) / gradients
            why = f"{told(config)}sent {each:.1f} bytes per gradient; their cost is {least} to {most}"
            hold(comm, least <= each <= most, why)


def shows_the_model_before_each_update(comm: CheckedComm, row: Row, xp: ModuleType = np) -> None:
    """The k-th snapshot is the model that k steps lead to, the first of all the start. Taken after the update, or of
    another vector, it would shift every curve. Of several asynchronous workers only the start is known beforehand."""
    config = configurations(row, comm.size)[0]
    servers = row.servers(config)
    problem, layout = share(comm, row.problem(PROBLEM), servers=servers, xp=xp), Layout(comm.size - servers, servers)
    models = execute(comm, row.program, problem, 4, recorder=Shown, **config).models
    start, part = arrays.to_host(problem.x0()), layout.held(problem.dim).get(comm.rank)
    due = [start[part]] if part else []
    if row.synchronous or layout.workers == 1:
        later = [execute(comm, row.program, problem, steps, **config).x for steps in (1, 2, 3)]
        due += later if part else []
        hold(comm, len(models) == len(due), f"{len(models)} snapshots in {len(due)} steps")
    pairs = enumerate(zip(models, due, strict=False))  # of an asynchronous program there are more models
    wrong = [k for k, (model, x) in pairs if np.abs(model - x).max() > 1e-13]
    hold(comm, not wrong, f"snapshots {wrong} are not the models after so many steps")


def keeps_the_mean(comm: CheckedComm, row: Row, xp: ModuleType = np) -> None:
    """With step size 0 from different starts the sum of the models stays where W is doubly stochastic, and their spread
    shrinks."""
    if not row.gossip:
        raise NotApplicable("no topology, so no neighbours average")
    problem = RandomStart(share(comm, row.problem(PROBLEM), xp=xp), comm.rank)
    for config in configurations(row, comm.size):
        x = execute(comm, row.program, problem, 40, **row.pace, **{**config, "step_size": 0.0}).x
        before, after = (comm.allgather(v) for v in (arrays.to_host(problem.x0()), x))
        scale = sum(np.linalg.norm(v) for v in before)
        moved = np.linalg.norm(np.sum(after, axis=0) - np.sum(before, axis=0)) / scale
        matrices = row.program.Config.mixing(config["topology"], comm.size)
        kept = all(np.allclose(W.sum(axis=1), 1.0, rtol=0, atol=1e-9) for W in matrices)
        hold(
            comm,
            moved <= 1e-12 or not kept,
            f"{told(config)}averaging alone moves the mean, by {moved:.1e} of the models' norms",
        )
        if comm.size > 1:
            left = np.var(after, axis=0).sum() / np.var(before, axis=0).sum()
            hold(comm, left < 0.2, f"{told(config)}after 40 steps of averaging {left:.2f} of the variance is left")


def refuses_on_every_rank(comm: CheckedComm, row: Row, xp: ModuleType = np) -> None:
    """A graph or a number of workers that the program cannot use is an error everywhere, before any message."""
    refused = [config for n, config in row.refused if n == comm.size]
    if row.allowed and not row.allowed(comm.size):
        refused += row.variants
    if not refused:
        raise NotApplicable("nothing to refuse")
    for config in refused:
        try:
            execute(comm, row.program, share(comm, row.problem(PROBLEM), xp=xp), STEPS, **config)
            runs = True
        except UserError:
            runs = False
        hold(comm, not runs, f"{told(config)}runs, and is not allowed to")


def runs_in_two_halves(comm: CheckedComm, row: Row, xp: ModuleType = np) -> None:
    """Two disjoint communicators run side by side: a program that uses COMM_WORLD mixes them up or hangs."""
    if comm.size not in (2, 4, 8):
        raise NotApplicable("needs two equal halves that every graph allows")
    half = comm.Split(comm.rank % 2)
    config = configurations(row, half.size)[0]
    problem, servers = row.problem("quadratic:dim=10"), row.servers(config)
    seed = comm.rank % 2  # each half has its own minimum
    mine = share(half, problem, servers=servers, seed=seed, xp=xp)
    mean = execute(half, row.program, mine, 200, **row.pace, **{**config, "step_size": 0.3}).mean
    x_star = shares(problem, half.size - servers, seed=seed)[0].x_star
    away = np.linalg.norm(mean - x_star) / np.linalg.norm(x_star)
    hold(comm, away < 0.2, f"beside another half of the ranks, {away:.2f} of the way to the minimum is left")
    half.Free()


def allocates_no_vector_per_step(comm: CheckedComm, row: Row, xp: ModuleType = np) -> None:
    """Of 4 MB models, nothing as large as a tenth of one is allocated after the first steps, on any rank, by either
    thread: not even a mask of the coordinates."""
    dim = 1 << 19
    for config in configurations(row, comm.size, graphs=1):
        problem = share(comm, row.problem(f"quadratic:dim={dim},samples=64"), servers=row.servers(config), xp=xp)
        try:
            peak = execute(comm, row.program, problem, 12, recorder=Allocations, **row.pace, **config).peak
        finally:
            tracemalloc.stop()
        models = peak / (8 * dim)
        hold(
            comm,
            models < 0.1,
            f"{told(config)}steps allocate {models:.2g} of a model at a time; 0.1 is allowed",
        )
        hold(comm, comm.allreduce(peak > 0), f"{told(config)}no step was seen: does run call trace.record()?")


CONTRACTS: Final[dict[str, Callable[[CheckedComm, Row], None]]] = {
    contract.__name__: contract
    for contract in (
        leaves_no_message,
        learns_and_counts,
        equals_its_reference,
        repeats_exactly,
        goes_on_from_a_checkpoint,
        sends_what_its_cost_says,
        shows_the_model_before_each_update,
        keeps_the_mean,
        refuses_on_every_rank,
        allocates_no_vector_per_step,
        runs_in_two_halves,
    )
}


def counted(comm: CheckedComm, row: Row, config: dict[str, Any], outcome: Outcome) -> tuple[int, int]:
    """Gradients of all workers, and the samples in them, that the budget counts: all that were computed; where it is of
    a server's rounds, those that it applied. Collective."""
    gradients, samples = len(outcome.steps), int(outcome.steps["samples"].sum())
    if row.program.Config.rounds:
        gradients -= len(outcome.dropped)
        samples -= len(outcome.dropped) * row.program.Config(**config).batch_size
    return comm.allreduce(gradients), comm.allreduce(samples)


def told(config: dict[str, Any]) -> str:
    """The flags that differ from the program's defaults, as the beginning of a line.

    >>> told({"topology": "ring", "step_size": 0.1})
    'topology=ring, step_size=0.1: '
    """
    return ", ".join(f"{name}={value}" for name, value in config.items()) + ": " if config else ""
