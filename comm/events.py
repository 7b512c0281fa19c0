"""Simulated time: SimPy's loop of events, and contexts that wait for them in the midst of ordinary code.

SimPy's own processes are generators, which wait where they yield. A program waits deep inside its calls. So every
context, the main one of a rank or a thread of it, is a greenlet: to wait is to switch to the loop, and the event that
was waited for switches back. One context runs at a time, until it waits. So nothing needs a real lock, and what happens
is a function of the programs and their seeds alone.
"""

import gc
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import simpy
from greenlet import GreenletExit, getcurrent, greenlet

from outpace.comm.errors import UserError

MOST_TOLD: Final = 4  # contexts of a standstill


class Deadlock(UserError):
    """Everybody waits, and nothing is under way that could end it."""


class Context(greenlet):
    """What runs on a rank beside others: `target(*args)`, from now on. `ended` fires with what it returned."""

    def __init__(self, engine: "Engine", rank: int, target: Callable[..., Any], *args: Any) -> None:
        super().__init__(self._run, engine.loop)  # to which its end, and its errors, go back
        self.rank, self.name, self.waits_for = rank, target.__name__, ""
        self.busy_until = 0.0  # by work that it has done
        self.ended: simpy.Event = engine.env.event()
        self._engine, self._call = engine, (target, args)

    def _run(self, _: simpy.Event) -> None:
        target, args = self._call
        try:
            self.ended.succeed(target(*args))
        except BaseException as error:
            error.add_note(f"on rank {self.rank}, in {self.name}")
            raise
        finally:
            self._engine.contexts.discard(self)

    def join(self) -> Any:
        """Wait for its end; what it returned."""
        return self._engine.wait(self.ended, f"the end of its thread {self.name}")


class Engine:
    """The loop and its contexts. `run` it in the greenlet that made it, which is the `loop`."""

    def __init__(self) -> None:
        self.env = simpy.Environment(0.0)
        self.loop = getcurrent()
        self.contexts: set[Context] = set()  # that have not ended

    def spawn(self, rank: int, target: Callable[..., Any], *args: Any) -> Context:
        context = Context(self, rank, target, *args)
        self.contexts.add(context)
        start = self.env.event()
        start.callbacks.append(context.switch)
        start.succeed()
        return context

    def wait(self, event: simpy.Event, why: object) -> Any:
        """Suspend this context until the event fires; its value. `why` completes "waits for" where that never is."""
        if not event.processed:
            event.callbacks.append(getcurrent().switch)
            self.pause(why)
        return event.value

    def pause(self, why: object) -> None:
        """Suspend this context until something in the loop calls its `switch`."""
        getcurrent().waits_for = why
        self.loop.switch()

    def sleep(self, seconds: float) -> None:
        """After all work that this context still owes."""
        context = getcurrent()
        owes = context.busy_until - self.env.now
        if owes > 0:
            seconds += owes
        if seconds > 0:
            self.env.timeout(seconds).callbacks.append(context.switch)
            context.waits_for = "the end of a sleep"
            self.loop.switch()

    def work(self, seconds: float) -> None:
        """So much of the processor, which this context owes until it next sends or sleeps: work and what is waited for
        overlap."""
        context = getcurrent()
        context.busy_until = max(context.busy_until, self.env.now) + seconds

    def run(self) -> None:
        """Until all contexts have ended. Raises the first error of any of them, and Deadlock; then ends the others."""
        collects = gc.isenabled()
        gc.disable()  # what ends here is in no circle, and to look for circles takes a quarter of the time
        try:
            self.env.run()
            if self.contexts:
                raise Deadlock(self._standstill())
        finally:
            for context in sorted(self.contexts, key=lambda each: (each.rank, each.name)):
                context.throw(GreenletExit)
            if collects:
                gc.enable()

    def _standstill(self) -> str:
        waiting = sorted((each.rank, str(each.waits_for)) for each in self.contexts)
        told = [f"rank {rank} waits for {what}" for rank, what in waiting[:MOST_TOLD]]
        more = [f"{len(waiting) - MOST_TOLD} more wait"] if len(waiting) > MOST_TOLD else []
        return f"the run is at a standstill after {self.env.now:.6g} s of simulated time: {'; '.join(told + more)}"


class Lock:
    """As `threading.Lock` in a `with`: contexts may wait while they hold it."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._held = engine, False
        self._waiting: list[simpy.Event] = []

    def __enter__(self) -> None:
        if self._held:
            turn = self._engine.env.event()
            self._waiting.append(turn)
            self._engine.wait(turn, "a lock")
        self._held = True

    def __exit__(self, *_: object) -> None:
        if self._waiting:
            self._waiting.pop(0).succeed()  # and it stays held
        else:
            self._held = False


class Channel:
    """As `queue.SimpleQueue`. `told` is called after each `put`."""

    def __init__(self, engine: Engine, told: Callable[[], None]) -> None:
        self._engine, self._told = engine, told
        self._things: deque[Any] = deque()
        self._waiting: list[simpy.Event] = []

    def put(self, thing: Any) -> None:
        if self._waiting:
            self._waiting.pop(0).succeed(thing)
        else:
            self._things.append(thing)
            self._told()

    def get(self) -> Any:
        if self._things:
            return self._things.popleft()
        given = self._engine.env.event()
        self._waiting.append(given)
        return self._engine.wait(given, "something in a channel")

    def empty(self) -> bool:
        return not self._things


class Flag:
    """As `threading.Event`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._raised: simpy.Event = engine.env.event()

    def set(self) -> None:
        if not self._raised.triggered:
            self._raised.succeed()

    def clear(self) -> None:
        if self._raised.triggered:
            self._raised = self._engine.env.event()

    def is_set(self) -> bool:
        return self._raised.triggered

    def wait(self) -> bool:
        self._engine.wait(self._raised, "a flag")
        return True
