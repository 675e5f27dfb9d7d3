"""What kind of file something is, by media type and name."""

import pytest

from sessiond.v1.attachment_pb2 import AttachmentType
from sessiond_server.domain.attachments.media_types import CODE, DATA, DOCUMENT, IMAGE, OTHER, derived


@pytest.mark.parametrize(
    ("media_type", "name", "kind"),
    [
        ("image/png", "", IMAGE),
        ("IMAGE/X-Whatever", "a.txt", IMAGE),
        ("image/svg+xml", "", IMAGE),
        ("application/pdf", "scan.png", DOCUMENT),
        ("text/html; charset=utf-8", "", DOCUMENT),
        ("text/plain", "", DOCUMENT),
        ("text/plain", "main.rs", CODE),
        ("text/plain", "data.csv", DATA),
        ("text/x-python", "", CODE),
        ("text/anything-else", "", DOCUMENT),
        ("application/json", "x.py", DATA),
        ("application/ld+json", "", DATA),
        ("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", "", DATA),
        ("application/octet-stream", "report.DOCX", DOCUMENT),
        ("application/octet-stream", "", OTHER),
        ("application/zip", "a.zip", OTHER),
        ("audio/mpeg", "a.mp3", OTHER),
        ("", "photo.JPEG", IMAGE),
        ("", "archive.tar.gz", OTHER),
        ("", "py", OTHER),
        ("", ".py", CODE),
        ("", "", OTHER),
        ("not a media type", "x.md", DOCUMENT),
    ],
)
def test_derived(media_type: str, name: str, kind: AttachmentType.ValueType) -> None:
    assert derived(media_type, name) == kind
