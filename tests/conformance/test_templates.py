"""Templates over every store: versions, retries, limits and pages."""

import asyncio

import pytest

from sessiond.v1.session_pb2 import Session
from sessiond.v1.template_service_pb2 import Template
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.templates import rules
from sessiond_server.domain.templates.rules import TemplateRequest
from sessiond_server.errors import (
    RequestIdReused,
    TemplateLimitReached,
    TemplateNotFound,
    TemplateVersionMismatch,
)
from tests.support.store_backend import Backend

EVERYONE = Scope("tenant")
NO_ID = TemplateRequest("!1", b"")


def asked(request_id: str, fingerprint: bytes = b"same") -> TemplateRequest:
    return TemplateRequest(request_id, fingerprint)


async def put(
    backend: Backend, name: str, text: str = "x", expected: int | None = None, request: TemplateRequest = NO_ID
) -> Template:
    given = Template(template_id=name, description="d", session=Session(name=text), version=99)
    return Template.FromString(await backend.templates.put_template(EVERYONE, given, expected, request))


async def listed(backend: Backend, limit: int = 100) -> list[str]:
    found: list[str] = []
    after = ""
    while True:
        page = await backend.templates.list_templates(EVERYONE, after=after, limit=limit)
        found += [Template.FromString(body).template_id for body in page.templates]
        if not page.next_id:
            return found
        after = page.next_id


async def test_a_put_template_is_got_and_has_versions(backend: Backend) -> None:
    first = await put(backend, "t", "one", 0)
    assert (first.version, first.session.name, first.description) == (1, "one", "d")
    assert first.create_time == first.update_time
    second = await put(backend, "t", "two", 1)
    assert (second.version, second.create_time) == (2, first.create_time)
    assert second.update_time.ToNanoseconds() > second.create_time.ToNanoseconds()
    stored = await backend.templates.get_template(EVERYONE, "t")
    assert stored is not None
    assert Template.FromString(stored) == second
    assert await backend.templates.get_template(Scope("other"), "t") is None
    for expected in (0, 1, 3):
        with pytest.raises(TemplateVersionMismatch) as mismatch:
            await put(backend, "t", expected=expected)
        assert mismatch.value.metadata["current_version"] == "2"
    with pytest.raises(TemplateVersionMismatch):
        await backend.templates.delete_template(EVERYONE, "t", 1, NO_ID)
    assert await backend.templates.delete_template(EVERYONE, "t", 2, NO_ID) == 2
    assert await backend.templates.get_template(EVERYONE, "t") is None
    with pytest.raises(TemplateNotFound):
        await backend.templates.delete_template(EVERYONE, "t", 0, NO_ID)
    with pytest.raises(TemplateVersionMismatch):
        await put(backend, "t", expected=2)
    assert (await put(backend, "t", "three", 0)).version == 3


async def test_a_retry_gets_the_first_outcome(backend: Backend) -> None:
    first = await put(backend, "t", request=asked("r1"))
    assert await put(backend, "t", request=asked("r1")) == first
    with pytest.raises(RequestIdReused):
        await put(backend, "t", "other", request=asked("r1", b"other"))
    assert (await put(backend, "t", request=NO_ID)).version == 2
    assert await backend.templates.delete_template(EVERYONE, "t", 0, asked("r2")) == 2
    assert await backend.templates.delete_template(EVERYONE, "t", 0, asked("r2")) == 2
    with pytest.raises(TemplateNotFound):
        await backend.templates.delete_template(EVERYONE, "t", 0, asked("r3"))


async def test_templates_are_bounded_and_listed_in_pages(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "TEMPLATES", 5)
    names = ["B", "a", "b", "é", "\U0001f600"]
    await asyncio.gather(*(put(backend, name) for name in reversed(names)))
    with pytest.raises(TemplateLimitReached):
        await put(backend, "c")
    await put(backend, "a", "again")
    for limit in (1, 2, 5):
        assert await listed(backend, limit) == names
    await backend.templates.delete_template(EVERYONE, "a", 0, NO_ID)
    await put(backend, "c")
    assert await listed(backend) == ["B", "b", "c", "é", "\U0001f600"]


async def test_what_is_left_of_deleted_templates_goes_after_a_while(backend: Backend) -> None:
    for name in ("t", "u"):
        await put(backend, name)
        await backend.templates.delete_template(EVERYONE, name, 0, NO_ID)
    assert await backend.templates.purge_templates(10) == 0
    await backend.advance(31 * 86_400)
    assert [await backend.templates.purge_templates(1) for _ in range(3)] == [1, 1, 0]
    assert (await put(backend, "t", expected=0)).version == 1
