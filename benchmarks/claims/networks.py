"""Networks on real images, which take the extras `torch` and `simulate`, Fashion-MNIST, and minutes for each run."""

from typing import Final

from outpace.benchmarks.claims import ad_psgd, d2
from outpace.benchmarks.claims.claim import Claim, Grade, Repetition, Scale, Table, Threshold
from outpace.benchmarks.studies.networks import FASHION, GRAPH, PROGRAMS

EXCLUSIVE: Final = FASHION | {"epochs": 8, "split": "labels:classes=2", "topology": "ring"}
NOTE: Final = "takes up to three hours of one core, in an environment with the extras `torch` and `simulate`"


def _shuffled(scale: Scale) -> Table:
    return {"programs": list(PROGRAMS), "workers": scale.n(8), "flags": FASHION | GRAPH}


def _exclusive(scale: Scale) -> Table:
    return {"programs": ["allreduce_sgd", "d2"], "workers": 5, "flags": EXCLUSIVE}


def _accuracy(one: Repetition, program: str) -> float:
    return float(one.run(program).column("evaluations", "accuracy")[-1])


def _spread(one: Repetition) -> float:
    found = [_accuracy(one, program) for program in PROGRAMS]
    return max(found) - min(found)


CLAIMS: Final = (
    Claim(
        id="ad-psgd-images",
        group=ad_psgd.GROUP,
        source=f"{ad_psgd.SOURCE}, section 5: convergence by epochs",
        sentence="AD-PSGD, D-PSGD and AllReduce-SGD reach the same accuracy after the same epochs.",
        grade=Grade.CHOSEN,
        estimator="greatest less least held-out accuracy of the three; LeNet-5, Fashion-MNIST, 8 workers, simulated",
        estimate=_spread,
        threshold=Threshold("half a point", most=0.005),
        repetitions=7,
        sweep=_shuffled,
        long=True,
        note=NOTE,
    ),
    Claim(
        id="d2-images",
        group=d2.GROUP,
        source=f"{d2.SOURCE}, section 6: classes that belong to one worker",
        sentence="Where every class is on one worker alone, D^2 reaches the accuracy of AllReduce-SGD.",
        grade=Grade.CHOSEN,
        estimator="accuracy of AllReduce-SGD less that of D^2; LeNet-5, Fashion-MNIST, 5 workers with two classes each",
        estimate=lambda one: _accuracy(one, "allreduce_sgd") - _accuracy(one, "d2"),
        threshold=Threshold("one point", most=0.01),
        repetitions=7,
        sweep=_exclusive,
        long=True,
        note=NOTE,
    ),
)
