"""Locks by name: whoever holds `<name>.lock` may write the files of that name."""

import fcntl
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Taken(Exception):
    """Another process holds the lock; the text says which, and what to do if it does not exist any more."""


class NoLocks(OSError):
    """The file system has none."""


def of(target: Path) -> Path:
    """The lock of a trace's name, and so of all that stands beside it while the run goes on."""
    return target.with_name(f"{target.name}.lock")


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock meanwhile. Raises Taken, OSError.

    Where the file system has no locks the file itself is the lock. It then outlasts a process that is killed, and is
    taken over if that was of this host, or an earlier life of this Slurm job.
    """
    try:
        descriptor = take(path)
    except NoLocks:
        descriptor = _make(path)
    if descriptor is None:
        raise Taken(f"{owner(path)}; if that is gone for good, remove {path}")
    try:
        yield
    finally:
        free(path, descriptor)


def take(path: Path) -> int | None:
    """A locked descriptor of the file, made if need be; None while another process holds it.

    The lock is the kernel's, so it ends with the last process that holds the descriptor, however that ends. Raises
    OSError, NoLocks.
    """
    while True:
        try:
            descriptor, made = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644), True
        except FileExistsError:
            descriptor, made = os.open(path, os.O_RDWR | os.O_CREAT, 0o644), False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            if made:
                path.unlink()
            raise NoLocks(error.errno, error.strerror, str(path)) from None
        # Its last owner may have removed the file between the two calls: then the lock is of a file without a name.
        with suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
                _sign(descriptor)
                return descriptor
        os.close(descriptor)


def free(path: Path, descriptor: int) -> None:
    path.unlink(missing_ok=True)
    os.close(descriptor)


def owner(path: Path) -> str:
    """Who holds the lock, in words."""
    try:
        return path.read_text(errors="replace").strip() or "somebody"
    except OSError:
        return "somebody"


def myself() -> str:
    job = os.environ.get("SLURM_JOB_ID")
    return f"{platform.node()} process {process()}" + (f" job {job}" if job else "")


def process() -> int:
    """Our process id as the others of the host know it: /proc is theirs, also in a process namespace of a job's own."""
    return int(os.readlink("/proc/self"))


def _sign(descriptor: int) -> None:
    with suppress(OSError):  # on a full disk; who holds it is only for people
        os.ftruncate(descriptor, 0)
        os.write(descriptor, myself().encode())


def _make(path: Path) -> int | None:
    """A descriptor of the file, which did not exist or was of a process that is gone; else None."""
    if _gone(owner(path)):
        path.unlink(missing_ok=True)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return None
    _sign(descriptor)
    return descriptor


def _gone(who: str) -> bool:
    found = re.fullmatch(r"(\S+) process (\d+)(?: job (\S+))?", who)
    if not found:
        return False
    host, process, job = found.groups()
    if host == platform.node():
        return not Path("/proc", process).exists()
    return job is not None and job == os.environ.get("SLURM_JOB_ID")
