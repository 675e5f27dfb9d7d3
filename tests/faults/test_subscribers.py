"""When a subscriber of the campaigns has everything: only then do its losses count."""

from pathlib import Path

import pytest

from sessiond.v1.event_pb2 import Event
from sessiond.v1.event_service_pb2 import EventBatch
from tests.faults.history import Recorder
from tests.faults.subscribers import Place, Plan, Raw

KEPT, LOST, LATER = (f"00000000-0000-7000-8000-00000000000{n}" for n in range(3))


@pytest.mark.parametrize("session_id", ["s", ""])
def test_one_who_has_an_event_that_was_lost_does_not_have_everything(tmp_path: Path, session_id: str) -> None:
    """It may be as far as the log, or further: it has yet to be told."""
    place = Place("one", session_id, library=False, replica=0)
    with Recorder(tmp_path / "one") as recorder:
        raw = Raw(Plan(str(tmp_path), [], 1.0, [place]), place, recorder, [])
        raw._events(EventBatch(events=[Event(session_id="s", seq=7, event_id=LOST)]))
        assert not raw.has({"s": (7, KEPT)})
        assert not raw.has({"s": (6, KEPT)})
        assert not raw.has({"s": (8, LATER)})
        raw._events(EventBatch(events=[Event(session_id="s", seq=8, event_id=LATER)]))
        assert raw.has({"s": (8, LATER)})
