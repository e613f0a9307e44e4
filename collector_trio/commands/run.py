"""`run`: the main job."""

import json
import sys
from pathlib import Path

import click
import trio

from collector_trio import app
from collector_trio.commands.live import LiveTable, live_table
from collector_trio.commands.options import Duration, config_option, json_option, load
from collector_trio.commands.words import counted
from collector_trio.config import Config
from collector_trio.garbage import spare_collections
from collector_trio.ops.log import set_up_logging
from collector_trio.streams.supervisor import Stream

# After a longer run, a signal, or with frames left to store, the files are not read through: a supervisor waits, and
# `summary` does that at leisure.
SUMMARIZE_UP_TO_S = 900.0


@click.command(epilog="Example: python -m collector_trio run --config config.toml --for 30s")
@config_option
@click.option("--for", "for_s", type=Duration(), help="Stop after this time; default: run until SIGTERM or SIGINT.")
@json_option
def run(config_path: Path, for_s: float | None, as_json: bool) -> None:
    """Record until SIGTERM or SIGINT, then drain, stop and print what was recorded."""
    config = load(config_path)
    with live_table(wanted=not as_json and config.collector.log != "json") as table:
        set_up_logging(config.collector.log, config.collector.log_level)
        spare_collections()
        report = trio.run(record, config, for_s, table)
    print_report(config, report, as_json)


async def record(config: Config, for_s: float | None, table: LiveTable | None) -> app.Report:
    """Record, without importing anything that reads what is recorded."""
    return await app.run(config, for_s=for_s, watch=None if table is None else table.show)


def print_report(config: Config, report: app.Report, as_json: bool) -> None:
    """Print this run's counters, and what the tables hold of it where nobody waits for the process to be gone."""
    seconds = (report.ended_ns - report.started_ns) / 1e9
    data_dir = config.collector.data_dir
    at_leisure = not report.signalled and not report.frames_left and seconds <= SUMMARIZE_UP_TO_S
    summary = None
    if at_leisure:
        from collector_trio.followers.summary import summarize

        summary = summarize(data_dir, report.started_ns, report.first_segment)
    if as_json:
        document = {
            "data_dir": str(data_dir),
            "seconds": seconds,
            "streams": [_counters(stream) for stream in report.streams],
            "frames_left": report.frames_left,
            "summary": summary and summary.document(),
        }
        json.dump(document, sys.stdout)
        click.echo()
        return
    click.echo(f"Recorded for {seconds:.1f} s into {data_dir}:")
    for stream in report.streams:
        ended = ", ".join(f"{reason} {count}" for reason, count in stream.ended.items()) or "none"
        click.echo(
            f"  {stream.plan.name}: {counted(stream.frames, 'frame')} in {counted(stream.sessions, 'session')} "
            f"({stream.lived} live), disconnects: {ended}"
        )
    if not report.streams:
        click.echo("  nothing: no stream could be planned; the log says why")
    if report.frames_left:
        left = counted(report.frames_left, "frame is", "frames are")
        click.echo(f"{left} not stored yet; the next start stores what is left.")
    if summary is None:
        click.echo(f"What has been recorded: python -m collector_trio summary --data-dir {data_dir}")
    else:
        from collector_trio.commands.summary import print_summary

        print_summary(summary, sessions=False)


def _counters(stream: Stream) -> dict[str, object]:
    return {
        "stream": stream.plan.name,
        "sessions": stream.sessions,
        "live": stream.lived,
        "frames": stream.frames,
        "bytes": stream.bytes,
        "ended": dict(stream.ended),
    }
