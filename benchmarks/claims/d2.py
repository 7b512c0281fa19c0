"""D^2 (Tang, Lian, Yan, Zhang, Liu: D^2: Decentralized Training over Decentralized Data, ICML 2018, arXiv:1803.07068),
beside D-PSGD."""

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from outpace.algorithms import d2
from outpace.benchmarks.claims.claim import Claim, Grade, Kind, Repetition, Scale, Table, Threshold
from outpace.benchmarks.claims.statistics import slope
from outpace.benchmarks.config import ProgramConfig
from outpace.comm import topology
from outpace.comm.errors import UserError

GROUP: Final = "D^2"
SOURCE: Final = "Tang et al., ICML 2018, arXiv:1803.07068"
PROGRAMS: Final = ("d2", "d_psgd")
ZETAS: Final = (1, 100)


def _exact_gradients(zeta: float) -> str:
    return f"quadratic:dim=50,condition=10,zeta={zeta:g}"


def _spread(scale: Scale) -> Table:
    flags = {"problem": [_exact_gradients(zeta) for zeta in ZETAS], "step-size": 0.2, "dtype": "float64"}
    flags |= {"epochs": 1000 * 16 * scale.n(4) / 1024, "topology": "ring:lazy=1", "evaluations": 10}
    return {"programs": list(PROGRAMS), "workers": scale.n(4), "flags": flags}


def _error(one: Repetition, program: str, zeta: float) -> float:
    """Distance of the models to the common minimum, in the root mean square, up to curvature."""
    run = one.run(program, problem=_exact_gradients(zeta))
    above, apart = (float(run.column("evaluations", name)[-1]) for name in ("suboptimality", "consensus"))
    return math.sqrt(max(above, 0.0) + apart)


def _labels(scale: Scale) -> Table:
    flags = {"problem": "digits:hidden=0", "split": "labels:classes=2", "step-size": 0.2, "dtype": "float64"}
    own = {program: {"topology": "ring"} for program in PROGRAMS}
    return {
        "programs": ["allreduce_sgd", *PROGRAMS],
        "workers": 5,
        "flags": flags | {"epochs": scale.of(40, 20)},
        "program": own,
    }


def _over_allreduce(program: str) -> Callable[[Repetition], float]:
    return lambda one: one.run(program).final_loss() / one.run("allreduce_sgd").final_loss()


def _accepted(text: str, n: int) -> bool:
    try:
        config: ProgramConfig = d2.Config(topology=text)
        config.check(n)
    except UserError:
        return False
    return True


def _disagreements(one: Repetition) -> float:
    """Graphs for which the recursion's own spectral radius and `d2` do not say the same of stability."""
    wrong = 0
    for text in ("ring", "ring:lazy=1", "path", "star", "complete", "hypercube", "torus", "exponential"):
        for n in (4, 8, 16):
            eigenvalues = np.linalg.eigvalsh(topology.mixing_matrix(text, n))
            # x_{k+1} = W (2 x_k - x_{k-1}): without gradients, for each eigenvalue but the mean's
            radius = max(np.abs(np.roots([1, -2 * each, each])).max() for each in np.sort(eigenvalues)[:-1])
            wrong += (radius < 1 - 1e-9) != _accepted(text, n)
    return float(wrong)


def _noisy(scale: Scale) -> Table:
    n = scale.n(8, quick=4)
    flags = {"problem": "quadratic:dim=200,condition=1,sigma=1", "step-size": 0.05, "batch-size": 1}
    cases = [{"workers": m, "epochs": 600 * m / 1024} for m in (2, n)]
    return {"programs": ["d2"], "flags": flags | {"evaluations": 100, "topology": "ring:lazy=1"}, "case": cases}


def _floor_exponent(one: Repetition) -> float:
    """Of n in the mean suboptimality of the second half."""
    runs = sorted(one.runs, key=lambda run: int(run.attrs["n_workers"]))
    floors = []
    for run in runs:
        values = run.column("evaluations", "suboptimality")
        floors.append(float(values[len(values) // 2 :].mean()))
    return slope([run.attrs["n_workers"] for run in runs], floors)


CLAIMS: Final = (
    Claim(
        id="d2-zeta",
        group=GROUP,
        source=f"{SOURCE}, abstract: the rate has no term in zeta",
        sentence="However much the workers' data differ, D^2 goes to the common minimum, which D-PSGD misses.",
        grade=Grade.DERIVED,
        estimator="decades that D^2's error is below D-PSGD's, zeta = 100, exact gradients",
        estimate=lambda one: math.log10(_error(one, "d_psgd", 100) / _error(one, "d2", 100)),
        threshold=Threshold("D^2's is rounding, D-PSGD's of the order of the step; six decades", least=6),
        sweep=_spread,
    ),
    Claim(
        id="d-psgd-zeta",
        group=GROUP,
        source=f"{SOURCE}, abstract: D-PSGD's rate has a term in zeta",
        sentence="D-PSGD's error grows in proportion to the workers' dissimilarity zeta.",
        grade=Grade.DERIVED,
        estimator="exponent of zeta in D-PSGD's error, zeta = 1 and 100, exact gradients",
        estimate=lambda one: slope(ZETAS, [_error(one, "d_psgd", zeta) for zeta in ZETAS]),
        threshold=Threshold("proportional: 1, give or take a tenth", 0.9, 1.1),
        sweep=_spread,
    ),
    Claim(
        id="d2-labels",
        group=GROUP,
        source=f"{SOURCE}, abstract: each worker holds only some labels",
        sentence="Where no two workers share a label, D^2 converges like AllReduce-SGD.",
        grade=Grade.CHOSEN,
        estimator="final loss over AllReduce-SGD's with the same seed; digits, softmax, 5 workers of 2 labels, ring",
        estimate=_over_allreduce("d2"),
        threshold=Threshold("alike within a fiftieth", 0.98, 1.02),
        sweep=_labels,
        long=True,
        figure="loss-epochs",
    ),
    Claim(
        id="d-psgd-labels",
        group=GROUP,
        source=f"{SOURCE}, abstract: each worker holds only some labels",
        sentence="Where no two workers share a label, D-PSGD converges clearly worse than AllReduce-SGD.",
        grade=Grade.CHOSEN,
        estimator="final loss over AllReduce-SGD's with the same seed; digits, softmax, 5 workers of 2 labels, ring",
        estimate=_over_allreduce("d_psgd"),
        threshold=Threshold("clearly is a twentieth, more than seeds differ by", least=1.05),
        sweep=_labels,
        long=True,
    ),
    Claim(
        id="d2-eigenvalue",
        group=GROUP,
        source=f"{SOURCE}, the condition lambda_n > -1/3",
        sentence="D^2 is stable where W's smallest eigenvalue is above -1/3, and `d2` refuses all other graphs.",
        grade=Grade.DERIVED,
        estimator="graphs, of 24, where the spectral radius of the recursion and `d2` disagree",
        estimate=_disagreements,
        threshold=Threshold("none", 0, 0),
        kind=Kind.EXACT,
        repetitions=1,
    ),
    Claim(
        id="d2-speed-up",
        group=GROUP,
        source=f"{SOURCE}, abstract: sigma/sqrt(nT)",
        sentence="D^2's error by gradient noise falls linearly with the workers.",
        grade=Grade.DERIVED,
        estimator="exponent of n in the settled suboptimality at a fixed step size; noisy quadratic",
        estimate=_floor_exponent,
        threshold=Threshold("-1 by the closed form gamma/((2 - gamma) n); a tenth for the finite run", -1.1, -0.9),
        sweep=_noisy,
    ),
)
