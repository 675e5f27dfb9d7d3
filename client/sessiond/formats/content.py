"""Content of items: the blocks that the forms have in common, and their parts.

A block whose `type` is not known here, or which lacks what its type requires, stays in the form as it is.
"""

import mimetypes
from collections.abc import Callable
from typing import Any

from sessiond.formats.form import Result, Sorting
from sessiond.formats.plain import Item

OPENAI_FILE = "openai-file:"
ANTHROPIC_FILE = "anthropic-file:"
"""Beginnings of the URIs of files that a provider holds; its id of the file follows."""

ANY_IMAGE = "image/*"
"""The media type of a picture that is known by its URL only."""

_AUDIO = {"mp3": "audio/mpeg", "wav": "audio/wav"}


def text_of(content: Any, sorting: Sorting, place: str) -> Any:
    """Content that is text or a list of blocks; what stands in its place in the form.

    Raises TypeError for something else, and for elements that are no objects.
    """
    if isinstance(content, str):
        return sorting.text(content)
    if content is None:
        return None
    if not isinstance(content, list):
        raise TypeError(f"{place}: must be text, a list or None")
    return [block(item, sorting, f"{place}[{index}]") for index, item in enumerate(content)]


def answer_of(content: Any, result: Result, sorting: Sorting, place: str) -> Any:
    """Content of a tool's answer: its text becomes the result's, its files become parts that follow."""
    if isinstance(content, str):
        return result.text(content)
    if not isinstance(content, list):
        return sorting.kept(content)
    return [_answered(item, result, sorting, f"{place}[{index}]") for index, item in enumerate(content)]


def _answered(item: Any, result: Result, sorting: Sorting, place: str) -> Any:
    if isinstance(item, str):
        return result.text(item)
    if not isinstance(item, dict):
        raise TypeError(f"{place}: must be an object")
    kind = _kind(item)
    if kind in _TEXTS and isinstance(text := item.get("text"), str):
        return sorting.rest(item, text=result.text(text))
    return sorting.kept(item) if kind in _THINKING else block(item, sorting, place, calls=False)


def block(item: Any, sorting: Sorting, place: str, *, calls: bool = True) -> Any:
    """A block; what stands in its place in the form. `calls`: whether blocks of tool calls become parts."""
    if not isinstance(item, dict):
        raise TypeError(f"{place}: must be an object")
    kind = _kind(item)
    if kind in _TEXTS and isinstance(text := item.get("text"), str):
        return sorting.rest(item, text=sorting.text(text))
    if kind in _THINKING and isinstance(text := item.get(_THINKING[kind]), str):
        return sorting.rest(item, **{_THINKING[kind]: sorting.thinking(text)})
    if kind == "refusal" and isinstance(text := item.get("refusal"), str):
        return sorting.rest(item, refusal=sorting.text(text))
    if calls and kind == "tool_use" and isinstance(name := item.get("name"), str):
        call = sorting.call(item.get("id"), name, item.get("input", ...), place)
        return sorting.rest(item, id=call.id, name=call.name, input=call.arguments)
    if calls and kind == "tool_result":
        result = sorting.result(item.get("tool_use_id"), place, is_error=item.get("is_error") is True)
        content = answer_of(item.get("content"), result, sorting, f"{place}.content")
        return sorting.rest(item, tool_use_id=result.id, content=content)
    known = _FILES.get(kind)
    return known(item, sorting) if known else sorting.kept(item)


def _kind(item: Item) -> str:
    kind = item.get("type")
    return kind if isinstance(kind, str) else ""


_TEXTS = frozenset({"text", "input_text", "output_text"})
_THINKING = {"thinking": "thinking", "reasoning": "reasoning", "summary_text": "text", "reasoning_text": "text"}


def image_type(url: str) -> str:
    guessed = mimetypes.guess_type(url.partition("?")[0])[0] or ""
    return guessed if guessed.startswith("image/") else ANY_IMAGE


def _image_url(item: Item, sorting: Sorting) -> Any:
    """`image_url` of chat completions, whose URL lies in an object, or is the member itself."""
    given: Any = item.get("image_url")
    match given:
        case {"url": str(url)}:
            return sorting.rest(item, image_url=sorting.rest(given, url=sorting.url(url, image_type(url))))
        case str(url):
            return sorting.rest(item, image_url=sorting.url(url, image_type(url)))
    return _openai_file(item, item, sorting) if "file_id" in item else sorting.kept(item)


def _input_audio(item: Item, sorting: Sorting) -> Any:
    audio: Any = item.get("input_audio")
    match audio:
        case {"data": str(data)}:
            named = audio.get("format")
            media_type = _AUDIO.get(named, f"audio/{named}") if isinstance(named, str) else "audio/*"
            return sorting.rest(item, input_audio=sorting.rest(audio, data=sorting.base64(data, media_type)))
    return sorting.kept(item)


