"""The process between `outpace` and the launcher, which sees to it that nothing of a job outlives either of them.

`launcher.Started` runs this file by itself, in a session of its own. Whatever the launcher starts, be it orphaned or in
another session, comes back to the guardian as its child, so that it can end all of it, and ends last itself. It hears
from `outpace` by one pipe: a byte is a signal to pass on, the pipe's end is that of `outpace`, which ends the job.
Bytes wait in a pipe, so that no signal is early or lost. Ranks say by a socket that they are up and, at their end, with
which exit code; a guardian that closes the account says how the job ended, in one line of JSON (`account.Account`).

It needs the standard library only: its start is part of every launch.
"""

import ctypes
import fcntl
import glob
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36
INFO: Final = struct.Struct("=Q52xi")  # Linux's `struct pidfd_info`: what is asked for or known, and the exit code
INFO_EXIT: Final = 8
GET_INFO: Final = 3 << 30 | INFO.size << 16 | 0xFF << 8 | 11  # PIDFD_GET_INFO
ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PASSED_ON: Final = (*ENDING, signal.SIGUSR1)
PATIENCE_S: Final = 8.0  # with a job that was told to end: ranks take 5 s at most, then abort
REST_S: Final = 0.5  # for what is left after the launcher
UNREADY_S: Final = 4.0  # from the end of a rank that MPI does not know of to that of the job
LOOK_S: Final = 0.1  # between two looks for ranks that are not up yet, at first
SOON_S: Final = 0.002  # the same before all have been seen: how one ended that never was, nobody can say
# MPI's shared memory, by the names that MPICH, UCX, Open MPI and PSM give it. A killed rank does not remove it.
MEMORY: Final = re.compile(rb"/dev/shm/(?:mpich_|ucx_shm_|sm_segment\.|vader_segment\.|psm\d_)[^\s/]*$", re.MULTILINE)
SOCKET: Final = "OUTPACE_LAUNCHER_SOCKET"  # tells ranks where it listens: a path, or a name that is no file's
RANK_VARIABLES: Final = ("PMI_RANK", "PMIX_RANK")  # of Hydra, of Open MPI


