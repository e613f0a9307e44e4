"""`status` prints what a running collector says, and one clear error where none is."""

import io
import json
import socket

import httpx
import pytest
import trio
from click.testing import CliRunner
from rich.console import Console
from trio.testing import MockClock

from collector_trio.commands import main
from collector_trio.commands.live import view
from collector_trio.commands.status import _ask, _parts, _read, duration, status
from collector_trio.errors import CollectorError
from collector_trio.ops.site import make_site

from .conftest import Recorder
from .test_http import hello, serving
from .test_state import BLOCKED


def printed(text_of: dict[str, object]) -> str:
    console = Console(file=io.StringIO(), width=120)
    for part in _parts(text_of):
        console.print(part, soft_wrap=isinstance(part, str))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


async def test_it_shows_streams_sockets_lag_and_gaps(recorder: Recorder) -> None:
    stream = recorder.add_stream("binance")
    recorder.open_session(stream, live_at=trio.current_time())
    stream.ended["reset"] = 2
    stream.frames_before = 12_345
    recorder.add_stream("okx")
    recorder.totals = {"gaps": {"trades disconnect": 3}, "missing": {"trades": 17}}
    recorder.add_books("binance", "BTC-USDT")
    recorder.holds.append(BLOCKED)
    async with serving(make_site(recorder.observer.look, {}), recorder.observer.parts.owners) as port:
        document = json.loads(await _ask(f"http://127.0.0.1:{port}"))
    text = printed(document)
    assert "binance.spot/1  live      12,345" in text
    assert "reset 2" in text
    assert "Not ready: okx.public/1: dialling\n  okx www.okx.com: nothing is asked until" in text
    assert "Nothing is asked of okx www.okx.com until 2026-11-18T11:08:10.000Z: blocked from here (HTTP 451)" in text
    assert "1 of 2 sessions open" in text
    assert "http 1 LISTEN, 1 ESTABLISHED listens on 127.0.0.1:" in " ".join(text.split())
    assert "follower tables: pid 4242" in text
    assert "gaps: 0 holes open, missing 17 trades; so far: trades disconnect 3" in text
    assert "books binance spot: 1 none; not synced: BTCUSDT" in text


