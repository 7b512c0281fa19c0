"""`outpace show --export-model`: the network that a run ended with, as torch loads it."""

from pathlib import Path

import numpy as np

from outpace.benchmarks.running import rebuilt
from outpace.benchmarks.trace import files
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError


def export_model(path: Path, out: Path) -> None:
    """Write the state dict of the run's network at /model/x_mean, in the run's precision, into `out`.

    Statistics of batch normalisation are those that the evaluation at this model had, so the data must be there. Raises
    UserError where the run trained no network, or what it read is missing or has changed.
    """
    run = Run(path)
    if "parameters" not in run.attrs:
        raise UserError(f"{path}: a run of {run.attrs['problem']}, which is no network of --problem torch")
    network = rebuilt.shares(run.attrs, str(path), "exported")[0]
    shapes = {name: list(shape) for name, shape in (network.parameters or {}).items()}
    if shapes != run.objects["parameters"] or network.dim != run.attrs["dim"]:
        raise UserError(f"{path}: the module of {run.attrs['problem']} now has other parameters than in the run")
    x_mean = run.column("model", "x_mean").astype(run.attrs["dtype"])
    with files.output(out) as file:
        network.save(np.ascontiguousarray(x_mean), file)
