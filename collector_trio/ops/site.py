"""What is answered at each address of the HTTP port. Everything is read-only, and made of one look."""

import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from collector_trio.ops.lag import LagHistogram
from collector_trio.ops.metrics import Metrics
from collector_trio.ops.status import Status

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>collector_trio</title>
<style>body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2em; }}</style></head>
<body><h1>collector_trio {version}</h1>
<p>{words}</p>
{reasons}{alerts}<ul>
<li><a href="/status.json">/status.json</a>: what it is doing now (also: <code>python -m collector_trio status</code>)
<li><a href="/metrics">/metrics</a>: for Prometheus
<li><a href="/healthz">/healthz</a>: 200 while it makes progress
<li><a href="/readyz">/readyz</a>: 200 when every planned stream is live
</ul></body></html>
"""


def make_site(look: Callable[[], Status], lags: Mapping[str, LagHistogram]) -> Starlette:
    """Make the application from what looks at the recorder."""
    metrics = Metrics(look, lags)

    async def page(request: Request) -> Response:
        status = look()
        live = sum(stream.state == "live" for stream in status.streams)
        words = f"{'Ready' if status.ready else 'Not ready'}: {live} of {len(status.streams)} streams live."
        html = _PAGE.format(
            version=status.version, words=words, reasons=_items(status.not_ready), alerts=_alerts(status)
        )
        return HTMLResponse(html, headers=_NOT_KEPT)

    async def status_json(request: Request) -> Response:
        return _json(look().document())

    async def healthz(request: Request) -> Response:
        status = look()
        return _json({"healthy": status.healthy, "reasons": status.not_healthy}, 200 if status.healthy else 503)

    async def readyz(request: Request) -> Response:
        status = look()
        return _json({"ready": status.ready, "reasons": status.not_ready}, 200 if status.ready else 503)

    async def metrics_text(request: Request) -> Response:
        text, content_type = metrics.render(request.headers.get("accept", ""))
        return Response(text, headers=_NOT_KEPT | {"content-type": content_type})

    return Starlette(
        routes=[
            Route("/", page),
            Route("/status.json", status_json),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics_text),
        ]
    )


def _alerts(status: Status) -> str:
    """List the active alerts."""
    active = [f"{alert.name}, since {alert.since}: {alert.detail}" for alert in status.alerts if alert.active]
    return f"<h2>Alerts</h2>\n{_items(active)}" if active else "<p>No alerts.</p>\n"


def _items(lines: Sequence[str]) -> str:
    """List `lines`, where there are any; they may quote a peer."""
    items = "".join(f"<li>{escape(line)}\n" for line in lines)
    return f"<ul>\n{items}</ul>\n" if items else ""


_NOT_KEPT = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def _json(value: Mapping[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(value), status, headers=_NOT_KEPT, media_type="application/json")
