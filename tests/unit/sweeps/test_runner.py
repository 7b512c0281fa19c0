"""Running the points of a sweep one after the other, and telling how they stand."""

import dataclasses
import os
import tomllib
from pathlib import Path

import h5py
import pytest
from small_sweeps import BASE, CHECKPOINT, described, meets

from outpace.benchmarks import command
from outpace.benchmarks.sweeps import point as points
from outpace.benchmarks.sweeps import runner
from outpace.benchmarks.sweeps.description import load
from outpace.benchmarks.sweeps.manifest import Sweep
from outpace.benchmarks.sweeps.point import Standing, standing
from outpace.comm.errors import UserError

GOLDEN = Path(__file__).parents[2] / "golden" / "trace-v1.h5"


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not a folder"):
        load(described(tmp_path, BASE), tmp_path / "file")
    with pytest.raises(UserError, match=r"below cannot be written: Not a directory"):
        runner.prepare(load(described(tmp_path, BASE), tmp_path / "file" / "below"))


def test_two_nodes_see_at_once_whether_they_can_write(tmp_path, monkeypatch):
    """Their processes may have the same number; the probe of one is not the other's."""
    sweep = load(described(tmp_path, BASE), tmp_path / "runs")
    monkeypatch.setattr(os, "getpid", lambda: 7)
    opens, seen = os.open, []

    def other_node_meanwhile(*args):
        descriptor = opens(*args)
        monkeypatch.setattr(os, "open", opens)
        runner.prepare(sweep)
        seen.extend(os.listdir(sweep.folder))
        return descriptor

    monkeypatch.setattr(os, "open", other_node_meanwhile)
    runner.prepare(sweep)
    assert len(seen) == 1  # that of the first, which the second left alone
    assert os.listdir(sweep.folder) == []


def test_status_prints_what_looks_like_markup_as_it_is(tmp_path, capsys):
    sweep = load(described(tmp_path, BASE), tmp_path / "a[b] [/b] :x:")
    runner.prepare(sweep)
    (point,) = sweep.points
    labelled = dataclasses.replace(point, flags=("--problem=libsvm:path=/data[/b]",))
    labelled.beside(".failed").write_text("[/b] is missing")
    assert runner.status(dataclasses.replace(sweep, points=[labelled]), verbose=True) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{sweep.folder}: 1 failed"
    assert "libsvm:path=/data[/b]" in said[1]
    assert said[2:] == ["         [/b] is missing", f"         {point.beside('.log')}"]


def test_status_is_a_summary_with_the_duration_of_what_is_left(tmp_path, capsys):
    """Twelve points: one is done after 100 s, eight failed for seven reasons; of the rest nothing is there."""
    sweep = load(described(tmp_path, BASE + "repetitions = 12\n"), tmp_path / "runs")
    runner.prepare(sweep)
    done, *others = sweep.points
    with h5py.File(done.target, "w") as file, h5py.File(GOLDEN) as golden:
        file.attrs.update(dict(golden.attrs) | {"config_id": done.id, "wall_s": 100.0})
        for name in golden:
            golden.copy(name, file)
    for number, point in enumerate(others[:8]):
        point.beside(".failed").write_text(f"reason {max(1, number)}")
    assert runner.status(sweep, verbose=False) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{sweep.folder}: 1 done, 8 failed, 3 missing"
    assert said[1].startswith("about 5 min of runs left")  # three of 100 s: what failed is not run again by itself
    assert said[2] == "2 failed: reason 1"
    assert said[3:] == [
        *(f"1 failed: reason {number}" for number in range(2, 6)),
        "and others for 2 more reasons",
        "--verbose lists the points",
    ]
    assert runner.status(sweep, verbose=True) == 0
    assert capsys.readouterr().out.count("--seed=") == 8


@pytest.mark.parametrize("interrupted", ["load", "survey"])
def test_ctrl_c_before_anything_runs_ends_quietly(tmp_path, monkeypatch, capsys, interrupted):
    path = described(tmp_path, BASE)

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(*{"load": (tomllib, "loads"), "survey": (points, "standing")}[interrupted], interrupt)
    assert command.main(["sweep", str(path), "--status"]) == 130
    assert capsys.readouterr().err == ""


