"""What a torch module is to a program, against second sources: the problem `digits`, torch.func, finite differences."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import shares
from networks import as_in_torch
from torch.func import functional_call

BATCH = np.array([0, 3, 17, 3, 41, 8])


def trained(problem: Any, x: np.ndarray, batch: np.ndarray) -> torch.Tensor:
    """The loss of a batch in training, by torch's functional interface."""

    def loss(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        buffers = {name: buffer.clone() for name, buffer in problem.module.named_buffers()}
        pixels, labels = problem.train.take(batch)
        inputs = torch.from_numpy(problem.about.normalised(pixels, np.float64))
        logits = functional_call(problem.module.train(), parameters | buffers, inputs)
        return torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))

    flat, parameters, start = torch.from_numpy(x.copy()), {}, 0
    for name, shape in problem.parameters.items():
        parameters[name] = flat[start : (start := start + int(np.prod(shape)))].reshape(shape)
    return loss, parameters


def test_the_perceptron_is_that_of_digits() -> None:
    """The same function of the same numbers, which torch lays out otherwise: W' in place of W."""
    rng = np.random.default_rng(0)
    for mine, its in zip(shares("digits", 3), shares("torch:model=mlp,data=digits", 3), strict=True):
        assert (mine.n_samples, mine.n_total, mine.dim) == (its.n_samples, its.n_total, its.dim)
        np.testing.assert_array_equal(mine.label_counts, its.label_counts)
        x = mine.x0() + 0.3 * rng.standard_normal(mine.dim)
        g, h = np.empty_like(x), np.empty_like(x)
        for batch in (BATCH, None):
            mine.gradient(x, batch, g)
            its.gradient(as_in_torch(x), batch, h)
            np.testing.assert_allclose(h, as_in_torch(g), rtol=0, atol=1e-12)
        assert its.loss(as_in_torch(x)) == pytest.approx(mine.loss(x), abs=1e-12)
        assert its.held_out(as_in_torch(x)) == pytest.approx(mine.held_out(x), abs=1e-10)


@pytest.mark.parametrize("model", ["lenet5", "resnet20"])
def test_a_gradient_is_that_of_torch_func(model: str) -> None:
    """Of a batch, in training: by the transformed function, and by central differences of it."""
    problem = shares(f"torch:model={model},data=fashion-mnist", 20)[1]
    rng, g = np.random.default_rng(1), np.empty(problem.dim)
    x = problem.x0() + 0.01 * rng.standard_normal(problem.dim)
    problem.gradient(x, BATCH, g)
    loss, parameters = trained(problem, x, BATCH)
    due = torch.func.grad(loss)(parameters)
    due = np.concatenate([due[name].numpy().ravel() for name in problem.parameters])
    assert np.abs(due).max() > 1e-3
    np.testing.assert_allclose(g, due, rtol=0, atol=1e-10)
    for _ in range(3):
        v = rng.standard_normal(problem.dim)
        v *= 1e-6 / np.linalg.norm(v)
        above, below = (f(p) for f, p in (trained(problem, x + sign * v, BATCH) for sign in (1, -1)))
        assert float(above - below) / 2 == pytest.approx(g @ v, rel=1e-4, abs=1e-13)


def test_the_full_gradient_is_that_of_the_loss() -> None:
    problem = shares("torch:model=lenet5,data=fashion-mnist", 100)[3]
    rng, g = np.random.default_rng(1), np.empty(problem.dim)
    x = problem.x0()
    problem.gradient(x, None, g)
    for _ in range(3):
        v = rng.standard_normal(problem.dim)
        v *= 1e-6 / np.linalg.norm(v)
        assert (problem.loss(x + v) - problem.loss(x - v)) / 2 == pytest.approx(g @ v, rel=1e-4, abs=1e-13)


def test_vectors_are_shared_and_not_copied() -> None:
    """Whatever vectors a program comes with, of whatever dtype: the parameters lie in its x and the gradients in its
    out, and what it changes in x itself counts."""
    problem = shares("torch:model=lenet5,data=fashion-mnist", 100)[0]
    rng, known = np.random.default_rng(2), {}
    models = {i: rng.standard_normal(problem.dim) / 10 for i in range(3)}
    for turn in range(2):
        for i, dtype in ((0, "f8"), (1, "f4"), (0, "f8"), (2, "f8"), (1, "f8")):
            x = models[i].astype(dtype) if turn else models[i].astype(dtype, copy=False)
            out = np.full(problem.dim, np.nan, dtype)
            problem.gradient(x, BATCH, out)
            for part in problem.module.parameters():
                assert part.detach().numpy().base is not None
                assert np.shares_memory(part.detach().numpy(), x)
                assert np.shares_memory(part.grad.numpy(), out)
            np.testing.assert_array_equal(out, known.setdefault((i, dtype), out))
    x *= 2
    problem.gradient(x, BATCH, out)
    assert np.abs(out - known[1, "f8"]).max() > 0.01


