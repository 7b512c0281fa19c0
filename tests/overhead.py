"""What a gradient through the suite costs beside a bare training loop in torch: `python tests/overhead.py [STEPS]`.

The same network and batches, forward, backward and a step in place. Three numbers, and what is wanted of them:

    time          at most 1.05 times the bare loop's, for ResNet-20
    allocations   in a step: as many bytes by torch as the bare loop's, and by NumPy those of a batch, no flat vector
    memory        at its peak at most 4 flat vectors more than the bare loop's

The two loops take turns step by step, and CPU time of this process counts, in the lower quartile: whatever else runs
here disturbs both alike, and those steps the least.
"""

import copy
import gc
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import CheckedComm, execute, shares
from mpi4py import MPI
from torch import nn
from torch.profiler import ProfilerActivity, profile

from outpace.algorithms import allreduce_sgd
from outpace.benchmarks.problems.torch_models import cross_entropy
from outpace.benchmarks.trace.recorder import Trace

BATCH, STEP_SIZE, WARM_UP = 32, 0.01, 3
Loop = Callable[[np.ndarray], None]  # one step with the samples of these numbers


class Bare:
    """Parameters and gradients are torch's own, and the images are ready to be used."""

    def __init__(self, problem: Any) -> None:
        self.module = copy.deepcopy(problem.module).train()
        pixels, labels = problem.train.take(slice(None))
        self.inputs = torch.from_numpy(problem.about.normalised(pixels, np.float32))
        self.labels = torch.from_numpy(labels)

    def __call__(self, batch: np.ndarray) -> None:
        index = torch.from_numpy(batch)
        self.module.zero_grad()
        cross_entropy(self.module(self.inputs[index]), self.labels[index]).backward()
        with torch.no_grad():
            for part in self.module.parameters():
                part.sub_(part.grad, alpha=STEP_SIZE)


class Suite:
    """What a program does: a gradient at a flat vector, into another."""

    def __init__(self, problem: Any) -> None:
        self.problem, self.x = problem, problem.x0()
        self.g = np.empty_like(self.x)

    def __call__(self, batch: np.ndarray) -> None:
        self.problem.gradient(self.x, batch, self.g)
        np.multiply(self.g, STEP_SIZE, out=self.g)
        np.subtract(self.x, self.g, out=self.x)
        self.problem.calls += 1


def wide() -> nn.Module:
    """For images of 8 x 8, 8.6 million parameters or 34 MB, beside which all else in a step is small."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2900), nn.ReLU(), nn.Linear(2900, 2900), nn.Linear(2900, 10))


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    for model in ("resnet20", "lenet5"):
        problem = shares(f"torch:model={model},data=fashion-mnist", 8, dtype="float32")[0]
        bare, suite = Bare(problem), Suite(problem)
        print(f"{model}, batches of {BATCH}, {steps} steps")
        print("   ", timed(bare, suite, steps))
        print("   ", allocated(bare, suite))
    print(f"memory at its peak, in flat vectors of 34 MB: {kept()}")


def timed(bare: Bare, suite: Suite, steps: int) -> str:
    rng, seconds = np.random.default_rng(0), {bare: list[float](), suite: list[float]()}
    for k in range(WARM_UP + steps):
        batch = rng.integers(suite.problem.n_samples, size=BATCH)
        for loop in (bare, suite) if k % 2 else (suite, bare):
            began = time.process_time()
            loop(batch)
            seconds[loop].append(time.process_time() - began)
    bare_s, suite_s = (float(np.quantile(times[WARM_UP:], 0.25)) for times in seconds.values())
    apart = np.abs(np.concatenate([part.detach().numpy().ravel() for part in bare.module.parameters()]) - suite.x).max()
    times = f"{1e3 * bare_s:.2f} ms bare, {1e3 * suite_s:.2f} ms here, ratio {suite_s / bare_s:.3f}"
    return f"CPU time of a step: {times}; models {apart:.1e} apart"


def allocated(bare: Bare, suite: Suite) -> str:
    """Allocations of one more step of each."""
    batch, size, torchs = np.arange(BATCH), suite.x.nbytes, []
    for loop in (bare, suite):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            loop(batch)
        made = (event.self_cpu_memory_usage for event in seen.events())
        torchs.append(sum(max(0, nbytes) for nbytes in made) / size)
    tracemalloc.start()
    suite(batch)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    said = f"{torchs[0]:.2f} by torch bare, {torchs[1]:.2f} by torch here, {peak / size:.2f} by NumPy"
    return f"allocated in a step, in flat vectors: {said}"


def kept() -> str:
    """What this process has at its peak above what it has when `wide` has been trained once, in its vectors: by the
    bare loop, by gradients here, and by a rank of AllReduce-SGD while it trains."""

    def made() -> Any:
        return shares(f"torch:model={Path(__file__).resolve()}:wide,data=digits", 1, dtype="float32")[0]

    def trained(problem: Any) -> int:
        flags = {"dtype": "float32", "batch_size": BATCH}
        execute(CheckedComm(MPI.COMM_SELF), allreduce_sgd, problem, WARM_UP, recorder=Peak, **flags)
        return Peak.nbytes

    def at_peak(loop: Loop) -> int:
        for _ in range(WARM_UP):
            loop(np.arange(BATCH))
        return _memory("VmHWM")

    trained(made())  # compiles, and loads what there is to load
    gc.collect()
    without = _memory("VmRSS")
    bare = Bare(made())
    _forget_peak()  # the bare loop has no such problem
    peaks = {"bare": at_peak(bare)}
    nbytes = sum(part.nbytes for part in bare.module.parameters())
    del bare
    _forget_peak()
    peaks["gradients here"] = at_peak(Suite(made()))
    _forget_peak()
    peaks["a rank of AllReduce-SGD"] = trained(made())
    return ", ".join(f"{(peak - without) / nbytes:.1f} {name}" for name, peak in peaks.items())


class Peak(Trace):
    """A trace that looks at the memory when a step has ended."""

    nbytes = 0

    def record(self, read_s: float = np.nan, local_writes: int = 0) -> None:
        super().record(read_s, local_writes)
        Peak.nbytes = _memory("VmHWM")


def _memory(name: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def _forget_peak() -> None:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
