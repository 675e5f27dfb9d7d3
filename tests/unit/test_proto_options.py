"""Options of the protos that other languages' generators read."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from sessiond_server.rpc.server import SERVICES
from tests.support.wire import RPCS

READS = ("Get", "BatchGet", "List", "Count", "Search", "Watch", "Verify", "Download", "Export")


def files() -> Iterator[FileDescriptor]:
    found: dict[str, FileDescriptor] = {}
    ahead = [service.file for service in SERVICES]
    while ahead:
        file = ahead.pop()
        if file.name.startswith("sessiond/") and file.name not in found:
            found[file.name] = file
            ahead += file.dependencies
    yield from found.values()


@pytest.mark.parametrize("file", list(files()), ids=lambda file: Path(file.name).stem)
def test_every_file_names_its_package_in_each_language(file: FileDescriptor) -> None:
    options = file.GetOptions()
    stem = "".join(word.capitalize() for word in Path(file.name).stem.split("_"))
    assert options.go_package == "sessiond.dev/go/sessiond/v1;sessiondv1"
    assert (options.java_package, options.java_outer_classname) == ("dev.sessiond.v1", f"{stem}Proto")
    assert options.csharp_namespace == "Sessiond.V1"


@pytest.mark.parametrize("rpc", RPCS)
def test_reads_and_only_they_say_that_they_change_nothing(rpc: str) -> None:
    level = RPCS[rpc].GetOptions().idempotency_level
    assert (level == MethodOptions.NO_SIDE_EFFECTS) == rpc.startswith(READS)
