"""Traces from elsewhere: whatever is wrong in one, `show`, `plot` and `export` say it in one line, at once."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from made_traces import write_group
from mpi4py import MPI

from outpace.benchmarks import command
from outpace.benchmarks.trace import schema
from outpace.benchmarks.trace.run import Run
from outpace.comm import memory
from outpace.comm.errors import UserError

assert MPI.Is_initialized()  # before the command has it left out, for other tests of this process
GOLDEN = Path(__file__).parents[2] / "golden" / "trace-v1.h5"
PLOTS = ("loss-time", "timeline", "staleness")
Damage = Callable[[h5py.File], object]


def attribute(name: str, value: Any) -> Damage:
    return lambda file: file.attrs.__setitem__(name, value)


def in_json(name: str, **values: Any) -> Damage:
    """These values in an attribute of JSON; ... takes one out."""

    def damage(file: h5py.File) -> None:
        changed = json.loads(file.attrs.get(name, "{}")) | values
        file.attrs[name] = json.dumps({key: value for key, value in changed.items() if value is not ...})

    return damage


def replaced(name: str, make: Callable[[h5py.File, str, np.ndarray], Any]) -> Damage:
    """Another object in the place of a column, with its units and scales where it is one."""

    def damage(file: h5py.File) -> None:
        old = file[name]
        values, kept = old[()], {"units": old.attrs["units"], "long_name": old.attrs["long_name"]}
        scales = [dimension[0] for dimension in old.dims]
        del file[name]
        made = make(file, name, values)
        if isinstance(made, h5py.Dataset) and made.shape is not None:
            made.attrs.update(kept)
            for dimension, scale in zip(made.dims, scales, strict=False):
                dimension.attach_scale(scale)

    return damage


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    """Other numbers in the place of a column's."""
    return replaced(name, lambda file, name, values: file.create_dataset(name, data=change(values)))


def in_new(name: str, **columns: Any) -> Damage:
    """A group that older traces lack, with one row: these columns in the place of its own, None for none."""
    whole: dict[str, dict[str, Any]] = {
        "network": {"a": [0], "b": [1], "rtt_s": [1e-5], "bytes_per_s": [1e9]},
        "links": {"rank": [1], "t_s": [0.5], "bytes_per_s": [1e7]},
    }

    def damage(file: h5py.File) -> None:
        write_group(file, name, {key: v for key, v in (whole[name] | columns).items() if v is not None})

    return damage


def linked(name: str, link: Any) -> Damage:
    def damage(file: h5py.File) -> None:
        del file[name]
        file[name] = link

    return damage


def virtual(file: h5py.File, name: str, values: np.ndarray) -> Any:
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", values.shape)
    return file.create_virtual_dataset(name, layout)


def huge(file: h5py.File, name: str, values: np.ndarray) -> Any:
    return file.create_dataset(name, (10**12,) * values.ndim, values.dtype, chunks=(4096,) * values.ndim)


def all_huge(group: str) -> Damage:
    """Every column of the group: all of one length."""

    def damage(file: h5py.File) -> None:
        for name in schema.GROUPS[group]:
            if name in file[group]:
                replaced(f"{group}/{name}", huge)(file)

    return damage


def swapped(values: np.ndarray) -> np.ndarray:
    return values[::-1].copy()


