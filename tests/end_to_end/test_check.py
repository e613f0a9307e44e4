"""`check` says through which proxy everything goes, and where a share is too small to be kept."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from collector_trio.commands.check import check
from collector_trio.instruments import Instrument
from collector_trio.streams.listing import Listing, keep_listing

from .recorder import config_text

BTC = Instrument("binance", "spot", "BTC-USDT", "BTCUSDT", "BTC", "USDT", "TRADING", True)


def checked(
    folder: Path, more: str, environ: dict[str, str] | None = None, *, known: bool = True, exchange: str = "binance"
) -> tuple[int, dict[str, Any], str]:
    """Return what `check` ends with, its document and what it prints for people."""
    if known:
        keep_listing(folder / "data", "binance", "spot", Listing((BTC,), 0))
    path = folder / "config.toml"
    path.write_text(config_text(folder / "data", "", symbols=("BTC-USDT",), exchanges=(exchange,)) + more)
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


def test_without_known_instruments_the_ways_of_the_polls_are_judged_and_named(tmp_path: Path) -> None:
    code, document, text = checked(tmp_path, "", {"HTTPS_PROXY": "https://u:pw@p:1"}, known=False)
    assert (code, document["sockets"]) == (1, [])
    assert document["problems"] == ["proxy: https://p:1 is not of the form http://host:port or socks5://host:port"]
    code, document, text = checked(tmp_path, "", {"HTTPS_PROXY": "http://u:pw@p:1"}, known=False)
    assert (code, {poll["proxy"] for poll in document["polls"]}) == (0, {"proxy http://p:1"})
    assert "through proxy http://p:1" in text
    assert "pw" not in text


def test_the_webhook_is_named_by_its_host_and_its_proxy_is_judged(tmp_path: Path) -> None:
    hook = '[alerts]\nwebhook = "${HOOK_URL}"\n'
    environ = {"HOOK_URL": "https://hooks.example/secret", "NO_PROXY": "binance.vision", "HTTPS_PROXY": "http://p:1"}
    code, document, text = checked(tmp_path, hook, environ)
    assert (code, document["webhook"]) == (0, {"host": "hooks.example", "proxy": "proxy http://p:1"})
    assert "webhook: hooks.example  through proxy http://p:1\n" in text
    assert "secret" not in text
    assert checked(tmp_path, hook, environ | {"HTTPS_PROXY": "https://p:1"})[0] == 1


def test_that_there_is_no_webhook_is_said(tmp_path: Path) -> None:
    _, document, text = checked(tmp_path, '[alerts]\nwebhook = "${HOOK_URL}"\n', {"HOOK_URL": ""})
    assert document["webhook"] is None
    assert "\nno webhook: " in text


def test_what_is_asked_when_sessions_end_is_among_the_polls(tmp_path: Path) -> None:
    _, document, text = checked(tmp_path, "", exchange="okx", known=False)
    assert [poll["what"] for poll in document["polls"]] == ["instruments", "time", "maintenance"]
    assert document["polls"][-1]["url"].endswith("/api/v5/system/status")
    assert "every 60 s at most, when sessions end" in text


def test_who_is_online_already_is_not_told_to_be(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        rest = f"http://127.0.0.1:{taken.getsockname()[1]}"
    endpoints = f'[net]\ninsecure = true\n[endpoints.binance.spot]\nrest = "{rest}"\n'
    path.write_text(config_text(tmp_path / "data", endpoints, symbols=("BTC-USDT",), exchanges=("binance",)))
    runner = CliRunner()
    assert "use --online" in runner.invoke(check, ["--config", str(path)]).output
    online = runner.invoke(check, ["--config", str(path), "--online"])
    assert online.exit_code == 1
    assert "problem: binance spot: no instruments: " in online.output
    assert "--online" not in online.output
