"""What a step of each program has a device do: kernels, waits of the host, copies over the bus, and bytes of its memory
that kernels read and write per coordinate of the model. Gradients are not in it.

    mpiexec -n 2 python -m mpi4py tests/device_counts.py [PROGRAM ...]

Of rank 0 of two, on the device that the CPU plays, with a model of float32. Of an asynchronous program it is what there
is per gradient of rank 0; how many exchanges there are is left to chance.
"""

import importlib
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cuda_on_cpu
import device_on_cpu
import numpy as np
import pytest
from mpi4py import MPI

from outpace.benchmarks.conformance import trial
from outpace.comm import sign

DIM = 1 << 12
STEPS = {"svrg": (1, 2), "katyusha_x": (1, 2)}  # few and many; of the others:
SYNCHRONOUS, ASYNCHRONOUS = (6, 10), (6, 30)
PROGRAMS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("allreduce_sgd", {}),
    ("allreduce_sgd", {"rule": "momentum"}),
    ("allreduce_sgd", {"rule": "adam"}),
    ("d_psgd", {}),
    ("d2", {}),
    ("ad_psgd", {}),
    ("sign_sgd", {}),
    ("sign_sgd", {"variant": "signum"}),
    ("sign_sgd", {"variant": "lion"}),
    ("sign_sgd", {"variant": "ef-signsgd"}),
    ("quantized_sgd", {}),
    ("local_sgd", {}),
    ("gossip_local_sgd", {}),
    ("sgp", {}),
    ("powersgd", {}),
    ("choco_sgd", {}),
    ("gradient_tracking", {}),
    ("svrg", {}),
    ("katyusha_x", {}),
    ("a_psgd", {}),
    ("eamsgd", {}),
    ("m_sync_sgd", {}),
    ("ringmaster_asgd", {}),
)
# Kernels of .cu files are told of no reads and writes; their const arrays are read, these written, the others both.
WRITTEN = {"words", "outcome", "sums", "norms", "scale", "nan"}
SIGNATURES = dict(cuda_on_cpu.kernels(Path(sign.__file__).with_name("sign.cu").read_text(), "float32"))


class Counted:
    """The launches of a device, but for those in gradients."""

    def __init__(self, device: Any) -> None:
        self.counts: Counter[str] = Counter()
        self.device, self.gradients = device, threading.local()
        self._launch, self._wait = device.launch, device.wait
        device.launch, device.wait = self.launch, self.wait

    def launch(self, run: Any, reads: Sequence[Any] = (), writes: Sequence[Any] = (), *rest: Any, **named: Any) -> None:
        self._launch(run, reads, writes, *rest, **named)
        if getattr(self.gradients, "inside", False):
            return
        kernel = named.get("kernel", "")
        self.counts["kernels" if kernel else "copies"] += 1
        if kernel in SIGNATURES:
            declared = [each for each in SIGNATURES[kernel] if each.is_array]
            pairs = list(zip(declared, writes, strict=True))
            reads = [array for each, array in pairs if each.name not in WRITTEN]
            writes = [array for each, array in pairs if "const" not in each.text]
        if kernel:
            self.counts["bytes"] += _bytes(reads) + _bytes(writes)

    def wait(self, *arguments: Any) -> None:
        self._wait(*arguments)
        if not getattr(self.gradients, "inside", False):
            self.counts["waits"] += 1


def _bytes(arrays: Sequence[Any]) -> int:
    """Of an array that is named twice once."""
    return sum({each.ctypes.data: each.nbytes for each in arrays if isinstance(each, np.ndarray)}.values())


class Apart:
    """A problem whose gradients are not counted."""

    def __init__(self, problem: Any, counted: Counted) -> None:
        self._problem, self._counted = problem, counted
        self.gradients = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._problem, name)

    def gradient(self, *arguments: Any) -> None:
        self._counted.gradients.inside = True
        self._problem.gradient(*arguments)
        self._counted.gradients.inside = False
        self.gradients += 1


def counts(comm: Any, name: str, config: dict[str, Any], folder: Path) -> dict[str, float]:
    """Per step of rank 0, which has a worker: what many steps take more than few of them. Collective."""
    program = importlib.import_module(f"outpace.algorithms.{name}")
    cfg = program.Config(**config)
    pace = {"compute_time": 0.002} if cfg.asynchronous else {}
    few, many = STEPS.get(name, ASYNCHRONOUS if cfg.asynchronous else SYNCHRONOUS)
    found = []
    for steps in (few, many):
        with pytest.MonkeyPatch.context() as patch:
            cupy = device_on_cpu.install(patch, folder)
            counted = Counted(cupy.device)
            text = f"quadratic:dim={DIM}" + (",rows=64" if name == "powersgd" else "")
            problem = Apart(trial.share(comm, text, "float32", servers=cfg.servers, xp=cupy), counted)
            trial.execute(comm, program, problem, steps, dtype="float32", **pace, **config)
            found.append((problem.gradients if cfg.asynchronous else steps, counted.counts))
    (few, before), (many, after) = found
    return {each: (after[each] - before[each]) / (many - few) for each in after} if comm.rank == 0 else {}


def cells(step: dict[str, float]) -> str:
    """The row of a program, without its name."""
    counted = [f"{step.get(each, 0):.1f}" for each in ("kernels", "waits", "copies")]
    return " | ".join([*counted, f"{step.get('bytes', 0) / DIM:.1f}"])


def main() -> None:
    comm = trial.CheckedComm(MPI.COMM_WORLD)
    if comm.rank == 0:
        print("| program | kernels | waits | copies | bytes per coordinate |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, config in PROGRAMS:
            if sys.argv[1:] and name not in sys.argv[1:]:
                continue
            step = counts(comm, name, config, Path(folder))
            if comm.rank == 0:
                print(f"| {' '.join((name, *config.values()))} | {cells(step)} |", flush=True)


if __name__ == "__main__":
    main()
