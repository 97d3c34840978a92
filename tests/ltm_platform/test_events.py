"""The way of a run's events from rank 0 to the driver's listeners, over Ray's own queue."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

import pytest

from ltm_platform import events
from ltm_platform.events import EpochEnded, Event, Measured, Progress, Sender, Started, listening

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray.util.queue import Queue

STARTED = Started(epochs=2, epochs_done=0, steps=6, steps_done=0, device="cpu", workers=2)
STEPS = [Progress(step, 0, {"train/loss": 1 / step}) for step in (1, 2, 3)]
EPOCH_ENDED = EpochEnded(3, 0, {"val/top1": 50.0})
MEASURED = Measured(3, 0, {"bench/latency_ms": 2.0})
RUN: list[Event] = [STARTED, *STEPS, EPOCH_ENDED, MEASURED]

PATIENCE_S = 300
"""How long to wait for what must happen; far more than it takes."""


@pytest.fixture(scope="module")
def shared_queue(ray_session: None) -> Iterator[Queue]:  # noqa: ARG001
    from ray.util.queue import Queue

    queue = Queue(actor_options={"num_cpus": 0})
    yield queue
    queue.shutdown(force=True)


@pytest.fixture
def queue(shared_queue: Queue) -> Iterator[Queue]:
    yield shared_queue
    shared_queue.get_nowait_batch(shared_queue.qsize())


def test_every_listener_has_heard_everything_in_order_when_the_block_ends(queue: Queue) -> None:
    first: list[Event] = []
    second: list[Event] = []
    with listening(queue, first.append, second.append):
        send = Sender(queue)
        for event in RUN:
            send(event)
    assert first == RUN
    assert second == RUN


def test_what_another_process_sends_is_heard_in_order(queue: Queue) -> None:
    import ray

    @ray.remote
    def rank_0(queue: Queue, sent: list[Event]) -> None:
        send = Sender(queue)
        for event in sent:
            send(event)

    heard: list[Event] = []
    with listening(queue, heard.append):
        ray.get(rank_0.remote(queue, RUN))
    assert heard == RUN
    assert [type(event) for event in heard] == [type(event) for event in RUN]


def test_events_are_heard_while_the_block_runs(queue: Queue) -> None:
    heard = threading.Event()
    with listening(queue, lambda _: heard.set()):
        Sender(queue)(STARTED)
        assert heard.wait(PATIENCE_S)


def test_a_sender_that_is_closed_has_sent_all_and_has_no_thread() -> None:
    before, sent = set(threading.enumerate()), SimpleQueue[list[Event]]()
    send = Sender(sent)
    send(STARTED)
    (thread,) = set(threading.enumerate()) - before
    send(STEPS[0])
    send.close()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert [sent.get(), sent.get()] == [[STARTED], [STEPS[0]]]


def test_steps_wait_for_the_next_batch(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "SEND_INTERVAL_S", float("inf"))
    send = Sender(queue)
    for step in STEPS:
        send(step)
    assert queue.qsize() == 0


def test_steps_are_sent_when_the_interval_is_over(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "SEND_INTERVAL_S", 0.0)
    send = Sender(queue)
    for step in STEPS:
        send(step)
    first = queue.get(timeout=PATIENCE_S)
    send.flush()
    rest = queue.get_nowait_batch(queue.qsize())
    assert [step for batch in [first, *rest] for step in batch] == STEPS


@pytest.mark.parametrize("event", [STARTED, EPOCH_ENDED, MEASURED])
def test_all_but_steps_is_sent_at_once_after_the_steps_before_it(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, event: Event
) -> None:
    monkeypatch.setattr(events, "SEND_INTERVAL_S", float("inf"))
    send = Sender(queue)
    send(STEPS[0])
    send(event)
    assert queue.get_nowait_batch(queue.qsize()) == [[STEPS[0], event]]


def test_a_step_does_not_wait_for_a_slow_queue_and_an_epoch_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "SEND_INTERVAL_S", 0.0)
    queue = Held()
    send = Sender(queue)
    for step in STEPS:
        send(step)
    assert queue.empty()
    queue.free.set()
    send(EPOCH_ENDED)
    assert [queue.get_nowait(), queue.get_nowait()] == [STEPS[:1], [*STEPS[1:], EPOCH_ENDED]]


def test_what_cannot_be_sent_is_told_by_a_later_call(
    ray_session: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray
    from ray.exceptions import RayActorError
    from ray.util.queue import Queue

    monkeypatch.setattr(events, "SEND_INTERVAL_S", 0.0)
    lost = Queue(actor_options={"num_cpus": 0})
    ray.kill(lost.actor)
    send = Sender(lost)
    send(STEPS[0])
    with pytest.raises(RayActorError):
        send(EPOCH_ENDED)


class Held(SimpleQueue[list[Event]]):
    """Takes nothing until it is free."""

    def __init__(self) -> None:
        self.free = threading.Event()

    def put_nowait(self, item: list[Event]) -> None:
        assert self.free.wait(PATIENCE_S)
        super().put_nowait(item)


def test_an_error_of_a_listener_is_raised_at_the_end_of_the_block(queue: Queue) -> None:
    failed = threading.Event()
    went_on = False

    def broken(_: Event) -> None:
        failed.set()
        raise OSError("the store is gone")

    with pytest.raises(OSError, match="the store is gone"), listening(queue, broken):
        Sender(queue)(STARTED)
        assert failed.wait(PATIENCE_S)
        went_on = True
    assert went_on


def test_an_error_that_only_the_last_look_meets_is_raised_too(queue: Queue) -> None:
    def broken(event: Event) -> None:
        if isinstance(event, Measured):
            raise OSError("the store is gone")

    with pytest.raises(OSError, match="the store is gone"), listening(queue, broken):
        send = Sender(queue)
        for event in RUN:
            send(event)


@pytest.mark.parametrize("own", [RuntimeError, KeyboardInterrupt])
def test_the_error_of_the_block_wins(queue: Queue, own: type[BaseException]) -> None:
    failed = threading.Event()

    def broken(_: Event) -> None:
        failed.set()
        raise OSError("the store is gone")

    with pytest.raises(own), listening(queue, broken):
        Sender(queue)(STARTED)
        assert failed.wait(PATIENCE_S)
        raise own


def test_what_was_sent_before_the_block_failed_is_heard(queue: Queue) -> None:
    heard: list[Event] = []
    with pytest.raises(RuntimeError), listening(queue, heard.append):
        Sender(queue)(EPOCH_ENDED)
        raise RuntimeError
    assert heard == [EPOCH_ENDED]