class Guardian:
    def __init__(
        self, line: list[str], ranks: int, inside: bool, orders: int, listener: int, keep: list[int], drain: list[int]
    ) -> None:
        """Starts the launcher's line, which inherits the descriptors in `keep`. `ranks`: how many of them will be on
        this host, 0 where that is not known. `inside`: in namespaces, whose first process gets the listener as its
        input, to give it an address. `drain`: the other ends of its output, read where `outpace` does not any more."""
        self._ranks, self._inside, self._orders, self._drain = ranks, inside, orders, drain
        self._start_s = time.monotonic()
        self._woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (*PASSED_ON, signal.SIGCHLD):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                signal.signal(number, lambda *_: None)
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        self._listener = socket.socket(fileno=listener)
        self._listener.setblocking(False)
        self._poll = select.epoll()
        for descriptor in (orders, self._woken):
            self._poll.register(descriptor, select.EPOLLIN)
        self._poll.register(listener, select.EPOLLIN | select.EPOLLET)  # without an address it would be ready always
        self._connections: dict[int, tuple[socket.socket, bytearray]] = {}
        self._seen: dict[int, int] = {}  # process -> rank
        self._handles: dict[int, int] = {}  # by process, for which they stand also when its number is another one's
        self._memory: set[bytes] = set()  # files that ranks have mapped
        self._held = False  # whether SIGUSR1 waits for a rank
        self._over_s = float("inf")  # since when only some of them are there
        self._deadline = float("inf")  # then everything is killed
        self.account: dict[str, Any] = {
            **{"code": 0, "status": 0, "ranks": ranks, "passed_on": [], "told": None, "killed": None},
            **dict.fromkeys(("forced", "seen", "up", "early", "hung"), False),
        }
        me = os.getpid()

        def die_with_me() -> None:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != me:
                os._exit(1)

        # Kept: an object that is not would take the end of its process before `_collect`.
        stdin = listener if inside else None
        self._process = subprocess.Popen(line, stdin=stdin, pass_fds=keep, preexec_fn=die_with_me)
        self._launcher: int | None = self._process.pid

    def run(self) -> None:
        """Until no process of the job is left."""
        while self._collect():
            for descriptor, _ in self._poll.poll(self._until_next_look()):
                self._take(descriptor)
            if self._launcher and not (self.account["up"] or self.account["hung"]):
                self._look_for_ranks()
            if time.monotonic() >= self._deadline:
                self.account["forced"] |= self._launcher is not None
                for pid in descendants(os.getpid()):
                    send(pid, signal.SIGKILL)
        if os.WTERMSIG(self.account["status"]) in (0, signal.SIGKILL):
            self._look_for_the_first()
        if not self._inside:  # there /dev/shm is the namespaces' own, and goes with them
            for path in self._memory:
                with suppress(OSError):
                    os.unlink(path)

    def _until_next_look(self) -> float | None:
        now_s = time.monotonic()
        if now_s >= self._deadline:
            return LOOK_S
        if not self.account["up"]:
            soonest_s, share = (LOOK_S, 0.05) if len(self._seen) >= self._ranks else (SOON_S, 0.01)
            return min(self._deadline - now_s, max(soonest_s, share * (now_s - self._start_s)))
        return None if self._deadline == float("inf") else self._deadline - now_s

    def _collect(self) -> bool:
        """Take the ends of children; whether there are others."""
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return True
                if pid == self._launcher:
                    self._launcher = None
                    self.account["code"] = os.waitstatus_to_exitcode(status)
                    self._end_within(REST_S)
        return False

    def _take(self, descriptor: int) -> None:
        if descriptor == self._orders:
            orders = os.read(descriptor, 64)
            for number in orders:
                self._pass_on(number)
            if not orders:
                self._alone()
        elif descriptor == self._woken:
            for number in os.read(descriptor, 64):
                if number in PASSED_ON:  # a signal to the guardian itself, as to every process of a Slurm step
                    self._pass_on(number)
        elif descriptor == self._listener.fileno():
            with suppress(OSError):  # no more of them, or no address yet
                while True:
                    self._accept(self._listener.accept()[0])
        elif descriptor in self._connections:
            self._hear(descriptor)
        elif not os.read(descriptor, 2**16):  # output that nobody wants
            self._poll.unregister(descriptor)

    def _accept(self, connection: socket.socket) -> None:
        self.account["seen"] = self.account["up"] = True  # MPI then knows of all ranks, and of their ends
        keep(peer(connection), self._handles)
        self._connections[connection.fileno()] = connection, bytearray()
        self._poll.register(connection, select.EPOLLIN)

    def _hear(self, descriptor: int) -> None:
        """A rank says which one it is, later with which code it ends. Its connection closes with the process.

        Launchers kill the other ranks at once, and Hydra's message then names any one of them. A dying process closes
        its files in one go, so this connection closes with the one whose closing tells the launcher, before any other
        rank is told; and an epoll queues its events in the order in which they happen.
        """
        connection, said = self._connections[descriptor]
        heard = b""
        with suppress(OSError):
            heard = connection.recv(64)
        said += heard
        words = said.split()
        if heard and len(words) == 1:
            self._seen[peer(connection)] = int(words[0])
            self._memory |= mapped(peer(connection))
            if self._held:
                self._held = False
                send(peer(connection), signal.SIGUSR1)
        if len(words) > 1 and self.account["told"] is None:
            self.account["told"] = int(words[1])
        if not heard:
            if len(words) == 1 and self.account["killed"] is None:
                self.account["killed"] = int(words[0])
                self.account["status"] = int((stat(peer(connection)) or ["0"])[-1])  # 0 where it has gone already
            self._poll.unregister(descriptor)
            del self._connections[descriptor]
            connection.close()

    def _pass_on(self, number: int) -> None:
        """To the ranks themselves: launchers do other things at some signals, and lose one that is early.

        Before any rank is up there is nothing to save: an end is the launcher's, by a signal at which all of them end
        their job, and SIGUSR1 waits for a rank, unless all ranks may be elsewhere."""
        self.account["passed_on"].append(number)
        ranks = [peer(connection) for connection, _ in self._connections.values()]
        if number == signal.SIGKILL or (self._inside and number in ENDING and not any(ranks)):
            self._deadline = 0.0  # what would stand between here and the launcher passes nothing on
        elif any(ranks):
            for pid in filter(None, ranks):
                send(pid, number)
        elif number in ENDING:
            self.account["early"] |= not self.account["up"]
            send(self._launcher, signal.SIGTERM)
        else:
            self._held = not self.account["up"]
            if not (self._ranks or self.account["seen"]):
                send(self._launcher, number)
        if number in ENDING:
            self._end_within(PATIENCE_S)

    def _alone(self) -> None:
        """`outpace` is gone. Its output would block or kill the launcher, so it is read here."""
        self._poll.unregister(self._orders)
        for descriptor in self._drain:
            self._poll.register(descriptor, select.EPOLLIN)
        self._pass_on(signal.SIGTERM)

    def _end_within(self, seconds: float) -> None:
        self._deadline = min(self._deadline, time.monotonic() + seconds)

    def _look_for_ranks(self) -> None:
        """One that ends before it starts MPI is none of MPI's: Hydra lets the others wait, Open MPI may outstay all."""
        states = {pid: state(pid) for pid in self._seen} | ranks_below(os.getpid(), self._seen, self._handles)
        alive = {self._seen[pid] for pid in states if states[pid] not in "XZ"}
        over = {*range(self._ranks), *self._seen.values()} - alive  # it may have ended before anybody saw it
        self.account["seen"] |= bool(states)
        self._memory |= mapped([0, *states][-1])  # the ranks of a host share it
        if not (self._seen and over) or "T" in states.values():
            self._over_s = float("inf")
            return
        self._over_s = min(self._over_s, time.monotonic())
        if time.monotonic() > self._over_s + UNREADY_S:
            self.account["hung"] = True
            self.account["killed"] = min(over)
            self._deadline = 0.0

    def _look_for_the_first(self) -> None:
        """Which rank died first, where nobody saw it: surely one that died of a signal by which no launcher kills the
        others; else the one whose end was seen first or, before MPI is up, one that died of SIGTERM."""
        for pid, handle in self._handles.items():
            rank, ended = self._seen.get(pid), late_status(handle)
            number = os.WTERMSIG(ended)
            perhaps = rank == self.account["killed"] if self.account["up"] else number == signal.SIGTERM
            if number not in (0, signal.SIGKILL, signal.SIGTERM) or (perhaps and not self.account["status"]):
                self.account |= {"killed": rank, "status": ended}


