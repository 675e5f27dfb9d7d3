"""A client that speaks HTTP/2 frames, and keeps to the rules of gRPC no further than a test wants."""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from h2.exceptions import H2Error
from h2.settings import SettingCodes


def message(data: bytes, length: int | None = None) -> bytes:
    """A gRPC message; with `length` its head says so many bytes, whatever follows."""
    return struct.pack(">BI", 0, len(data) if length is None else length) + data


@dataclass
class Stream:
    """What has come of one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> int | None:
        """gRPC's; None: not answered yet."""
        value = self.headers.get("grpc-status")
        return None if value is None else int(value)


class RawClient:
    """One connection. Reads what comes as long as `reading` is true."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, window: int | None) -> None:
        self._reader = reader
        self._writer = writer
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.streams: dict[int, Stream] = {}
        self.closed = False
        self._wanted: dict[int, tuple[bytes, bool]] = {}
        """What is still to be sent, as the server's windows allow, and whether the stream ends with it."""
        self.h2.initiate_connection()
        if window is not None:
            self.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        self._gives_windows = window is None

    def open(self, path: str, key: str | None = None, data: bytes = b"", *, end: bool = False) -> Stream:
        """A call: its headers, and as much of the data as the server takes."""
        number = self.h2.get_next_available_stream_id()
        headers = [
            (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "test"), ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]  # fmt: skip
        if key is not None:
            headers.append(("authorization", f"Bearer {key}"))
        self.h2.send_headers(number, headers, end_stream=end and not data)
        stream = self.streams[number] = Stream()
        if data:
            self._wanted[number] = data, end
            self._send_wanted(number)
        return stream

    def _send_wanted(self, number: int) -> None:
        data, end = self._wanted.get(number, (b"", False))
        while data:
            room = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size, len(data))
            if room <= 0:
                break
            part, data = data[:room], data[room:]
            self.h2.send_data(number, part, end_stream=end and not data)
        if data:
            self._wanted[number] = data, end
        else:
            self._wanted.pop(number, None)

    async def flush(self) -> None:
        """Sends what was written. Returns quietly where the server has closed the connection."""
        with suppress(OSError):
            self._writer.write(self.h2.data_to_send())
            await self._writer.drain()

    async def read(self) -> None:
        """Takes what comes until the connection ends."""
        try:
            while data := await self._reader.read(1 << 20):
                for event in self.h2.receive_data(data):
                    self._take(event)
                for number in list(self._wanted):
                    with suppress(H2Error):
                        self._send_wanted(number)
                await self.flush()
        except (OSError, H2Error):
            pass
        finally:
            self.closed = True

    def _take(self, event: Event) -> None:
        known: Any = event
        stream = self.streams.get(getattr(event, "stream_id", None) or 0)
        if stream is None:
            return
        if isinstance(event, ResponseReceived | TrailersReceived):
            stream.headers.update(dict(known.headers))
        elif isinstance(event, DataReceived):
            stream.data += known.data
            if self._gives_windows:
                self.h2.acknowledge_received_data(known.flow_controlled_length, known.stream_id)
        elif isinstance(event, StreamEnded | StreamReset):
            stream.ended = True
            stream.reset = getattr(event, "error_code", None) if isinstance(event, StreamReset) else None
            self._wanted.pop(known.stream_id, None)


@asynccontextmanager
async def raw_client(port: int, *, window: int | None = None, reading: bool = True) -> AsyncIterator[RawClient]:
    """`window`: bytes that each stream takes, never made more; None: all that come. Not `reading`: TCP fills up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    client = RawClient(reader, writer, window)
    await client.flush()
    task = asyncio.create_task(client.read()) if reading else None
    try:
        yield client
    finally:
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def statuses(streams: Iterable[Stream]) -> list[int | None]:
    return [stream.status for stream in streams]