async def test_what_is_read_by_lines_in_a_pipe_is_not_wrapped(
    recorder: Recorder, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder.unanswered["okx", "spot"] = reason = "x" * 150
    recorder.unlisted["binance", "spot"] = [f"binance spot {n:05}-USDT" for n in range(20)]
    recorder.alerts.take(recorder.observer.look(), trio.current_time(), recorder.observer.parts.clock())
    body = json.dumps(recorder.observer.look().document()).encode()

    async def ask(url: str) -> bytes:
        return body

    monkeypatch.setattr("collector_trio.commands.status._ask", ask)
    text = await trio.to_thread.run_sync(lambda: CliRunner().invoke(status, []).output)
    lines = text.splitlines()
    assert f"  okx spot: no stream yet; its instruments cannot be had: {reason}" in lines
    [alert] = [line for line in lines if line.startswith("ALERT not_listed")]
    assert len(alert) > 120


async def test_the_page_lists_why_it_is_not_ready(recorder: Recorder) -> None:
    recorder.unanswered["okx", "spot"] = "<b>no"
    site = make_site(recorder.observer.look, {})
    async with serving(site, recorder.observer.parts.owners) as port, httpx.AsyncClient() as client:
        page = (await client.get(f"http://127.0.0.1:{port}/")).text
    assert "<li>okx spot: no stream yet; its instruments cannot be had: &lt;b&gt;no\n" in page


async def test_a_leak_is_shown_in_capitals(recorder: Recorder) -> None:
    owners = recorder.observer.parts.owners
    owners.claim_what_is_open()
    async with serving(make_site(recorder.observer.look, {}), owners) as port:
        with owners.owning("okx.public/1") as owned:
            left = await owned.dial("127.0.0.1", port)
        owners.find_leaks()
        owners.find_leaks()
        document = json.loads(await _ask(f"http://127.0.0.1:{port}"))
        await left.aclose()
    text = printed(document)
    assert "1 WITHOUT AN OWNER" in text
    assert "LEAKED so far: 1 tcp" in text
    [leak] = document["fds"]["leaks"]
    assert (leak["owner"], leak["left_by"], leak["peer"]) == ("none", "okx.public/1", f"127.0.0.1:{port}")
    assert document["sockets"]["unowned"] == 1


async def test_it_shows_active_alerts_and_what_is_normal(recorder: Recorder, autojump_clock: MockClock) -> None:
    observer, stream = recorder.observer, recorder.add_stream("binance")

    def text() -> str:
        recorder.alerts.take(observer.look(), trio.current_time(), observer.parts.clock())
        return printed(json.loads(json.dumps(observer.look().document())))

    calm = text()
    assert "No alerts. sockets 0 (normal 15..30, alert above 50); close_wait 0 (normal 0..2, alert above 5); " in calm
    assert "(normal 0 B..1 GiB, alert above 2 GiB); reconnects 0/h (normal 0/h..10/h, alert above 30/h)" in calm
    assert " MiB of memory, " in calm
    stream.parked = True
    alarmed = text()
    assert "No alerts" not in alarmed
    assert f"ALERT parked, since {recorder.alerts.statuses()[8].since}: 1 stream given up: binance.spot/1" in alarmed


async def test_the_page_and_the_live_table_show_active_alerts_and_nothing_in_them_is_markup(
    recorder: Recorder,
) -> None:
    observer = recorder.observer
    recorder.unlisted["okx", "spot"] = ("okx spot <b>",)
    site = make_site(observer.look, {})
    async with serving(site, observer.parts.owners) as port, httpx.AsyncClient() as client:
        assert "No alerts." in (await client.get(f"http://127.0.0.1:{port}/")).text
        assert "alerts:" not in view(observer.look()).plain
        recorder.alerts.take(observer.look(), trio.current_time(), observer.parts.clock())
        page = (await client.get(f"http://127.0.0.1:{port}/")).text
    assert "1 symbol not listed: okx spot &lt;b&gt;" in page
    assert "<b>" not in page
    assert view(observer.look()).plain.splitlines()[-1].startswith("alerts: ")


def test_nobody_there_is_one_line_and_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(SystemExit) as exit_:
        main(["status", "--url", f"http://127.0.0.1:{port}"])
    assert exit_.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"nobody answers at http://127.0.0.1:{port} (")


def test_a_data_dir_is_refused_with_a_word_on_what_to_ask_instead(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["status", "--data-dir", "data"])
    assert exit_.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "status asks a running collector, not a folder: --url says where it listens" in said


@pytest.mark.parametrize(
    ("bytes_per_s", "left_s", "words"),
    [
        (
            None,
            None,
            "disk: 20.5 GiB free (min_free 1 GiB); not watched for long enough yet to say how fast it fills up",
        ),
        (0.0, None, "disk: 20.5 GiB free (min_free 1 GiB); does not fill up"),
        (-1e5, 86400.0, "disk: 20.5 GiB free (min_free 1 GiB); 1.0 days left at the present rate"),
    ],
)
async def test_it_says_what_is_free_as_the_config_does_and_for_how_long(
    bytes_per_s: float | None, left_s: float | None, words: str, recorder: Recorder
) -> None:
    document = recorder.observer.look().document()
    rate = {"free_bytes_per_s": bytes_per_s, "left_s": left_s}
    document["journal"] |= rate | {"free_bytes": 41 * 2**29, "min_free_bytes": 2**30}
    assert f"{words}\n" in printed(document)


def test_a_url_that_is_none_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["status", "--url", "ftp://x"])
    assert exit_.value.code == 2


async def test_another_server_on_that_port_is_said() -> None:
    async with serving(hello) as port:
        url = f"http://127.0.0.1:{port}"
        with pytest.raises(CollectorError, match="is not a collector's HTTP port"):
            _read(url, await _ask(url))


async def _say_nothing(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def test_a_server_that_does_not_finish_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collector_trio.commands.status.PATIENCE_S", 0.05)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, _say_nothing, 0)
        with pytest.raises(CollectorError, match="does not answer within"):
            await _ask(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("seconds", "text"), [
    (0.04, "0.0 s"), (9.94, "9.9 s"), (61, "61 s"), (180, "3 min"), (18_600, "5 h 10 min"), (183_600, "2 d 3 h"),
])  # fmt: skip
def test_lengths_of_time_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text