def _file(item: Item, sorting: Sorting) -> Any:
    file: Any = item.get("file")
    match file:
        case {"uri": str(uri), "media_type": str(media_type), "name": str(name)}:
            return sorting.rest(item, file=sorting.rest(file, uri=sorting.file(uri, media_type, name)))
        case dict():
            return sorting.rest(item, file=_openai_file(file, file, sorting))
    return _described(item, sorting)


def _openai_file(item: Item, names: Item, sorting: Sorting) -> Any:
    """A file by its data, its URL or its id: `input_file` of the Responses API, `file` of chat completions."""
    name = names.get("filename") if isinstance(names.get("filename"), str) else ""
    if isinstance(data := item.get("file_data"), str):
        return sorting.rest(item, file_data=_data(data, name or "", sorting))
    if isinstance(url := item.get("file_url"), str):
        return sorting.rest(item, file_url=sorting.url(url, mimetypes.guess_type(url)[0] or "", name or ""))
    if isinstance(file_id := item.get("file_id"), str):
        kind = ANY_IMAGE if item.get("type") == "input_image" else ""
        return sorting.rest(item, file_id=sorting.file(file_id, kind, name or "", before=OPENAI_FILE))
    return sorting.kept(item)


def _data(data: str, name: str, sorting: Sorting) -> Any:
    if data.startswith("data:"):
        return sorting.url(data)
    return sorting.base64(data, mimetypes.guess_type(name)[0] or "")


def _image(item: Item, sorting: Sorting) -> Any:
    return _source(item, sorting, ANY_IMAGE) if isinstance(item.get("source"), dict) else _described(item, sorting)


def _document(item: Item, sorting: Sorting) -> Any:
    return _source(item, sorting, "") if isinstance(item.get("source"), dict) else sorting.kept(item)


def _source(item: Item, sorting: Sorting, otherwise: str) -> Any:
    """`image` and `document` of Anthropic."""
    name = item["title"] if isinstance(item.get("title"), str) else ""
    source = item["source"]
    match source:
        case {"type": "base64", "data": str(data)}:
            kind = source.get("media_type")
            taken = {"data": sorting.base64(data, kind if isinstance(kind, str) else otherwise)}
        case {"type": "url", "url": str(url)}:
            guessed = image_type(url) if otherwise else mimetypes.guess_type(url)[0] or "application/pdf"
            taken = {"url": sorting.url(url, guessed, name)}
        case {"type": "file", "file_id": str(file_id)}:
            taken = {"file_id": sorting.file(file_id, otherwise, name, before=ANTHROPIC_FILE)}
        case {"type": "text", "data": str(text)}:
            taken = {"data": sorting.text(text)}
        case {"type": "content", "content": str(text)}:
            taken = {"content": sorting.text(text)}
        case {"type": "content", "content": list(blocks)} if all(isinstance(each, dict) for each in blocks):
            taken = {"content": [block(each, sorting, "content", calls=False) for each in blocks]}
        case _:
            taken = {}
    return sorting.rest(item, source=sorting.rest(source, **taken))


def _described(item: Item, sorting: Sorting) -> Any:
    """Files of LangChain: by `base64`, `url` or, as it was, `data`, with a `mime_type`."""
    named = item.get("mime_type")
    media_type = named if isinstance(named, str) else ANY_IMAGE if item.get("type") == "image" else ""
    for member in ("base64", "data"):
        if isinstance(data := item.get(member), str) and item.get("source_type", "base64") == "base64":
            return sorting.rest(item, **{member: sorting.base64(data, media_type)})
    if isinstance(url := item.get("url"), str):
        return sorting.rest(item, url=sorting.url(url, media_type))
    return sorting.kept(item)


def _blob(item: Item, sorting: Sorting) -> Any:
    """Bytes as `to_items` of chat wrote them in version 0.2."""
    held: Any = item.get("blob")
    match held:
        case {"data": str(data), "media_type": str(media_type)}:
            return sorting.rest(item, blob=sorting.rest(held, data=sorting.base64(data, media_type)))
    return sorting.kept(item)


_FILES: dict[str, Callable[[Item, Sorting], Any]] = {
    "image_url": _image_url,
    "input_image": _image_url,
    "input_audio": _input_audio,
    "file": _file,
    "input_file": lambda item, sorting: _openai_file(item, item, sorting),
    "image": _image,
    "document": _document,
    "audio": _described,
    "video": _described,
    "blob": _blob,
}