DAMAGES: dict[str, Damage] = {
    "config is a list": attribute("config", "[1, 2]"),
    "config is a number": attribute("config", "17"),
    "config is null": attribute("config", "null"),
    "config is nested without end": attribute("config", "[" * 50_000),
    "config is no text": attribute("config", 5),
    "config is an array": attribute("config", np.zeros(3)),
    "config is empty": attribute("config", h5py.Empty("S1")),
    "batch_size is a word": in_json("config", batch_size="many"),
    "batch_size is 0": in_json("config", batch_size=0),
    "batch_size is a list": in_json("config", batch_size=[16]),
    "compute_time is a word": in_json("config", compute_time="long"),
    "compute_time is infinite": in_json("config", compute_time=float("inf")),
    "compute_time is an object": in_json("config", compute_time={"s": 1}),
    "constants are a list": attribute("constants", "[]"),
    "constants hold a list": in_json("constants", L=[1.0]),
    "answer is no JSON": attribute("answer", "{"),
    "inputs is no JSON": attribute("inputs", "{"),
    "inputs has a number": attribute("inputs", '{"data": 1}'),
    "status is unknown": attribute("status", "perfect"),
    "claim_class is unknown": attribute("claim_class", "true"),
    "problem is bytes": attribute("problem", np.bytes_(b"\xff\xfe")),
    "problem is a list": attribute("problem", ["digits", "digits"]),
    "n_workers is negative": attribute("n_workers", -2),
    "n_workers is a float": attribute("n_workers", 2.0),
    "n_workers is huge": attribute("n_workers", 10**15),
    "n_workers is an array": attribute("n_workers", np.array([2, 2])),
    "n_total is 0": attribute("n_total", 0),
    "n_samples are words": attribute("n_samples", ["a", "b"]),
    "n_samples of three": attribute("n_samples", [1, 2, 3]),
    "hostnames are numbers": attribute("hostnames", [1, 2]),
    "wall_s is NaN": attribute("wall_s", float("nan")),
    "wall_s is 0": attribute("wall_s", 0.0),
    "wall_s is beyond all time": attribute("wall_s", 1e308),
    "hostnames are none": attribute("hostnames", np.array([], h5py.string_dtype())),
    "hostnames are fewer than the workers": attribute("hostnames", ["here"]),
    "seed is a text": attribute("seed", "0"),
    "title is a number": attribute("title", 3),
    "a column is a group": replaced("evaluations/loss", lambda file, name, _: file.create_group(name)),
    "a column is a type": replaced("evaluations/loss", lambda file, name, _: file.__setitem__(name, np.dtype("f8"))),
    "a group is a column": linked("evaluations", np.zeros(3)),
    "a column of text": replaced(
        "evaluations/loss", lambda file, name, v: file.create_dataset(name, data=["x"] * len(v))
    ),
    "a column of records": replaced(
        "steps/t_s", lambda file, name, v: file.create_dataset(name, data=np.zeros(len(v), [("a", "f8")]))
    ),
    "a column of float32": changed("evaluations/loss", lambda values: values.astype("f4")),
    "a column of two axes": changed("evaluations/loss", lambda values: np.stack([values, values])),
    "a single number": changed("evaluations/loss", lambda values: values[0]),
    "a column of no space": replaced(
        "evaluations/loss", lambda file, name, _: file.create_dataset(name, data=h5py.Empty("f8"))
    ),
    "a longer column": changed("evaluations/loss", lambda values: np.append(values, 1.0)),
    "steps of unequal lengths": changed("steps/samples", lambda values: values[:-1]),
    "a huge column": replaced("evaluations/loss", huge),
    "huge evaluations": all_huge("evaluations"),
    "huge steps": all_huge("steps"),
    "huge events": all_huge("events"),
    "huge traffic": replaced("traffic/nbytes", huge),
    "a huge contiguous column": replaced(
        "evaluations/loss", lambda file, name, _: file.create_dataset(name, (10**12,), "f8")
    ),
    "negative ranks": changed("steps/rank", lambda values: values - 1),
    "ranks that there are not": changed("steps/rank", lambda values: values + 1000),
    "ranks of events": changed("events/rank", lambda values: values - 9),
    "kinds that there are not": changed("events/kind", lambda values: values + 100),
    "negative kinds": changed("events/kind", lambda values: -values - 1),
    "negative staleness": changed("steps/staleness", lambda values: values - 100),
    "negative samples": changed("steps/samples", lambda values: -values),
    "no samples at all": changed("steps/samples", lambda values: 0 * values),
    "bytes without end": changed("events/nbytes", lambda values: values + 2**62),
    "traffic without end": changed("traffic/nbytes", lambda values: values + 2**62),
    "samples without end": changed("steps/samples", lambda values: values + 2**62),
    "peers that there are not": changed("events/peer", lambda values: values + 50),
    "times backwards": changed("steps/t_s", swapped),
    "evaluations backwards": changed("evaluations/t_s", swapped),
    "events backwards": changed("events/t_start_s", swapped),
    "times of NaN": changed("steps/t_s", lambda values: values * np.nan),
    "negative durations": changed("steps/compute_s", lambda values: -values),
    "waits of NaN": changed("steps/wait_s", lambda values: values * np.nan),
    "computing without end": changed("steps/compute_s", lambda values: values + np.inf),
    "times beyond all time": changed("steps/t_s", lambda values: values + 1e300),
    "an event that does not end": changed("events/t_end_s", lambda values: values * np.nan),
    "an infinite time": changed("evaluations/t_s", lambda values: np.append(values[:-1], np.inf)),
    "a pair of one rank": in_new("network", b=[0]),
    "a pair backwards": in_new("network", a=[1], b=[0]),
    "a pair twice": in_new("network", a=[0, 0], b=[1, 1], rtt_s=[1, 1], bytes_per_s=[1, 1]),
    "a pair with nobody": in_new("network", b=[2]),
    "a pair without its rate": in_new("network", bytes_per_s=None),
    "a round trip of no time": in_new("network", rtt_s=[0]),
    "an infinite rate": in_new("network", bytes_per_s=[np.inf]),
    "a rate of NaN": in_new("network", bytes_per_s=[np.nan]),
    "a link of nobody": in_new("links", rank=[2]),
    "links backwards": in_new("links", rank=[0, 0], t_s=[2, 1], bytes_per_s=[1, 1]),
    "a link of no rate": in_new("links", bytes_per_s=[0]),
    "an external link": linked("steps", h5py.ExternalLink("/etc/passwd", "/steps")),
    "an external link to nowhere": linked("steps", h5py.ExternalLink("nowhere.h5", "/steps")),
    "a column behind an external link": linked("steps/t_s", h5py.ExternalLink("other.h5", "/steps/t_s")),
    "a soft link": linked("steps/t_s", h5py.SoftLink("/evaluations/t_s")),
    "a soft link to itself": linked("steps", h5py.SoftLink("/steps")),
    "a group behind a soft link": linked("evaluations", h5py.SoftLink("/steps")),
    "a virtual column": replaced("evaluations/loss", virtual),
    "a column in another file": replaced(
        "evaluations/loss",
        lambda file, name, v: file.create_dataset(name, v.shape, "f8", external=[("/etc/hostname", 0, v.nbytes)]),
    ),
}