def test_a_turn_that_leads_nowhere_is_the_last(point, launcher, requeued, capsys):
    """Of an array's task: the job is requeued from a new checkpoint only."""
    sweep = Sweep("one", point.target.parent, [point])
    turns = [
        (f"{CHECKPOINT}; exit 75", 75, "partial"),
        ("exit 75", 1, "failed"),  # the checkpoint is the one of before
        (f"{CHECKPOINT}; exit 75", 1, "failed"),  # not run again
    ]
    for script, code, state in turns:
        launcher(meets("USR1", script))
        assert runner.run_one(sweep, 1, retry_failed=False, requeue=True) == code
        assert standing(point).state == state
        assert requeued() == 1
    said = capsys.readouterr().out
    assert "failed: no checkpoint was written in this turn, so the job is not requeued; give it a longer time" in said
    assert "--retry-failed goes on from its checkpoint" in said
    assert runner.wanted(runner.survey(sweep), retry_failed=False) == []


def test_a_sweep_in_one_job_has_another_turn_where_this_one_finished_a_point(point, launcher, requeued, capfd):
    sweep = Sweep("two", point.target.parent, [point, dataclasses.replace(point, target=point.target.with_stem("b"))])
    launcher(meets("USR1", "exit 75"))
    assert runner.run_here(sweep, retry_failed=False, requeue=True) == 1
    assert requeued() == 0
    assert [standing(each).state for each in sweep.points] == ["failed", "missing"]
    said = capfd.readouterr().err
    assert "no checkpoint was written in this turn" in said
    assert "nothing was finished and no checkpoint written, so the job is not requeued" in said

    again = f"[ -e $1 ] || exec cp {GOLDEN} $1\n" + meets("USR1", "exit 75")
    launcher(again)
    assert runner.run_here(sweep, retry_failed=True, requeue=True) == 75
    assert requeued() == 1
    assert [standing(each).state for each in sweep.points] == ["done", "missing"]


def test_a_point_that_failed_meanwhile_is_not_run(point, launcher, monkeypatch):
    """By another runner, or by the same array submitted twice; a requeued job does not mind its own earlier life."""
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    sweep = Sweep("one", point.target.parent, [point])
    found = runner.survey(sweep)
    launcher("exit 3")
    assert runner.run_one(sweep, 1, retry_failed=False, requeue=True) == 1
    monkeypatch.setattr(runner, "survey", lambda _: dict(found))  # of before that
    assert runner.run_here(sweep, retry_failed=False, requeue=False) == 1
    assert runner.run_one(sweep, 1, retry_failed=False, requeue=True) == 1
    assert point.beside(".log").read_text().count(" UTC, ") == 1
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert runner.run_one(sweep, 1, retry_failed=False, requeue=True) == 1  # somebody's variable, and no job
    assert point.beside(".log").read_text().count(" UTC, ") == 1
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert runner.run_one(sweep, 1, retry_failed=False, requeue=True) == 1
    assert point.beside(".log").read_text().count(" UTC, ") == 2


def test_the_time_left_is_that_of_the_points_to_come(tmp_path, monkeypatch, capsys):
    """Known from repetitions where there are any, else from the mean."""
    text = 'programs = ["d_psgd", "allreduce_sgd"]\nworkers = 2\nrepetitions = 2\n'
    todo = load(described(tmp_path, text)).points
    report = runner.Report(4, 0, todo)
    now = 0.0
    left = []
    for point, took in zip(todo, (10.0, 2.0, 12.0, 2.0), strict=True):
        monkeypatch.setattr(runner.time, "monotonic", lambda: now)  # noqa: B023
        report.starts(point)
        now += took
        report.ended(point, Standing("done"))
        left.append(report._durations.of(report._todo))
    assert left == [30.0, 12.0, 2.0, 0.0]
    said = capsys.readouterr().err
    assert "1/4 done in 10.0 s, 30 s left: d_psgd -n 2" in said
