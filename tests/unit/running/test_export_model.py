"""`outpace show --export-model` where there is nothing to export."""

from pathlib import Path

import numpy as np
import pytest
from made_traces import write_trace

from outpace.benchmarks.command import main
from outpace.benchmarks.running.export_model import export_model
from outpace.comm.errors import UserError


def test_a_run_of_another_problem_has_no_network(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "run.h5", {"model": {"x_mean": np.zeros(3)}}, dim=3)
    with pytest.raises(UserError, match=r"run.h5: a run of digits:hidden=64, which is no network of --problem torch$"):
        export_model(trace, tmp_path / "model.pt")
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.parametrize("words", [["--export-model", "run.h5"], ["-o", "model.pt", "run.h5"]])
def test_it_needs_both_names(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", *words]) == 1
    assert capsys.readouterr().err == "outpace: show needs --export-model FILE and -o OUT together\n"
