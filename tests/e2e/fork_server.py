"""svkit for make, without its start: everything is imported once.

A server forks for each command that its client, a script called as svkit is, sends with its streams. The start of a
process of its own is tested elsewhere, and `make all` as it is in `.ci/run`.
"""

import contextlib
import json
import multiprocessing
import os
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from tests.processes import fork_server

CLIENT = """#!{python} -IS
import json, os, socket, sys

with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(request).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(request)
    sys.exit(int(server.recv(16) or 1))
"""


@contextlib.contextmanager
def serve() -> Iterator[Path]:
    """Run a server; yields its client."""
    with tempfile.TemporaryDirectory() as folder:
        address, client = f"{folder}/socket", Path(folder) / "svkit"
        client.write_text(CLIENT.format(python=sys.executable, address=address))
        client.chmod(0o755)
        server = fork_server().Process(target=_serve, args=(address,))
        server.start()
        try:
            while not Path(address).exists():
                assert server.is_alive()
                time.sleep(0.02)
            yield client
        finally:
            server.kill()
            server.join()


def _serve(address: str) -> None:
    multiprocessing.set_start_method("fork", force=True)  # the default, not the one that started this process
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _answer(connection)
            connection.close()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def _answer(connection: socket.socket) -> None:
    from svkit.cli.app import main

    size, streams, _, _ = socket.recv_fds(connection, 4, 3)
    with connection.makefile("rb") as file:
        words, directory, variables = json.loads(file.read(int.from_bytes(size, "big")))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = ["svkit", *words]
    code = 1
    try:
        main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(str(code).encode())
    os._exit(0)
