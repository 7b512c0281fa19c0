"""The shares of a run's objective once more, all in this process, from what its trace or parts say of it."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from mpi4py import MPI

from outpace.benchmarks import problems
from outpace.benchmarks.problems import Problem, Setting
from outpace.benchmarks.running import file_hashes
from outpace.comm.errors import UserError


def shares(attributes: Mapping[str, Any], what: str, purpose: str) -> list[Problem]:
    """By the root attributes. Raises UserError where files that the run read have changed, without which there is no
    `purpose` for `what`."""
    config = json.loads(attributes["config"])
    read, now = json.loads(attributes.get("inputs", "{}")), file_hashes.of_specs({"problem": config["problem"]})
    if changed := file_hashes.changed(read, now):
        raise UserError(f"{what}: {' and '.join(changed)} changed since the run, which cannot be {purpose} without it")
    n = attributes["n_workers"]
    setting = Setting(MPI.COMM_SELF, range(n), n, config["split"], config["seed"], attributes["dtype"], np)
    return problems.build(config["problem"], setting)
