"""What programs of a user's own have in common here, as text: their flags come first, their `run` between the two."""

HEAD = """
from dataclasses import dataclass

from outpace.benchmarks.config import ProgramConfig
from outpace.benchmarks.program import main


@dataclass(frozen=True)
class Config(ProgramConfig):
    step_size: float = 0.1
    batch_size: int = 1
    dtype: str = "float64"
    seed: int = 0
"""
TAIL = """
if __name__ == "__main__":
    main(run, Config)
"""
