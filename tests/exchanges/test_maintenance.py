"""What exchanges' REST says of their maintenance."""

import json

import pytest

from collector_trio.errors import BadAnswer
from collector_trio.exchanges import EXCHANGES, okx

NOW_MS = 1_795_439_000_000
# As https://www.okx.com/docs-v5/en/#status-get-status shows it.
ROW = {
    "begin": str(NOW_MS - 60_000), "end": str(NOW_MS + 60_000), "href": "", "preOpenBegin": "", "scheDesc": "",
    "serviceType": "0", "state": "ongoing", "system": "unified", "maintType": "1", "env": "1", "title": "Upgrade",
}  # fmt: skip


def answer(*rows: dict[str, object]) -> bytes:
    return json.dumps({"code": "0", "msg": "", "data": rows}).encode()


@pytest.mark.parametrize(
    ("changed", "notice"),
    [
        ({}, "Upgrade"),
        ({"title": ""}, "maintenance"),
        ({"state": "pre_open"}, "Upgrade"),
        ({"state": "scheduled"}, "Upgrade"),
        ({"state": "scheduled", "begin": str(NOW_MS + 1)}, ""),
        ({"state": "scheduled", "end": str(NOW_MS - 1)}, ""),
        ({"state": "scheduled", "end": ""}, ""),
        ({"state": "completed"}, ""),
        ({"state": "canceled"}, ""),
        ({"serviceType": "99"}, "Upgrade"),
        ({"serviceType": "8"}, ""),  # trading accounts
        ({"serviceType": "7"}, ""),  # bots
    ],
)
def test_okx_tells_what_is_being_maintained_now_that_market_data_may_suffer_from(
    changed: dict[str, object], notice: str
) -> None:
    assert okx.parse_maintenance(answer({**ROW, **changed}), NOW_MS) == notice


def test_several_are_told_together_and_none_is_nothing() -> None:
    rows = [ROW, {**ROW, "serviceType": "1"}, {**ROW, "title": "Engine"}]
    assert okx.parse_maintenance(answer(*rows), NOW_MS) == "Upgrade; Engine"
    assert okx.parse_maintenance(answer(), NOW_MS) == ""


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"\xff", b'{"code":"50026","msg":"System error","data":[]}', b'{"data":[]}']
)
def test_what_is_no_answer_is_a_bad_one(body: bytes) -> None:
    with pytest.raises(BadAnswer, match="status: "):
        okx.parse_maintenance(body, NOW_MS)


def test_binance_is_not_asked() -> None:
    assert EXCHANGES["binance"].maintenance_request() is None
