"""What a job came to: by what its guardian saw, its ranks said and its launcher printed."""

import os
import re
import signal
from dataclasses import dataclass
from typing import Final, TypedDict

from outpace.benchmarks.machine import guardian

HYDRA: Final = re.compile(r"\(signal (\d+)\)")  # what launchers say of a rank that was killed
OPEN_MPI: Final = re.compile(r"process\s+rank\s+(\d+)\s[^.]*\sexited\s+on\s+signal\s+(\d+)\s+\(")


class Account(TypedDict):
    """What a job came to."""

    code: int  # of the launcher; -n where signal n killed it
    forced: bool  # whether the launcher had to be killed
    passed_on: list[int]  # signals
    ranks: int  # that should have been on this host, 0 where that is not known
    seen: bool  # whether any was
    up: bool  # whether MPI had started
    early: bool  # whether a signal to end came before that
    told: int | None  # the exit code that ranks said they would have
    killed: int | None  # the rank that ended first without such a word
    status: int  # its own wait status, 0 where nobody could see it
    hung: bool  # whether the others would have waited for that one for ever


@dataclass(frozen=True)
class Ended:
    """How a launch ended: its exit code and, where one rank of this node ended it, which one and how; and the last
    signal that it was to end by, be it that it had come to its own end by then."""

    code: int
    rank: int | None = None
    cause: str = ""
    told: int = 0


def ended(account: Account, output: str) -> Ended:
    """How the launch ended that has this account and output.

    A launcher's own exit code says little. Open MPI's is 1. Hydra's is one of MPI's errors, or a signal: where ranks
    died of unlike ones, the bits of all. So a Ctrl-C and what then kills the others look like a segmentation fault.
    """
    code, told, sent = account["code"], account["told"], account["passed_on"]
    interrupted = re.search(r"^KeyboardInterrupt$", output, re.MULTILINE)  # a rank, in the midst of its imports
    if account["hung"]:
        said = [line.strip() for line in output.splitlines() if line.strip()]
        cause = f"ended before MPI was up{f' ({said[-1]})' if said else ''}"
        return Ended(code_of(signal.SIGINT) if interrupted else 1, account["killed"], cause)
    here = account["seen"] or account["ranks"] > 0
    starting = here and not account["up"]
    if told or (not code and not (starting and account["ranks"])):
        return Ended(told or code)
    if account["forced"] and sent:
        return Ended(code_of(sent[-1]))
    died, rank = os.WTERMSIG(account["status"]), account["killed"]
    own = 0 if died in (signal.SIGKILL, signal.SIGTERM) else died  # by those launchers kill the others
    for number in sent:
        by_it = number == own if own else _died_of(number, code)
        if by_it or (number in guardian.ENDING and here and account["early"]):
            return Ended(code_of(number))
    if interrupted:
        return Ended(code_of(signal.SIGINT))
    if not own and (fatal := HYDRA.search(output)):
        own = int(fatal[1])
    elif not own and (fatal := OPEN_MPI.search(output)):
        rank, own = int(fatal[1]), int(fatal[2])
    elif died == signal.SIGTERM:
        own = died
    if 0 < own < signal.NSIG:
        return Ended(code_of(own), rank, signal.strsignal(own) or "")
    if code < 0:
        return Ended(code_of(-code))
    if not code:
        return Ended(1, None, "not up when the launcher ended")
    return Ended(1 if account["seen"] and code in map(code_of, guardian.PASSED_ON) else code)


def _died_of(number: int, code: int) -> bool:
    """Whether a launcher with this exit code was ended by the signal, or by SIGTERM in its place."""
    received = {number, signal.SIGTERM} if number in guardian.ENDING else {number}
    return any(code in (one, -one, 128 + one) for one in received)


def code_of(number: int) -> int:
    """The exit code of a run that ends by this signal."""
    return os.EX_TEMPFAIL if number == signal.SIGUSR1 else 128 + number
