"""The whole collector at work, recorder and follower as processes of their own, against local exchanges."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pyarrow.parquet as pq
import tomlkit
import trustme
from disk import SEGMENT_S, Refused
from observed import Observed

HERE = Path(__file__).parent
CONFIG = HERE.parent / "config.toml"


OFTEN_S, SELDOM_S = 0.005, 0.25  # to look at the event loop's lag; where CPU is what counts, seldom


@attrs.frozen
class Length:
    """How long to look on, how long a segment is, and how often to probe the event loop; all in seconds."""

    seconds: float
    segment_s: float
    probe_s: float


@attrs.frozen
class Servers:
    """Where the bench's own server listens, and the certificate authority that vouches for it."""

    plain: int
    secure: int
    authority: Path


@contextmanager
def serving(folder: Path) -> Iterator[Servers]:
    """Run the bench's server in a process of its own for as long as the block."""
    authority = trustme.CA()
    trusted, certificate = folder / "authority.pem", folder / "certificate.pem"
    authority.cert_pem.write_to_path(str(trusted))
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    command = [sys.executable, str(HERE / "server.py"), str(certificate)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin
        assert server.stdout
        try:
            plain, secure = map(int, server.stdout.readline().split())
            yield Servers(plain, secure, trusted)
        finally:
            server.stdin.close()


def layout(folder: Path, rate: float, seconds: float, segment_s: float) -> Observed:
    """Run config.toml's four markets against the simulator, at about `rate` messages a second in all."""
    each = rate / 16  # four markets, two symbols, two channels
    scenario = folder / "scenario.toml"
    scenario.write_text(
        f'symbols = ["BTC-USDT", "ETH-USDT"]\nquiet_symbols = []\ntrades_per_s = {each}\nbook_changes_per_s = {each}\n'
    )
    command = [sys.executable, "-m", "collector_trio", "sim", "--scenario", str(scenario)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as simulator:
        assert simulator.stdout
        try:
            endpoints = ""
            while "okx" not in endpoints or "rest" not in endpoints.partition("okx")[2]:
                endpoints += simulator.stdout.readline()
            return _observe(folder, CONFIG.read_text() + endpoints, Length(seconds, segment_s, SELDOM_S), {})
        finally:
            simulator.terminate()


def sustained(folder: Path, servers: Servers, rate: int, every: int, seconds: float, segment_s: float) -> Observed:
    """Run one socket over TLS that brings `rate` messages a second; each `every`th is a change of 40 levels."""
    config, environ = _one_socket(servers, rate, every)
    return _observe(folder, config, Length(seconds, segment_s, OFTEN_S), environ)


def refused(folder: Path, servers: Servers, rate: int, every: int, seconds: float) -> Refused:
    """Run the same, and let it write nothing for so long in the middle."""
    config, environ = _one_socket(servers, rate, every)
    return Refused(**_run(folder, config, SEGMENT_S, environ, "disk.py", str(seconds)))


def _one_socket(servers: Servers, rate: int, every: int) -> tuple[str, dict[str, str]]:
    """Return what to record there, and what to trust."""
    record = '[[record]]\nexchange = "binance"\nmarket = "spot"\nsymbols = ["BTC-USDT", "ETH-USDT"]\n'
    record += 'channels = ["trades", "book"]\n'
    at = f"127.0.0.1:{servers.secure}"
    endpoints = f'[endpoints.binance.spot]\nws = "wss://{at}/feed/{rate}/{every}/stream"\nrest = "https://{at}"\n'
    return record + endpoints, {"SSL_CERT_FILE": str(servers.authority)}


def _observe(folder: Path, config: str, length: Length, environ: Mapping[str, str]) -> Observed:
    """Run the recorder with `config`, except that it writes to `folder`/data, and look on."""
    arguments = (str(length.seconds), str(length.probe_s))
    return Observed(**_run(folder, config, length.segment_s, environ, "observed.py", *arguments))


def _run(
    folder: Path, config: str, segment_s: float, environ: Mapping[str, str], script: str, *arguments: str
) -> dict[str, Any]:
    document = tomlkit.parse(config)
    document["collector"] = {"data_dir": str(folder / "data"), "log_level": "warning"}
    document["http"] = {"listen": "127.0.0.1:0"}
    document["store"] = {"segment": f"{segment_s:g}s", "keep_journal": "until stored"}
    path = folder / "config.toml"
    path.write_text(tomlkit.dumps(document))
    command = [sys.executable, str(HERE / script), str(path), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **environ})
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@attrs.frozen
class Stored:
    """What one table takes on the disk."""

    rows: int
    files: int
    bytes: int


def stored(data_dir: Path) -> dict[str, Stored]:
    """Measure every table in `data_dir`."""
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for path in data_dir.glob("*/exchange=*/**/*.parquet"):
        table = path.relative_to(data_dir).parts[0]
        found[table].append((pq.read_metadata(path).num_rows, path.stat().st_size))
    return {
        table: Stored(sum(rows for rows, _ in files), len(files), sum(size for _, size in files))
        for table, files in sorted(found.items())
    }
