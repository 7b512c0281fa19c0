"""The built-in models: their sizes are the papers', and they learn."""

from pathlib import Path

import numpy as np
import pytest
import torch
from harness import shares

from outpace.benchmarks.problems import networks
from outpace.benchmarks.problems.torch_models import BUILT_IN

SIZES = {  # parameters, for what samples
    "mlp": (4810, (1, 8, 8), 10),
    "lenet5": (61_706, (1, 28, 28), 10),
    "resnet20": (269_722, (3, 32, 32), 10),
    "vgg11": (9_228_362, (3, 32, 32), 10),
    "resnet50": (25_557_032, (3, 224, 224), 1000),
    "gpt": (4 * (2 * 128 + 128 * 512 * 2 + 640 + 128 * 512 + 512 + 2 * 128) + 2 * 128 + (256 + 64) * 128, (64,), 256),
}


@pytest.mark.parametrize("model", BUILT_IN)
def test_a_model_has_its_size(model: str) -> None:
    size, shape, classes = SIZES[model]
    module = BUILT_IN[model](torch.Size(shape), classes).eval()
    assert sum(part.numel() for part in module.parameters()) == size
    with torch.no_grad():
        logits = module(torch.zeros(1, *shape, dtype=torch.int64 if model == "gpt" else torch.float32))
    assert logits.shape == ((1, 64, 256) if model == "gpt" else (1, classes))


def test_the_transformer_sees_no_later_byte_and_learns(tmp_path: Path) -> None:
    """On a text of which every byte follows from the one before; its first step is that of any process."""
    (tmp_path / "text").write_bytes(bytes(range(97, 113)) * 100)
    text = f"torch:model=gpt,data=text:{tmp_path}/text,context=16"
    (problem,) = shares(text, 1, dtype="float32")
    x, g = problem.x0(), problem.x0()
    problem.loss(x)
    with torch.no_grad():
        inputs = torch.randint(256, (2, 16), generator=torch.Generator().manual_seed(0))
        later = inputs.clone()
        later[:, 9:] += 1
        ahead, behind = (problem.module(tokens % 256) for tokens in (inputs, later))
    torch.testing.assert_close(ahead[:, :9], behind[:, :9])
    assert (ahead[:, 9:] - behind[:, 9:]).abs().max() > 1e-3
    before, (_, _, count) = problem.loss(x), problem.held_out(x)
    assert before == pytest.approx(np.log(256), abs=0.5)
    assert count == 16 * len(problem.rest)
    for step in range(20):
        problem.calls = step
        problem.gradient(x, np.arange(8) + 8 * (step % 8), g)
        x -= 0.3 * g
    assert problem.loss(x) < before - 1
    assert problem.label_counts is None


def test_the_names_in_a_spec_are_those_of_the_models() -> None:
    assert tuple(BUILT_IN) == networks.BUILT_IN