def ranks_below(process: int, seen: dict[int, int], handles: dict[int, int]) -> dict[int, str]:
    """Add the ranks among the descendants of a process to `seen`; the states of the new ones. What ranks start are no
    ranks."""
    new: dict[int, str] = {}
    for pid in children(process):
        if pid not in seen:
            keep(pid, handles)  # it may be on the point of becoming one
            rank = rank_of(pid)
            if rank is None:
                new |= ranks_below(pid, seen, handles)
            else:
                seen[pid] = rank
                new[pid] = state(pid)
    return new


def keep(process: int, handles: dict[int, int]) -> None:
    with suppress(OSError):
        if process and process not in handles:
            handles[process] = os.pidfd_open(process)


def rank_of(process: int) -> int | None:
    with suppress(OSError), open(f"/proc/{process}/environ", "rb") as file:
        for variable in file.read().split(b"\0"):
            name, _, value = variable.partition(b"=")
            if name.decode(errors="replace") in RANK_VARIABLES and name.decode() not in os.environ and value.isdigit():
                return int(value)
    return None


def stat(process: int) -> list[str]:
    """What the kernel tells of a process after its name (proc_pid_stat(5)); nothing where there is none."""
    with suppress(OSError), open(f"/proc/{process}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].decode().split()
    return []


def state(process: int) -> str:
    """A letter as of ps; X where there is no such process."""
    return (stat(process) or ["X"])[0]


def late_status(handle: int) -> int:
    """The wait status of a process that has gone; 0 where the kernel (Linux before 6.15) keeps no such thing."""
    info = bytearray(INFO.pack(INFO_EXIT, 0))
    with suppress(OSError):
        fcntl.ioctl(handle, GET_INFO, info)
    known, code = INFO.unpack(info)
    return int(code) if known & INFO_EXIT else 0


def mapped(process: int) -> set[bytes]:
    """The files of MEMORY that the process has mapped."""
    with suppress(OSError), open(f"/proc/{process}/maps", "rb") as file:
        return set(MEMORY.findall(file.read()))
    return set()


def children(process: int) -> list[int]:
    found = []
    for path in glob.glob(f"/proc/{process}/task/*/children"):
        with suppress(OSError), open(path) as file:
            found += [int(word) for word in file.read().split()]
    return found


def descendants(process: int) -> Iterator[int]:
    for pid in children(process):
        yield pid
        yield from descendants(pid)


def peer(connection: socket.socket) -> int:
    """The process at the other end; 0 where this one cannot see it."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[0])


def send(process: int | None, number: int) -> None:
    """To a process, if there is one."""
    with suppress(OSError):
        if process:
            os.kill(process, number)


def prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3)


def main() -> None:
    given: dict[str, Any] = json.loads(sys.argv[1])
    account = given.pop("account")
    try:
        guardian = Guardian(**given)
    except OSError as error:
        print(f"outpace: cannot start {given['line'][0]}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    guardian.run()
    os.write(account, json.dumps(guardian.account).encode())
    os._exit(0)  # `outpace` waits for it, and Python takes 5 ms to take itself apart


if __name__ == "__main__":
    main()
