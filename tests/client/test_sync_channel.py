"""The synchronous client over a channel of grpcio-testing, as users test their own code, and over a real one."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
import grpc_testing  # type: ignore[import-untyped]
import pytest
from google.rpc.error_details_pb2 import ErrorInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

import sessiond
from sessiond.v1 import event_service_pb2 as events
from sessiond.v1 import message_service_pb2 as messages
from sessiond.v1.attachment_service_pb2 import DownloadAttachmentResponse, DownloadHeader
from sessiond.v1.session_pb2 import SessionView
from sessiond.v1.session_service_pb2 import GetSessionRequest
from tests.support.both_clients import in_thread
from tests.support.client_service import Service
from tests.support.scripted_server import METHODS


@pytest.fixture
def channel() -> Any:
    services = {method.containing_service for method in METHODS.values()}
    return grpc_testing.channel(list(services), grpc_testing.strict_real_time())


@pytest.fixture
def client(channel: grpc.Channel) -> Iterator[sessiond.SyncClient]:
    with sessiond.SyncClient(channel=channel) as client:
        yield client


@pytest.fixture
def start() -> Iterator[Callable[..., "Future[Any]"]]:
    """Calls a function in a thread, while the test plays the service."""
    with ThreadPoolExecutor(4) as pool:
        yield pool.submit


def test_unary_call_is_answered(channel: Any, client: sessiond.SyncClient, start: Callable[..., "Future[Any]"]) -> None:
    called = start(client.get_session, "chat-1", min_version=3)
    _, request, rpc = channel.take_unary_unary(METHODS["GetSession"])
    assert request == GetSessionRequest(session_id="chat-1", view=SessionView.SESSION_VIEW_FULL, min_version=3)
    rpc.terminate(sessiond.Session(session_id="chat-1", version=4), (), grpc.StatusCode.OK, "")
    assert called.result().version == 4


def test_status_becomes_a_typed_error(
    channel: Any, client: sessiond.SyncClient, start: Callable[..., "Future[Any]"]
) -> None:
    called = start(client.append_messages, "chat-1", [sessiond.user("hi")])
    rpc = channel.take_unary_unary(METHODS["AppendMessages"])[2]
    status = Status(code=grpc.StatusCode.FAILED_PRECONDITION.value[0], message="the session has ended")
    status.details.add().Pack(ErrorInfo(reason="SESSION_ENDED", domain="sessiond", metadata={"session_id": "chat-1"}))
    trailing = (("grpc-status-details-bin", status.SerializeToString()),)
    answer = messages.AppendMessagesResponse()
    rpc.terminate(answer, trailing, grpc.StatusCode.FAILED_PRECONDITION, "the session has ended")
    with pytest.raises(sessiond.SessionEnded) as caught:
        called.result()
    assert (caught.value.session_id, bool(caught.value.request_id)) == ("chat-1", True)


def test_watch_reads_a_stream_and_ends_it(
    channel: Any, client: sessiond.SyncClient, start: Callable[..., "Future[Any]"]
) -> None:
    watch = client.watch("chat-1")
    entered = start(watch.__enter__)
    _, _, rpc = channel.take_unary_stream(METHODS["WatchSession"])
    snapshot = events.Snapshot(session=sessiond.Session(session_id="chat-1", version=7), position="p7")
    rpc.send_response(events.WatchSessionResponse(snapshot=snapshot))
    entered.result()
    assert watch.snapshot is not None
    assert watch.snapshot.version == 7
    event = sessiond.Event(session_id="chat-1", seq=8)
    rpc.send_response(events.WatchSessionResponse(events=events.EventBatch(events=[event], position="p8", head_seq=8)))
    assert next(watch) == event
    waiting = start(next, watch, None)
    watch.close()
    assert waiting.result() is None
    rpc.cancelled()


def test_upload_and_download(channel: Any, client: sessiond.SyncClient, start: Callable[..., "Future[Any]"]) -> None:
    uploading = start(client.upload, "chat-1", b"content", name="a.txt")
    _, rpc = channel.take_stream_unary(METHODS["UploadAttachment"])
    header = rpc.take_request().header
    rpc.send_initial_metadata(())
    assert (header.name, header.size_bytes) == ("a.txt", 7)
    assert rpc.take_request().chunk == b"content"
    rpc.requests_closed()
    stored = sessiond.Attachment(attachment_id="a", size_bytes=7, sha256=header.sha256)
    rpc.terminate(stored, (), grpc.StatusCode.OK, "")
    assert uploading.result() == stored

    downloading = start(client.download("chat-1", "a").read)
    _, _, rpc = channel.take_unary_stream(METHODS["DownloadAttachment"])
    rpc.send_response(DownloadAttachmentResponse(header=DownloadHeader(attachment=stored, offset=0, length=7)))
    rpc.send_response(DownloadAttachmentResponse(chunk=b"content"))
    rpc.terminate((), grpc.StatusCode.OK, "")
    assert downloading.result() == b"content"


def test_close_ends_calls_in_flight(
    channel: Any, client: sessiond.SyncClient, start: Callable[..., "Future[Any]"]
) -> None:
    called = start(client.get_session, "chat-1")
    rpc = channel.take_unary_unary(METHODS["GetSession"])[2]
    client.close()
    with pytest.raises(sessiond.ClientClosed):
        called.result()
    rpc.cancelled()


async def test_a_real_channel_with_an_interceptor(service: Service) -> None:
    seen: list[str] = []

    class Interceptor(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            seen.append(details.method)
            return continuation(details, request)

    def work() -> tuple[list[str], bytes, list[int]]:
        channel = grpc.intercept_channel(grpc.insecure_channel(service.target), Interceptor())
        with sessiond.SyncClient(channel=channel) as client:
            session_id = client.create_session(active=True).session_id
            client.append_messages(session_id, [sessiond.user("hi")])
            uploaded = client.upload(session_id, [b"con", b"tent"])
            content = client.download(session_id, uploaded.attachment_id).read()
            with client.watch(session_id, from_beginning=True) as watch:
                seqs = [next(watch).seq for _ in range(3)]
            with pytest.raises(sessiond.SessionNotFound):
                client.get_session("gone")
            return [sessiond.text_of(each) for each in client.list_messages(session_id)], content, seqs

    assert await in_thread(work) == (["hi"], b"content", [1, 2, 3])
    assert "/sessiond.v1.SessionService/CreateSession" in seen
    assert not [each for each in threading.enumerate() if each.name == "sessiond-channel" and not each.daemon]
