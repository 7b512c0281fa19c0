"""Studies: launches over a range, with a table and figures, by one command each. What is claimed is in `claims`.

    python -m outpace.benchmarks.studies unequal-data    D^2 and D-PSGD where workers hold different labels
    python -m outpace.benchmarks.studies busiest-rank    rates and traffic against the number of workers
    python -m outpace.benchmarks.studies opponents       all programs, tuned, with four kinds of stragglers
    python -m outpace.benchmarks.studies opponents-linked  local steps and compression behind slow links
    python -m outpace.benchmarks.studies slow-worker     the pace of the others beside a slow worker
    python -m outpace.benchmarks.studies slow-data       where the model goes if a slow worker's data is its own
    python -m outpace.benchmarks.studies first-of-n      rounds of the first m of n gradients: the law, computed
    python -m outpace.benchmarks.studies signum          Signum beside Adam, both tuned over a grid
    python -m outpace.benchmarks.studies bits            Signum beside AllReduce-SGD and Adam, over the links' rate
    python -m outpace.benchmarks.studies vote-errors     how often a majority is wrong, against workers and noise
    python -m outpace.benchmarks.studies flippers        majority vote against workers that negate their signs
    python -m outpace.benchmarks.studies batch-sizes     SVRG and Katyusha X: passes and rounds against the batch size
    python -m outpace.benchmarks.studies condition       the same two against the condition number
    python -m outpace.benchmarks.studies step-sizes      the same two against the step size
    python -m outpace.benchmarks.studies tuned           the same two with tuned step sizes, over N and condition number
    python -m outpace.benchmarks.studies epoch-lengths   SVRG with epochs of random and of fixed length
    python -m outpace.benchmarks.studies workers         Katyusha X: time per pass against the number of workers
    python -m outpace.benchmarks.studies slow-link       one slow link of eight: the rates that programs keep
    python -m outpace.benchmarks.studies shared-links    epoch times where others use the network as well
    python -m outpace.benchmarks.studies server-link     A-PSGD and AD-PSGD behind slow links, against the workers
    python -m outpace.benchmarks.studies bounds          what analyses promise beside what signSGD and D-PSGD do
    python -m outpace.benchmarks.studies fashion         LeNet on Fashion-MNIST by three programs: accuracies
    python -m outpace.benchmarks.studies unequal-images  the same network where workers hold different classes
    python -m outpace.benchmarks.studies step-times      ResNet-20 on images in data/cifar10-jpeg: where its time goes
    python -m outpace.benchmarks.studies validation      all programs, simulated and real, behind links and without
    python -m outpace.benchmarks.studies beyond          all programs, simulated, on 16 to 1,024 workers

A trace that is there already is not made again, so a study that was cut short goes on. `validation` and `beyond` can
also be made in parts, by --programs, --n, --networks and --conditions; their tables have all parts so far.
"""

import argparse
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from outpace.benchmarks.studies import networks, slow_networks, variance_reduction
from outpace.benchmarks.studies.beyond import CONDITIONS, beyond
from outpace.benchmarks.studies.bits import bits
from outpace.benchmarks.studies.bounds import bounds
from outpace.benchmarks.studies.busiest_rank import busiest_rank
from outpace.benchmarks.studies.first_of_n import first_of_n
from outpace.benchmarks.studies.flippers import flippers
from outpace.benchmarks.studies.launches import RUNS
from outpace.benchmarks.studies.opponents import opponents, opponents_linked
from outpace.benchmarks.studies.signum import signum
from outpace.benchmarks.studies.slow_data import slow_data
from outpace.benchmarks.studies.slow_worker import slow_worker
from outpace.benchmarks.studies.unequal_data import unequal_data, unequal_images
from outpace.benchmarks.studies.validation import NETWORKS, validation
from outpace.benchmarks.studies.vote_errors import vote_errors
from outpace.benchmarks.sweeps.programs import programs
from outpace.comm.errors import UserError

STUDIES: Final[dict[str, Callable[..., object]]] = {
    "unequal-data": unequal_data,
    "busiest-rank": busiest_rank,
    "opponents": opponents,
    "opponents-linked": opponents_linked,
    "slow-worker": slow_worker,
    "slow-data": slow_data,
    "first-of-n": first_of_n,
    "signum": signum,
    "bits": bits,
    "vote-errors": vote_errors,
    "flippers": flippers,
    "batch-sizes": variance_reduction.batch_sizes,
    "condition": variance_reduction.condition,
    "step-sizes": variance_reduction.step_sizes,
    "tuned": variance_reduction.tuned,
    "epoch-lengths": variance_reduction.epoch_lengths,
    "workers": variance_reduction.workers,
    "slow-link": slow_networks.slow_link,
    "shared-links": slow_networks.shared_links,
    "server-link": slow_networks.server_link,
    "bounds": bounds,
    "fashion": networks.fashion,
    "unequal-images": unequal_images,
    "step-times": networks.step_times,
    "validation": validation,
    "beyond": beyond,
}
PARTS: Final = {"programs": programs(), "networks": list(NETWORKS), "conditions": list(CONDITIONS)}


def given_of(options: argparse.Namespace, study: Callable[..., object]) -> dict[str, Any]:
    """What a study is given of the options. Raises UserError for one that it does not have, and for no number."""
    parameters = inspect.signature(study).parameters
    given = {name: value for name, value in vars(options).items() if name not in ("study", "out") and value is not None}
    for name, value in given.items():
        if name not in parameters or (isinstance(value, list) and "programs" not in parameters):
            raise UserError(f"--{name}: this study has no choice of it")
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and not number > 0:
                raise UserError(f"--{name} is {number}; it must be above 0")
    return given


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="outpace.benchmarks.studies"
    )
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("-o", "--out", type=Path, help=f"folder for traces and figures; default {RUNS}/STUDY")
    parser.add_argument(
        "--launches", type=int, help="of each kind; of slow-link, shared-links, server-link, slow-data and opponents"
    )
    parser.add_argument(
        "--seconds", type=float, help="of each run; of validation, shared-links, slow-worker and slow-data"
    )
    parser.add_argument("--n", type=int, nargs="+", metavar="WORKERS", help="of validation and beyond")
    for name, choices in PARTS.items():
        parser.add_argument(f"--{name}", nargs="+", choices=choices, metavar=name[:-1].upper(), help=", ".join(choices))
    return parser


def main() -> int:
    options = parser().parse_args()
    study = STUDIES[options.study]
    try:
        study(options.out or RUNS / options.study, **given_of(options, study))
    except UserError as error:
        print(f"{options.study}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
