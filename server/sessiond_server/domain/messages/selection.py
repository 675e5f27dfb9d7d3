"""What a MessageFilter selects."""

from sessiond.v1.message_pb2 import Message
from sessiond.v1.message_service_pb2 import MessageFilter
from sessiond_server.domain.messages import marks


class Selection:
    """A checked MessageFilter."""

    def __init__(self, where: MessageFilter) -> None:
        self._roles = frozenset(where.roles)
        self._where = where
        self.label_marks = marks.of_labels(where.labels)
        self.from_mark = marks.of_time(where.client_time_from) if where.HasField("client_time_from") else marks.EARLIEST
        """A selected message's mark of its time is not before this one,"""
        self.until_mark = (
            marks.of_time(where.client_time_until) if where.HasField("client_time_until") else marks.LATEST
        )
        """and before this one, where `has_times`."""
        self.has_times = where.HasField("client_time_from") or where.HasField("client_time_until")
        compared = bool(self._roles or where.name or where.run_id)
        self.is_one_label = len(self.label_marks) == 1 and not self.has_times and not compared
        """Whether every message with the mark of the only label is selected."""
        self.is_times = self.has_times and not self.label_marks and not compared
        """Whether every message of the times is selected."""

    def selects(self, message: Message) -> bool:
        where = self._where
        return (
            (not self._roles or message.role in self._roles)
            and where.name in ("", message.name)
            and where.run_id in ("", message.run_id)
            and all(message.labels.get(key) == value for key, value in where.labels.items())
            and (not self.has_times or self._is_of_time(message))
        )

    def _is_of_time(self, message: Message) -> bool:
        if not message.HasField("client_time"):
            return False
        return self.from_mark <= marks.of_time(message.client_time) < self.until_mark
