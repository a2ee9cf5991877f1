"""Nobody gets in: without the token, by another name, from another site, with odd paths or a large body."""

import http.client
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from helpers.served_page import TOKEN, Served, make_reading, serving

from lesionclick.errors import InputError
from lesionclick.page.access import MAX_BODY_BYTES, Access
from lesionclick.page.app import create_app

ACCESS = Access("127.0.0.1", 4744, TOKEN)
POINT = {"scan": "pet", "kind": "tumor", "ras_mm": [-31.0, 42.0, 530.0]}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    """Somebody who has the address without the token."""
    with TestClient(create_app(make_reading(tmp_path), ACCESS), base_url="http://127.0.0.1:4744") as client:
        yield client


@pytest.fixture
def reader(client: TestClient) -> TestClient:
    """Somebody who opened the address that the command printed."""
    assert client.get("/", params={"token": TOKEN}).status_code == 200
    return client


@pytest.mark.parametrize(
    "path", ["/", "/main.js", "/vendor/niivue.js", "/api/state", "/api/scans/pet.nii", "/api/events", "/x"]
)
def test_without_the_token_nothing_is_answered(client: TestClient, path: str) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Cookie": f"{ACCESS.cookie}=wrong"},
        {"Cookie": "\x01=;;="},
    ):
        assert client.get(path, headers=headers).status_code == 403
    assert client.get(path, params={"token": TOKEN[:-1]}).status_code == 403
    assert client.post("/api/points", json=POINT).status_code == 403


def test_the_token_moves_from_the_address_into_a_cookie_that_is_for_this_page_alone(client: TestClient) -> None:
    answer = client.get("/", params={"token": TOKEN}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie  # a link elsewhere leads here; what changes anything is no link
    assert client.get("/api/state").status_code == 200


def test_a_program_sends_the_token_as_a_bearer(client: TestClient) -> None:
    assert client.get("/api/state", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example:4744", "127.0.0.1", "127.0.0.1:4745", "127.0.0.1.evil.example:4744", ""]
)
def test_another_name_for_this_machine_is_refused(reader: TestClient, host: str) -> None:
    assert reader.get("/api/state", headers={"Host": host}).status_code == 403


def test_the_names_of_the_loopback_are_the_same(reader: TestClient) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert [
        reader.get("/api/state", headers=bearer | {"Host": f"{name}:4744"}).status_code
        for name in ("localhost", "[::1]")
    ] == [200, 200]


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:4745", "https://127.0.0.1:4744"])
def test_a_request_from_another_site_is_refused(reader: TestClient, origin: str) -> None:
    answer = reader.post("/api/points", json=POINT, headers={"Origin": origin})
    assert answer.status_code == 403
    assert reader.get("/api/state").json()["marks"] == []
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_the_own_page_may_set_points(reader: TestClient) -> None:
    answer = reader.post("/api/points", json=POINT, headers={"Origin": "http://127.0.0.1:4744"})
    assert (answer.status_code, answer.json()["voxel"]) == (201, [0, 0, 0])
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_a_preflight_of_another_site_gets_no_leave(reader: TestClient) -> None:
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = reader.options("/api/points", headers=headers)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


def test_every_answer_tells_the_browser_to_load_nothing_from_elsewhere(reader: TestClient) -> None:
    for path in ("/", "/main.js", "/api/state", "/none"):
        headers = reader.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        # lest scripts or images of an earlier server meet a new one
        assert headers["cache-control"] in ("no-cache", "no-store")


def test_a_body_that_says_it_is_large_is_refused(reader: TestClient) -> None:
    for length in (str(MAX_BODY_BYTES + 1), "-1", "many"):
        answer = reader.post("/api/points", content=b"{}", headers={"Content-Length": length})
        assert answer.status_code == 413


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(make_reading(tmp_path)) as served:
        yield served


def _raw(served: Served, method: str, path: str, headers: dict[str, str] | None = None) -> int:
    """Send a path as it is; clients tidy it up."""
    connection = http.client.HTTPConnection("127.0.0.1", served.access.port, timeout=20)
    connection.request(method, path, headers={"Authorization": f"Bearer {TOKEN}", **(headers or {})})
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.parametrize(
    "path",
    [
        "/../app.py",
        "/../../../pyproject.toml",
        "/%2e%2e/app.py",
        "/..%2fapp.py",
        "/vendor/../../app.py",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "/vendor/..%5c..%5capp.py",
        "/api/scans/..%2f..%2fpet.nii",
        "/api/masks/../../../etc/passwd.nii",
        "/index.html%00.js",
    ],
)
def test_no_path_leads_out_of_the_page(served: Served, path: str) -> None:
    assert _raw(served, "GET", path) == 404
    assert _raw(served, "GET", "/main.js") == 200


def test_a_gigabyte_is_refused_before_it_has_come(served: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.access.port, timeout=20)
    connection.putrequest("POST", "/api/points")
    connection.putheader("Authorization", f"Bearer {TOKEN}")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(2**30))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_a_gigabyte_in_pieces_is_refused_at_the_limit(served: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.access.port, timeout=20)
    connection.putrequest("POST", "/api/points")
    for name, value in (
        ("Authorization", f"Bearer {TOKEN}"),
        ("Content-Type", "application/json"),
        ("Transfer-Encoding", "chunked"),
    ):
        connection.putheader(name, value)
    connection.endheaders()
    sent = 0
    piece = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    refused = threading.Event()
    try:
        while sent < 2**30 and not refused.is_set():
            connection.send(piece)
            sent += 0x4000
            if sent >= 2 * MAX_BODY_BYTES:
                break
        assert connection.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError):
        assert sent < 2**24  # the server hung up
    connection.close()
    assert served.reading.state()["marks"] == []


