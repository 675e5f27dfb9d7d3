"""README's "One request's path" names the files through which an append passes, all of them and no others."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import sessiond
import sessiond_server
from sessiond_server import settings
from sessiond_server.app.service import running

ROOT = Path(__file__).parents[2]
PACKAGE = Path(sessiond_server.__file__).parent
BESIDE = {
    *(
        "app/background.py",
        "app/cache.py",
        "app/credentials.py",
        "app/health.py",
        "metrics/sources.py",
        "reloading.py",
        "rpc/health.py",
        "rpc/moves.py",
        "store_watch.py",
        "sweeper.py",
        "blobs/reaper.py",
    ),
    *("events/feeds.py", "events/outage.py", "events/reads.py", "events/watched.py", "postgres/bus.py"),
    *("search/indexer.py", "search/query.py", "search/text.py", "search/texts.py"),
    *(
        "postgres/search.py",
        "postgres/search_index.py",
        "postgres/feed_holder.py",
        "postgres/question.py",
        "postgres/replication.py",
    ),
    *("postgres/read.py", "postgres/sweep.py", "postgres/statements.py", "postgres/log.py", "redis/link.py"),
}
"""Files whose tasks run beside every request, and may be seen while one is."""


@contextmanager
def files_entered() -> Iterator[set[str]]:
    """Those of the service whose functions were called meanwhile, by path below its package."""
    seen: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            seen.add(frame.f_code.co_filename)

    found: set[str] = set()
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(before)
        found |= {str(Path(name).relative_to(PACKAGE)) for name in seen if name.startswith(f"{PACKAGE}/")}


async def test_the_readme_names_every_file_of_an_append(postgres_dsn: str, redis_url: str) -> None:
    section = (ROOT / "README.md").read_text("utf-8").split("## One request's path\n")[1].split("\n## ")[0]
    named = set(re.findall(r"\(server/sessiond_server/([\w/]+\.py)\)", section))
    loaded = settings.load({"postgres_dsn": postgres_dsn, "redis_url": redis_url, "listen": "127.0.0.1:0"}, {})
    entered: set[str] = set()
    async with (
        running(loaded) as served,
        running(loaded) as other,
        sessiond.Client(str(served.listening)) as client,
        sessiond.Client(str(other.listening)) as client_of_other,
    ):
        session = await client.create_session(active=True)
        await client.append_messages(session.session_id, [sessiond.user("connections and statements are there")])
        for index in range(50):
            # Then what the first server knows of the session is old, and it takes both paths.
            await client_of_other.append_messages(session.session_id, [sessiond.user("from elsewhere")])
            with files_entered() as during:
                await client.append_messages(session.session_id, [sessiond.user(f"{index}")])
            # An append's hint may come back to this process during the next one.
            entered |= during
            if index > 1 and named <= entered:
                break
    assert sorted(named - entered) == [], "README.md names files that an append does not need"
    missing = sorted(entered - named - BESIDE)
    assert not missing, f"README.md, One request's path, lacks {missing}"
