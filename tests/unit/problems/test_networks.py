"""The problem `torch` as far as it goes without torch."""

import importlib.util

import pytest
from harness import shares

from outpace.benchmarks import problems
from outpace.comm.errors import UserError


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is installed")
def test_a_missing_torch_is_said_in_one_line() -> None:
    with pytest.raises(UserError, match=r"^--problem torch: needs PyTorch, .* pip install 'outpace\[torch\]'$"):
        shares("torch:model=lenet5,data=digits", 2)


@pytest.mark.parametrize(
    ("text", "why"),
    {
        "torch:data=digits": "--problem torch: needs model=",
        "torch:model=lenet5": "--problem torch: needs data=",
        "torch:model=lenet,data=digits": "model is 'lenet'; allowed: mlp, .*, gpt, or FILE.py:FUNCTION",
        "torch:model=net.py,data=digits": "model is 'net.py'; allowed: mlp",
        "torch:model=net:net,data=digits": "model is 'net:net'; it must be of the form FILE.py:FUNCTION",
        "torch:model=net.py:,data=digits": "model is 'net.py:'; it must be of the form",
        "torch:model=lenet5,data=digits,loss=mine": "loss is a function in the file of the model; lenet5 is in none",
        "torch:model=lenet5,data=imagenet": "unknown data 'imagenet'",
    }.items(),
)
def test_a_bad_spec_is_refused_before_anything_is_loaded(text: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        problems.canonical(text)
