"""A scheme that is none of the suite's programs on the engine, against numbers that others printed: asynchronous local
steps with a grace period, of google-deepmind/asyncdiloco's notebook (Liu et al., arXiv:2401.09135)."""

from outpace.comm.events import Channel, Engine

STEP_S = (0.58, 0.75, 1.51, 3.33)  # of the four workers
LOCAL_STEPS = 20
GRACE_S = 0.5
EVERY, LAST = 800, 8000  # steps of all workers, after which the time is printed
PRINTED_S = [209.0, 406.4, 603.8, 801.4, 999.0, 1207.8, 1404.2, 1600.6, 1800.2, 1998.6]
ROUNDING_S = 1e-9


def times(grace_s: float) -> list[float]:
    """When so many steps were done: at the end of the worker that did the last of them.

    The server takes the first update that comes, and those of workers who will be done within the grace period from
    then on. It knows their paces, so it waits for the last of these and no longer. All of them then go on together.
    """
    engine = Engine()
    arrivals, *answers = (Channel(engine, lambda: None) for _ in range(1 + len(STEP_S)))
    due_s, found = [0.0] * len(STEP_S), list[float]()

    def worker(number: int) -> None:
        goes_on = True
        while goes_on:
            round_s = LOCAL_STEPS * STEP_S[number]
            due_s[number] = engine.env.now + round_s
            engine.sleep(round_s)
            arrivals.put((number, engine.env.now))
            goes_on = answers[number].get()

    def server() -> None:
        steps = 0
        while steps < LAST:
            arrived = [arrivals.get()]
            within = engine.env.now + grace_s + ROUNDING_S
            while len(arrived) < sum(due <= within for due in due_s):
                arrived.append(arrivals.get())
            for number, end_s in arrived:
                steps += LOCAL_STEPS
                if steps % EVERY == 0:
                    found.append(end_s)
                answers[number].put(steps < LAST)
        for answer in answers:
            answer.put(False)

    for number in range(len(STEP_S)):
        engine.spawn(number, worker, number)
    engine.spawn(len(STEP_S), server)
    engine.run()
    return [round(time_s, 1) for time_s in found]


def test_the_printed_times() -> None:
    assert times(GRACE_S) == PRINTED_S


def test_they_hang_on_the_grace_period() -> None:
    assert times(0.0) != PRINTED_S
    assert times(2 * GRACE_S) != PRINTED_S
