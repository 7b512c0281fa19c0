"""What is wrong with a model is one line that names it."""

from pathlib import Path

import pytest
from harness import shares

from outpace.benchmarks import problems
from outpace.comm import spec
from outpace.comm.errors import UserError

NETS = """\
import torch
from torch import nn

Flat = lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
three = 3

def nothing():
    pass

def few():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))

def narrow():
    return nn.Sequential(nn.Flatten(), nn.Linear(63, 10))

def empty():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10).requires_grad_(False))

def wrong():
    raise KeyError("depth")

def needs(depth):
    return Flat()

def pair():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x
    return Pair()
"""

WRONG = {
    "nets.py:gone": "nets.py has no function gone",
    "nets.py:three": "nets.py has no function three",
    "gone.py:net": "cannot read gone.py: no such file",
    "broken.py:net": "broken.py: cannot be imported: NameError: name 'undefined' is not defined",
    "nets.py:nothing": "nets.py:nothing returns NoneType, not a torch.nn.Module",
    "nets.py:few": r"nets.py:few returns \(2, 7\) for 2 samples of shape \(1, 8, 8\); logits are \(2, 10\)",
    "nets.py:pair": "nets.py:pair returns tuple for 2 samples",
    "nets.py:narrow": r"nets.py:narrow fails on samples of shape \(1, 8, 8\): RuntimeError: mat1 and mat2",
    "nets.py:empty": "nets.py:empty has no parameters to train",
    "nets.py:wrong": "nets.py:wrong fails: KeyError: 'depth'",
    "nets.py:needs": "nets.py:needs fails: TypeError: needs.. missing 1 required positional argument: 'depth'",
    "nets.py:Flat,loss=gone": "nets.py has no function gone",
    "lenet5": r"lenet5 fails",
    "resnet50": r"resnet50 fails on samples of shape \(1, 8, 8\)",
}


@pytest.mark.parametrize("model", WRONG)
def test_a_bad_model_is_told_in_one_line(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    Path("broken.py").write_text("undefined\n")
    with pytest.raises(UserError, match=WRONG[model]) as refused:
        shares(f"torch:model={model},data=digits", 2)
    assert "\n" not in str(refused.value)


def test_a_model_is_an_input_of_the_run(tmp_path: Path) -> None:
    """By the contents of its file, and so is a text."""
    parsed = spec.parse("torch:model=a/net.py:net,data=text:b.txt", problems.PROBLEMS, "--problem")
    assert spec.inputs(parsed) == ["a/net.py", "b.txt"]
    assert spec.inputs(spec.parse("torch:model=lenet5,data=fashion-mnist", problems.PROBLEMS, "--problem")) == []
