"""The ledger: what its claims say of themselves, ids, and verdicts of made traces."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from outpace.benchmarks.claims import experiment, external, ledger, report, sign_sgd
from outpace.benchmarks.claims.claim import EXTERNAL, Claim, Grade, Kind, Repetition, Scale, Threshold
from outpace.benchmarks.claims.experiment import Planned, Untested
from outpace.benchmarks.claims.ledger import CLAIMS
from outpace.benchmarks.claims.verdict import Verdict
from outpace.benchmarks.command import main
from outpace.benchmarks.sweeps.point import Point
from outpace.comm.errors import UserError

GOLDEN = Path(__file__).parents[2] / "golden" / "trace-v1.h5"
COMPUTED = [claim for claim in CLAIMS.values() if not claim.sweep]


def test_every_claim_says_all() -> None:
    """Ids are words of a command line and unique; a claim of others has an address or says whose wish it is."""
    files = {path.stem for path in Path(ledger.__file__).parent.glob("*.py")}
    of_methods = [getattr(getattr(ledger, name, None), "CLAIMS", ()) for name in files - {"ledger"}]
    assert sum(map(len, of_methods)) == len(CLAIMS) >= 24
    for claim in CLAIMS.values():
        assert re.fullmatch(r"[a-z0-9-]+", claim.id)
        for text in (claim.source, claim.sentence, claim.estimator, claim.threshold.reason):
            assert text
        assert claim.sentence.endswith(".")
        assert claim.threshold.least > -np.inf or claim.threshold.most < np.inf
        assert claim.kind is not Kind.TIMING or claim.control or claim.least_workers
        if claim.group == EXTERNAL and claim.grade is Grade.PAPER:
            assert "https://" in claim.source


def test_what_is_not_a_papers_number_is_not_called_one() -> None:
    """Only the grade PAPER, checked by hand against the papers' own text, says that a number is in the paper."""
    stated = {
        "ad-psgd-rate",
        "ad-psgd-shared-network",
        "vote-skewed",
        "vote-bits",
        "vote-32-times-less",
        "sign-rate",
        "sign-bound",
        "vote-bound",
        "one-peer-exact",
    }
    assert {claim.id for claim in CLAIMS.values() if claim.grade is Grade.PAPER} == stated


def test_bad_ids(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="unknown claim 'nonsense'"):
        ledger.chosen(["vote-bits", "nonsense"])
    assert [claim.id for claim in ledger.chosen(["vote-bits", "ad-psgd-rate"])] == ["ad-psgd-rate", "vote-bits"]
    assert main(["claims", "nonsense"]) == 2
    assert "`outpace claims --list` lists them" in capsys.readouterr().err
    assert main(["claims", "--list", "vote-bits"]) == 0
    assert "from 1 to 1.01" in capsys.readouterr().out


@pytest.mark.parametrize("scale", [Scale(), Scale(quick=True)], ids=["laptop", "quick"])
def test_every_experiment_is_a_sweep(scale: Scale, tmp_path: Path) -> None:
    """Its flags are real, whatever the scale; runs that claims share are made once; a seed for each repetition."""
    planned = [experiment.plan(claim, scale, tmp_path) for claim in CLAIMS.values()]
    impossible = {one.claim.id for one in planned if one.impossible and "--links" not in one.impossible}
    left_out = {claim.id for claim in CLAIMS.values() if claim.least_workers or (claim.long and scale.quick)}
    assert impossible - {"ad-psgd-slow-link"} <= left_out  # which needs links that this machine may not have
    assert len(CLAIMS) - len(left_out) >= 24
    sweep = experiment.together(planned, tmp_path)
    assert len({point.id for point in sweep.points}) == len(sweep.points) < sum(len(one.points) for one in planned)


def test_at_scale(tmp_path: Path) -> None:
    """The same claims and thresholds with 64 workers; what no graph of 63 can do is said."""
    rate = experiment.plan(CLAIMS["ad-psgd-rate"], Scale(workers=64), tmp_path)
    assert {point.ranks for point in rate.points} == {64}
    assert not experiment.plan(CLAIMS["ad-psgd-shared-network"], Scale(workers=64), tmp_path).impossible
    assert "63" in experiment.plan(CLAIMS["ad-psgd-rate"], Scale(workers=63), tmp_path).impossible
    assert "16 workers" in experiment.plan(CLAIMS["ad-psgd-shared-network"], Scale(), tmp_path).impossible


@pytest.mark.parametrize("claim", COMPUTED, ids=lambda claim: claim.id)
def test_claims_without_launches_hold(claim: Claim, tmp_path: Path) -> None:
    (outcome,) = ledger.judge([experiment.plan(claim, Scale(), tmp_path)], Scale())
    assert outcome.verdict is Verdict.HOLDS, outcome


def sign_of_the_mean(gradients: np.ndarray) -> float:
    return float((gradients.mean(axis=0) < 0).mean())


