"""What a config may say, and what is said about one that may not be."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from collector_trio.config import (
    Alerts,
    Collector,
    Config,
    Http,
    Limits,
    Net,
    Offers,
    Record,
    Store,
    Threshold,
    load_config,
    parse_config,
    parse_duration,
    parse_size,
)
from collector_trio.config_source import Place, find_lines
from collector_trio.errors import ConfigError

ROOT = Path(__file__).parent.parent

OFFERS = {
    "binance": Offers(
        markets={"spot": ("trades", "book"), "perp": ("trades", "book")},
        endpoints={
            "binance.spot": {
                "ws": "wss://data-stream.binance.vision/stream",
                "rest": "https://data-api.binance.vision",
            },
            "binance.perp": {
                "ws_public": "wss://fstream.binance.com/public/stream",
                "ws_market": "wss://fstream.binance.com/market/stream",
                "rest": "https://fapi.binance.com",
            },
        },
        path_reasons={"binance.perp": "other paths are silent"},
    ),
    "okx": Offers(
        markets={"spot": ("trades", "book"), "perp": ("trades", "book")},
        endpoints={
            "okx": {
                "ws_public": "wss://ws.okx.com/ws/v5/public",
                "ws_business": "wss://ws.okx.com/ws/v5/business",
                "rest": "https://www.okx.com",
            }
        },
    ),
}
DEFAULT_URLS = {**OFFERS["binance"].endpoints, **OFFERS["okx"].endpoints}

RECORD = """
[[record]]
exchange = "binance"
market = "spot"
symbols = ["BTC-USDT"]
channels = ["trades", "book"]
"""
OKX_RECORD = """
[[record]]
exchange = "okx"
market = "spot"
symbols = ["BTC-USDT"]
channels = ["trades", "book"]
"""

# The example of the contract (docs: section 2 of contract.md), comments shortened.
CONTRACT = """\
[collector]
data_dir = "data"
log = "auto"                    # auto | console | json; auto: console on a terminal, json otherwise
log_level = "info"

[http]
listen = "127.0.0.1:8087"       # status page /, /status.json, /metrics, /healthz, /readyz ("" = off)

[[record]]
exchange = "binance"            # binance | okx | deribit
market = "spot"                 # spot | perp | index
symbols = ["BTC-USDT", "ETH-USDT"]     # BASE-QUOTE; patterns as in "*-USDT"; "!" excludes
channels = ["trades", "book"]   # see the tables below
redundancy = 1                  # sockets that carry the same subscriptions at the same time

[store]
sync_every = "1s"               # what a power cut can cost at most (kill -9 costs nothing)
segment = "60s"                 # rows are in Parquet this long after they came, and a little
snapshot_every = "10m"          # whole books in between, to rebuild any instant quickly
keep_tables = "forever"         # or a duration
keep_journal = "3d"             # "until stored", a duration, or "forever"
min_free = "1 GiB"              # below it kept journals go first, then reading stops

[nats]                          # absent = off
servers = ["nats://127.0.0.1:4222"]

[clickhouse]                    # absent = off
url = "http://127.0.0.1:8123"
database = "market_data"

[alerts]                        # defaults: the outage report's table; normal is shown, alert_above fires
sockets       = { normal = "15..30",  alert_above = 50,      every = "5m" }   # at least plan + 20
close_wait    = { normal = "0..2",    alert_above = 5,       every = "5m" }
memory        = { normal = "..1 GiB", alert_above = "2 GiB", every = "1m" }
reconnects    = { normal = "..10/h",  alert_above = "30/h",  every = "10m" }
webhook = ""                    # POSTed as JSON when an alert starts or ends

[endpoints.binance.spot]        # every host, port and path can be overridden (simulator, mirrors, proxies)
ws = "wss://data-stream.binance.vision/stream"
rest = "https://data-api.binance.vision"
[endpoints.binance.perp]
ws_public = "wss://fstream.binance.com/public/stream"
ws_market = "wss://fstream.binance.com/market/stream"
rest = "https://fapi.binance.com"
[endpoints.okx]
ws_public = "wss://ws.okx.com/ws/v5/public"
ws_business = "wss://ws.okx.com/ws/v5/business"
rest = "https://www.okx.com"
[endpoints.deribit]
rest = "https://www.deribit.com"

[net]
proxy = ""                      # "http://…" or "socks5://…"; default: HTTPS_PROXY, ALL_PROXY
insecure = false                # allow ws:// and http:// beyond loopback

