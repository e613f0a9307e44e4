"""`status`: what a running collector is doing now, from its HTTP port."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import click
import trio
from rich.console import Console, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from collector_trio import app
from collector_trio.commands.options import json_option
from collector_trio.config import Http
from collector_trio.errors import CollectorError, HttpFailed
from collector_trio.journal.space import size_text
from collector_trio.net.dial import make_ssl_context

PATIENCE_S = 5.0
DEFAULT_URL = f"http://{Http().listen}"
STATE_STYLES = {"live": "green", "parked": "bold red", "backing off": "red"}

Document = Mapping[str, Any]


def _refuse_folder(context: click.Context, option: click.Parameter, folder: str | None) -> None:
    """Say what the other commands' option is here."""
    if folder is not None:
        raise click.UsageError(
            "status asks a running collector, not a folder: --url says where it listens ([http] listen in its config); "
            f"summary --data-dir {folder} says what was recorded"
        )


@click.command(epilog="Example: python -m collector_trio status --url http://127.0.0.1:8087")
@click.option("--url", default=DEFAULT_URL, show_default=True, help="Where the collector listens ([http] listen).")
@click.option("--data-dir", hidden=True, expose_value=False, callback=_refuse_folder)
@json_option
def status(url: str, as_json: bool) -> None:
    """Show what a running collector is doing now: streams, sockets by owner, rates, lag, gaps, alerts."""
    base = url if "://" in url else f"http://{url}"
    if urlsplit(base).scheme not in ("http", "https") or not urlsplit(base).hostname:
        raise click.UsageError(f"--url {url!r} is no address such as {DEFAULT_URL}")
    body = trio.run(_ask, base)
    document = _read(base, body)
    if as_json:
        click.echo(body.decode())
        return
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 120
    for part in _parts(document):
        console.print(part, soft_wrap=isinstance(part, str | Text))


async def _ask(url: str) -> bytes:
    network = app.Network(make_ssl_context(), "", os.environ)
    async with app.open_rest(network, url) as client:
        try:
            with trio.fail_after(PATIENCE_S):
                return await client.get("/status.json")
        except trio.TooSlowError:
            raise CollectorError(f"{url} does not answer within {PATIENCE_S:g} s") from None
        except HttpFailed as error:
            if error.refusal is not None:
                raise CollectorError(f"{url} is not a collector's HTTP port: {error.problem}") from error
            raise CollectorError(
                f"nobody answers at {url} ({error.problem}); is the collector running, and is this its [http] listen?"
            ) from error


def _read(url: str, body: bytes) -> Document:
    try:
        document = json.loads(body)
        known = document["streams"] is not None and document["sockets"] is not None
    except (ValueError, TypeError, KeyError):
        known = False
    if not known:
        raise CollectorError(f"{url} is not a collector's HTTP port: its /status.json is something else")
    assert isinstance(document, dict)
    return document


# Tables


def _parts(document: Document) -> Iterator[RenderableType]:
    """Yield the report for people, from top to bottom."""
    yield (
        f"collector_trio {document['version']}, pid {document['pid']}, up {duration(document['uptime_s'])}, "
        f"{size_text(document['memory_bytes'])} of memory, event loop at most "
        f"{document['event_loop_lag_s'] * 1000:.1f} ms late. Data goes to {document['data_dir']}."
    )
    yield "Ready." if document["ready"] else _reasons("Not ready", document["not_ready"])
    if not document["healthy"]:
        yield _reasons("Not healthy", document["not_healthy"])
    for hold in document["holds"]:
        what = f"{hold['venue']} {hold['host']}".strip()
        yield f"Nothing is asked of {what} until {hold['until']}: {hold['reason']}"
    yield from _alerts(document["alerts"])
    yield ""
    yield _streams(document)
    yield ""
    yield from _sockets(document["sockets"])
    yield _fds(document["fds"])
    yield ""
    yield from _storage(document)
    yield _gaps(document["gaps"])
    for book in document["books"]:
        states = ", ".join(f"{count} {state}" for state, count in book["states"].items() if count)
        broken = f"; not synced: {_some(book['not_synced'])}" if book["not_synced"] else ""
        yield f"books {book['exchange']} {book['market']}: {states}{broken}"


def _reasons(what: str, reasons: Sequence[str]) -> str:
    """Say the first beside the word, and each other one on its own line."""
    return "\n".join(f"{what}: {reason}" if not n else f"  {reason}" for n, reason in enumerate(reasons)) or what