def test_statistics_are_those_of_the_model_in_use() -> None:
    """The loss at x is a function of x alone, the same whatever the worker has trained on: with the mean and variance
    that a layer's inputs have over the sample, computed here by hand for the first layer."""
    ours, theirs = shares("torch:model=resnet20,data=digits", 2, split="labels:classes=5")
    np.testing.assert_array_equal(ours.sample, theirs.sample)
    assert len(np.unique(ours.sample, axis=0)) > 450
    x, g = ours.x0(), np.empty(ours.dim)
    before = [p.held_out(x) for p in (ours, theirs)]
    first = ours.module[0][1]
    inputs = torch.from_numpy(ours.about.normalised(ours.sample, np.float64))
    with torch.no_grad():
        ahead = [ours.module[0][0](part) for part in inputs.split(64)]
    means = torch.stack([part.mean((0, 2, 3)) for part in ahead]).mean(0)
    torch.testing.assert_close(first.running_mean, means, rtol=0, atol=1e-12)
    for k in range(3):
        ours.gradient(x + 0.1 * k, BATCH, g)
    assert [p.held_out(x) for p in (ours, theirs)] == before
    assert first.momentum == 0.1


def test_losses_in_the_trace_are_those_of_some_samples(tmp_path: Path) -> None:
    """Evenly from each share, and all of them where that many were asked for; the loss and its gradient."""
    for problem in shares("torch:model=lenet5,data=fashion-mnist,evaluated=1000", 20, split="size:ratio=4")[::10]:
        x, g, h = problem.x0(), np.empty(problem.dim), np.empty(problem.dim)
        some, rest = problem.evaluated
        assert len(rest) == 50
        assert problem.held_out(x)[2] == 50
        assert len(some) == pytest.approx(problem.n_samples / 60, abs=1)
        assert set(np.diff(some, prepend=some[0] - 60, append=problem.n_samples)) <= {58, 59, 60, 61}
        problem.gradient(x, some, h)  # nothing in LeNet is otherwise in training
        loss, parameters = trained(problem, x, some)
        assert problem.evaluate(x, g) == pytest.approx(float(loss(parameters)))
        np.testing.assert_allclose(g, h, rtol=0, atol=1e-12)
    (problem,) = shares("torch:model=mlp,data=digits,evaluated=9999", 1)
    x, g, h = problem.x0(), np.empty(problem.dim), np.empty(problem.dim)
    problem.gradient(x, None, h)
    assert problem.evaluate(x, g) == pytest.approx(problem.loss(x), rel=1e-12)
    np.testing.assert_array_equal(g, h)


def test_what_is_dropped_is_drawn_for_each_worker_and_step(tmp_path: Path) -> None:
    """The same again for the same, whatever came between; another for another worker, step or seed."""
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 300), nn.Dropout(0.5), nn.Linear(300, 10))\n"
    )
    text, found = f"torch:model={tmp_path}/net.py:net,data=digits", []
    one, two = shares(text, 2)
    (other,) = shares(text, 1, seed=1)
    x = one.x0()
    two._batch = other._batch = one._batch
    for problem, step in ((one, 0), (one, 1), (one, 2**31), (two, 0), (other, 0), (one, 0)):
        g = np.empty_like(x)
        problem.calls = step
        problem.gradient(x, BATCH, g)
        problem.gradient(x, None, np.empty_like(x))
        found.append(g)
    np.testing.assert_array_equal(found[0], found.pop())
    assert len(np.unique(found, axis=0)) == 5


def test_tied_and_frozen_parameters(tmp_path: Path) -> None:
    """A tied one is one part of x, whose gradient has the sum of both; a frozen one is none, and has no gradient."""
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.b = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)\n"
        "        self.c = nn.LazyLinear(10)\n"
        "        self.b.weight = self.a.weight\n"
        "        self.lstm = nn.LSTM(64, 64, batch_first=True)\n"
        "        self.lstm.bias_hh_l0.requires_grad_(False)\n"
        "    def forward(self, x):\n"
        "        h, _ = self.lstm(self.b(torch.tanh(self.a(x.flatten(1))))[:, None])\n"
        "        return self.c(h[:, 0])\n"
    )
    (problem,) = shares(f"torch:model={tmp_path}/net.py:Net,data=digits", 1)
    assert problem.dim == 64 * 64 + 650 + 2 * 4 * 64 * 64 + 4 * 64
    x, g = problem.x0(), np.empty(problem.dim)
    problem.gradient(x, None, g)
    for at in (5, 64 * 64 + 7, 64 * 64 + 650 + 9000, problem.dim - 100):
        v = np.zeros(problem.dim)
        v[at] = 1e-5
        assert (problem.loss(x + v) - problem.loss(x - v)) / 2e-5 == pytest.approx(g[at], abs=1e-8)
        assert g[at] != 0


def test_other_runs_load_no_torch() -> None:
    code = (
        "import sys\n"
        "from harness import shares\n"
        "shares('digits', 2)\n"
        "import outpace.benchmarks.program, outpace.benchmarks.command, outpace.algorithms.ad_psgd\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], env={"PYTHONPATH": "."}, check=True)
