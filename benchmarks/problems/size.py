"""How large a problem is, and the refusal of one for which the nodes have no memory."""

import platform
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

from outpace.benchmarks.problems import splits
from outpace.benchmarks.problems.problem import Setting
from outpace.comm import agreement, memory

NUMBER: Final = 8  # bytes
# Arrays of the model's size, at least, in set-up, in the loop, and in the evaluation in float64: of each rank, and of
# each share that it has.
VECTORS: Final = 6
OF_SHARE: Final = 2


@dataclass(frozen=True)
class Size:
    """What follows from a SPEC alone, or from the data where that is in a file."""

    samples: int
    dim: int  # of the model
    labels: int | None = None  # how many kinds there are; None: without, or not known yet
    row: float = 0  # numbers that are kept of a sample
    pass_: float = 0  # numbers for each sample of a gradient while it is computed
    everywhere: float = 0  # further numbers on each rank
    root: float = 0  # further numbers on rank 0 while the data is made

    def nbytes(self, setting: Setting, made: bool = False) -> float:
        """Of this process, about; `made`: without what rank 0 needs to make the data."""
        workers = len(setting.workers)
        numbers = float((VECTORS + OF_SHARE * workers) * self.dim) + self.everywhere
        numbers += workers * self.samples / setting.n * (1 + self.row + self.pass_)
        numbers += workers * setting.batch_size * (1 + self.row + self.pass_)
        if setting.comm.rank == 0 and not made:
            numbers += self.samples * (splits.DEAL + self.row) + self.root
        return NUMBER * numbers


def require(size: Size, setting: Setting, what: str, made: bool = False) -> None:
    """Refuse a problem for which this rank, or all ranks of some node together, need more memory than there is;
    collective. Raises UserError on every rank."""
    nbytes, node = size.nbytes(setting, made), platform.node()
    needs, ranks = defaultdict[str, float](float), defaultdict[str, int](int)
    for other, more in setting.comm.allgather((node, nbytes)):
        needs[other] += more
        ranks[other] += 1
    together = f"its {ranks[node]} ranks on {node} need" if ranks[node] > 1 else "it needs"

    def check() -> None:
        memory.refuse(needs[node], memory.of_node(), what, together)
        memory.refuse(nbytes, memory.of_process(), what, f"rank {setting.comm.rank} needs")

    agreement.together(setting.comm, check)