SHOWN_ONLY = (
    "peers that there are not",
    "bytes without end",
    "a link of nobody",
    "links backwards",
    "a link of no rate",
)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_one_line_from_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Damage) -> None:
    """Of `show` and of at least one more command; none writes a file or fails in another way."""
    path = tmp_path / "foreign.h5"
    shutil.copy(GOLDEN, path)
    shutil.copy(GOLDEN, tmp_path / "other.h5")
    with h5py.File(path, "a") as file:
        damage(file)
    refused = []
    commands = [["show", path], ["export", path, "--csv", tmp_path / "out.csv"]]
    commands += [["plot", figure, path, "-o", tmp_path / "out.svg"] for figure in PLOTS]
    for line in commands:
        code = command.main(list(map(str, line)))
        printed = capsys.readouterr()
        if code:
            refused.append(line[0])
            assert code == (1 if line[0] == "show" else 2)
            assert printed.err.count("\n") == 1, printed.err
            assert "foreign.h5: " in printed.err
            assert not list(tmp_path.glob("out.*"))
        for out in tmp_path.glob("out.*"):
            out.unlink()
    assert "show" in refused
    assert len(refused) > 1 or damage in map(DAMAGES.get, SHOWN_ONLY)


def test_the_whole_trace_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The golden one, and with the groups that came later."""
    path = tmp_path / "whole.h5"
    shutil.copy(GOLDEN, path)
    with h5py.File(path, "a") as file:
        for name in ("network", "links"):
            in_new(name)(file)
    for line in (["show"], ["export", "--csv", tmp_path / "a.csv"], ["plot", "-o", tmp_path / "a.svg", "timeline"]):
        for whole in (GOLDEN, path):
            assert command.main([*map(str, line), str(whole)]) == 0


def test_a_column_that_will_not_fit_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest one decides, and is named with both amounts."""
    with h5py.File(GOLDEN) as file:
        sizes: dict[str, int] = {}
        file.visititems(lambda name, item: sizes.update({name: item.nbytes} if isinstance(item, h5py.Dataset) else {}))
    largest = max(size for name, size in sizes.items() if name.partition("/")[2] not in ("row", "sender", "receiver"))
    monkeypatch.setattr(memory, "of_node", lambda: largest)
    Run(GOLDEN).column("steps", "t_s")
    monkeypatch.setattr(memory, "of_node", lambda: largest - 1)
    with pytest.raises(UserError, match=r"trace-v1.h5: /\w+/\w+: it needs about .* of memory; .* are available"):
        Run(GOLDEN)


