"""The files that a run reads are part of its identity, by what is in them."""

import os
import shutil
from pathlib import Path

import pytest

from outpace.algorithms.d_psgd import Config
from outpace.benchmarks.running import file_hashes
from outpace.benchmarks.running.plan import Plan, make_plan, parse_flags

GOLDEN = Path(__file__).parents[2] / "golden" / "trace-v1.h5"
ROWS = "1 1:1 2:0.5\n-1 1:0.5\n"
RING = "0.5 0.5\n0.5 0.5\n"


def planned(*flags: str) -> Plan:
    config, launch = parse_flags("d_psgd", Config, flags)
    named = {"problem": launch.problem, "stragglers": launch.stragglers, "topology": config.topology}
    return make_plan("d_psgd", config, launch, 2, file_hashes.of_run(config, named))


@pytest.mark.parametrize(
    ("flag", "value", "text"),
    [
        ("--problem", "libsvm:path={}", ROWS),
        ("--problem", "pca:data={}", ROWS),
        ("--problem", "svd:rank=1,data={}", ROWS),
        ("--topology", "file:path={}", RING),
    ],
)
def test_an_edited_file_makes_another_run(tmp_path: Path, flag: str, value: str, text: str) -> None:
    file = tmp_path / "input.txt"
    file.write_text(text)
    before = planned(flag, value.format(file))
    assert list(before.inputs) == [str(file)]
    file.touch()
    assert planned(flag, value.format(file)).config_id == before.config_id
    file.write_text(text + "\n")
    after = planned(flag, value.format(file))
    assert after.config_id != before.config_id
    assert file_hashes.changed(before.inputs, after.inputs) == [str(file)]


def test_a_replayed_trace_is_an_input(tmp_path: Path) -> None:
    file = Path(shutil.copy(GOLDEN, tmp_path))
    flags = file_hashes.of_specs({"stragglers": f"trace:file={file}"})
    with open(file, "ab") as more:
        more.write(b"\0")
    assert file_hashes.changed(flags, file_hashes.of_specs({"stragglers": f"trace:file={file}"})) == [str(file)]


def test_a_run_without_files_has_no_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of data that come with us are none, whatever lies in the folder; a pipe could be read only once."""
    monkeypatch.chdir(tmp_path)
    Path("digits").write_text(ROWS)
    Path("made").write_text(ROWS)
    os.mkfifo("pipe")
    for problem in ("digits", "pca:data=digits", "pca:samples=9,dim=3", "libsvm:path=pipe", "libsvm:path=nowhere"):
        plan = planned("--problem", problem)
        assert plan.inputs == {}
        assert plan.config_id == make_plan("d_psgd", plan.config, plan.launch, 2).config_id