def _alerts(alerts: Sequence[Document]) -> Iterator[RenderableType]:
    """Say which alerts are active, and how what has a normal range is now."""
    active = [alert for alert in alerts if alert["active"]]
    for alert in active:
        yield Text(f"ALERT {alert['name']}, since {alert['since']}: {alert['detail']}", "bold red")
    ranges = [
        f"{alert['name']} {_amount(alert['name'], alert['value'])} "
        f"(normal {'..'.join(_amount(alert['name'], end) for end in alert['normal'])}, "
        f"alert above {_amount(alert['name'], alert['limit'])})"
        for alert in alerts
        if alert["normal"] is not None and alert["value"] is not None
    ]
    yield ("" if active else "No alerts. ") + "; ".join(ranges)


def _amount(name: str, value: float) -> str:
    if name == "memory":
        return size_text(round(value))
    return f"{value:g}/h" if name == "reconnects" else f"{value:g}"


def _streams(document: Document) -> Table:
    """Make the table of streams."""
    table = Table("stream", "state", box=None, pad_edge=False)
    for name in ("frames", "frames/s", "bytes/s", "last data", "reconnects"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why", overflow="ellipsis", no_wrap=True)
    for stream in document["streams"]:
        age_s = stream["last_data_age_s"]
        table.add_row(
            stream["name"],
            Text(stream["state"], STATE_STYLES.get(stream["state"], "yellow")),
            f"{stream['frames']:,}",
            f"{stream['frames_per_s']:.1f}",
            decimal(round(stream["bytes_per_s"])),
            "" if age_s is None else f"{duration(age_s)} ago",
            str(sum(stream["ended"].values())),
            ", ".join(f"{reason} {count}" for reason, count in stream["ended"].items()),
        )
    return table


def _sockets(sockets: Document) -> Iterator[RenderableType]:
    unowned = f", {sockets['unowned']} WITHOUT AN OWNER" if sockets["unowned"] else ""
    yield (
        f"{sockets['open']} sockets; {sockets['sessions_open']} of {sockets['sessions_planned']} sessions open{unowned}"
    )
    table = Table("sockets of", "states", "peers", "oldest", box=None, pad_edge=False)
    for owner, states in sockets["by_owner"].items():
        owned = [socket for socket in sockets["sockets"] if socket["owner"] == owner]
        peers = list(dict.fromkeys(socket["peer"] or f"listens on {socket['local']}" for socket in owned))
        table.add_row(
            Text(owner, "bold red" if owner == "none" else ""),
            ", ".join(f"{count} {state}" for state, count in states.items()),
            _some(peers, 3),
            duration(max(socket["age_s"] for socket in owned)),
        )
    if sockets["by_owner"]:
        yield table


def _fds(fds: Document) -> str:
    """Say what else is open, and what has leaked."""
    others = ", ".join(f"{owner} {count}" for owner, count in fds["by_owner"].items())
    leaked = "".join(f"; LEAKED so far: {count} {kind}" for kind, count in fds["leaked"].items())
    return f"{fds['open']} other file descriptors: {others}{leaked}"


def _storage(document: Document) -> Iterator[RenderableType]:
    journal = document["journal"]
    refusing = f"; REFUSES, reading has stopped: {journal['refusal']}" if journal["refusing"] else ""
    yield (
        f"journal: segment {journal['segment']}, {decimal(journal['bytes'])} on disk; "
        f"{journal['frames_accepted']:,} frames accepted in this run{refusing}"
    )
    if journal["free_bytes"] is not None:
        yield _disk(journal)
    for follower in document["followers"]:
        yield _follower(follower)


def _disk(journal: Document) -> str:
    """Say what is free, and for how long."""
    if journal["free_bytes_per_s"] is None:
        left = "not watched for long enough yet to say how fast it fills up"
    elif journal["left_s"] is None:
        left = "does not fill up"
    else:
        left = f"{journal['left_s'] / 86400:.1f} days left at the present rate"
    floor = f" (min_free {size_text(journal['min_free_bytes'])})" if journal["min_free_bytes"] else ""
    return f"disk: {size_text(journal['free_bytes'])} free{floor}; {left}"


def _follower(follower: Document) -> str:
    process = "down" if follower["pid"] is None else f"pid {follower['pid']}"
    restarts = f", {follower['restarts']} restarts" if follower["restarts"] else ""
    waiting = f" ({duration(follower['lag_s'])})" if follower["lag_segments"] else ""
    return (
        f"follower {follower['name']}: {process}{restarts}, {follower['lag_frames']:,} frames to store, "
        f"{follower['lag_segments']} sealed segments wait{waiting}"
    )


def _gaps(gaps: Document) -> str:
    missing = ", ".join(f"{count:,} {table}" for table, count in gaps["missing_rows"].items() if count) or "nothing"
    seen = ", ".join(f"{what} {count}" for what, count in (gaps["stored"] or gaps["seen"]).items()) or "none"
    return f"gaps: {gaps['open']} holes open, missing {missing}; so far: {seen}"


def duration(seconds: float) -> str:
    """Write a length of time for people: 0.4 s, 12 s, 3 min, 5 h 10 min, 2 d 3 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    if whole < 2 * 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def _some(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
