"""The problems: objectives (1/n) sum f_i, with f_i the mean over worker i's samples.

In those of `rows` f_i is so weighted that the objective is the mean over all samples, however they are dealt.
"""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from outpace.benchmarks.problems import size, splits
from outpace.benchmarks.problems.problem import Problem, Setting, Unshared
from outpace.comm import spec

__all__ = ["PROBLEMS", "Problem", "Setting", "Unshared", "build", "canonical", "check"]

MODULES: Final = {
    "digits": "digits",
    "quadratic": "quadratic",
    "sparse-noise": "sparse_noise",
    "logistic": "logistic",
    "libsvm": "libsvm",
    "pca": "pca",
    "svd": "svd",
    "torch": "networks",
}


class Specs(Mapping[str, type[Any]]):
    """The Spec of each problem, by its name in SPECs. Modules are imported as they are asked for: a run needs one."""

    def __getitem__(self, name: str) -> type[Any]:
        return module(name).Spec  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)


PROBLEMS: Final = Specs()


def module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{MODULES[name]}")


def build(text: str, setting: Setting) -> list[Problem]:
    """The shares that this process holds: its own under MPI, or all of them in one process, which is how a
    killed run is evaluated and how the tests get the gradients of their matrix forms.

    Collective over `setting.comm`; data is loaded on its rank 0 only, and each process keeps its shares. Raises
    UserError on every rank for a bad SPEC, for a split that leaves a worker without samples, and before anything is
    allocated for what does not fit into the memory of a node.
    """
    parsed = spec.parse(text, PROBLEMS, "--problem")
    if known := parsed.size():
        size.require(known, setting, f"--problem {text}")
    shares: list[Problem] = module(text.partition(":")[0]).build(parsed, setting)
    return shares


def check(text: str, split: str, n: int) -> None:
    """Raise UserError for a SPEC that is none, and for what its split among n workers will refuse, as far as the SPEC
    tells; no file is opened."""
    known = spec.parse(text, PROBLEMS, "--problem").size()
    if known:
        splits.check(split, known.samples, known.labels, n)


def canonical(text: str) -> str:
    """The SPEC with its defaults written out."""
    return spec.render(spec.parse(text, PROBLEMS, "--problem"), PROBLEMS)
