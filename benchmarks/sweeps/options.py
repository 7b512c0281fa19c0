"""The [slurm] table of a sweep: options of sbatch, checked before anything is submitted."""

import datetime
import re
from typing import Any, Final

from outpace.comm.errors import UserError

OWN: Final = (  # set by the sweep: what is read of the queue and of sbatch, and other turns of a job, rest on them
    "array",
    "chdir",
    "clusters",
    "job-name",
    "no-requeue",
    "ntasks",
    "open-mode",
    "output",
    "parsable",
    "requeue",
    "test-only",
    "wait",
    "wrap",
)
SWITCHES: Final = (  # may stand without a value; another option would take the next word for it
    "contiguous",
    "exclusive",
    "get-user-env",
    "hold",
    "overcommit",
    "oversubscribe",
    "propagate",
    "reboot",
    "spread-job",
    "use-min-nodes",
)
DEFAULTS: Final[dict[str, Any]] = {"exclusive": True, "signal": "B:USR1@120"}  # false takes one of them back
NEEDED: Final = "OUTPACE,OUTPACE_JOBSCRIPTS"  # variables by which a job finds this OutPace and the site file
SIGNAL: Final = re.compile(r"(?:[RB]+:)?\w+(?:@([0-9]{1,9}))?")
SIGNAL_S: Final = 60  # Slurm's own, without an @
# Days, and up to three numbers after them.
TIME: Final = re.compile("(?:(N)-)?(N)(?::(N))?(?::(N))?".replace("N", "[0-9]{1,9}"))
UNLIMITED: Final = ("0", "-1", "infinite", "unlimited")


def check_options(slurm: dict[str, Any]) -> None:
    """Raise UserError for what is no option, is the sweep's own, or cannot work."""
    for key, value in slurm.items():
        if not re.fullmatch("[a-z][a-z0-9-]*", key):
            raise UserError(f"[slurm]: '{key}' is no option of sbatch: give its long name, without the dashes")
        if own := [option for option in OWN if option.startswith(key)]:  # sbatch takes the beginning of a name
            raise UserError(f"[slurm]: {own[0]} is set by the sweep itself, as are all of {', '.join(OWN)}")
        if key == "throttle":
            if type(value) is not int or value < 1:
                raise UserError(f"[slurm]: throttle is {value!r}; it must be a number of at least 1")
        elif not isinstance(value, str | int | float | datetime.time):
            raise UserError(f"[slurm]: {key} is {value!r}; it must be one value")
        elif value is True and key not in SWITCHES:
            raise UserError(f"[slurm]: {key} needs a value; without one may stand {', '.join(SWITCHES)}")
    _check_time(DEFAULTS | slurm)


def words(slurm: dict[str, Any]) -> list[str]:
    """The options for sbatch's command line. Whatever of the environment they export, a job gets what it needs."""
    given = {key: value for key, value in (DEFAULTS | slurm).items() if key != "throttle" and value is not False}
    if "export" in given:
        given["export"] = f"{given['export']},{NEEDED}"
    return [f"--{key}" if value is True else f"--{key}={value}" for key, value in given.items()]


def _check_time(given: dict[str, Any]) -> None:
    """A job that is no longer than the signal's lead would be told to end as soon as it starts."""
    if given["signal"] is False:
        return
    told = SIGNAL.fullmatch(str(given["signal"]))
    if not told:
        raise UserError(f"[slurm]: signal is {given['signal']!r}; it must be of the form B:USR1@SECONDS")
    lead, limit = int(told[1] or SIGNAL_S), _seconds(given.get("time", "unlimited"))
    if limit is not None and limit <= lead:
        raise UserError(
            f"[slurm]: time is {given['time']}, {limit} s; it must be more than the {lead} s before the limit at which "
            "a point is told to write a checkpoint; another signal = 'B:USR1@SECONDS' changes these"
        )


def _seconds(time: Any) -> int | None:
    """What Slurm means by a time limit: minutes, minutes:seconds, hours:minutes:seconds, or after the days and a dash
    hours, hours:minutes, hours:minutes:seconds; None where there is none."""
    text = str(time)
    if text.lower() in UNLIMITED:
        return None
    form = TIME.fullmatch(text)
    if not form:
        raise UserError(
            f"[slurm]: time is {text!r}; Slurm's forms are MINUTES, MINUTES:SECONDS, HOURS:MINUTES:SECONDS, "
            "DAYS-HOURS, DAYS-HOURS:MINUTES and DAYS-HOURS:MINUTES:SECONDS"
        )
    days, *rest = form.groups()
    numbers = [int(number) for number in rest if number is not None]
    if days is None and len(numbers) < 3:
        minutes, seconds = (*numbers, 0)[:2]
        return 60 * minutes + seconds
    hours, minutes, seconds = (*numbers, 0, 0)[:3]
    return ((24 * int(days or 0) + hours) * 60 + minutes) * 60 + seconds
