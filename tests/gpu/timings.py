"""Of each trace: its first step beside the median one, which is longer where kernels were compiled in the timed part;
and how many exchanges ended before the last gradient did, and how long they took beside it."""

import sys

import numpy as np

from outpace.benchmarks.trace.run import Run
from outpace.benchmarks.trace.schema import KIND

for path in sys.argv[1:]:
    run = Run(path)
    of_rank_0 = run.column("steps", "rank") == 0
    ends, gradients = run.column("steps", "t_s")[of_rank_0], run.column("steps", "compute_s")[of_rank_0]
    print(f"{path}: first step {1e3 * ends[0]:.2f} ms, median {1e3 * np.median(np.diff(ends)):.2f} ms")
    exchanges = run.column("events", "kind") == KIND["exchange"]
    exchanges &= run.column("events", "rank") == 0
    if exchanges.any():
        start, end = (run.column("events", f"t_{name}_s")[exchanges] for name in ("start", "end"))
        took = (end - start) / np.median(gradients)
        print(f"  {(end < ends[-1]).sum()} of {exchanges.sum()} exchanges ended before the last gradient")
        print(f"  and took {np.median(took):.3f} of a gradient in the median, {took.max():.3f} at most")