[limits]                        # dial, message and REST budgets per venue
share = 1.0                     # this process's part of the venue's per-IP budgets
"""


def parse(text: str, **environ: str) -> Config:
    return parse_config(text, "config.toml", OFFERS, environ)


def problems(text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        parse(text, **environ)
    assert all(problem.isprintable() for problem in raised.value.problems)
    return [problem.removeprefix("config.toml:") for problem in raised.value.problems]


SECTIONS = "collector, http, store, net, limits, alerts, record, endpoints"
RECORD_KEYS = "exchange, market, symbols, channels, redundancy"
ENDPOINTS = "binance.spot, binance.perp, okx"
STORE_KEYS = "sync_every, segment, snapshot_every, keep_tables, keep_journal, min_free"
ALERT_KEYS = (
    "sockets, close_wait, memory, reconnects, off_plan, not_live, data_age, open_gaps, follower_lag, disk, "
    "event_loop_lag, clock_offset, webhook"
)
DURATIONS = '"250ms", "30s", "5m", "1h", "3d"'
SIZES = '"512 MiB", "1 GiB", "2 GB", "100 kB"'
SYMBOLS = 'BASE-QUOTE, a pattern such as "*-USDT", or either behind "!"'

# Each in front of a good [[record]]: what is written, and everything that is said about it.
WRONG: dict[str, tuple[str, list[str]]] = {
    "an unknown section": (
        "[colector]\nlog = 1",
        [f'1: colector is not a section; did you mean "collector"? ({SECTIONS})'],
    ),
    "a section like no other": ("[x]", [f"1: x is not a section; allowed: {SECTIONS}"]),
    "a key outside its section": (
        'data_dir = "x"',
        ["1: data_dir is not a section; it belongs in [collector]"],
    ),
    "a key in the wrong section": (
        '[store]\nlog_level = "info"',
        ["2: store.log_level is not a key; it belongs in [collector]"],
    ),
    "an unknown key": (
        '[collector]\n\ndata_dri = "x"',
        ['3: collector.data_dri is not a key; did you mean "data_dir"? (data_dir, log, log_level)'],
    ),
    "a key that needs quotes": (
        '[http]\n"a\\nb" = 1',
        ['2: http."a\\nb" is not a key; allowed: listen'],
    ),
    "a value for a section": ("collector = 5", ["1: collector is 5 (integer); a table is wanted"]),
    "an array for a section": ("[[net]]", ["1: net is an array; a table is wanted"]),
    "a number for a word": (
        "[collector]\nlog = 1",
        ["2: collector.log is 1 (integer); allowed: auto, console, json"],
    ),
    "an unknown way to log": (
        '[collector]\nlog = "jsn"',
        ['2: collector.log is "jsn"; did you mean "json"? (auto, console, json)'],
    ),
    "a level in capitals": (
        '[collector]\nlog_level = "WARN"',
        ['2: collector.log_level is "WARN"; did you mean "warning"? (debug, info, warning, error)'],
    ),
    "an empty data dir": (
        '[collector]\ndata_dir = ""',
        ['2: collector.data_dir is ""; the path of a folder is wanted'],
    ),
    "a data dir in a home": (
        '[collector]\ndata_dir = "~/data"',
        ['2: collector.data_dir is "~/data"; "~" is not expanded; write "${HOME}"'],
    ),
    "a date for a data dir": (
        "[collector]\ndata_dir = 2024-05-01",
        ["2: collector.data_dir is 2024-05-01 (date or time); a string is wanted"],
    ),
    "a port without a host": (
        '[http]\nlisten = ":8087"',
        ['2: http.listen is ":8087"; host:port is wanted, such as "127.0.0.1:8087", or "" for off'],
    ),
    "a host without a port": (
        '[http]\nlisten = "localhost"',
        ['2: http.listen is "localhost"; host:port is wanted, such as "127.0.0.1:8087", or "" for off'],
    ),
    "a port too high": (
        '[http]\nlisten = "localhost:65536"',
        ['2: http.listen is "localhost:65536"; host:port is wanted, such as "127.0.0.1:8087", or "" for off'],
    ),
    "an IPv6 host without brackets": (
        '[http]\nlisten = "::1:8087"',
        ['2: http.listen is "::1:8087"; host:port is wanted, such as "127.0.0.1:8087", or "" for off'],
    ),
    "a port as a number": ("[http]\nlisten = 8087", ["2: http.listen is 8087 (integer); a string is wanted"]),
    "a duration as a number": (
        "[store]\nsegment = 60",
        ['2: store.segment is 60 (integer); a duration such as "30s" is wanted, in quotes'],
    ),
    "a duration without a unit": (
        '[store]\nsegment = "60"',
        [f'2: store.segment is "60"; a duration is written like {DURATIONS}'],
    ),
    "a duration in another spelling": (
        '[store]\nsegment = "30 sec"',
        [f'2: store.segment is "30 sec"; did you mean "30s"? ({DURATIONS})'],
    ),
    "a segment too short": ('[store]\nsegment = "999ms"', ['2: store.segment is "999ms"; 1s to 1h is allowed']),
    "a segment too long": ('[store]\nsegment = "61m"', ['2: store.segment is "61m"; 1s to 1h is allowed']),
    "no time to sync": ('[store]\nsync_every = "0s"', ['2: store.sync_every is "0s"; 1ms to 1m is allowed']),
    "syncs too rare": ('[store]\nsync_every = "2m"', ['2: store.sync_every is "2m"; 1ms to 1m is allowed']),
    "snapshots too often": (
        '[store]\nsnapshot_every = "500ms"',
        ['2: store.snapshot_every is "500ms"; 1s to 36500d is allowed'],
    ),
    "tables kept for no time": (
        '[store]\nkeep_tables = "0d"',
        ['2: store.keep_tables is "0d"; 1s to 36500d is allowed, or "forever"'],
    ),
    "tables kept until stored": (
        '[store]\nkeep_tables = "until stored"',
        ['2: store.keep_tables is "until stored"; allowed: forever, or a duration such as "3d"'],
    ),
    "a misspelled word for a time": (
        '[store]\nkeep_journal = "until_stored"',
        [
            '2: store.keep_journal is "until_stored"; did you mean "until stored"? (until stored, forever), '
            'or a duration such as "3d"'
        ],
    ),
    "a journal kept for a month": (
        '[store]\nkeep_journal = "1 month"',
        [f'2: store.keep_journal is "1 month"; a duration is written like {DURATIONS}, or "until stored" or "forever"'],
    ),
    "a journal kept for a number": (
        "[store]\nkeep_journal = 3.5",
        [
            '2: store.keep_journal is 3.5 (float); a duration such as "3d", or "until stored" or "forever", is wanted',
        ],
    ),
    "a journal kept for ages": (
        '[store]\nkeep_journal = "99999999d"',
        ['2: store.keep_journal is "99999999d"; 36500d is the most, or "until stored" or "forever"'],
    ),
    "a size as a number": (
        "[store]\nmin_free = 1_000",
        ['2: store.min_free is 1000 (integer); a size such as "512 MiB" is wanted, in quotes'],
    ),
    "a size in another spelling": (
        '[store]\nmin_free = "1 gib"',
        [f'2: store.min_free is "1 gib"; did you mean "1 GiB"? ({SIZES})'],
    ),
    "a size below nothing": (
        '[store]\nmin_free = "-1 GiB"',
        [f'2: store.min_free is "-1 GiB"; a size is written like {SIZES}'],
    ),
    "a size beyond 64 bits": (
        '[store]\nmin_free = "99999999 TB"',
        ['2: store.min_free is "99999999 TB"; less than 2^63 bytes is allowed'],
    ),
    "a share of nothing": ("[limits]\nshare = 0", ["2: limits.share is 0; above 0 and up to 1 is allowed"]),
    "a share above the whole": ("[limits]\nshare = 1.5", ["2: limits.share is 1.5; above 0 and up to 1 is allowed"]),
    "a share that is no number": ("[limits]\nshare = nan", ["2: limits.share is nan; above 0 and up to 1 is allowed"]),
    "a share that is a boolean": (
        "[limits]\nshare = true",
        ["2: limits.share is true (boolean); a number above 0 and up to 1 is wanted"],
    ),
    "a share in quotes": (
        '[limits]\nshare = "50%"',
        ['2: limits.share is "50%" (string); a number above 0 and up to 1 is wanted'],
    ),
    "a number for a boolean": (
        "[net]\ninsecure = 1",
        ["2: net.insecure is 1 (integer); true or false is wanted"],
    ),
    "a number too long to spell": (
        f"[net]\ninsecure = 0x{'f' * 5000}",
        [f"2: net.insecure is 0x{'f' * 98}… (integer); true or false is wanted"],
    ),
    "a proxy reached by TLS": (
        '[net]\nproxy = "https://proxy:3128"',
        ['2: net.proxy is "https://proxy:3128"; http://… or socks5://… is wanted'],
    ),
    "a proxy without a scheme": (
        '[net]\nproxy = "proxy:3128"',
        ['2: net.proxy is "proxy:3128"; http://… or socks5://… is wanted'],
    ),
    "a proxy with a path": (
        '[net]\nproxy = "http://proxy:3128/x"',
        ['2: net.proxy is "http://proxy:3128/x"; a proxy has a host and a port, but no path'],
    ),
    "a proxy whose password must not be shown": (
        '[net]\nproxy = "socks4://me:secret@proxy"',
        ['2: net.proxy is "socks4://***@proxy"; http://… or socks5://… is wanted'],
    ),
    "a number for a threshold": (
        "[alerts]\nsockets = 50",
        ["2: alerts.sockets is 50 (integer); a table such as { alert_above = … } is wanted"],
    ),
    "an unknown alert": (
        "[alerts]\nsocket = { alert_above = 50 }",
        [f'2: alerts.socket is not a key; did you mean "sockets"? ({ALERT_KEYS})'],
    ),
    "an unknown key of a threshold": (
        "[alerts]\nsockets = { above = 50 }",
        ['2: alerts.sockets.above is not a key; did you mean "alert_above"? (normal, alert_above, every)'],
    ),
    "three faults of one threshold": (
        '[alerts.close_wait]\nnormal = "0-2"\nalert_above = -1\nevery = 5',
        [
            '2: alerts.close_wait.normal is "0-2"; a range is written like "0..2"',
            "3: alerts.close_wait.alert_above is -1; 0 or more is allowed",
            '4: alerts.close_wait.every is 5 (integer); a duration such as "30s" is wanted, in quotes',
        ],
    ),
    "memory as a number": (
        "[alerts]\nmemory = { alert_above = 2 }",
        ['2: alerts.memory.alert_above is 2 (integer); a size such as "512 MiB" is wanted, in quotes'],
    ),
    "a normal range of memory without its unit": (
        '[alerts]\nmemory = { normal = "..1" }',
        [f'2: alerts.memory.normal is "..1"; a size is written like {SIZES}'],
    ),
    "a rate per day": (
        '[alerts]\nreconnects = { normal = "..10/d", alert_above = "30/d" }',
        [
            '2: alerts.reconnects.normal is "..10/d"; a rate is written like "30/h"',
            '2: alerts.reconnects.alert_above is "30/d"; a rate is written like "30/h"',
        ],
    ),
    "a range that ends before it begins": (
        '[alerts]\nsockets = { normal = "30..15" }',
        ['2: alerts.sockets.normal is "30..15"; its end is before its beginning'],
    ),
    "an alert within what is normal": (
        "[alerts]\nsockets = { alert_above = 20 }",
        ["2: alerts.sockets.alert_above is 20; normal must not reach beyond alert_above"],
    ),
    "a look every day": (
        '[alerts]\nmemory = { every = "1d" }',
        ['2: alerts.memory.every is "1d"; 1s to 1h is allowed'],
    ),
    "an alert at no time": (
        '[alerts]\ndata_age = "0s"',
        ['2: alerts.data_age is "0s"; 1s to 1d is allowed'],
    ),
    "a webhook in the clear": (
        '[alerts]\nwebhook = "http://hooks.example.com/x"',
        [
            '2: alerts.webhook is "http://hooks.example.com/x"; '
            "http:// is for loopback hosts; write https://, or insecure = true under [net]"
        ],
    ),
    "a section of a later version": ("[nats]\nservers = 1", [f"1: nats is not in this version ({SECTIONS})"]),
    "endpoints of a later version": (
        '[endpoints.deribit]\nrest = "x"\n[endpoints.binance]\nperp.rest = 1',
        [
            f"1: endpoints.deribit is not in this version ({ENDPOINTS})",
            "4: endpoints.binance.perp.rest is 1 (integer); a string is wanted",
        ],
    ),
    "endpoints of nobody": (
        '[endpoints.bynance.spot]\nws = "x"',
        [f'1: endpoints.bynance is not a section of endpoints; did you mean "binance.spot"? ({ENDPOINTS})'],
    ),
    "endpoints with a dot in quotes": (
        '[endpoints."binance.spot"]',
        [f'1: endpoints."binance.spot" is not a section of endpoints; did you mean "binance.spot"? ({ENDPOINTS})'],
    ),
    "a URL where a section belongs": (
        '[endpoints]\nokx = "wss://ws.okx.com/ws/v5/public"',
        ['2: endpoints.okx is "wss://ws.okx.com/ws/v5/public" (string); a table is wanted'],
    ),
    "a URL nobody asks for": (
        '[endpoints.okx]\nws_pubic = "wss://ws.okx.com/ws/v5/public"',
        ['2: endpoints.okx.ws_pubic is not a key; did you mean "ws_public"? (ws_public, ws_business, rest)'],
    ),
    "a port for a URL": (
        "[endpoints.okx]\nrest = 8080",
        ["2: endpoints.okx.rest is 8080 (integer); a string is wanted"],
    ),
    "REST by WebSocket": (
        '[endpoints.okx]\nrest = "wss://www.okx.com"',
        ['2: endpoints.okx.rest is "wss://www.okx.com"; https://… or http://… is wanted'],
    ),
    "WebSocket by REST": (
        '[endpoints.binance.spot]\nws = "https://x/stream"',
        ['2: endpoints.binance.spot.ws is "https://x/stream"; wss://… or ws://… is wanted'],
    ),
    "a WebSocket in the clear": (
        '[endpoints.binance.spot]\nws = "ws://10.0.0.1/stream"',
        [
            '2: endpoints.binance.spot.ws is "ws://10.0.0.1/stream"; '
            "ws:// is for loopback hosts; write wss://, or insecure = true under [net]"
        ],
    ),
    "REST in the clear, to a name that only begins like loopback": (
        '[endpoints.okx]\nrest = "http://127.0.0.1.example.com"',
        [
            '2: endpoints.okx.rest is "http://127.0.0.1.example.com"; '
            "http:// is for loopback hosts; write https://, or insecure = true under [net]"
        ],
    ),
    "another path": (
        '[endpoints.okx]\nws_public = "wss://ws.okx.com/ws/v5/business"',
        ['2: endpoints.okx.ws_public is "wss://ws.okx.com/ws/v5/business"; the path must end in "/ws/v5/public"'],
    ),
    "a path of USD-M that is not routed": (
        '[endpoints.binance.perp]\nws_public = "wss://fstream.binance.com/stream?x=/public/stream"',
        [
            '2: endpoints.binance.perp.ws_public is "wss://fstream.binance.com/stream?x=/public/stream"; '
            'the path must end in "/public/stream": other paths are silent'
        ],
    ),
    "the other path of USD-M": (
        '[endpoints.binance.perp]\nws_market = "wss://fstream.binance.com/public/stream"',
        [
            '2: endpoints.binance.perp.ws_market is "wss://fstream.binance.com/public/stream"; '
            'the path must end in "/market/stream": other paths are silent'
        ],
    ),
    "a path that only ends in the same letters": (
        '[endpoints.binance.spot]\nws = "wss://x/upstream"',
        ['2: endpoints.binance.spot.ws is "wss://x/upstream"; the path must end in "/stream"'],
    ),
    "credentials in a URL": (
        '[endpoints.okx]\nrest = "https://me:secret@www.okx.com"',
        ['2: endpoints.okx.rest is "https://***@www.okx.com"; user and password do not belong in this URL'],
    ),
    "a fragment in a URL": (
        '[endpoints.okx]\nrest = "https://www.okx.com#x"',
        ['2: endpoints.okx.rest is "https://www.okx.com#x"; a fragment ("#…") means nothing here'],
    ),
    "a query in a base": (
        '[endpoints.okx]\nrest = "https://www.okx.com/?x=1"',
        [
            '2: endpoints.okx.rest is "https://www.okx.com/?x=1"; '
            "a base is wanted, to which paths are appended: it has no query"
        ],
    ),
    "a URL without a host": (
        '[endpoints.okx]\nrest = "https://"',
        ['2: endpoints.okx.rest is "https://"; https://… or http://… is wanted, with a host and perhaps a port'],
    ),
    "a URL with a space": (
        '[endpoints.okx]\nrest = "https://www.okx.com "',
        [
            '2: endpoints.okx.rest is "https://www.okx.com "; '
            "https://… or http://… is wanted, of printable ASCII without spaces"
        ],
    ),
    "a URL with an impossible port": (
        '[endpoints.okx]\nrest = "https://www.okx.com:99999"',
        [
            '2: endpoints.okx.rest is "https://www.okx.com:99999"; '
            "https://… or http://… is wanted, with a host and perhaps a port (Port out of range 0-65535)"
        ],
    ),
    "a missing variable": (
        '[collector]\ndata_dir = "${DATA}/${DATA}${HERE}"',
        ['2: collector.data_dir is "${DATA}/${DATA}${HERE}"; not in the environment: DATA, HERE'],
    ),
    "a variable without a name": (
        '[collector]\ndata_dir = "${my data}"',
        ['2: collector.data_dir is "${my data}"; a variable is written "${NAME}", of letters, digits and "_"'],
    ),
    "a section twice": (
        "[net]\n[net]",
        ["2: not TOML at column 5: Cannot declare ('net',) twice"],
    ),
    "a string that does not end": (
        '[collector]\nlog = "auto',
        ["2: not TOML at column 12: Illegal character '\\n'"],
    ),
    "nesting without end": ("x = " + "[" * 50_000, ["1: not TOML we read: nested too deeply"]),
}


@pytest.mark.parametrize(("text", "said"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_said_with_its_line_key_and_what_is_allowed(text: str, said: list[str]) -> None:
    assert problems(f"{text}\n{RECORD}") == said


# Whole files, because the record itself is wrong.
WRONG_RECORDS: dict[str, tuple[str, list[str]]] = {
    "nothing at all": ("", ["1: record is missing; at least one [[record]] is wanted"]),
    "no record": ("record = []", ["1: record is missing; at least one [[record]] is wanted"]),
    "one table instead of several": (
        RECORD.replace("[[record]]", "[record]"),
        ["2: record is a table; an array of tables is wanted: [[record]]"],
    ),
    "a record that is a word": ('record = ["BTC-USDT"]', ['1: record[1] is "BTC-USDT" (string); a table is wanted']),
    "an empty record": (
        "\n[[record]]",
        [
            "2: record[1].exchange is missing; allowed: binance, okx",
            "2: record[1].market is missing; allowed: spot, perp",
            '2: record[1].symbols is missing; an array of symbols such as ["BTC-USDT"] is wanted',
            '2: record[1].channels is missing; an array of channels such as ["trades"] is wanted',
        ],
    ),
    "an unknown key of a record": (
        f'{RECORD}channel = "trades"',
        [f'7: record[1].channel is not a key; did you mean "channels"? ({RECORD_KEYS})'],
    ),
    "an unknown exchange": (
        RECORD.replace("binance", "binanse"),
        ['3: record[1].exchange is "binanse"; did you mean "binance"? (binance, okx)'],
    ),
    "an exchange of a later version": (
        RECORD.replace("binance", "deribit"),
        ['3: record[1].exchange is "deribit"; not in this version (binance, okx)'],
    ),
    "a list of exchanges": (
        RECORD.replace('"binance"', '["binance"]'),
        ["3: record[1].exchange is an array; allowed: binance, okx"],
    ),
    "an unknown market": (
        RECORD.replace('"spot"', '"margin"'),
        ['4: record[1].market is "margin"; allowed: spot, perp'],
    ),
    "a market of a later version": (
        RECORD.replace('"spot"', '"index"'),
        ['4: record[1].market is "index"; not in this version (spot, perp)'],
    ),
    "an unknown channel in the second record": (
        OKX_RECORD + RECORD.replace('"book"', '"trade"'),
        ['12: record[2].channels[2] is "trade"; did you mean "trades"? (trades, book)'],
    ),
    "a channel of a later version": (
        RECORD.replace('"book"', '"funding"'),
        ['6: record[1].channels[2] is "funding"; not in this version (trades, book)'],
    ),
    "a channel twice": (
        RECORD.replace('"book"', '"trades"'),
        ['6: record[1].channels[2] is "trades"; it stands here already'],
    ),
    "one channel, not a list": (
        RECORD.replace('["trades", "book"]', '"trades"'),
        ['6: record[1].channels is "trades" (string); an array of channels such as ["trades"] is wanted'],
    ),
    "no channels": (
        RECORD.replace('["trades", "book"]', "[]"),
        ['6: record[1].channels is an empty array; an array of channels such as ["trades"] is wanted'],
    ),
    "no symbols": (
        RECORD.replace('["BTC-USDT"]', "[]"),
        ['5: record[1].symbols is an empty array; an array of symbols such as ["BTC-USDT"] is wanted'],
    ),
    "one symbol, not a list": (
        RECORD.replace('["BTC-USDT"]', '"BTC-USDT"'),
        ['5: record[1].symbols is "BTC-USDT" (string); an array of symbols such as ["BTC-USDT"] is wanted'],
    ),
    "symbols spelled otherwise, each on its line": (
        RECORD.replace(
            '["BTC-USDT"]',
            '[\n"BTCUSDT", # "\n"btc-usdt",\n\n"BTC-USDT-SWAP", "ETH/USDC",\n"*",'
            '"!*USDT", "BTC", 7, true, "!!A-B", "A\\u0001-B"]',
        ),
        [
            f'6: record[1].symbols[1] is "BTCUSDT"; did you mean "BTC-USDT"? ({SYMBOLS})',
            f'7: record[1].symbols[2] is "btc-usdt"; did you mean "BTC-USDT"? ({SYMBOLS})',
            f'9: record[1].symbols[3] is "BTC-USDT-SWAP"; did you mean "BTC-USDT"? ({SYMBOLS})',
            f'9: record[1].symbols[4] is "ETH/USDC"; did you mean "ETH-USDC"? ({SYMBOLS})',
            f'10: record[1].symbols[5] is "*"; did you mean "*-*"? ({SYMBOLS})',
            f'10: record[1].symbols[6] is "!*USDT"; did you mean "!*-USDT"? ({SYMBOLS})',
            f'10: record[1].symbols[7] is "BTC"; allowed: {SYMBOLS}',
            "10: record[1].symbols[8] is 7 (integer); a string is wanted",
            "10: record[1].symbols[9] is true (boolean); a string is wanted",
            f'10: record[1].symbols[10] is "!!A-B"; did you mean "!A-B"? ({SYMBOLS})',
            f'10: record[1].symbols[11] is "A\\u0001-B"; allowed: {SYMBOLS}',
        ],
    ),
    "a symbol twice": (
        RECORD.replace('["BTC-USDT"]', '["BTC-USDT", "ETH-USDT",\n"BTC-USDT"]'),
        ['6: record[1].symbols[3] is "BTC-USDT"; it stands here already'],
    ),
    "only exclusions": (
        RECORD.replace('["BTC-USDT"]', '["!BTC-USDT", "!*-USDC"]'),
        ['5: record[1].symbols is an array; a symbol or pattern without "!" is wanted too'],
    ),
    "several sockets for the same": (
        f"{RECORD}redundancy = 2",
        ["7: record[1].redundancy is 2; more than one is not in this version (1)"],
    ),
    "no socket": (f"{RECORD}redundancy = 0", ["7: record[1].redundancy is 0; 1 or more is allowed"]),
    "a boolean for a number": (
        f"{RECORD}redundancy = true",
        ["7: record[1].redundancy is true (boolean); an integer is wanted"],
    ),
    "the same in two records": (
        RECORD + OKX_RECORD + RECORD.replace('["BTC-USDT"]', '["ETH-USDT", "BTC-USDT"]').replace('"trades", ', ""),
        ['17: record[3].symbols[2] is "BTC-USDT"; already recorded by record[1].symbols[1] in line 5 (book)'],
    ),
    "the same in three records": (
        RECORD.replace('"trades", ', "") + RECORD.replace(', "book"', "") + RECORD,
        [
            '17: record[3].symbols[1] is "BTC-USDT"; already recorded by '
            "record[2].symbols[1] in line 11 (trades), record[1].symbols[1] in line 5 (book)"
        ],
    ),
}


@pytest.mark.parametrize(("text", "said"), WRONG_RECORDS.values(), ids=WRONG_RECORDS.keys())
def test_what_is_wrong_with_a_record_is_said_counting_from_one(text: str, said: list[str]) -> None:
    assert problems(text) == said


def test_all_problems_are_reported_at_once_by_line() -> None:
    text = f"""