@pytest.mark.parametrize(
    ("host", "value", "right"),
    [
        ("192.168.1.7", "192.168.1.7:4744", True),
        ("192.168.1.7", "127.0.0.1:4744", False),
        ("0.0.0.0", "192.168.1.7:4744", True),
        ("0.0.0.0", "[fe80::1]:4744", True),
        ("0.0.0.0", "evil.example:4744", False),
        ("::", "[::1]:4744", True),
        ("::", "evil.example:4744", False),
        ("::1", "[::1]:4744", True),
        ("::1", "localhost:4744", True),
        ("::1", "::1:4744", False),
        ("fe80::A", "[FE80:0:0:0:0:0:0:A]:4744", True),
        ("fe80::a", "[fe80::b]:4744", False),
        ("Reading-Room", "reading-room:4744", True),
        ("reading-room", "READING-ROOM:4744", True),
        ("reading-room", "reading-room.evil.example:4744", False),
        ("reading-room", "reading-room", False),
        ("reading-room", "user@reading-room:4744", False),
    ],
)
def test_on_another_address_its_own_name_counts(host: str, value: str, right: bool) -> None:
    assert Access(host, 4744, TOKEN).admits_host(value) is right


def test_browsers_leave_port_80_out() -> None:
    access = Access("127.0.0.1", 80, TOKEN)
    assert [access.admits_host(host) for host in ("127.0.0.1", "[::1]", "localhost:80", "localhost:4744")] == [
        *(True, True, True, False)
    ]
    assert access.admits_origin("http://127.0.0.1", "127.0.0.1:80")
    assert not access.admits_origin("http://127.0.0.1:4744", "127.0.0.1")


@pytest.mark.parametrize(
    ("host", "start"),
    [
        ("127.0.0.1", "http://127.0.0.1:4744/?token="),
        ("::1", "http://[::1]:4744/?token="),
        ("0.0.0.0", "http://127.0.0.1:4744/?token="),
        ("::", "http://[::1]:4744/?token="),
    ],
)
def test_the_address_that_is_printed_can_be_opened(host: str, start: str) -> None:
    access = Access(host, 4744, TOKEN)
    assert access.url == start + TOKEN
    assert access.admits_host(start.removeprefix("http://").partition("/")[0])


def test_any_token_gets_in_by_the_address_that_is_printed(tmp_path: Path) -> None:
    token = "a+b/c&d%e=f#g?h;i"
    access = Access.make("::1", 4744, token)
    with TestClient(create_app(make_reading(tmp_path), access), base_url="http://[::1]:4744") as client:
        assert client.get(access.url).status_code == 200
        assert client.get("/api/state").status_code == 200
        client.cookies.clear()
        assert client.get("/api/state").status_code == 403


@pytest.mark.parametrize("token", ["€uro", "line\nfeed", "tab\t"])
def test_a_token_that_no_header_can_carry_is_refused(token: str) -> None:
    with pytest.raises(InputError, match="printable ASCII"):
        Access.make("127.0.0.1", 4744, token)


def test_a_refusal_says_what_was_expected_and_found_but_never_the_token(reader: TestClient) -> None:
    bearer = {"Authorization": "Bearer another"}
    answers = [
        reader.get("/api/state", headers={"Host": "evil.example:4744"}),
        reader.get("/api/state", headers={"Origin": "http://evil.example"}),
        reader.get("/api/state", headers={"Content-Length": "many"}),
    ]
    reader.cookies.clear()
    answers += [reader.get("/api/state"), reader.get("/api/state", headers=bearer)]
    assert [answer.json()["detail"] for answer in answers] == [
        "Host: expected 127.0.0.1:4744 or localhost:4744 or [::1]:4744, found 'evil.example:4744'",
        "Origin: expected 'http://127.0.0.1:4744', found 'http://evil.example'",
        f"body: expected at most {MAX_BODY_BYTES} bytes, found a length of 'many'",
        "token: expected the one in the address that the command printed, found none",
        "token: expected the one in the address that the command printed, found another",
    ]
    everywhere = Access("0.0.0.0", 4744, TOKEN)
    assert everywhere.expected_host.endswith("[::1]:4744 or an address of this machine with port 4744")


def test_a_token_is_long_and_never_the_same() -> None:
    tokens = {Access.make("127.0.0.1", 4744).token for _ in range(20)}
    assert len(tokens) == 20
    assert min(map(len, tokens)) >= 43


def test_a_cookie_of_another_program_on_this_host_locks_nobody_out(reader: TestClient) -> None:
    """Browsers send the cookies of all ports, and not all programs follow the rules for what one may hold."""
    (name,) = reader.cookies
    cookies = f'prefs={{"a": 1, "b"}}; {name}={reader.cookies[name]}'
    reader.cookies.clear()
    assert reader.get("/api/state", headers={"Cookie": cookies}).status_code == 200
