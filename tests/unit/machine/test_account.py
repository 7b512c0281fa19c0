"""How a launch ended, by what launchers and ranks say of it."""

import signal

import pytest

from outpace.benchmarks.machine.account import Ended, ended

ACCOUNT = {
    "code": 0,
    "forced": False,
    "passed_on": [],
    "ranks": 3,
    "seen": True,
    "up": True,
    "early": False,
    "told": None,
    "killed": None,
    "status": 0,
    "hung": False,
}
HYDRA = "YOUR APPLICATION TERMINATED WITH THE EXIT STRING: {} (signal {})\n"
OPEN_MPI = "prterun noticed that process rank 2 with PID 77 on node here exited on\nsignal {1} ({0}).\n"
UNSEEN = {"ranks": 0, "seen": False, "up": False}  # all ranks are on other hosts
STARTING = {"up": False}
EARLY = STARTING | {"early": True}  # a signal to end came then
TERM, INT, HUP, USR1 = signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1


@pytest.mark.parametrize("says", [HYDRA, OPEN_MPI])
@pytest.mark.parametrize(
    ("words", "number", "code"),
    [("User defined signal 1", 10, 75), ("Killed", 9, 137), ("Terminated", 15, 143), ("Segmentation fault", 11, 139)],
)
def test_a_rank_killed_by_a_signal_is_named_with_it(says: str, words: str, number: int, code: int) -> None:
    account = ACCOUNT | {"code": number, "killed": 2}
    assert ended(account, "mpiexec ...\n" + says.format(words, number)) == Ended(code, 2, words)


@pytest.mark.parametrize(
    ("status", "says", "told"),
    [
        (2, ("Segmentation fault", 11), Ended(130, 2, "Interrupt")),
        (6, ("Terminated", 15), Ended(134, 2, "Aborted")),
        (128 + 11, ("Segmentation fault", 11), Ended(139, 2, "Segmentation fault")),  # with a core
        (9, ("Killed", 9), Ended(137, 2, "Killed")),
        (256, ("Bus error", 7), Ended(135, 2, "Bus error")),  # the rank itself had an exit code
    ],
)
def test_hydra_names_the_bits_of_all_signals(status: int, says: tuple[str, int], told: Ended) -> None:
    """Those of the rank that died first and of what killed the others."""
    account = ACCOUNT | {"code": says[1], "killed": 2, "status": status}
    assert ended(account, "mpiexec ...\n" + HYDRA.format(*says)) == told


@pytest.mark.parametrize(
    ("account", "code"),
    [
        ({"code": 0}, 0),
        ({"code": 0, "told": 0, "passed_on": [TERM]}, 0),  # it came too late
        ({"code": 0, **STARTING}, 1),  # Open MPI's mpirun at a SIGTERM that went past us
        ({"code": 0, "passed_on": [TERM], **EARLY}, 143),
        ({"code": 0, **UNSEEN}, 0),
        ({"code": 1, "told": 143}, 143),  # Open MPI's own code
        ({"code": 3, "told": 2}, 2),
        ({"code": 143}, 1),  # an error of MPI_Init
        ({"code": 75, **STARTING}, 1),
        ({"code": 143, **UNSEEN}, 143),  # of ranks elsewhere
        ({"code": 15, "passed_on": [TERM], **UNSEEN}, 143),
        ({"code": -15, "passed_on": [INT], **EARLY}, 130),  # before MPI is up SIGTERM takes its place
        ({"code": 1, "passed_on": [HUP], **EARLY}, 129),
        ({"code": 1, "passed_on": [INT], "early": True}, 130),  # a rank was up before the launcher had ended it
        ({"code": 1, "passed_on": [INT]}, 1),
        ({"code": 10, "passed_on": [USR1], **STARTING}, 75),
        ({"code": 1, "passed_on": [USR1], "killed": 0}, 1),  # the checkpoint could not be written
        ({"code": 1, "passed_on": [TERM], **UNSEEN}, 1),
        ({"code": 11, "passed_on": [INT], "killed": 2, "status": 2}, 130),  # Hydra's kill of the others is in the 11
        ({"code": 15, "passed_on": [TERM], "killed": 2, "status": 6}, 134),
        ({"code": 15, "passed_on": [TERM], "killed": 2, "status": 9}, 143),  # another one died first
        ({"code": -9}, 137),
        ({"code": -9, "forced": True, "passed_on": [TERM]}, 143),  # told to end, it did not
        ({"code": -9, "forced": True, "passed_on": [USR1, TERM, signal.SIGKILL]}, 137),
    ],
)
def test_exit_codes(account: dict[str, object], code: int) -> None:
    assert ended(ACCOUNT | account, "mpiexec ...\n").code == code


def test_ctrl_c_in_the_imports_of_a_rank() -> None:
    account = ACCOUNT | {"code": 1, **STARTING}
    assert ended(account, "Traceback ...\nKeyboardInterrupt\nMPI_ABORT was invoked\n") == Ended(130)


def test_ctrl_c_before_mpi_knows_of_the_rank() -> None:
    """Of which Python makes an exit code of 1 in the midst of its own start."""
    account = ACCOUNT | {"code": -9, "hung": True, "killed": 1, **STARTING}
    said = "KeyboardInterrupt"
    assert ended(account, f"Traceback ...\n{said}\n") == Ended(130, 1, f"ended before MPI was up ({said})")
    assert ended(account, "ImportError: no x\n") == Ended(1, 1, "ended before MPI was up (ImportError: no x)")


def test_open_mpi_says_which_rank_died_first() -> None:
    """It ends the others by SIGTERM: the first that the guardian saw, where the killed one was not up yet."""
    account = ACCOUNT | {"code": 1, "killed": 0, "status": 15}
    assert ended(account, "mpiexec ...\n" + OPEN_MPI.format("Killed", 9)) == Ended(137, 2, "Killed")
    assert ended(account, "mpiexec ...\n" + OPEN_MPI.format("Terminated", 15)) == Ended(143, 2, "Terminated")
    assert ended(account, "mpiexec ...\n") == Ended(143, 0, "Terminated")
