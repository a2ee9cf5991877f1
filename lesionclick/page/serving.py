"""The page's server on this machine."""

from __future__ import annotations

import socket

import uvicorn

from lesionclick.errors import InputError
from lesionclick.page.access import Access
from lesionclick.page.app import create_app
from lesionclick.page.reading import Reading

HOST, PORT = "127.0.0.1", 4744
"""Where the page is served by default; the port is the one beside the invoke API's."""
STOP_S = 2
"""Time that open connections get when the server stops: tabs listen for ever."""


def listen(host: str, port: int | None) -> socket.socket:
    """Return a socket that listens; by default at `PORT`, or at a free port where that is taken.

    Raises
    ------
    InputError
        If the address is not this machine's, or the port is taken.
    """
    for wanted in (PORT, 0) if port is None else (port,):
        try:
            return socket.create_server((host, wanted), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        except OSError as error:
            reason = error
    raise InputError(f"address: expected one of this machine and a free port, found {host}, {port}: {reason}")


def make_server(reading: Reading, access: Access) -> uvicorn.Server:
    """Return the server of an open case; it begins with its `run`, on a socket of `listen`."""
    app = create_app(reading, access, is_stopping=lambda: server.should_exit)
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=STOP_S)
    )
    return server


def serve(reading: Reading, access: Access, listening: socket.socket) -> None:
    """Serve the page until SIGINT or SIGTERM."""
    reading.start()
    try:
        make_server(reading, access).run(sockets=[listening])
    except KeyboardInterrupt:
        pass  # uvicorn has stopped, and raises the signal again
    finally:
        reading.stop()
