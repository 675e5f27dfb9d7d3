"""The program of a worker of `sessiond serve --workers N`, which its supervisor starts: `python -m ... FD`.

FD is the number of the socket that leads to the supervisor.
"""

import os
import socket
import sys
from importlib.metadata import version

from sessiond_server import telemetry
from sessiond_server.app.workers import worker
from sessiond_server.app.workers.link import Hello, introduction
from sessiond_server.cli import ending, serve


def main(descriptor: int) -> int:
    supervisor = socket.socket(fileno=descriptor)
    telemetry.configure("warning", "text", str)
    hello = introduction(supervisor, own := version("sessiond"))
    if isinstance(hello, str):
        print(f"sessiond: version {own} is installed now; restart the service, which is {hello}", file=sys.stderr)
        return 1
    try:
        return _serve(hello, supervisor)
    except Exception as error:
        return ending.code_of(error, hello.settings)


def _serve(hello: Hello, supervisor: socket.socket) -> int:
    # Programs that this one starts must not keep the port of HTTP open.
    http = None if hello.http is None else socket.socket(fileno=hello.http)
    for passed in filter(None, (supervisor, http)):
        os.set_inheritable(passed.fileno(), False)
    with serve.prepared(hello.settings, worker=os.getpid()) as runner:
        sound = runner.run(worker.serve(hello.settings, supervisor, http, serve.spare_the_collector))
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(ending.ended(main(int(sys.argv[1]))))
