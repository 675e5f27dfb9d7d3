"""The content of sessions as the log has it: whole now and then, in between as patches.

What an event stored of the content is the whole content, serialised, or PATCH followed by a serialised SessionPatch.
The content at a version is the last whole one up to it with the patches after that one: its chain.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from google.protobuf.struct_pb2 import Struct

from sessiond.patches import CONTENT_FIELDS, copy_config_field, copy_content_field, merge_patch, set_members
from sessiond.v1.event_pb2 import SessionPatch
from sessiond.v1.session_pb2 import Session, SessionConfig
from sessiond.v1.session_service_pb2 import StructUpdate
from sessiond_server.domain import encoding, validation
from sessiond_server.domain.commands import UpdateSession
from sessiond_server.domain.encoding import PATCH
from sessiond_server.domain.rows import Policy
from sessiond_server.domain.sessions.validation import CONTENT_BYTES, STATE_BYTES

OBJECT_BYTES: Final = {"metadata": validation.METADATA_BYTES, "state": STATE_BYTES, "agent_data": STATE_BYTES}
"""The objects, each with its limit."""
_TAGS: Final = {name: encoding.tag(Session.DESCRIPTOR.fields_by_name[name].number) for name in CONTENT_FIELDS}
_NAMES: Final = {tag: name for name, tag in _TAGS.items()}
_TAG_BYTES: Final = 2
"""Length of every tag of a field of the content."""
_GROWTH: Final = 3
"""A merged object is at most as long as the old one and this many times the patch. Each object that a patch names takes
two bytes of it or more, and may lengthen the length prefix of the stored one by three."""
_ENCODED_SIZES: Final = struct.Struct("<q7I")


def is_patch(stored: bytes) -> bool:
    return stored.startswith(PATCH)


def stored_patch(patch: SessionPatch) -> bytes:
    """The patch as an event stores it."""
    return PATCH + patch.SerializeToString()


def patch_of(action: UpdateSession) -> SessionPatch | None:
    """What the update changes of the content; None if it changes only the core."""
    paths = [path for path in action.paths if path.partition(".")[0] in CONTENT_FIELDS]
    if not paths:
        return None
    patch = SessionPatch()
    for path in paths:
        name, _, config_field = path.partition(".")
        if config_field:
            patch.replaced.append(path)
            copy_config_field(action.session.config, patch.session.config, config_field)
        elif name not in OBJECT_BYTES or action.struct_update == StructUpdate.STRUCT_UPDATE_REPLACE:
            patch.replaced.append(name)
            copy_content_field(action.session, patch.session, name)
        elif action.struct_update == StructUpdate.STRUCT_UPDATE_SET_KEYS:
            patch.keys_set.append(name)
            copy_content_field(action.session, patch.session, name)
        else:
            _add_merge(patch, name, getattr(action.session, name))
    patch.removed_keys.extend(action.remove_keys)
    return patch


def _add_merge(patch: SessionPatch, name: str, given: Struct) -> None:
    """Adds a merge patch. One without objects sets and removes members, which is cheaper to apply."""
    kinds = {member: value.WhichOneof("kind") for member, value in given.fields.items()}
    if "struct_value" in kinds.values():
        patch.merged.append(name)
        getattr(patch.session, name).CopyFrom(given)
        return
    patch.keys_set.append(name)
    into: Struct = getattr(patch.session, name)
    for member, kind in kinds.items():
        if kind == "null_value":
            patch.removed_keys.append(f"{name}.{member}")
        else:
            into.fields[member].CopyFrom(given.fields[member])


@dataclass(slots=True)
class Sizes:
    """Sizes of a session's content at one version. With them, an update whose patch certainly fits needs not read the
    content. All are in bytes. Never changed; every write of a session with content makes one."""

    version: int
    """Session.content_version."""
    patches: int
    """Number of patches in the chain."""
    patch_bytes: int
    whole_bytes: int
    """Of the whole content that the chain begins with."""
    total: int
    """The content has at most this size; the same goes for the objects."""
    metadata: int
    state: int
    agent_data: int

    @classmethod
    def of_whole(cls, content: Session, version: int) -> "Sizes":
        """`content` is stored whole at `version`."""
        size = content.ByteSize()
        return cls(version, 0, 0, size, size, *_object_sizes(content))

    @classmethod
    def decoded(cls, encoded: bytes | None, version: int) -> "Sizes | None":
        """The sizes of the content at `version`; None if they are not known."""
        if encoded is None or len(encoded) != _ENCODED_SIZES.size:
            return None
        sizes = cls(*_ENCODED_SIZES.unpack(encoded))
        return sizes if sizes.version == version else None

    def encoded(self) -> bytes:
        return _ENCODED_SIZES.pack(
            self.version,
            self.patches,
            self.patch_bytes,
            self.whole_bytes,
            self.total,
            self.metadata,
            self.state,
            self.agent_data,
        )

    def after_patch(self, patch: SessionPatch, version: int) -> "Sizes":
        """The sizes once the patch is stored at `version`: never too low, and never lower than before."""
        size = patch.ByteSize() + len(PATCH)
        objects = {name: getattr(self, name) for name in OBJECT_BYTES}
        for name in objects:
            given = getattr(patch.session, name).ByteSize()
            objects[name] = max(objects[name], given) if name in patch.replaced else objects[name] + _GROWTH * given
        return replace(
            self,
            version=version,
            patches=self.patches + 1,
            patch_bytes=self.patch_bytes + size,
            total=self.total + _GROWTH * size,
            **objects,
        )

    def exact(self, content: Session) -> "Sizes":
        """With the true sizes of the content."""
        metadata, state, agent_data = _object_sizes(content)
        return replace(self, total=content.ByteSize(), metadata=metadata, state=state, agent_data=agent_data)

    def allows_patch(self, policy: Policy) -> bool:
        """Whether the last patch that these sizes count may be stored as one. If not, the whole content is."""
        return (
            self.patches <= policy.content_patches
            and self.patch_bytes <= self.whole_bytes
            and self.whole_bytes >= policy.least_patched_bytes
        )

    def certainly_fit(self) -> bool:
        """Whether the content is certainly within its limits."""
        return self.total <= CONTENT_BYTES and all(getattr(self, name) <= most for name, most in OBJECT_BYTES.items())


def _object_sizes(content: Session) -> tuple[int, int, int]:
    return content.metadata.ByteSize(), content.state.ByteSize(), content.agent_data.ByteSize()


def after_unread(sizes: Sizes | None, patch: SessionPatch, version: int, policy: Policy) -> Sizes | None:
    """The sizes after a patch that is stored without reading the content; None if the content must be read.

    Members of the metadata need the rest of it, for the columns by which sessions are found.
    """
    if sizes is None or sizes.whole_bytes < policy.least_patched_bytes:
        return None
    names = {*patch.keys_set, *patch.merged, *(key.partition(".")[0] for key in patch.removed_keys)}
    if "metadata" in names:
        return None
    after = sizes.after_patch(patch, version)
    return after if after.allows_patch(policy) and after.certainly_fit() else None


def whole(chain: Sequence[bytes]) -> bytes:
    """The whole content, serialised, from what events stored of it in ascending order, up to some version and at least
    from the last whole one on; b"" for an empty chain. Raises ValueError if there is no whole one."""
    if not chain:
        return b""
    for start in range(len(chain) - 1, -1, -1):
        if not is_patch(chain[start]):
            break
    else:
        raise ValueError("a content has patches but nothing that they apply to")
    if start == len(chain) - 1:
        return chain[start]
    folded = _Folded(chain[start])
    for stored in chain[start + 1 :]:
        folded.apply(SessionPatch.FromString(stored[len(PATCH) :]))
    return folded.serialised()


class _Folded:
    """A content to which patches are applied; the result equals that of `apply_patch`.

    It parses an object only where it must. A patch that sets members is appended to the serialised object: where a map
    has a key twice, every decoder of protobuf takes the last one.
    """

    def __init__(self, content: bytes) -> None:
        self._pieces: dict[str, list[bytes]] = {}
        """The serialised fields. The pieces of one field are joined."""
        self._parsed: dict[str, Struct] = {}
        """Objects that had to be parsed, in place of their pieces."""
        place = 0
        while place < len(content):
            name = _NAMES[content[place : place + _TAG_BYTES]]
            length, start = _varint(content, place + _TAG_BYTES)
            place = start + length
            self._pieces[name] = [content[start:place]]

    def apply(self, patch: SessionPatch) -> None:
        for path in patch.replaced:
            name, _, config_field = path.partition(".")
            if config_field:
                config = SessionConfig.FromString(b"".join(self._pieces.get(name, ())))
                copy_config_field(patch.session.config, config, config_field)
                self._pieces[name] = [config.SerializeToString()]
            else:
                self._replace(name, patch.session)
        for name in patch.keys_set:
            given: Struct = getattr(patch.session, name)
            if name in self._parsed:
                set_members(self._parsed[name], given)
            else:
                self._pieces.setdefault(name, []).append(given.SerializeToString())
        for name in patch.merged:
            merge_patch(self._object(name), getattr(patch.session, name))
        for key in patch.removed_keys:
            name, _, member = key.partition(".")
            target = self._object(name)
            if member in target.fields:
                del target.fields[member]

    def serialised(self) -> bytes:
        """The content. It is within the limit of a content, although a key may be there twice."""
        joined = {name: sum(map(len, pieces)) for name, pieces in self._pieces.items() if len(pieces) > 1}
        total = sum(len(piece) for pieces in self._pieces.values() for piece in pieces)
        total += sum(parsed.ByteSize() for parsed in self._parsed.values())
        for name, size in joined.items():
            if size > OBJECT_BYTES[name] or total > CONTENT_BYTES:
                self._object(name)
        for name, parsed in self._parsed.items():
            self._pieces[name] = [parsed.SerializeToString()]
        return b"".join(
            part
            for name, pieces in self._pieces.items()
            for part in (_TAGS[name], encoding.varint(sum(map(len, pieces))), *pieces)
        )

    def _replace(self, name: str, values: Session) -> None:
        self._parsed.pop(name, None)
        self._pieces.pop(name, None)
        if name == "summary":
            if values.summary:
                self._pieces[name] = [values.summary.encode()]
        elif values.HasField(name):  # type: ignore[arg-type]  # the stubs want literals
            self._pieces[name] = [getattr(values, name).SerializeToString()]

    def _object(self, name: str) -> Struct:
        """The object, parsed from here on."""
        if name not in self._parsed:
            self._parsed[name] = Struct.FromString(b"".join(self._pieces.pop(name, ())))
        return self._parsed[name]


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """(the value of the varint at `place`, the place after it)."""
    value = shift = 0
    while data[place] & 0x80:
        value |= (data[place] & 0x7F) << shift
        shift += 7
        place += 1
    return value | data[place] << shift, place + 1