[store]
segment = "2h"
sync = "1s"
[endpoints.okx]
rest = "ftp://x"
{RECORD.replace("trades", "trade")}
[[record]]
exchange = "okx"
[colector]
[collector]
log = "${{LOG}}"
"""
    assert problems(text) == [
        '3: store.segment is "2h"; 1s to 1h is allowed',
        f'4: store.sync is not a key; did you mean "sync_every"? ({STORE_KEYS})',
        '6: endpoints.okx.rest is "ftp://x"; https://… or http://… is wanted',
        '12: record[1].channels[1] is "trade"; did you mean "trades"? (trades, book)',
        "14: record[2].market is missing; allowed: spot, perp",
        '14: record[2].symbols is missing; an array of symbols such as ["BTC-USDT"] is wanted',
        '14: record[2].channels is missing; an array of channels such as ["trades"] is wanted',
        f'16: colector is not a section; did you mean "collector"? ({SECTIONS})',
        '18: collector.log is "${LOG}"; not in the environment: LOG',
    ]


def test_problems_of_one_line_come_in_its_order() -> None:
    text = 'collector = {lg = 1, "x" = 2, log = 3, data_dir = 4, a = 5}'
    keys = [re.split(" is ", problem)[0] for problem in problems(text + RECORD)]
    assert keys == ["1: collector.lg", "1: collector.x", "1: collector.log", "1: collector.data_dir", "1: collector.a"]


def test_a_config_error_prints_one_line_per_problem_with_the_name_of_the_file() -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config("[net]\nproxy = 1\ninsecure = 1", "conf/my.toml", OFFERS, {})
    assert str(raised.value).splitlines() == [
        "conf/my.toml:1: record is missing; at least one [[record]] is wanted",
        "conf/my.toml:2: net.proxy is 1 (integer); a string is wanted",
        "conf/my.toml:3: net.insecure is 1 (integer); true or false is wanted",
    ]


def test_a_record_alone_takes_the_defaults() -> None:
    assert parse(RECORD) == Config(
        source="config.toml",
        record=(Record("binance", "spot", ("BTC-USDT",), ("trades", "book")),),
        endpoints=DEFAULT_URLS,
    )


def test_the_shipped_config_records_two_symbols_of_four_markets_and_shows_the_defaults() -> None:
    config = load_config(ROOT / "config.toml", OFFERS, {})
    symbols = ("BTC-USDT", "ETH-USDT")
    assert config == Config(
        source=str(ROOT / "config.toml"),
        record=(
            Record("binance", "spot", symbols, ("trades", "book")),
            Record("binance", "perp", symbols, ("trades", "book")),
            Record("okx", "spot", symbols, ("trades", "book")),
            Record("okx", "perp", symbols, ("trades", "book")),
        ),
        endpoints=DEFAULT_URLS,
    )


def test_what_the_shipped_config_shows_behind_comment_signs_is_valid_too() -> None:
    text = (ROOT / "config.toml").read_text(encoding="utf-8")
    shown = re.sub(r"^# (?=\[endpoints|[a-z_]+ = )", "", text, flags=re.MULTILINE)
    assert {name: dict(urls) for name, urls in tomllib.loads(shown)["endpoints"].items()} == {
        "binance": {"spot": DEFAULT_URLS["binance.spot"], "perp": DEFAULT_URLS["binance.perp"]},
        "okx": DEFAULT_URLS["okx"],
    }
    assert parse(shown).endpoints == DEFAULT_URLS


def test_the_example_of_the_contract_asks_for_nothing_but_what_is_not_in_this_version() -> None:
    assert problems(CONTRACT) == [
        f"24: nats is not in this version ({SECTIONS})",
        f"27: clickhouse is not in this version ({SECTIONS})",
        f"49: endpoints.deribit is not in this version ({ENDPOINTS})",
    ]


def test_the_example_of_the_contract_shows_the_defaults() -> None:
    later = r"^\[(nats|clickhouse|endpoints\.deribit)\].*\n(?:(?!\[).*\n)*"
    config = parse(re.sub(later, "", CONTRACT, flags=re.MULTILINE))
    assert config == Config(
        source="config.toml",
        record=(Record("binance", "spot", ("BTC-USDT", "ETH-USDT"), ("trades", "book")),),
        endpoints=DEFAULT_URLS,
    )


def test_every_key_arrives_in_its_unit() -> None:
    config = parse(
        """
