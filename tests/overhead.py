"""What a gradient through the suite costs beside a bare training loop in torch: `python tests/overhead.py [STEPS]`.

The same network and batches, forward, backward and a step in place. The two take turns step by step, and CPU time of
this process counts, in the lower quartile: whatever else runs here disturbs both alike, and those steps the least.
"""

import sys
import time
import tracemalloc
from typing import Any

import numpy as np
import torch
from harness import shares

from outpace.benchmarks.problems.torch_models import BUILT_IN, cross_entropy

TEXT = "torch:model={model},data=fashion-mnist"
BATCH, STEP_SIZE, WARM_UP = 32, 0.01, 3


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    for model in ("resnet20", "lenet5"):
        print(f"{model}, batches of {BATCH}, {steps} steps: {compared(model, steps)}")


def compared(model: str, steps: int) -> str:
    problem = shares(TEXT.format(model=model), 8, dtype="float32")[0]
    x = problem.x0()
    g = np.empty_like(x)
    bare = BUILT_IN[model](torch.Size(problem.about.shape), 10)
    start = torch.from_numpy(x.copy()).split([part.numel() for part in bare.parameters()])
    for part, values in zip(bare.parameters(), start, strict=True):
        part.data = values.clone().view(part.shape)
    pixels, labels = problem.train.take(slice(None))
    inputs, labels = torch.from_numpy(problem.about.normalised(pixels, np.float32)), torch.from_numpy(labels)

    def of_torch(batch: np.ndarray) -> None:
        index = torch.from_numpy(batch)
        bare.zero_grad()
        cross_entropy(bare(inputs[index]), labels[index]).backward()
        with torch.no_grad():
            for part in bare.parameters():
                part.sub_(part.grad, alpha=STEP_SIZE)

    def of_the_suite(batch: np.ndarray) -> None:
        problem.gradient(x, batch, g)
        np.multiply(g, STEP_SIZE, out=g)
        np.subtract(x, g, out=x)

    rng, seconds = np.random.default_rng(0), {of_torch: list[float](), of_the_suite: list[float]()}
    for k in range(WARM_UP + steps):
        batch = rng.integers(problem.n_samples, size=BATCH)
        for loop in sorted(seconds, key=lambda loop: (loop is of_torch) ^ (k % 2)):  # in turns the first
            began = time.process_time()
            loop(batch)
            seconds[loop].append(time.process_time() - began)
        problem.calls += 1
    apart = np.abs(np.concatenate([part.detach().numpy().ravel() for part in bare.parameters()]) - x).max()
    its, ours = (np.array(seconds[loop][WARM_UP:]) for loop in (of_torch, of_the_suite))
    bare_s, ours_s = (float(np.quantile(times, 0.25)) for times in (its, ours))
    told = [f"{1e3 * bare_s:.2f} ms bare, {1e3 * ours_s:.2f} ms here, ratio {ours_s / bare_s:.3f}"]
    told.append(f"{allocated(of_the_suite, batch) / x.nbytes:.2f} of a model allocated in NumPy")
    return ", ".join([*told, f"models {apart:.1e} apart"])


def allocated(loop: Any, batch: np.ndarray) -> int:
    """Bytes at a time in one step, by NumPy and Python; torch's own are those of the bare loop."""
    tracemalloc.start()
    loop(batch)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


if __name__ == "__main__":
    main()
