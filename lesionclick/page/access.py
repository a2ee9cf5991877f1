"""Who gets in: a token that nobody can guess, the right `Host`, no foreign `Origin`, no large body."""

from __future__ import annotations

import ipaddress
import re
import secrets
from dataclasses import dataclass
from urllib.parse import parse_qs, quote

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lesionclick.errors import InputError

MAX_BODY_BYTES = 2**16
"""Largest body of a request: a click takes a hundred bytes."""

_TOO_LARGE = f"body: expected at most {MAX_BODY_BYTES} bytes, found"

LOOPBACK = ("127.0.0.1", "localhost", "::1")
ANY = ("0.0.0.0", "::")
"""Names of this machine for itself, and those that stand for all of its addresses."""

_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::([0-9]+))?")
_HTTP_PORT = "80"
"""Browsers leave it out."""

MAX_SHOWN = 100
"""Letters of a header that a refusal tells."""

POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self' data: blob:; worker-src 'self' blob:; font-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may load: only what comes from this server. NiiVue keeps its fonts in data addresses and codes images
in WebAssembly."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True)
class Access:
    """Where the page is served, and the token that opens it.

    Attributes
    ----------
    host
        Address that the server is bound to.
    port
        Where it listens.
    token
        The secret.
    """

    host: str
    port: int
    token: str

    @classmethod
    def make(cls, host: str, port: int, token: str | None = None) -> Access:
        """Return access with a token, by default a new one of 256 random bits.

        Raises
        ------
        InputError
            If the token has letters that no header can carry.
        """
        if token and not (token.isascii() and token.isprintable()):
            raise InputError("token: expected printable ASCII letters, found others")
        return cls(host, port, token or secrets.token_urlsafe(32))

    @property
    def cookie(self) -> str:
        """Name of the cookie with the token; browsers share cookies among the ports of one host."""
        return f"lesionclick-{self.port}"

    @property
    def url(self) -> str:
        """The address to open."""
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._name, self.host)
        return f"http://{self._authority(shown)}/?token={quote(self.token, safe='')}"

    def admits_host(self, value: str) -> bool:
        """Tell whether a request's `Host` is this server.

        Another name means that a foreign page has had its own name resolved to this machine. On all addresses at once
        any numeric address is right, since such an attack needs a name.
        """
        name, port = _split(value)
        if port != str(self.port):
            return False
        return name in self._names or (self._name in ANY and _is_address(name))

    @property
    def expected_host(self) -> str:
        """What `admits_host` takes, for messages."""
        others = f" or an address of this machine with port {self.port}" if self._name in ANY else ""
        return " or ".join(map(self._authority, self._names)) + others

    def admits_origin(self, value: str, host: str) -> bool:
        """Tell whether a request's `Origin` is the page that its `Host` serves."""
        scheme, _, rest = value.partition("://")
        return scheme.lower() == "http" and _split(rest) == _split(host)

    def admits_token(self, value: str | None) -> bool:
        """Tell whether this is the token, in a time that tells nothing of it."""
        return value is not None and secrets.compare_digest(value.encode(), self.token.encode())

    @property
    def _name(self) -> str:
        return _canonical(self.host)

    @property
    def _names(self) -> tuple[str, ...]:
        return LOOPBACK if self._name in (*LOOPBACK, *ANY) else (self._name,)

    def _authority(self, name: str) -> str:
        return f"[{name}]:{self.port}" if ":" in name else f"{name}:{self.port}"


class Guard:
    """Lets a request through to `app` only with the token, and after all other checks.

    The token comes once in the address, as Jupyter does it, and from then on in a cookie that no script can read
    and other sites can do no more with than link to the page; programs may send it as ``Authorization: Bearer``.

    Parameters
    ----------
    app
        What is guarded.
    access
        What is asked for.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # nothing else is served
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, _with_headers(send))
            return
        await self._app(scope, _limited(receive), _with_headers(send))

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """Return what is answered in place of the application, or None."""
        access = self._access
        host = headers.get("host", "")
        if not access.admits_host(host):
            return _refuse(403, f"Host: expected {access.expected_host}, found {_show(host)}")
        origin = headers.get("origin")
        if origin is not None and not access.admits_origin(origin, host):
            return _refuse(403, f"Origin: expected {_show(f'http://{host}')}, found {_show(origin)}")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            return _refuse(413, f"{_TOO_LARGE} a length of {_show(length)}")
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [None])[-1]
        if scope["path"] == "/" and access.admits_token(given):
            answer = RedirectResponse("/", 303)
            # not strict, since the printed address may be a link on another site, such as a notebook
            answer.set_cookie(access.cookie, access.token, httponly=True, samesite="lax")
            return answer
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        cookie = cookie_parser(headers.get("cookie", "")).get(access.cookie)
        tokens = (cookie, bearer if scheme.lower() == "bearer" else None)
        if not any(access.admits_token(token) for token in tokens):
            found = "another" if given is not None or any(token is not None for token in tokens) else "none"
            return _refuse(403, f"token: expected the one in the address that the command printed, found {found}")
        return None


def _limited(receive: Receive) -> Receive:
    """Return `receive` that counts what comes, for bodies that do not tell their length."""
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAX_BODY_BYTES:
            raise HTTPException(413, f"{_TOO_LARGE} more")
        return message

    return limited


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(HEADERS)
            headers.setdefault("Cache-Control", "no-cache")  # lest a browser runs the scripts of an earlier version
        await send(message)

    return sending


def _refuse(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status, {"Connection": "close"})


def _show(header: str) -> str:
    return repr(header if len(header) <= MAX_SHOWN else f"{header[:MAX_SHOWN]}...")


def _split(authority: str) -> tuple[str, str]:
    """Return name and port of an address's authority, both empty where it is none."""
    match = _AUTHORITY.fullmatch(authority.lower())
    return (_canonical(match[1]), match[2] or _HTTP_PORT) if match else ("", "")


def _canonical(name: str) -> str:
    """Return a name in lower case, or an address in its shortest form, without brackets."""
    try:
        return str(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        return name.lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
