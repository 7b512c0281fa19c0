"""Micro-benchmarks kept as JSON, and compared: what is faster is seen, and what cannot be believed is said."""

import json
from pathlib import Path

import numpy as np
import pytest

from outpace.benchmarks import history
from outpace.benchmarks.command import main
from outpace.comm.errors import UserError

ABOUT = {"name": "record", "backend": "numpy", "links": "none", "ranks": 1, "cpu_model": "a", "cores": 2}
STEADY = np.linspace(0.99, 1.01, 15)


def kept(path: Path, **seconds: object) -> dict[str, object]:
    history.write(path, ABOUT, seconds)  # type: ignore[arg-type]
    return history.read(path)


def test_a_summary_has_the_interval_of_the_median() -> None:
    """Of 15 samples the 4th and the 12th (binomial: 96.5 %)."""
    found = history.summary(list(range(1, 16)))
    assert found == {"median_s": 8, "low_s": 4, "high_s": 12, "spread": 7 / 8}


def test_what_is_faster_is_told_only_where_intervals_are_apart(tmp_path: Path) -> None:
    old = kept(tmp_path / "old.json", same=STEADY, faster=STEADY, slower=STEADY)
    new = kept(tmp_path / "new.json", same=1.001 * STEADY, faster=0.5 * STEADY, slower=2 * STEADY, more=STEADY)
    table = history.compared(old, new)
    names, ratios, verdicts = (list(table.columns[k].cells) for k in (0, 3, 4))
    assert dict(zip(names, verdicts, strict=True)) == {
        "same": "",
        "faster": "faster",
        "slower": "slower",
        "more": "new",
    }
    assert ratios == ["1.00", "0.50", "2.00", "-"]
    assert not list(history.warnings(old, new))


def test_times_that_spread_and_other_machines_are_told(tmp_path: Path) -> None:
    old = kept(tmp_path / "old.json", a=STEADY) | {"cpu_model": "b"}
    new = kept(tmp_path / "new.json", a=np.linspace(1, 2, 15), b=STEADY)
    machine, spread = history.warnings(old, new)
    assert machine == "another cpu model: b, now a"
    assert spread.startswith("a: the quartiles are 33 % apart")


@pytest.mark.parametrize(
    "text", ["no json", "[]", "{}", '{"schema": "outpace/micro", "measured": {"a": {"median_s": "x"}}}', None]
)
def test_a_file_of_another_kind_is_refused_before_anything_is_measured(
    tmp_path: Path, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "old.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=r"old\.json"):
        history.read(path)
    assert main(["micro", "record", "--compare", str(path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_numbers_are_finite_json(tmp_path: Path) -> None:
    kept(tmp_path / "a.json", a=STEADY)
    assert json.loads((tmp_path / "a.json").read_text())["measured"]["a"]["median_s"] == pytest.approx(1)