def test_a_wrong_implementation_fails_its_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sign of the mean is no vote; a memory that forgets is no error feedback; rounding up is not unbiased."""

    def verdict(claim_id: str) -> Verdict:
        (outcome,) = ledger.judge([experiment.plan(CLAIMS[claim_id], Scale(), tmp_path)], Scale())
        return outcome.verdict

    monkeypatch.setattr(sign_sgd, "vote_error", sign_of_the_mean)
    assert verdict("vote-skewed") is Verdict.FAILS
    honest = external.sign.feedback_ballot

    def forgetful(g: np.ndarray, memory: np.ndarray, *more: object) -> float:
        scale = honest(g, memory, *more)
        memory[:] = 0
        return float(scale)

    monkeypatch.setattr(external.sign, "feedback_ballot", forgetful)
    assert verdict("feedback-least-squares") is Verdict.FAILS
    monkeypatch.setattr(external.Quantiser, "_uniform", lambda self, hashes: np.ones(len(hashes)))
    assert verdict("qsgd-variance") is Verdict.FAILS


def made(tmp_path: Path, claim: Claim, name: str = "a", **attrs: object) -> Planned:
    """A claim whose one run per seed is there: a whole trace of two workers, with other attributes."""
    points = []
    for seed in range(3):
        path = Path(shutil.copy(GOLDEN, tmp_path / f"{name}-{seed}.h5"))
        with h5py.File(path, "r+") as file:
            file.attrs.update({"seed": seed, "config_id": f"{name}{seed}"} | attrs)
        points.append(Point(f"{name}{seed}", "ad_psgd", 2, (f"--seed={seed}",), path))
    return Planned(claim, tuple(points))


def timing(estimate: float = 1.0, control: object = None) -> Claim:
    return Claim(
        id="made",
        group="g",
        source="s",
        sentence="Made.",
        grade=Grade.CHOSEN,
        estimator="e",
        estimate=lambda _: estimate,
        threshold=Threshold("", most=2.0),
        kind=Kind.TIMING,
        sweep=lambda _: {},
        control=control,  # type: ignore[arg-type]
    )


def test_a_busy_machine_times_nothing(tmp_path: Path) -> None:
    """Background load, or a control that has moved, is no failure of the claim; such points may be timed again."""
    idle = made(tmp_path, timing())
    assert experiment.measure(idle, Scale()).value == 1.0
    loaded = made(tmp_path, timing(), "b", load=1.3)
    moved = made(tmp_path, timing(control=lambda one: 1.0 + 0.2 * one.seed), "c")
    steady = made(tmp_path, timing(control=lambda one: 1.0 + 0.02 * one.seed), "d")
    assert experiment.measure(steady, Scale()).value == 1.0
    for one, said in ((loaded, "1.3 cores"), (moved, "moved by 40%")):
        with pytest.raises(Untested, match=said) as busy:
            experiment.measure(one, Scale())
        assert busy.value.verdict is Verdict.NOT_NOW
    assert experiment.busy([idle, loaded, moved], Scale()) == [*loaded.points, *moved.points]


def test_what_is_missing_or_failed_is_said(tmp_path: Path) -> None:
    planned = made(tmp_path, timing())
    planned.points[0].target.unlink()
    with pytest.raises(Untested, match="1 of 3 runs are not there yet") as untested:
        experiment.measure(planned, Scale())
    assert untested.value.verdict is Verdict.NOT_NOW
    planned.points[0].beside(".failed").write_text("exit code 2: no such thing\n")
    with pytest.raises(Untested, match="no such thing") as untested:
        experiment.measure(planned, Scale())
    assert untested.value.verdict is Verdict.NOT_HERE


@pytest.mark.parametrize("error", [ZeroDivisionError, ValueError])
def test_a_diverged_run_has_no_number(error: type[Exception], tmp_path: Path) -> None:
    def estimate(one: Repetition) -> float:
        raise error

    broken = made(tmp_path, dataclasses.replace(timing(), estimate=estimate))
    assert np.isnan(experiment.measure(broken, Scale()).values).all()


def test_a_run_is_chosen_by_its_flags(tmp_path: Path) -> None:
    planned = made(tmp_path, timing())
    launches = tuple((point, experiment.Run(point.target)) for point in planned.points)
    one = Repetition(0, Scale(), launches)
    assert one.run("ad_psgd", 2, seed=1).attrs["seed"] == 1
    for wrong in ({"seed": 7}, {}):
        with pytest.raises(UserError, match="runs of ad_psgd"):
            one.run("ad_psgd", **wrong)


def test_the_report(tmp_path: Path) -> None:
    """claims.json, and pages of which one holds its figures; only numbers in JSON, whatever was measured."""
    good = made(tmp_path, timing())
    infinite = made(tmp_path, dataclasses.replace(timing(np.inf), id="never"), "b")
    impossible = Planned(CLAIMS["ad-psgd-shared-network"], impossible="too <small>")
    outcomes = [
        report.Outcome(good.claim, Verdict.HOLDS, "p", experiment.measure(good, Scale()), good.points),
        report.Outcome(infinite.claim, Verdict.UNDECIDED, "p", experiment.measure(infinite, Scale()), infinite.points),
        report.Outcome(impossible.claim, Verdict.NOT_HERE, impossible.impossible),
    ]
    report.write(outcomes, Scale(quick=True), tmp_path / "out")
    about = json.loads((tmp_path / "out" / "claims.json").read_text(), parse_constant=pytest.fail)
    first, second, third = about["claims"]
    assert first["verdict"] == "holds"
    assert (first["value"], first["interval"], first["threshold"]["most"]) == (1.0, [1.0, 1.0], 2.0)
    assert first["traces"] == [str(point.target) for point in good.points]
    assert first["command"].startswith("outpace claims made --quick")
    assert second["value"] is None
    assert third["verdict"] == "cannot be tested here"
    assert third["interval"] is None
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "too &lt;small&gt;" in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "| `made` | Made. | 1 | at most 2 | **holds** |" in (tmp_path / "out" / "report.md").read_text()
