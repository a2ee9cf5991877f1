import socket
from collections.abc import Callable, Iterator

import pytest
from helpers.entry_point import Server, start


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Start a server; `prelude` is Python that runs in it before. All are stopped in the end."""
    servers = []

    def begin(*arguments: object, prelude: str = "") -> Server:
        folder = tmp_path_factory.mktemp("server")
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        (folder / "output").mkdir()
        folders = ("--input", folder / "input", "--output", folder / "output")
        with (folder / "log").open("w") as log:
            process = start("--serve", "--port", port, *folders, *arguments, prelude=prelude, stdout=log)
        server = Server(process, port, folder / "input", folder / "output", folder / "log")
        servers.append(server)
        return server

    yield begin
    for server in servers:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="session")
def server(start_server: Callable[..., Server]) -> Server:
    """A server that is ready."""
    server = start_server()
    server.wait_until_ready()
    return server
