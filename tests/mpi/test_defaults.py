"""Every program and variant learns the digits as its flags stand: accuracy 0.9 after 10 epochs of 4 workers."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from harness import CheckedComm, execute, share

from outpace.algorithms import (
    a_psgd,
    ad_psgd,
    allreduce_sgd,
    choco_sgd,
    d2,
    d_psgd,
    eamsgd,
    gossip_local_sgd,
    gradient_tracking,
    katyusha_x,
    local_sgd,
    m_sync_sgd,
    powersgd,
    quantized_sgd,
    ringmaster_asgd,
    sgp,
    sign_sgd,
    svrg,
)

DEFAULTS: list[tuple[ModuleType, dict[str, Any]]] = [
    (allreduce_sgd, {}),
    (allreduce_sgd, {"rule": "momentum"}),
    (allreduce_sgd, {"rule": "adam"}),
    (allreduce_sgd, {"rule": "adamw"}),
    (local_sgd, {}),
    (local_sgd, {"outer": "nesterov"}),
    (local_sgd, {"outer": "nesterov", "rule": "adamw", "overlap": True}),
    (gossip_local_sgd, {}),
    (gossip_local_sgd, {"outer": "nesterov"}),
    (d_psgd, {}),
    (d_psgd, {"order": "adapt-combine"}),
    (d_psgd, {"topology": "one-peer"}),
    (gradient_tracking, {}),
    (sgp, {}),
    (d2, {}),
    (ad_psgd, {}),
    (a_psgd, {}),
    (eamsgd, {}),
    (m_sync_sgd, {}),
    (m_sync_sgd, {"late": "apply"}),
    (ringmaster_asgd, {}),
    (ringmaster_asgd, {"variant": "ringleader"}),
    *((sign_sgd, {"variant": v, "vote": w}) for v in sign_sgd.VARIANTS for w in ("majority", "sum", "none")),
    *((sign_sgd, {"ties": ties}) for ties in ("keep", "plus", "abstain")),
    (quantized_sgd, {}),
    (quantized_sgd, {"codec": "qsgd:norm=max"}),
    (quantized_sgd, {"codec": "terngrad"}),
    (quantized_sgd, {"codec": "terngrad:shared=1"}),
    *((choco_sgd, {"compressor": compressor}) for compressor in choco_sgd.COMPRESSORS),
    (powersgd, {}),
    (powersgd, {"rank": 1, "momentum": 0.0, "step_size": 0.2}),
    (svrg, {}),
    (katyusha_x, {"variant": "w"}),  # X^s needs a strong convexity, which a network does not have
]
NAMES = [" ".join([module.__name__.rpartition(".")[2], *map(str, config.values())]) for module, config in DEFAULTS]


@pytest.mark.ranks(4, 5)
@pytest.mark.parametrize(("program", "config"), DEFAULTS, ids=NAMES)
def test_learns_digits(comm: CheckedComm, program: ModuleType, config: dict[str, Any]) -> None:
    """The loss is finite, too: a program at 0.9 whose loss is 5 has lost its way."""
    cfg = program.Config(**config)
    if comm.size != 4 + cfg.servers:
        pytest.skip(f"{4 + cfg.servers} ranks are 4 workers")
    problem = share(comm, "digits", cfg.dtype, servers=cfg.servers)
    steps = round(10 * cfg.steps_per_epoch(problem.n_total, 4))
    # Ranks share cores here, and asynchronous workers compute what their share allows: sleeping, they are equal.
    compute_time = 0.002 if program.Config.asynchronous else 0.0
    x = execute(comm, program, problem, steps, dtype=cfg.dtype, compute_time=compute_time, **config).mean
    x = x.astype(cfg.dtype)
    works = comm.rank < 4
    loss = comm.allreduce(problem.loss(x) / 4 if works else 0.0)
    _, correct, held_out = np.sum(comm.allgather(problem.held_out(x) if works else (0, 0, 0)), axis=0)
    assert correct / held_out >= 0.9
    assert loss < 0.3
