"""Gradients that come late: rounds that do without them, and servers that weigh workers alike."""

from typing import Final

import numpy as np

from outpace.benchmarks.claims.claim import Claim, Grade, Kind, Repetition, Scale, Table, Threshold
from outpace.benchmarks.studies.first_of_n import rounds_of_m

M_SYNC: Final = "m-sync SGD"
BEGUNOV: Final = "Begunov and Tyurin, 2026, arXiv:2602.03802, Algorithm 3"
RINGLEADER: Final = "Maranjyan and Richtarik, 2025, arXiv:2509.22860, abstract: optimal with heterogeneous data"
COMPUTE_S: Final = 0.01
LAW: Final = "lognormal:sigma=1"
ROUNDED: Final = 1e-15  # of the start's suboptimality: below it is rounding


def _rounds(scale: Scale) -> Table:
    flags = {"problem": "quadratic:dim=100", "compute-time": COMPUTE_S, "stragglers": ["none", LAW], "evaluations": 1}
    return {"programs": ["m_sync_sgd"], "workers": scale.n(8), "flags": flags | {"m": 6, "epochs": scale.of(30, 10)}}


def _over_the_law(one: Repetition, law: str) -> float:
    run = one.run(stragglers=law)
    m, t_s = int(run.config["m"]), run.applied("t_s")
    rounds = len(t_s) // m
    expected = rounds_of_m(law, int(run.attrs["n_workers"]), m, COMPUTE_S, rounds, seed=one.seed)
    return float(t_s.max() / rounds / expected.round_s)


def _own_minima(scale: Scale) -> Table:
    flags = {"problem": "quadratic:dim=100,condition=2,zeta=1", "dtype": "float64", "step-size": 0.3}
    flags |= {"compute-time": 0.005, "stragglers": "fixed:rank=0,factor=10", "time-budget": scale.of(6, 4)}
    leader = {"ringmaster_asgd": {"variant": "ringleader"}}
    return {"programs": ["a_psgd", "ringmaster_asgd"], "workers": scale.n(5), "flags": flags, "program": leader}


def _nearer(one: Repetition) -> float:
    """log10 of how much nearer Ringleader is; the first evaluation is of the start, common to both."""
    plain, leader = (
        one.run(program).column("evaluations", "suboptimality") for program in ("a_psgd", "ringmaster_asgd")
    )
    return float(np.log10(plain[-1] / max(leader[-1], ROUNDED * leader[0])))


CLAIMS: Final = (
    Claim(
        id="m-sync-rounds",
        group=M_SYNC,
        source=BEGUNOV,
        sentence="A round of m-synchronous SGD ends with its m-th gradient, however late the others are.",
        grade=Grade.DERIVED,
        estimator=f"time of a round of 6 of 8 workers, {LAW}, over that computed from the same delays",
        estimate=lambda one: _over_the_law(one, LAW),
        threshold=Threshold("the computed rounds have no messages; 15 % for these and shared cores", most=1.15),
        kind=Kind.TIMING,
        sweep=_rounds,
        control=lambda one: _over_the_law(one, "none"),
        long=True,
    ),
    Claim(
        id="ringleader-unequal-data",
        group="Ringleader ASGD",
        source=RINGLEADER,
        sentence="Ringleader ASGD finds the minimiser of the mean where one worker is slow and has data of its own, "
        "to which A-PSGD is blind.",
        grade=Grade.CHOSEN,
        estimator="log10 of A-PSGD's suboptimality over Ringleader's; exact gradients, one of 5 workers 10x slower",
        estimate=_nearer,
        threshold=Threshold("a hundred times nearer is no matter of step sizes", least=2),
        sweep=_own_minima,
        long=True,
    ),
)