[collector]
data_dir = "/var/lib/x"
log = "json"
log_level = "debug"
[http]
listen = "[::1]:0"
[store]
sync_every = "250ms"
segment = "1h"
snapshot_every = "1s"
keep_tables = "90d"
keep_journal = "until stored"
min_free = "0 B"
[net]
proxy = "socks5://me:secret@[::1]:1080/"
insecure = true
[limits]
share = 1
[alerts]
sockets = { normal = "1..2", alert_above = 3, every = "1s" }
close_wait = { alert_above = 7 }
memory = { normal = "1..2 MiB", alert_above = "1 GB" }
reconnects = { normal = "1..2/h", alert_above = "3 / h", every = "1h" }
off_plan = "1s"
not_live = "2s"
data_age = "3s"
open_gaps = "4s"
follower_lag = "5s"
disk = "6 B"
event_loop_lag = "7ms"
clock_offset = "8ms"
webhook = "http://hooks/x?key=1"
[endpoints.binance.spot]
ws = "ws://mirror/binance/stream?x=1"
[endpoints.okx]
rest = "HTTP://mirror:8080/okx//"
[[record]]
exchange = "okx"
market = "spot"
symbols = ["*-USDT", "!USDC-USDT", "BTC-[UE]*"]
channels = ["book"]
redundancy = 1
"""
    )
    assert config == Config(
        source="config.toml",
        record=(Record("okx", "spot", ("*-USDT", "!USDC-USDT", "BTC-[UE]*"), ("book",), 1),),
        endpoints={
            **DEFAULT_URLS,
            "binance.spot": {**DEFAULT_URLS["binance.spot"], "ws": "ws://mirror/binance/stream?x=1"},
            "okx": {**DEFAULT_URLS["okx"], "rest": "http://mirror:8080/okx"},
        },
        collector=Collector(Path("/var/lib/x"), "json", "debug"),
        http=Http("[::1]:0"),
        store=Store(0.25, 3600.0, 1.0, 90 * 86400.0, "until stored", 0),
        net=Net("socks5://me:secret@[::1]:1080", insecure=True),
        limits=Limits(1.0),
        alerts=Alerts(
            sockets=Threshold((1, 2), 3, 1),
            close_wait=Threshold((0, 2), 7, 300),
            memory=Threshold((2**20, 2**21), 10**9, 60),
            reconnects=Threshold((1, 2), 3, 3600),
            off_plan_s=1,
            not_live_s=2,
            data_age_s=3,
            open_gaps_s=4,
            follower_lag_s=5,
            disk_bytes=6,
            event_loop_lag_s=0.007,
            clock_offset_s=0.008,
            webhook="http://hooks/x?key=1",
        ),
    )
    assert type(config.limits.share) is float


@pytest.mark.parametrize(
    "proxy",
    [
        "http://me:sec/ret@proxy:1",
        "http://me:sec#ret@proxy",
        "http://me:sec ret@proxy",
        "me:secret@proxy",
        "socks5://me:sec?ret@p:x",
    ],
)
def test_a_password_is_not_shown_whatever_else_is_wrong_with_its_url(proxy: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        parse_config(f'[net]\nproxy = "{proxy}"', "test.toml", OFFERS, {})
    said = str(wrong.value)
    assert "***@p" in said
    assert "sec" not in said.replace("section", "")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:9443", "127.8.9.10", "[::1]:80"])
def test_loopback_needs_no_encryption(host: str) -> None:
    config = parse(f'endpoints.okx = {{ws_public = "ws://{host}/ws/v5/public", rest = "http://{host}/"}}\n{RECORD}')
    assert config.endpoints["okx"]["ws_public"] == f"ws://{host}/ws/v5/public"
    assert config.endpoints["okx"]["rest"] == f"http://{host}"


def test_a_path_may_have_another_in_front_and_a_query_behind() -> None:
    url = "wss://mirror.example/binance/public/stream?timeUnit=MICROSECOND"
    config = parse(f'[endpoints.binance.perp]\nws_public = "{url}"\n{RECORD}')
    assert config.endpoints["binance.perp"]["ws_public"] == url


def test_overriding_an_endpoint_leaves_the_defaults_of_the_offers_alone() -> None:
    config = parse(f'[endpoints.okx]\nrest = "https://mirror"\n{RECORD}')
    assert config.endpoints["okx"]["rest"] == "https://mirror"
    assert OFFERS["okx"].endpoints["okx"]["rest"] == "https://www.okx.com"


def test_symbols_may_repeat_where_exchange_or_channel_differ_and_patterns_may_overlap() -> None:
    text = (
        RECORD.replace('"trades", ', "")
        + RECORD.replace(', "book"', "")
        + OKX_RECORD
        + RECORD.replace('["BTC-USDT"]', '["*-USDT", "!BTC-USDT"]')
    )
    assert len(parse(text).record) == 4


def test_a_variable_is_filled_in_wherever_a_string_stands() -> None:
    config = parse(
        RECORD.replace("BTC-", "${COIN}-") + '[collector]\ndata_dir = "${HOME}/data/${HOME}"\n',
        COIN="ETH",
        HOME="/root",
    )
    assert config.record[0].symbols == ("ETH-USDT",)
    assert config.collector.data_dir == Path("/root/data/root")


def test_a_variable_is_filled_in_once_and_other_dollars_stay() -> None:
    config = parse(f'[collector]\ndata_dir = "$$/$X/${{X}}$"\n{RECORD}', X="${Y}")
    assert config.collector.data_dir == Path("$$/$X/${Y}$")


def test_a_value_from_a_variable_is_shown_with_what_the_file_says() -> None:
    assert problems(f'[collector]\nlog = "${{LOG}}"\n{RECORD}', LOG="jsn\u2028") == [
        '2: collector.log is "jsn\\u2028" (from "${LOG}"); did you mean "json"? (auto, console, json)'
    ]


def test_a_file_is_named_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.toml").write_text(RECORD, encoding="utf-8")
    assert load_config(Path("config.toml"), OFFERS, {}).source == "config.toml"


def test_a_missing_file_is_one_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(tmp_path / "config.toml", OFFERS, {})
    assert raised.value.problems == (f"{tmp_path}/config.toml: no such file; --config names another",)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(tmp_path, OFFERS, {})
    assert raised.value.problems == (f"{tmp_path}: cannot be read: Is a directory",)


def test_a_file_that_is_not_utf8_is_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"# one\n# caf\xe9\n")
    with pytest.raises(ConfigError) as raised:
        load_config(path, OFFERS, {})
    assert raised.value.problems == (f"{path}:2: not UTF-8: byte 0xe9",)


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbf" + f"{RECORD}x = 1".replace("\n", "\r\n").encode())
    with pytest.raises(ConfigError) as raised:
        load_config(path, OFFERS, {})
    assert raised.value.problems == (f"{path}:7: record[1].x is not a key; allowed: {RECORD_KEYS}",)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("250ms", 0.25), ("30s", 30.0), ("5m", 300.0), ("1h", 3600.0), ("3d", 259200.0), ("1.5 h", 5400.0), ("0s", 0.0)],
)
def test_durations_are_seconds(written: str, seconds: float) -> None:
    assert parse_duration(written) == seconds


@pytest.mark.parametrize("written", ["", "5", "s", "-1s", "1e3s", "1h30m", "5 min utes", "1 week", "٣s", "1,5s", " 1s"])
def test_what_is_no_duration_is_refused_with_examples(written: str) -> None:
    with pytest.raises(ValueError, match=r'"250ms", "30s", "5m", "1h", "3d"'):
        parse_duration(written)


@pytest.mark.parametrize(
    ("written", "size"),
    [("512 MiB", 2**29), ("1 GiB", 2**30), ("2 GB", 2 * 10**9), ("100 kB", 10**5), ("1.5KiB", 1536), ("7 B", 7)],
)
def test_sizes_are_bytes(written: str, size: int) -> None:
    assert parse_size(written) == size


@pytest.mark.parametrize("written", ["", "512", "MiB", "-1 GiB", "1 GiB/s", "1e3 B", "1 mb", "1 G", "1  GB"])
def test_what_is_no_size_is_refused_with_examples(written: str) -> None:
    with pytest.raises(ValueError, match=r'"512 MiB", "1 GiB", "2 GB", "100 kB"'):
        parse_size(written)


@given(st.integers(0, 36500), st.sampled_from("smhd"))
def test_a_written_duration_comes_back(number: int, unit: str) -> None:
    assert parse_duration(f"{number}{unit}") == number * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]


@given(st.integers(0, 2**23 - 1), st.sampled_from(["", "K", "M", "G", "T"]))
def test_a_written_size_comes_back(number: int, prefix: str) -> None:
    unit = f"{prefix}iB" if prefix else "B"
    assert parse_size(f"{number} {unit}") == number * 1024 ** ["", "K", "M", "G", "T"].index(prefix)


# A busy machine is no finding.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def parse_or_refuse(text: str) -> None:
    said: tuple[str, ...] = ("config.toml:1: fine",)
    try:
        parse(text, HOME="/root")
    except ConfigError as error:
        said = error.problems
    assert said
    assert all(re.match(r"config\.toml:[0-9]+: .", problem) and problem.isprintable() for problem in said)


@PATIENT
@given(st.text())
def test_no_text_raises_anything_but_a_config_error(text: str) -> None:
    parse_or_refuse(text)


KEYS = st.sampled_from(
    [
        *(
            "collector",
            "http",
            "store",
            "net",
            "limits",
            "record",
            "endpoints",
            "nats",
            "binance",
            "spot",
            "okx",
            "rest",
        ),
        *("deribit", "ws", "exchange", "market", "symbols", "channels", "redundancy", "share", "listen", "data_dir"),
        *("segment", "keep_journal", "min_free", "proxy", "insecure", "x"),
    ]
)
TEXTS = st.sampled_from(
    ["", "okx", "spot", "book", "trade", "BTC-USDT", "*-*", "!", "1s", "1 GiB", "${HOME}", "${", "ws://[", "http://a:b"]
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(), inner, max_size=3),
    max_leaves=10,
)


def write(value: Any) -> str:
    """Spell any value as TOML: strings with escapes, arrays over several lines."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return '"' + "".join(f"\\U{ord(character):08x}" for character in value) + '"'
        case list():
            return "[" + "".join(f" # [\n{write(each)}," for each in value) + "\n]"
        case dict():
            return "{" + ", ".join(f"{write(key)} = {write(each)}" for key, each in value.items()) + "}"
        case None:
            return "1979-05-27 07:32:00Z"
        case _:
            return str(value)


