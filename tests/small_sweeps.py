"""Small sweeps, and scripts that stand for the launcher of their points."""

from pathlib import Path

from outpace.benchmarks.sweeps.point import Point

SMALL = """
programs = ["allreduce_sgd", "ad_psgd", "a_psgd"]
workers = [2, 4]
repetitions = 3
[flags]
problem = "quadratic:dim=4"
stragglers = ["none", "fixed:rank=0,factor=10"]
topology = ["ring", "star"]
"""
BASE = 'programs = ["d_psgd"]\nworkers = 2\n'


def described(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(text)
    return path


def flag(point: Point, name: str) -> str | None:
    """The value of the point's flag, None without it."""
    return next((each.partition("=")[2] for each in point.flags if each.startswith(f"{name}=")), None)


CHECKPOINT = "touch $1.part-0 $1.part-1 $1.part-0.state-1 $1.part-1.state-1"


def meets(name: str, then: str) -> str:
    """A script that has the runner get this signal, and does `then` when it is passed on."""
    return f"trap '{then}' {name}\nkill -{name} $runner\nsleep 20 & wait"
