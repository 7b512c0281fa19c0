"""Neural networks on real data: `torch:model=,data=`, a torch module of the suite's or of the user's.

Torch is loaded by runs of this problem only. f_i is the mean loss of worker i's samples.
"""

import importlib.util
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np

from outpace.benchmarks.problems import data_sets, size
from outpace.benchmarks.problems.data_sets import Share
from outpace.benchmarks.problems.problem import Problem, Setting
from outpace.benchmarks.problems.samples import Source
from outpace.benchmarks.problems.size import Size
from outpace.comm import agreement
from outpace.comm.errors import UserError
from outpace.comm.spec import InputBefore, InputBehind, PositiveInt

WHAT: Final = "--problem torch"
BUILT_IN: Final = ("mlp", "lenet5", "resnet20", "vgg11", "resnet50", "gpt")
SAMPLE: Final = 512  # inputs, about, by which statistics of batch normalisation are computed anew


@dataclass(frozen=True, kw_only=True)
class Spec:
    model: Annotated[str, InputBefore()]  # one of BUILT_IN, or FILE.py:FUNCTION, which returns a torch.nn.Module
    data: Annotated[str, InputBehind()]
    side: PositiveInt | None = None  # of the images of a folder, in pixels
    context: PositiveInt | None = None  # bytes of a sample of text
    augment: str | None = None  # cropPIXELS, flip, or both joined by +
    evaluated: PositiveInt = 10_000  # samples, of training and of those held out, by which the trace has its losses
    loss: str | None = None  # function of the model's file: of logits and labels, their mean loss; else cross-entropy

    def __post_init__(self) -> None:
        path, _, name = self.model.rpartition(":")
        if not path and self.model not in BUILT_IN:
            allowed = f"{', '.join(BUILT_IN)}, or FILE.py:FUNCTION"
            raise UserError(f"{WHAT}: model is '{self.model}'; allowed: {allowed}")
        if path and not (path.endswith(".py") and name.isidentifier()):
            raise UserError(f"{WHAT}: model is '{self.model}'; it must be of the form FILE.py:FUNCTION")
        if self.loss and not path:
            raise UserError(f"{WHAT}: loss is a function in the file of the model; {self.model} is in none")
        self.source()

    def source(self) -> Source:
        return data_sets.parse(self.data, WHAT, self.augment, side=self.side, context=self.context)

    def size(self) -> None:
        """Not known before the model is made and the data read."""


def build(spec: Spec, setting: Setting) -> list[Problem]:
    """The shares of `setting.workers`; collective. Rank 0's start is everybody's."""
    comm = setting.comm
    agreement.together(comm, _needs_torch)
    from outpace.benchmarks.problems import torch_models, torch_problem, torch_views  # slow, and only here

    shares = data_sets.load(spec.source(), setting)
    about = comm.bcast(shares[0].about if shares else None)

    def make() -> tuple[list[Any], Any]:
        loss = torch_models.loss(spec.model, spec.loss, WHAT)
        return [torch_models.make(spec.model, about.shape, about.classes, setting.seed, WHAT) for _ in shares], loss

    modules, loss = agreement.together(comm, make)
    start = torch_views.Views(modules[0]).flat(setting.dtype) if modules else np.empty(0, setting.dtype)
    dim, normalises = comm.bcast(modules and (len(start), bool(torch_problem.norms(modules[0]))))
    size.require(Size(0, dim, everywhere=dim), setting, f"{WHAT}:model={spec.model}", made=True)
    start.resize(dim)
    comm.Bcast(start)
    sample = _sample(setting, shares) if normalises else None
    problems: list[Problem] = []
    for module, worker, share in zip(modules, setting.workers, shares, strict=True):
        looked_at = (
            spread(len(share.train), -(-spec.evaluated * len(share.train) // share.n_total)),
            spread(len(share.held_out), -(-spec.evaluated // setting.n)),
        )
        problems.append(torch_problem.TorchProblem(module, loss, setting, worker, share, start, sample, looked_at))
    return problems


def spread(count: int, most: int) -> np.ndarray:
    """At most so many of range(count), evenly spaced: samples may be sorted by their labels."""
    k = min(count, most)
    return np.arange(k) * count // k


def _needs_torch() -> None:
    if importlib.util.find_spec("torch") is None:
        raise UserError(f"{WHAT}: needs PyTorch, which is not installed: pip install 'outpace[torch]'")


def _sample(setting: Setting, shares: list[Share]) -> np.ndarray:
    """Training inputs, about SAMPLE of them, as many of each worker and from all of its share; collective, and the same
    on every rank, however the workers are spread over them."""
    each = -(-SAMPLE // setting.n)
    mine = {}
    for worker, share in zip(setting.workers, shares, strict=True):
        mine[worker], _ = share.train.take(spread(len(share.train), each))
    everyone: dict[int, np.ndarray] = {}
    for of_rank in setting.comm.allgather(mine):
        everyone |= of_rank
    return np.concatenate([everyone[worker] for worker in range(setting.n)])
