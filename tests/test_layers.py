"""The architecture, held: imports point downwards only, and there is one door to the network."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import collector_trio

PACKAGE = Path(collector_trio.__file__).parent

# From the bottom up: a module may import from its own layer and from those before it. `sim` stands apart: it knows
# nothing of our decoding, so that it can contradict it.
LAYERS = [
    {"__init__", "errors"},
    {"instruments", "tables", "clock", "garbage", "threads"},
    {"config_values"},
    {"config_source", "config_alerts"},
    {"config"},
    {"plan"},
    {"exchanges"},
    {"continuity"},
    {"journal"},
    {"net"},
    {"streams"},
    {"followers"},
    {"ops"},
    {"app"},
    {"commands"},
    {"__main__"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
# What design.md's table says a folder must not know, beyond what the order says.
FORBIDDEN = {
    "exchanges": {"trio", "httpx", "time", "structlog", "logging", "socket", "random"},
    "continuity": {"trio", "httpx", "time", "structlog", "logging", "socket", "random", "pyarrow", "journal", "net"},
    "journal": {"exchanges", "net", "httpx", "socket", "pyarrow"},
    "net": {"exchanges", "journal", "pyarrow"},
    "streams": {"pyarrow", "duckdb"},
    "followers": {"net"},
    "ops": {"exchanges", "pyarrow"},
    "config": {"exchanges", "trio"},
    "plan": {"exchanges", "trio"},
}
# Pure arithmetic in exchanges may not depend on any one exchange from above; only these know all of them.
ALL_EXCHANGES_KNOWN_BY = {"exchanges", "followers", "app", "commands"}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        yield relative.parts[0].removesuffix(".py"), path


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path}: relative imports hide which layer is meant"
            yield node.module


def own_layer(name: str) -> str | None:
    """Return the folder or top-level module of ours that an import is from."""
    parts = name.split(".")
    if parts[0] != "collector_trio":
        return None
    return parts[1] if len(parts) > 1 else "__init__"


def test_every_module_has_a_layer() -> None:
    assert {layer for layer, _ in modules()} <= RANK.keys() | {"sim"}


def test_imports_point_downwards_only() -> None:
    upward = []
    for layer, path in modules():
        if layer == "sim":
            continue
        for name in imports(path):
            target = own_layer(name)
            if target is None or (target == "sim" and layer == "commands"):
                continue
            if target == "sim" or RANK[target] > RANK[layer]:
                upward.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not upward


def test_the_simulator_uses_none_of_our_decoding() -> None:
    allowed = {"__init__", "errors", "sim"}
    found = [
        f"{path.name} imports {name}"
        for layer, path in modules()
        if layer == "sim"
        for name in imports(path)
        if (target := own_layer(name)) is not None and target not in allowed
    ]
    assert not found


@pytest.mark.parametrize("layer", sorted(FORBIDDEN))
def test_no_module_knows_what_its_layer_must_not(layer: str) -> None:
    found = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for found_layer, path in modules()
        if found_layer == layer
        for name in imports(path)
        if (own_layer(name) or name.split(".")[0]) in FORBIDDEN[layer]
    ]
    assert not found


def test_streams_know_no_one_exchange() -> None:
    found = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for layer, path in modules()
        if layer not in ALL_EXCHANGES_KNOWN_BY
        for name in imports(path)
        if name in ("collector_trio.exchanges", "collector_trio.exchanges.binance", "collector_trio.exchanges.okx")
    ]
    assert not found


DOORS = {
    "open_tcp_stream": {"net/dial.py"},
    "open_ssl_over_tcp_stream": set(),
    "open_websocket": set(),
    "open_websocket_url": set(),
    "connect_websocket": set(),
    "connect_websocket_url": set(),
    "wrap_client_stream": {"net/connect.py"},
    "AsyncClient": {"net/http.py"},
    "Client": set(),
    "create_connection": set(),
    "open_tcp_listeners": {"ops/http.py"},
    "serve_tcp": set(),
    "serve_listeners": set(),
}


@pytest.mark.parametrize("name", sorted(DOORS))
def test_there_is_one_door_to_the_network(name: str) -> None:
    users = set()
    for layer, path in modules():
        if layer == "sim":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            used = (isinstance(node, ast.Attribute) and node.attr == name) or (
                isinstance(node, ast.Name) and node.id == name
            )
            used = used or (isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names))
            if used:
                users.add(str(path.relative_to(PACKAGE)))
    assert users <= DOORS[name]


def test_only_net_the_census_the_notifier_and_the_simulator_import_socket() -> None:
    users = {
        str(path.relative_to(PACKAGE)) if layer == "ops" else layer
        for layer, path in modules()
        if any(name.split(".")[0] == "socket" for name in imports(path))
    }
    # The census opens none: it asks the kernel about those there are. The notifier's live as long as one datagram.
    assert users <= {"net", "sim", "ops/fds.py", "ops/notify.py"}


def test_the_recorder_never_imports_pyarrow() -> None:
    program = (
        "import sys, collector_trio.app; print(sorted({'pyarrow', 'duckdb', 'numpy', 'pandas'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_run_imports_no_pyarrow_before_it_has_stopped() -> None:
    program = (
        "import sys, trio, collector_trio.commands.run as run;"
        "trio.run = lambda *a: sys.exit(str('pyarrow' in sys.modules));"
        "from collector_trio.commands import main; main(['run', '--config', sys.argv[1]])"
    )
    config = PACKAGE.parent / "config.toml"
    done = subprocess.run([sys.executable, "-c", program, str(config)], capture_output=True, text=True)
    assert done.stderr.strip() == "False"