def test_a_link_to_a_pipe_is_not_opened(tmp_path: Path) -> None:
    """HDF5 would wait for a writer for ever."""
    path, pipe = tmp_path / "foreign.h5", tmp_path / "pipe"
    shutil.copy(GOLDEN, path)
    os.mkfifo(pipe)
    with h5py.File(path, "a") as file:
        linked("steps", h5py.ExternalLink(str(pipe), "/steps"))(file)
    line = [sys.executable, "-m", "outpace.benchmarks.command", "show", path, pipe]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first.endswith("foreign.h5: /steps is a link; a trace holds all of its data itself")
    assert second.endswith("pipe: it is a pipe, not a regular file")


@pytest.mark.parametrize("name", ["algorithm", "title", "problem", "started_utc", "hostnames", "config"])
def test_what_a_terminal_would_act_upon_is_spelled_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """An escape that clears the screen, a line of its own, letters in reverse: by every command that prints."""
    path, out, wild = tmp_path / "foreign.h5", tmp_path / "out.csv", "x\x1b[2J\nok\u202e"
    shutil.copy(GOLDEN, path)
    damage = in_json(name, servers=wild) if name == "config" else attribute(name, wild)
    with h5py.File(path, "a") as file:
        (attribute(name, [wild, "b"]) if name == "hostnames" else damage)(file)
    for line in (["show"], ["explain"], ["explain", "--json"], ["export", "--csv", str(out)]):
        command.main([*line, str(path)])
    printed = capsys.readouterr()
    told = printed.out + printed.err + out.read_text()
    assert not set(wild) & {c for c in told if not (c.isprintable() or c == "\n")}
    assert "x\\x1b[2J\\nok\\u202e" in told or name == "hostnames"


@pytest.mark.parametrize("kind", ["copy", "hard link", "symbolic link", "the same"])
def test_one_run_by_two_paths_is_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    first, second = tmp_path / "a.h5", tmp_path / "b.h5"
    shutil.copy(GOLDEN, first)
    if kind == "copy":
        shutil.copy(first, second)
    elif kind == "hard link":
        second.hardlink_to(first)
    elif kind == "symbolic link":
        second.symlink_to(first)
    else:
        second = first
    out = tmp_path / "out.csv"
    assert command.main(["export", str(first), str(second), "--csv", str(out)]) == 0
    assert len(out.read_text().splitlines()) == 2
    said = capsys.readouterr().err
    assert said == ("" if kind == "the same" else f"{second} is left out: the same run as {first}\n")


def test_another_launch_of_the_same_command_is_another_run(tmp_path: Path) -> None:
    first, second, out = tmp_path / "a.h5", tmp_path / "b.h5", tmp_path / "out.csv"
    for path in (first, second):
        shutil.copy(GOLDEN, path)
    with h5py.File(second, "a") as file:
        file.attrs["wall_s"] = Run(first).attrs["wall_s"] * 1.01
    assert command.main(["export", str(first), str(second), "--csv", str(out)]) == 0
    assert len(out.read_text().splitlines()) == 3
