"""The webhook hears of alerts in their order, is tried again within bounds, and is never waited for."""

import pytest
import structlog
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from collector_trio.errors import HttpFailed, Refusal
from collector_trio.ops.status import WebhookStatus
from collector_trio.ops.webhook import POST_S, TRIES, WAITING, Webhook

URL = "https://hooks.example.com/secret"


class Receiver:
    """Takes messages, after failing as often as it is told to."""

    def __init__(self, *failures: HttpFailed | None) -> None:
        self.failures = list(failures)
        self.tried: list[tuple[float, bytes]] = []
        self.got: list[bytes] = []
        self.hangs = False

    async def post(self, body: bytes) -> None:
        self.tried.append((trio.current_time(), body))
        if self.hangs:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        if self.failures and (failure := self.failures.pop(0)) is not None:
            raise failure
        self.got.append(body)


def failed(status: int | None = None, retry_after_s: float | None = None) -> HttpFailed:
    return HttpFailed(URL, "no", None if status is None else Refusal(status, retry_after_s))


def hook(receiver: Receiver) -> Webhook:
    return Webhook(receiver.post, "https://hooks.example.com", structlog.get_logger())


async def run_for(webhook: Webhook, seconds: float) -> None:
    with trio.move_on_after(seconds):
        await webhook.run()


async def test_messages_come_in_the_order_in_which_they_were_put(autojump_clock: MockClock) -> None:
    receiver = Receiver(None, failed(503))
    webhook = hook(receiver)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(webhook.run)
        for body in (b"1", b"2", b"3"):
            webhook.put(body)
        await trio.sleep(10)
        webhook.put(b"4")
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert receiver.got == [b"1", b"2", b"3", b"4"]
    assert webhook.status() == WebhookStatus(sent=4)


async def test_who_does_not_answer_is_tried_a_few_times_ever_more_rarely_and_then_the_next_is_told(
    autojump_clock: MockClock,
) -> None:
    receiver = Receiver(*[failed()] * TRIES)
    webhook = hook(receiver)
    webhook.put(b"1")
    webhook.put(b"2")
    with capture_logs() as logs:
        await run_for(webhook, 600)
    assert [body for _, body in receiver.tried] == [b"1"] * TRIES + [b"2"]
    assert [at - receiver.tried[0][0] for at, _ in receiver.tried[:TRIES]] == [0, 1, 3, 7, 15]
    assert webhook.status() == WebhookStatus(sent=1, failed=1)
    assert [log["event"] for log in logs if log["log_level"] == "error"] == ["webhook message given up"]
    assert "secret" not in str(logs)


async def test_who_refuses_the_message_is_not_asked_again(autojump_clock: MockClock) -> None:
    receiver = Receiver(failed(404), failed(429, 20.0))
    webhook = hook(receiver)
    webhook.put(b"1")
    webhook.put(b"2")
    await run_for(webhook, 600)
    assert receiver.got == [b"2"]
    assert [body for _, body in receiver.tried] == [b"1", b"2", b"2"]
    assert receiver.tried[2][0] - receiver.tried[1][0] == pytest.approx(20.0)


async def test_who_hangs_is_given_up_each_time(autojump_clock: MockClock) -> None:
    receiver = Receiver()
    receiver.hangs = True
    webhook = hook(receiver)
    webhook.put(b"1")
    await run_for(webhook, TRIES * POST_S + 16)
    assert len(receiver.tried) == TRIES
    assert webhook.status() == WebhookStatus(failed=1)


async def test_of_too_many_the_oldest_is_dropped_and_that_is_said_and_counted(autojump_clock: MockClock) -> None:
    receiver = Receiver()
    webhook = hook(receiver)
    with capture_logs() as logs:
        for number in range(WAITING + 2):
            webhook.put(b"%d" % number)
        await run_for(webhook, 1)
    assert receiver.got == [b"%d" % number for number in range(2, WAITING + 2)]
    assert webhook.status() == WebhookStatus(sent=WAITING, dropped=2)
    assert [log["event"] for log in logs] == ["webhook message dropped, too many wait"] * 2


async def test_a_stop_waits_for_nobody_and_says_what_was_left(autojump_clock: MockClock) -> None:
    receiver = Receiver()
    receiver.hangs = True
    webhook = hook(receiver)
    webhook.put(b"1")
    webhook.put(b"2")
    with capture_logs() as logs:
        begun = trio.current_time()
        await run_for(webhook, 1)
    assert trio.current_time() - begun == pytest.approx(1)
    assert logs[-1]["left"] == 2
