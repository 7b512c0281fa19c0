"""Any torch module on real data: parameters and gradients are views into the program's flat vectors."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, BinaryIO, Final

import numpy as np
import torch
from torch import nn

from outpace.benchmarks.problems.data_sets import Share
from outpace.benchmarks.problems.problem import Problem, Setting
from outpace.benchmarks.problems.samples import Samples
from outpace.benchmarks.problems.torch_views import Views
from outpace.comm.streams import DROPOUT

CHUNK: Final = 64  # samples that are evaluated at a time: of more, the activations would not stay in the cache
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class TorchProblem(Problem):
    """One worker's samples and its part of the held-out ones. The flat model holds the trainable parameters in the
    module's own order, each in C order.

    A gradient over a batch is that of the module in training: batch normalisation by the batch, dropout by what the
    worker draws for this step. The loss, the full gradient and held-out samples are for the module as it would be used
    afterwards, a function of x alone: nothing is dropped, and the statistics of batch normalisation are those of
    `sample`, inputs that all workers have in common. Running statistics of the workers are not averaged, since the mean
    of statistics belongs to no model; nothing here reads them.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        setting: Setting,
        worker: int,
        share: Share,
        x0: np.ndarray,
        sample: np.ndarray | None,
        evaluated: tuple[np.ndarray, np.ndarray],
    ) -> None:
        """`sample` are inputs; `evaluated` the numbers of training and held-out samples that evaluations see."""
        self.xp = setting.xp
        self.seed, self.worker = setting.seed, worker
        self.device = torch.device("cpu" if self.xp is np else f"cuda:{self.xp.cuda.Device().id}")
        self.module, self._loss = module.to(self.device), loss
        self.views, self._norms = Views(self.module), norms(module)
        self.parameters, self.dim = self.views.shapes, self.views.dim
        self.shapes = list(self.parameters.values())
        self._generator = torch.default_generator if self.xp is np else torch.cuda.default_generators[self.device.index]
        self._x0 = self.xp.asarray(x0)
        self.views.at(self._x0)  # buffers have its dtype from now on
        self.about, self.train, self.rest = share.about, share.train, share.held_out
        self.sample, self.evaluated = sample, evaluated
        self.n_samples, self.n_total, self.label_counts = len(share.train), share.n_total, share.label_counts
        self._batch = share.batch
        self._settled: Any = None  # the x at which the statistics are those of the sample

    def x0(self) -> Any:
        return self._x0.copy()

    def gradient(self, x: Any, batch: np.ndarray | None, out: Any) -> None:
        if batch is None:
            self._mean(x, np.arange(self.n_samples), out)
            return
        out[:] = 0
        self.views.at(x, out)
        if not self.module.training:
            self.module.train()
        self._settled = None
        self._generator.manual_seed(self._drawn())
        inputs, labels = self._tensors(x, *self._batch(batch, self.seed, self.worker, self.calls))
        self._loss(self.module(inputs), labels).backward()

    def loss(self, x: Any) -> float:
        total, _, count = self._classified(x, self.train, np.arange(self.n_samples))
        return total / count

    def evaluate(self, x: Any, out: Any) -> float:
        x = x.astype(self._x0.dtype)
        g = self.xp.empty_like(x)
        mean = self._mean(x, self.evaluated[0], g)
        out[:] = g
        return mean

    def held_out(self, x: Any) -> tuple[float, int, int]:
        return self._classified(x.astype(self._x0.dtype), self.rest, self.evaluated[1])

    def state(self) -> dict[str, Any]:
        """The module's buffers, this worker's own."""
        return {
            name: buffer.numpy() if self.xp is np else self.xp.from_dlpack(buffer)
            for name, buffer in self.module.named_buffers()
        }

    def save(self, x: Any, file: BinaryIO) -> None:
        self._use(x)
        torch.save({name: value.detach().clone() for name, value in self.module.state_dict().items()}, file)

    def _mean(self, x: Any, numbers: np.ndarray, out: Any) -> float:
        """The mean loss of these training samples, in use at x, and its gradient into `out`."""
        out[:] = 0
        self._use(x, out)
        mean = 0.0
        for part in _cut(numbers):
            inputs, labels = self._tensors(x, *self.train.take(part))
            loss = self._loss(self.module(inputs), labels) * (len(part) / len(numbers))
            loss.backward()
            mean += float(loss.detach())
        return mean

    def _classified(self, x: Any, samples: Samples, numbers: np.ndarray) -> tuple[float, int, int]:
        """Of these samples at x: the sum of their losses, how many labels are the likeliest ones, and how many labels
        there are; a text has one at every position."""
        self._use(x)
        total, correct, count = 0.0, 0, 0
        with torch.no_grad():
            for part in _cut(numbers):
                inputs, labels = self._tensors(x, *samples.take(part))
                logits = self.module(inputs)
                total += float(self._loss(logits, labels)) * labels.numel()
                correct += int((logits.argmax(-1) == labels).sum())
                count += labels.numel()
        return total, correct, count

    def _use(self, x: Any, out: Any = None) -> None:
        """Make the module what it is to be used as at x."""
        self.views.at(x, out)
        self.module.eval()
        at = self._settled
        if self.sample is not None and (at is None or at.dtype != x.dtype or not (at == x).all()):
            settle(self.module, self._norms, (self._on_device(x, part) for part in _cut(self.sample)))
            self._settled = x.copy()

    def _drawn(self) -> int:
        """The seed of what this worker draws for its next gradient."""
        words = np.random.SeedSequence([DROPOUT, self.seed, self.worker, self.calls]).generate_state(1)
        return int(words[0])

    def _tensors(self, x: Any, inputs: np.ndarray, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs, in the precision of x, and labels."""
        return self._on_device(x, inputs), torch.from_numpy(labels).to(self.device)

    def _on_device(self, x: Any, inputs: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(self.about.normalised(inputs, x.dtype)).to(self.device)


def norms(module: nn.Module) -> list[Any]:
    """The layers that normalise by running statistics once they are used."""
    kind = torch.nn.modules.batchnorm._NormBase
    return [part for part in module.modules() if isinstance(part, kind) and part.track_running_stats]


def settle(module: nn.Module, layers: Sequence[Any], parts: Iterable[torch.Tensor]) -> None:
    """Give the layers the statistics, and the module is in use otherwise, that parts of a sample have on average."""
    kept = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean of all
        layer.train()
    with torch.no_grad():
        for part in parts:
            module(part)
    for layer, momentum in zip(layers, kept, strict=True):
        layer.momentum = momentum
        layer.eval()


def _cut(items: np.ndarray) -> list[np.ndarray]:
    """As equal parts as can be: a last one of a single input would have no variance."""
    return np.array_split(items, -(-len(items) // CHUNK)) if len(items) else []
