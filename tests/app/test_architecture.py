"""Imports point one way, and other rules of the design that a reader of one file cannot see."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.support.rows import table

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "server" / "sessiond_server"
CLIENT = ROOT / "client" / "sessiond"
OURS = "sessiond_server"
MODULES = sorted(SERVER.rglob("*.py"))


def name(path: Path) -> str:
    """Dotted, below the package: `postgres.read`."""
    return ".".join(path.relative_to(SERVER).with_suffix("").parts).removesuffix(".__init__")


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere, but for annotations only."""
    tree = parsed(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for inner in ast.walk(node):
                inner._skipped = True  # type: ignore[attr-defined]
    for node in ast.walk(tree):
        if getattr(node, "_skipped", False):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def ours(module: str) -> str | None:
    return module.removeprefix(OURS + ".") if within(module, OURS) and module != OURS else None


LIBRARIES = {
    "asyncpg": ("postgres",),
    "cryptography": ("encryption.aead",),
    "grpc": ("rpc",),
    "grpc_health": ("rpc",),
    "grpc_reflection": ("rpc",),
    "grpc_status": ("rpc",),
    "h11": ("http.server",),
    "httpx2": ("summaries.chat",),
    "obstore": ("blobs.objects",),
    "openai": ("summaries.chat",),
    "opentelemetry": ("tracing",),
    "prometheus_client": ("metrics",),
    "redis": ("redis",),
    "regex": ("search.text",),
    "uvicorn": ("http.server",),
}
"""Which places may import a library of the outside world."""

ROOMS = {
    "auth": ("errors",),
    "blobs": ("domain", "store.attachments"),
    "domain": (),
    "embedded": (),
    "encryption": ("domain", "blobs", "store"),
    "errors": (),
    "events": ("domain", "slots", "store"),
    "exports": ("domain", "store", "blobs"),
    "http": ("auth", "domain.shares", "domain.structs", "rpc.loopback"),
    "memory": ("domain", "store", "events", "blobs", "search", "summaries"),
    "measures": (),
    "metrics": ("events", "rpc", "search", "store", "summaries"),
    "postgres": ("domain", "encryption", "store", "events", "blobs", "search", "summaries"),
    "redis": ("domain", "store", "events"),
    "reloading": (),
    "rpc": ("auth", "domain", "slots", "store", "events", "blobs", "exports", "search", "summaries"),
    "search": ("domain",),
    "settings": (),
    "slots": ("domain",),
    "sources": ("domain",),
    "spans": (),
    "store": ("domain",),
    "summaries": ("domain", "search.text", "store"),
    "counting": ("errors", "measures", "store.usage"),
    "erasing": ("domain", "store"),
    "retiring": ("domain", "store"),
    "sweeper": ("store",),
    "tasks": (),
    "store_watch": ("store",),
    "telemetry": ("embedded",),
    "otlp": (),
    "tracing": ("otlp",),
}
"""Which other rooms a room may import. Every room may import what is in EVERYWHERE; `app`, `cli` and `__main__`
compose, and may import all."""

EVERYWHERE = ("errors", "failpoints", "measures", "spans", "tasks")

COMPOSERS = ("app", "cli", "__main__")


def test_a_module_imports_what_its_room_allows() -> None:
    with table() as rows:
        for path in MODULES:
            with rows.row(name(path)):
                _check_imports(path)


def _check_imports(path: Path) -> None:
    here = name(path)
    for module in imports(path):
        library = module.split(".")[0]
        if library in LIBRARIES:
            assert within(here, *LIBRARIES[library]), module
        inner = ours(module)
        if inner is None or within(here, *COMPOSERS) or within(inner, *EVERYWHERE):
            continue
        room = here.split(".")[0]
        assert within(inner, room, *ROOMS.get(room, ())), module


def test_imports_between_rooms_have_no_cycle() -> None:
    """No room is reached from itself through others."""
    arrows = {room: {place.split(".")[0] for place in places} for room, places in ROOMS.items()}
    for room in ROOMS:
        reached: set[str] = set()
        ahead = set(arrows[room])
        while ahead:
            reached |= ahead
            ahead = set().union(*(arrows.get(there, set()) for there in ahead)) - reached
        assert room not in reached, room


def test_only_settings_reads_the_environment() -> None:
    with table() as rows:
        for path in MODULES:
            with rows.row(str(path.relative_to(ROOT))):
                for node in ast.walk(parsed(path)):
                    if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb"):
                        assert within(name(path), "settings")


def test_only_the_store_speaks_sql() -> None:
    """And what reads the files of others."""
    with table() as rows:
        for path in (path for path in MODULES if not within(name(path), "postgres", "embedded", "sources")):
            with rows.row(str(path.relative_to(ROOT))):
                for node in ast.walk(parsed(path)):
                    if isinstance(node, ast.Constant) and isinstance(node.value, str):
                        words = node.value.lower().split()
                        assert not (words[:1] in (["select"], ["insert"], ["delete"]) and {"from", "into"} & set(words))


def test_every_created_task_is_kept() -> None:
    """A task without a reference may be garbage-collected, and its error is lost with it."""
    with table() as rows:
        for path in MODULES + sorted(CLIENT.glob("*.py")):
            with rows.row(str(path.relative_to(ROOT))):
                for node in ast.walk(parsed(path)):
                    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                        called = node.value.func
                        if isinstance(called, ast.Attribute) and called.attr in ("create_task", "ensure_future"):
                            # A TaskGroup holds its own.
                            assert isinstance(called.value, ast.Name), f"line {node.lineno}"
                            assert called.value.id in ("tasks", "group"), f"line {node.lineno}"


AWAITED = {
    "app.background.background_tasks": "a TaskGroup ends with the first that fails",
    "app.door._stop": "a TaskGroup waits for both",
    "app.workers.supervisor.Supervisor.keep": "a TaskGroup ends with the first that fails",
    "app.workers.supervisor.Supervisor.start": "a TaskGroup waits for all",
    "blobs.downloads._ahead": "awaited for the next part, or looked at in the end",
    "blobs.uploads._Writing._store_waiting": "awaited before the next segment",
    "cli.sources.import_all": "a TaskGroup ends with the first that fails",
    "embedded.servers.EmbeddedServers.keep_running": "a TaskGroup ends with the first that fails",
    "events.feeds.Feeds.schedule_read": "its callback ends the streams",
    "events.reads.Shared.start": "awaited by who asked for it",
    "http.health.Health.serves": "awaited by all who ask at the time",
    "http.exchange.until_left": "awaited in the end",
    "rpc.loopback.Loopback.upload": "awaited in the end",
    "postgres.transactions.Transactions._begin_ending": "awaited by the call",
    "postgres.transactions.Transactions._roll_back": "awaited at once",
    "postgres.blockers.Blockers.look": "catches and logs what goes wrong",
    "rpc.pipe.pipe.Pipe._begin": "catches everything and answers; awaited in the end",
    "rpc.pipe.pipe.Pipe.run": "looked at with each turn, and awaited in the end",
    "rpc.server.RpcServer._close": "awaited at once",
    "rpc.server.RpcServer.stop": "awaited by all who stop it",
    "store.batcher.Batcher._begin": "its callback logs, settles its callers and lets another begin",
    "store.cached.batched_reads.BatchedReads._start_reads": "gives its errors to those who wait",
    "summaries.worker.Worker._work": "a TaskGroup waits for all, which catch and log",
    "encryption.keyring.Keyring._loaded": "every caller awaits it",
    "encryption.keyring.Keyring.__aenter__": "watched: see `run_in_background`",
    "summaries.worker.Worker.run": "a TaskGroup ends with the first that fails",
}
"""Where a task is created other than by `run_in_background`, and who gets its error."""


def _makers(node: ast.AST, place: str) -> Iterator[str]:
    """The functions in which tasks are created."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{place}.{child.name}"
            # A function within a function belongs to it.
            yield from _makers(child, inner if isinstance(node, ast.Module | ast.ClassDef) else place)
            continue
        if isinstance(child, ast.Attribute) and child.attr in ("create_task", "ensure_future"):
            yield place
        yield from _makers(child, place)


def test_every_tasks_error_is_observed() -> None:
    found: set[str] = set()
    for path in MODULES:
        if name(path) != "tasks":
            found.update(_makers(parsed(path), name(path)))
    assert found == AWAITED.keys()


def test_client_package_does_not_import_the_server() -> None:
    for path in CLIENT.rglob("*.py"):
        assert not any(within(module, OURS) for module in imports(path)), path


def test_modules_stay_small() -> None:
    sizes = sorted(len(path.read_text("utf-8").splitlines()) for path in MODULES)
    assert sizes[len(sizes) // 2] <= 150
    assert sum(size > 450 for size in sizes) <= 3


def test_the_rules_here_catch_what_they_forbid(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from typing import TYPE_CHECKING\nimport asyncpg.pool\nif TYPE_CHECKING:\n    import grpc\n")
    found = list(imports(wrong))
    assert "asyncpg.pool" in found
    assert "grpc" not in found