@PATIENT
@given(st.dictionaries(KEYS, VALUES | st.dictionaries(KEYS, VALUES)))
def test_no_values_raise_anything_but_a_config_error(values: dict[str, Any]) -> None:
    text = "\n".join(f"{key} = {write(value)}" for key, value in values.items())
    assume(_is_toml(text))
    parse_or_refuse(f"{text}\n")


PLACES = (
    "endpoints.okx.ws_public = {}",
    "endpoints.okx.rest = {}",
    "net.proxy = {}",
    "http.listen = {}",
    "collector.data_dir = {}",
    "store.keep_journal = {}",
    "store.min_free = {}",
    "record = [{{symbols = [{}]}}]",
)
PIECES = st.sampled_from(
    [
        *("ws://", "http://", "socks5://", "localhost", "127.0.0.1", "[", "::1", "]", "@", ":", "/", "?", "#", "%"),
        *("/ws/v5/public", "$", "${", "}", "1", ".", "-", "!", "*", " ", "\t", "s", "GiB", "USDT", "\u00b9", "\u2100"),
    ]
)


@PATIENT
@given(st.text() | st.lists(PIECES).map("".join), st.sampled_from(PLACES))
def test_no_string_raises_anything_but_a_config_error(value: str, where: str) -> None:
    parse_or_refuse(where.format(write(value)))


