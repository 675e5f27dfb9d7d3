"""The files of the console: what is served, with which headers, and what they may not hold."""

import re
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path

import pytest

from sessiond_server import settings
from sessiond_server.http.assets import FOLDER, POLICY, assets
from tests.support.web import Web, opened_web

SOURCES = files("sessiond_server.http").joinpath("console")
SMALL = 128 * 1024


@pytest.fixture
async def anyone() -> AsyncIterator[Web]:
    """A server with keys, and a caller who has none."""
    async with opened_web(assets=assets()) as web:
        del web.client.headers["authorization"]
        yield web


async def test_every_file_is_served_without_a_key_under_the_policy(anyone: Web) -> None:
    found = assets()
    assert {each.name for each in SOURCES.iterdir()} == {path.removeprefix(FOLDER) for path in found if path != "/"}
    for path, asset in found.items():
        got = await anyone.get(path)
        assert (got.status_code, got.content) == (200, asset.body), path
        assert got.headers["content-security-policy"] == POLICY
        assert got.headers["x-content-type-options"] == "nosniff"
        assert got.headers["referrer-policy"] == "no-referrer"
        assert got.headers["content-type"] == asset.media_type
        assert "set-cookie" not in got.headers
        known = await anyone.get(path, if_none_match=f'"other", W/{got.headers["etag"]}')
        assert (known.status_code, known.content) == (304, b""), path
        head = await anyone.client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(asset.body))
    assert (await anyone.get("/")).content == found[f"{FOLDER}index.html"].body


async def test_nothing_else_is_served(anyone: Web) -> None:
    for path in (
        "/console",
        "/console/",
        "/console/..%2fdoor.py",
        "/console/nothing.js",
        "/index.html",
        "//console/main.js",
    ):
        got = await anyone.get(path)
        assert (got.status_code, got.json()["reason"]) == (404, "NO_SUCH_PATH"), path
    refused = await anyone.post("/", {})
    assert (refused.status_code, refused.json()["reason"]) == (405, "METHOD_NOT_ALLOWED")
    assert (await anyone.get("/v1/sessions")).status_code == 401


async def test_console_that_is_off_is_not_there(web: Web) -> None:
    for path in ("/", "/console/main.js"):
        assert (await web.get(path)).status_code == 404


def test_files_name_no_other_host_and_hold_nothing_that_the_policy_forbids() -> None:
    total = 0
    for each in SOURCES.iterdir():
        text = each.read_text()
        total += len(text.encode())
        names = set(re.findall(r"https?://[\w.-]+", text))
        assert names <= {"http://www.w3.org"}, each.name  # SVG's namespace, which is not fetched
        for forbidden in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            "DOMParser",
        ):
            assert forbidden not in text, (each.name, forbidden)
        for storage in ("localStorage", "sessionStorage", "indexedDB", "document.cookie", "access_token"):
            assert storage not in text, (each.name, storage)
        if each.name.endswith(".html"):
            assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?![^>]*\ssrc=)", text), each.name
    assert total < SMALL


def test_modules_import_only_files_that_are_there() -> None:
    there = {each.name for each in SOURCES.iterdir()}
    for each in SOURCES.iterdir():
        text = each.read_text()
        wanted = re.findall(r'from "\./([\w.]+)"', text) if each.name.endswith(".js") else []
        wanted += re.findall(r'(?:src|href)="/console/([\w.]+)"', text) if each.name.endswith(".html") else []
        assert set(wanted) <= there, each.name


def test_console_is_on_where_only_this_machine_can_connect(tmp_path: Path) -> None:
    def served(**flags: str) -> bool:
        return settings.load({"store": "memory", **flags}, {}).serves_console

    assert served(http_listen="127.0.0.1:0")
    assert served(http_listen="127.0.0.1:0", keys_file=str(tmp_path / "keys.toml"))
    assert not served(http_listen="0.0.0.0:0", keys_file=str(tmp_path / "keys.toml"))
    assert not served(http_listen="127.0.0.1:0", console="false")
    assert served(http_listen="0.0.0.0:0", keys_file=str(tmp_path / "keys.toml"), console="true")
    assert not served()
