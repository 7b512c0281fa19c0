"""The words of the command."""

from pathlib import Path

import pytest
from made_traces import losses
from mpi4py import MPI  # noqa: F401  starts MPI, which importing the command would forbid to the tests after these

from outpace.benchmarks.command import main


@pytest.mark.parametrize(
    "words",
    [
        "plot loss-time --where n_workers=2 {} {} -o {}",
        "plot loss-time {} --where n_workers=2 {} -o {}",
        "plot --where n_workers=2 loss-time {} {} -o {}",
        "plot loss-time {} {} -o {} --where n_workers=2",
    ],
)
def test_options_stand_anywhere(tmp_path: Path, words: str) -> None:
    """Two runs that cannot share a figure, and the option that takes one of them."""
    for name, n in (("a.h5", 2), ("b.h5", 4)):
        losses(tmp_path / name, [1.0, 0.5], n_workers=n)
    files = (tmp_path / name for name in ("a.h5", "b.h5", "out.png"))
    assert main(words.format(*files).split()) == 0
    assert (tmp_path / "out.png").stat().st_size > 5000


def test_unknown_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["plot", "loss-time", "a.h5", "--were", "n_workers=2"])
    assert end.value.code == 2
    assert "unrecognized arguments: --were" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("run allreduce_sgd -n two", "argument -n: two is not a number from 1 to 1000000"),
        ("run allreduce_sgd -n 1e3", "argument -n: 1e3 is not a number from 1 to 1000000"),
        ("run allreduce_sgd -n ²", "argument -n: ² is not a number from 1 to 1000000"),
        ("micro step --dim 1e6", "argument --dim: 1e6 is not a number from 1 to 1000000000"),
        ("check a.py -n 1,,2", "argument -n:  is not a number from 1 to 1000000"),
        ("check a.py --limit soon", "argument --limit: soon is not a positive number"),
        ("check a.py --limit nan", "argument --limit: nan is not a positive number"),
        ("plot heterogeneity a.h5 --loss nan", "argument --loss: nan is not a finite number"),
        ("export a.h5 --csv b.csv --loss low", "argument --loss: low is not a finite number"),
    ],
)
def test_numbers_are_asked_for_in_words(capsys: pytest.CaptureFixture[str], words: str, said: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(words.split())
    assert end.value.code == 2
    assert said in capsys.readouterr().err
