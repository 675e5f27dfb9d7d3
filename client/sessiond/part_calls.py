"""The client's methods for parts of messages that attachments hold."""

from collections.abc import Iterable

from sessiond.attachment_calls import AttachmentCalls
from sessiond.errors import AttachmentAlreadyExists
from sessiond.fields import Fence
from sessiond.part_files import attachment_of, put_back, take_out
from sessiond.request_ids import new_request_id
from sessiond.v1.message_pb2 import Message

ABOVE = 256 * 1024
"""Serialised bytes of a part above which it is put into an attachment."""
MOST_BYTES = 64 * 1024 * 1024
"""Of one part that is put back."""


class PartCalls(AttachmentCalls):
    """Large parts of messages in attachments; all methods raise SessionNotFound."""

    async def offload_parts(
        self,
        session_id: str,
        messages: Iterable[Message],
        *,
        above: int = ABOVE,
        run: Fence | None = None,
        request_id: str = "",
    ) -> list[Message]:
        """Uploads what is in parts of more than `above` bytes, and returns the messages with a reference in its place.

        The messages that were given do not change. Append the returned ones; `inline_parts` undoes it. The same
        messages with the same `request_id` use the same attachments, which stay if the messages are never appended, and
        when these are redacted or deleted.

        Raises as `upload` does.
        """
        seed = request_id or new_request_id()
        light: list[Message] = []
        for index, message in enumerate(messages):
            copy, taken = take_out(message, above, f"{seed}/{index}")
            for out in taken:
                try:
                    await self.upload(
                        session_id,
                        out.content,
                        attachment_id=out.attachment_id,
                        name="",
                        media_type=out.media_type,
                        run=run,
                        request_id=out.attachment_id,
                    )
                except AttachmentAlreadyExists:
                    continue  # an earlier call with this request_id uploaded it: the id says what the content is
            light.append(copy)
        return light

    async def inline_parts(
        self, session_id: str, messages: Iterable[Message], *, most_bytes: int = MOST_BYTES
    ) -> list[Message]:
        """Downloads what `offload_parts` put into attachments, and returns the messages with all parts whole.

        Other references to attachments stay as they are. Raises AttachmentNotFound if one has been deleted; ValueError
        for a part of more than `most_bytes`, and for an attachment that cannot be the part; and as `download` does.
        """
        whole: list[Message] = []
        for message in messages:
            contents: dict[str, bytes] = {}
            for index, part in enumerate(message.parts):
                if not (attachment_id := attachment_of(part)):
                    continue
                attachment = await self.get_attachment(session_id, attachment_id)
                if attachment.size_bytes > most_bytes:
                    raise ValueError(f"parts[{index}]: {attachment.size_bytes} bytes, more than {most_bytes}")
                contents[attachment_id] = await self.download(session_id, attachment_id).read()
            whole.append(put_back(message, contents) if contents else message)
        return whole
