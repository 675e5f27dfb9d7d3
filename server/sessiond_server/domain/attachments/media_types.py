"""Derives the AttachmentType from the media type and the file name that the uploader declared. Ignores the bytes."""

from collections.abc import Mapping
from typing import Final

from sessiond.v1.attachment_pb2 import AttachmentType

IMAGE: Final = AttachmentType.ATTACHMENT_TYPE_IMAGE
DOCUMENT: Final = AttachmentType.ATTACHMENT_TYPE_DOCUMENT
CODE: Final = AttachmentType.ATTACHMENT_TYPE_CODE
DATA: Final = AttachmentType.ATTACHMENT_TYPE_DATA
OTHER: Final = AttachmentType.ATTACHMENT_TYPE_OTHER


def _by_word(words: Mapping[AttachmentType.ValueType, str]) -> dict[str, AttachmentType.ValueType]:
    return {word: kind for kind, text in words.items() for word in text.split()}


_MEDIA_TYPES: Final = _by_word(
    {
        DOCUMENT: "application/pdf application/msword application/rtf text/rtf application/epub+zip text/plain"
        " text/markdown text/html application/xhtml+xml application/vnd.ms-powerpoint"
        " application/vnd.oasis.opendocument.text application/vnd.oasis.opendocument.presentation"
        " application/vnd.openxmlformats-officedocument.wordprocessingml.document"
        " application/vnd.openxmlformats-officedocument.presentationml.presentation",
        CODE: "application/javascript text/javascript application/typescript application/x-sh application/x-python"
        " application/x-httpd-php application/sql text/css text/x-python text/x-script.python text/x-c text/x-c++"
        " text/x-csrc text/x-c++src text/x-java text/x-java-source text/x-go text/x-rust text/x-ruby text/x-shellscript"
        " text/x-sh text/x-sql text/x-diff text/x-patch",
        DATA: "application/json application/x-ndjson application/jsonl text/csv text/tab-separated-values"
        " application/xml text/xml application/yaml application/x-yaml text/yaml application/toml"
        " application/vnd.ms-excel application/vnd.oasis.opendocument.spreadsheet application/vnd.apache.parquet"
        " application/vnd.openxmlformats-officedocument.spreadsheetml.sheet application/vnd.sqlite3"
        " application/x-sqlite3 application/x-hdf5 application/avro",
    }
)
_ENDINGS: Final = _by_word(
    {
        IMAGE: "avif bmp gif heic heif ico jpeg jpg png svg tif tiff webp",
        DOCUMENT: "doc docx epub htm html md markdown odp odt pdf ppt pptx rst rtf tex txt",
        CODE: "bash bat c cc clj cpp cs css cxx diff ex exs go h hpp hs ipynb java jl js jsx kt lua m mjs ml patch php"
        " pl proto ps1 py pyi r rb rs scala sh sql swift tf ts tsx vue zig",
        DATA: "avro csv db geojson h5 json jsonl ndjson ods parquet sqlite toml tsv xls xlsx xml yaml yml",
    }
)


def derived(media_type: str, name: str) -> AttachmentType.ValueType:
    """Returns the type by the media type, or else by the extension of the name. Never returns UNSPECIFIED."""
    plain = media_type.partition(";")[0].strip().lower()
    ending = _ENDINGS.get(name.rpartition(".")[2].lower()) if "." in name else None
    if plain.startswith("image/"):
        return IMAGE
    # Many programs send text/plain for every text file, so the extension says more.
    if plain == "text/plain" and ending is not None:
        return ending
    known = _MEDIA_TYPES.get(plain)
    if known is None and plain.endswith(("+json", "+xml", "+yaml")):
        known = DATA
    return known or ending or (DOCUMENT if plain.startswith("text/") else OTHER)
