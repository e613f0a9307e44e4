"""`check` says through which proxy everything goes, and where a share is too small to be kept."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from collector_trio.commands.check import check
from collector_trio.instruments import Instrument
from collector_trio.streams.listing import Listing, keep_listing

from .recorder import config_text

BTC = Instrument("binance", "spot", "BTC-USDT", "BTCUSDT", "BTC", "USDT", "TRADING", True)


def checked(folder: Path, more: str, environ: dict[str, str] | None = None) -> tuple[int, dict[str, Any], str]:
    """Return what `check` ends with, its document and what it prints for people."""
    keep_listing(folder / "data", "binance", "spot", Listing((BTC,), 0))
    path = folder / "config.toml"
    path.write_text(config_text(folder / "data", "", symbols=("BTC-USDT",), exchanges=("binance",)) + more)
    clean = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"))
    runner = CliRunner(env={**clean, **(environ or {})})
    document = runner.invoke(check, ["--config", str(path), "--json"])
    text = runner.invoke(check, ["--config", str(path)])
    return document.exit_code, json.loads(document.stdout), text.output


@pytest.mark.parametrize(
    ("more", "environ"),
    [
        ('[net]\nproxy = "socks5://me:secret@proxy.example"\n', {}),
        ("", {"ALL_PROXY": "socks5://me:secret@proxy.example:1080"}),
    ],
)
def test_the_proxy_is_named_without_its_password(more: str, environ: dict[str, str], tmp_path: Path) -> None:
    code, document, text = checked(tmp_path, more, environ)
    assert (code, document["problems"]) == (0, [])
    assert [socket["proxy"] for socket in document["sockets"]] == ["proxy socks5://proxy.example:1080"]
    assert "wss://data-stream.binance.vision/stream  through proxy socks5://proxy.example:1080" in text
    assert "secret" not in text


def test_without_a_proxy_none_is_named(tmp_path: Path) -> None:
    code, document, text = checked(tmp_path, "", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "binance.vision"})
    assert (code, [socket["proxy"] for socket in document["sockets"]]) == (0, [None])
    assert "through" not in text


def test_a_proxy_that_cannot_be_used_is_a_problem(tmp_path: Path) -> None:
    code, document, _ = checked(tmp_path, "", {"HTTPS_PROXY": "https://me:secret@proxy.example"})
    assert code == 1
    (problem,) = document["problems"]
    assert problem.startswith("proxy: https://proxy.example is not of the form http://host:port")


def test_a_share_of_less_than_one_request_is_a_problem(tmp_path: Path) -> None:
    assert checked(tmp_path, "[limits]\nshare = 0.06\n")[0] == 0
    code, document, _ = checked(tmp_path, "[limits]\nshare = 0.05\n")
    assert code == 1
    (problem,) = document["problems"]
    assert problem == (
        "limits.share is 0.05; below 0.0521 the limits of binance spot cannot be shared out: one request weighs up to "
        "250 of 4800 per 60 s, and dials are 240 per 300 s"
    )
