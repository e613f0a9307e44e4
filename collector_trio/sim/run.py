"""What the command `sim` does."""

import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from collector_trio.errors import CollectorError
from collector_trio.sim.recordings import Recording, load_recordings
from collector_trio.sim.scenario import load_scenario
from collector_trio.sim.server import serve


async def run_sim(
    *,
    port: int,
    scenario: str | Path | None,
    seed: int,
    replay: Sequence[Path],
    fast: bool,
    truth_path: Path | None,
    tls: tuple[Path, Path] | None,
    announce: Callable[[str], None],
) -> None:
    """Serve until cancelled, having announced the endpoints block. With `replay` the scenario gives only the faults.

    `tls` is a certificate chain and its key, PEM. Raises `ConfigError` for a bad scenario, `CollectorError` for a
    recording or a certificate that cannot be used, or a port that is taken.
    """
    chosen = load_scenario(scenario)
    context = _context(tls)
    recordings = await trio.to_thread.run_sync(load_recordings, replay) if replay else None
    for recording in recordings or ():
        announce(_describe(recording))
    try:
        await serve(
            chosen,
            port=port,
            seed=seed,
            ssl_context=context,
            truth_path=truth_path,
            recordings=recordings,
            speed=None if fast else 1.0,
            announce=announce,
            keep_truth=False,  # it may run for days, and nobody looks
        )
    except OSError as error:
        what = error.filename or f"port {port}"
        raise CollectorError(f"{what}: {error.strerror or error}") from error


def _context(tls: tuple[Path, Path] | None) -> ssl.SSLContext | None:
    if tls is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(*tls)
    except (OSError, ssl.SSLError) as error:
        raise CollectorError(f"{tls[0]}, {tls[1]}: no certificate and key: {error}") from error
    return context


def _describe(recording: Recording) -> str:
    skipped = ", ".join(f"{count} {reason}" for reason, count in recording.skipped.items())
    return f"replay: {recording.path}: {len(recording.frames)} frames" + (f"; skipped: {skipped}" if skipped else "")