def test_lines_are_found_in_every_form_toml_has() -> None:
    text = '''\
# [not.a.table]
"a b".'c' = 1
d = """
e = 2 \\""" # "
""""
f = \'\'\'
]\'\'\'\'
g = [ # [
  1, [2,

  "x # ]"], { h = 3, i.j = [

  4] },
]
[k . "l"]
m = 1979-05-27 07:32:00
[[n]]
[[n.o]]
p = 1
[[n.o]]
[n.o.q]
r = +inf
[[n]]
o = [{}]
'''
    assert find_lines(text) == {
        ("a b",): 2,
        ("a b", "c"): 2,
        ("d",): 3,
        ("f",): 6,
        ("g",): 8,
        ("g", 0): 9,
        ("g", 1): 9,
        ("g", 1, 0): 9,
        ("g", 1, 1): 11,
        ("g", 2): 11,
        ("g", 2, "h"): 11,
        ("g", 2, "i"): 11,
        ("g", 2, "i", "j"): 11,
        ("g", 2, "i", "j", 0): 13,
        ("k",): 15,
        ("k", "l"): 15,
        ("k", "l", "m"): 16,
        ("n",): 17,
        ("n", 0): 17,
        ("n", 0, "o"): 18,
        ("n", 0, "o", 0): 18,
        ("n", 0, "o", 0, "p"): 19,
        ("n", 0, "o", 1): 20,
        ("n", 0, "o", 1, "q"): 21,
        ("n", 0, "o", 1, "q", "r"): 22,
        ("n", 1): 23,
        ("n", 1, "o"): 24,
        ("n", 1, "o", 0): 24,
    }
    assert set(find_lines(text)) == set(places(tomllib.loads(text)))


FRAGMENTS = (
    *("[a]", "[[a]]", "[a.b]", "[[a.b]]", "[c]", "[[c]]", "[ 'c' . \"d\" ]", "a.b = 1", "a = 2", "b.c = 3"),
    *("d = [\n1,\n[2], # ]\n'n',\n{ m = '{' },\n]", "e = { f = 1, g.h = [1, 2] }", "i = '''\n[a]\n'''''"),
    *('j = """\n\\"""\nx = [\n""""', "# [x", '"k = 4" = "l # ]"', "", "o = 07:32:00", "p = [1, [], {}]", '"\\"" = 1'),
)


@settings(PATIENT, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12), st.sampled_from(["\n", "\r\n"]))
def test_every_value_of_a_valid_text_has_a_line(fragments: list[str], end: str) -> None:
    text = "\n".join(fragments).replace("\n", end)
    assume(_is_toml(text))
    lines = find_lines(text)
    assert set(lines) == set(places(tomllib.loads(text)))
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Name every place in tables and arrays."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*place, key)
        yield from places(item, (*place, key))


def _is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except ValueError:
        return False
    return True
