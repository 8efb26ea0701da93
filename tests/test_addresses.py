"""Which addresses a transfer connects to, whatever the URL, the resolver and the redirects say."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import aiohappyeyeballs
import aiohttp
import aiohttp.connector
import aiohttp.helpers
import pytest
import trustme
from aiohttp import web
from attrs import define, field
from hypothesis import assume, given
from hypothesis import strategies as st
from transfer_rig import PNG, Names, everything_said, left_in, rig
from yarl import URL

from avaturn_async import AvaturnConnectionError, RetryPolicy, TransferError
from avaturn_async._addresses import GuardedResolver, is_name_or_public, is_public

PUBLIC = "93.184.216.34"
PUBLIC_V6 = "2606:2800:220:1:248:1893:25c8:1946"

NOT_PUBLIC = [
    "0.0.0.0",  # noqa: S104
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "192.168.255.255",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:a9fe:a9fe",
    "64:ff9b::10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2002:c0a8:101::1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "2606:2800::1%eth0",
    "fec0::1",
    "ff02::1",
]
"""One inside each range that is not of the public internet, and its ends where they are easily mistaken."""

ARE_PUBLIC = [
    PUBLIC,
    PUBLIC_V6,
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.1",
    "168.63.129.15",
    "169.253.255.255",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.1",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "::ffff:93.184.216.34",
    "64:ff9b::93.184.216.34",
    "2002:5db8:d822::1",
    "2001:200::1",
    "2a00::1",
    "3ffe::1",
]

ODD_SPELLINGS = [
    "127.1",
    "127.0.1",
    "0",
    "1",
    "2130706433",
    "017700000001",
    "0x7f000001",
    "0X7F000001",
    "0x7f.1",
    "0x7f.0x0.0x0.0x1",
    "0177.0.0.1",
    "127.0.0.01",
    "127.0.0.1.",
    "127.0.0.1..",
    "10.1",
    "0x",
    "1.2.3.4.5",
    "256.256.256.256",
    # Spellings of public addresses, too: no honest URL has them.
    "1572395042",
    "93.184.216.34.",
    "0x5d.184.216.34",
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_of_the_public_internet_is_told(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ARE_PUBLIC)
def test_a_public_address_is_told(address: str) -> None:
    assert is_public(address)
    assert is_name_or_public(address)


@pytest.mark.parametrize("host", [*NOT_PUBLIC, *ODD_SPELLINGS])
def test_a_host_that_is_a_private_address_or_an_odd_spelling_is_refused(host: str) -> None:
    assert not is_name_or_public(host)


@pytest.mark.parametrize("host", ["localhost", "example.com", "example.com.", "a1", "1a", "1.example", "0xg"])
def test_a_name_is_left_to_the_resolver(host: str) -> None:
    assert is_name_or_public(host)


@given(st.ip_addresses())
def test_what_python_knows_as_private_is_never_public(address: IPv4Address | IPv6Address) -> None:
    if isinstance(address, IPv6Address):
        # Translated addresses count by what is inside of them: the next test.
        assume(not (address.ipv4_mapped or address.sixtofour or str(address).startswith("64:ff9b::")))
    if not address.is_global or address.is_multicast or address.is_reserved:
        assert not is_public(str(address))


@given(st.ip_addresses(v=4))
def test_an_address_inside_of_ipv6_is_judged_like_itself(inner: IPv4Address) -> None:
    number = int(inner)
    for outer in (
        IPv6Address((0xFFFF << 32) | number),
        IPv6Address((0x0064FF9B << 96) | number),
        IPv6Address((0x2002 << 112) | (number << 80) | 1),
    ):
        assert is_public(str(outer)) == is_public(str(inner))


@given(st.text("0123456789.:abcdefx%", min_size=1, max_size=24))
def test_no_host_passes_as_a_name_that_aiohttp_takes_for_an_address(host: str) -> None:
    if aiohttp.helpers.is_ip_address(host):
        assert not is_name_or_public(host) or is_public(host)


@given(st.lists(st.sampled_from(["127", "0", "1", "0x7f", "0177", "0x0", "0x1"]), min_size=1, max_size=4))
def test_no_host_passes_as_a_name_that_the_system_takes_for_an_address(labels: list[str]) -> None:
    host = ".".join(labels)
    address = socket.inet_ntoa(socket.inet_aton(host))
    assert not is_name_or_public(host) or is_public(address)


# The same, on the wire: "files.test" resolves to public addresses, and what is connected to one of them ends
# at a TLS server on loopback.


@define
class Net:
    """A public internet in which each address is the test's server."""

    port: int
    ssl_context: ssl.SSLContext
    connected: list[str] = field(factory=list[str])
    requests: list[web.Request] = field(factory=list[web.Request])
    bodies: list[bytes] = field(factory=list[bytes])
    answers: list[Callable[[web.Request], Awaitable[web.StreamResponse]]] = field(factory=list[Any])


async def well(request: web.Request) -> web.StreamResponse:
    if request.method == "POST":
        return web.json_response({"status": "ok"})
    return web.Response(body=PNG, content_type="image/png")


def redirect(location: str, status: int = 302) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": location})

    return answer


@pytest.fixture(scope="module")
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What the server shows, and what the client trusts."""
    authority = trustme.CA()
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("files.test", "cdn.test", PUBLIC, "localhost", "127.0.0.1").configure_cert(served)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return served, trusting


@pytest.fixture
async def net(
    monkeypatch: pytest.MonkeyPatch, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> AsyncIterator[Net]:
    served, trusting = tls

    async def handle(request: web.Request) -> web.StreamResponse:
        made.requests.append(request)
        made.bodies.append(await request.read())
        answer = made.answers.pop(0) if made.answers else well
        return await answer(request)

    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{tail:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=served).start()
    made = Net(runner.addresses[0][1], trusting)
    real = aiohappyeyeballs.start_connection

    async def start_connection(addr_infos: list[Any], **options: Any) -> socket.socket:
        made.connected += [info[4][0] for info in addr_infos]
        to = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", made.port))
        return await real([to], **options)

    monkeypatch.setattr(aiohappyeyeballs, "start_connection", start_connection)
    yield made
    await runner.cleanup()


@asynccontextmanager
async def guarded(net: Net, names: Names | None = None, **options: Any) -> AsyncIterator[Any]:
    names = names or Names(files_test=[[PUBLIC]], cdn_test=[[PUBLIC_V6]])
    async with rig(resolver=names, ssl_context=net.ssl_context, **options) as made:
        yield made.transfers


NOT_TO_FOLLOW = [
    *(
        "http://files.test/a.png",
        "https://127.1/",
        "https://[::1]/",
        "https://0x7f.1/",
        "https://private.test/",
    ),
    *("//private.test/", "ftp://files.test/", "file:///etc/passwd", "", "https://files.test:99999/"),
    *("https://files.test:0/", "https://bad host/", "https://a..b/", "data:image/png,x", "https://\x01/"),
]


async def test_a_public_name_is_downloaded_from_over_tls(net: Net, tmp_path: Path) -> None:
    async with guarded(net) as transfers:
        path = await transfers.download("https://files.test/a.png", tmp_path)
    assert path.read_bytes() == PNG
    assert net.connected == [PUBLIC]


async def test_photos_go_to_a_public_name_over_tls(net: Net) -> None:
    async with guarded(net) as transfers:
        await transfers.upload_photos(
            "https://files.test/up", frontal=PNG, side_1=PNG, side_2=PNG, body_type="male"
        )
    assert net.connected == [PUBLIC]


@pytest.mark.parametrize("host", [PUBLIC, f"[{PUBLIC_V6}]"])
async def test_a_public_address_in_the_url_is_taken(net: Net, tmp_path: Path, host: str) -> None:
    async with guarded(net, retry=RetryPolicy(attempts=1)) as transfers:
        try:
            await transfers.download(f"https://{host}/a.png", tmp_path)
        except AvaturnConnectionError as error:
            assert "certificate" in str(error)  # noqa: PT017 - the IPv6 address has none
    assert net.connected == [host.strip("[]")]


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "169.254.169.254", "::ffff:10.0.0.1", "fe80::1%eth0"]
)
async def test_a_name_that_resolves_to_a_private_address_is_refused(
    net: Net, tmp_path: Path, address: str
) -> None:
    async with guarded(net, Names(files_test=[[address]])) as transfers:
        with pytest.raises(TransferError, match=r"^download from files\.test: refused"):
            await transfers.download("https://files.test/a.png?secret", tmp_path)
    assert net.connected == []
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("found", [[PUBLIC, "10.0.0.1"], ["::1", PUBLIC_V6], [PUBLIC, "not an address"]])
async def test_a_name_with_one_private_address_among_public_ones_is_refused(
    net: Net, tmp_path: Path, found: list[str]
) -> None:
    async with guarded(net, Names(files_test=[found])) as transfers:
        with pytest.raises(TransferError, match="refused"):
            await transfers.download("https://files.test/a.png", tmp_path)
    assert net.connected == []


async def test_photos_are_not_sent_to_a_name_that_resolves_to_a_private_address(net: Net) -> None:
    async with guarded(net, Names(files_test=[["10.0.0.1"]])) as transfers:
        with pytest.raises(TransferError, match=r"^upload to files\.test: refused") as caught:
            await transfers.upload_photos(
                "https://files.test/up?secret", frontal=PNG, side_1=PNG, side_2=PNG, body_type="male"
            )
    assert net.connected == []
    assert "secret" not in everything_said(caught.value)


@pytest.mark.parametrize(
    "host",
    [
        *(
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "10.0.0.1",
            "0",
            "127.0.0.1.",
        ),
        *("[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::]"),
        *(
            "[fe80::1%25eth0]",
            "[fe80::1]",
            "169.254.169.254",
            "127。0。0。1",
            "\uff11\uff12\uff17.0.0.1",
            "①②⑦.0.0.1",
        ),
        *("user:word@127.0.0.1", "files.test@10.0.0.1"),
    ],
)
async def test_a_private_address_in_the_url_is_refused_in_every_spelling(
    net: Net, tmp_path: Path, host: str
) -> None:
    names = Names(files_test=[[PUBLIC]])
    async with guarded(net, names) as transfers:
        for url in (f"https://{host}/a.png", f"https://{host}:8443/a.png?secret"):
            with pytest.raises(TransferError, match="refused") as caught:
                await transfers.download(url, tmp_path / "a.png")
            assert "secret" not in everything_said(caught.value)
            assert "word" not in str(caught.value)
            with pytest.raises(TransferError, match="refused"):
                await transfers.upload_photos(url, frontal=PNG, side_1=PNG, side_2=PNG, body_type="male")
    assert (net.connected, names.asked) == ([], [])


async def test_a_name_that_moves_to_a_private_address_between_two_attempts_is_refused(
    net: Net, tmp_path: Path
) -> None:
    async def overloaded(_: web.Request) -> web.StreamResponse:
        return web.Response(status=503)

    net.answers = [overloaded]
    names = Names(files_test=[[PUBLIC], ["127.0.0.1"]])
    async with guarded(net, names) as transfers:
        with pytest.raises(TransferError, match="refused"):
            await transfers.download("https://files.test/a.png", tmp_path)
    assert names.asked == ["files.test", "files.test"]
    assert net.connected == [PUBLIC]


async def test_a_name_is_resolved_once_for_each_connection_and_that_answer_is_connected_to(
    net: Net, tmp_path: Path
) -> None:
    names = Names(files_test=[[PUBLIC], ["1.1.1.1"], ["127.0.0.1"]])
    async with guarded(net, names) as transfers:
        for _ in range(2):
            await transfers.download("https://files.test/a.png", tmp_path)
        with pytest.raises(TransferError, match="refused"):
            await transfers.download("https://files.test/a.png", tmp_path)
    assert net.connected == [PUBLIC, "1.1.1.1"]


async def test_redirects_are_followed_and_each_is_resolved_under_the_guard(net: Net, tmp_path: Path) -> None:
    net.answers = [redirect("https://cdn.test/b?key=%2F+x", 301), redirect("../c?d", 307)]
    names = Names(files_test=[[PUBLIC]], cdn_test=[[PUBLIC_V6]])
    async with guarded(net, names) as transfers:
        path = await transfers.download("https://files.test/a.png?sig=a%2Fb+c%7E", tmp_path)
    assert path.name == "a.png"
    assert net.connected == [PUBLIC, PUBLIC_V6, PUBLIC_V6]
    assert [request.raw_path for request in net.requests] == ["/a.png?sig=a%2Fb+c%7E", "/b?key=%2F+x", "/c?d"]


@pytest.mark.parametrize(
    ("status", "location"),
    [
        *((status, "https://127.0.0.1/") for status in (301, 302, 303, 307, 308)),
        *((302, location) for location in NOT_TO_FOLLOW),
    ],
)
async def test_a_redirect_to_plain_http_or_a_private_address_is_refused(
    net: Net, tmp_path: Path, location: str, status: int
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.write(
                f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
            )
        return web.Response()

    net.answers = [answer]
    names = Names(files_test=[[PUBLIC]], private_test=[["192.168.1.1"]])
    async with guarded(net, names, retry=RetryPolicy(attempts=1)) as transfers:
        with pytest.raises((TransferError, AvaturnConnectionError)) as caught:
            await transfers.download("https://files.test/a.png?secret", tmp_path)
    if "\x01" not in location:  # aiohttp reads no such header
        assert type(caught.value) is TransferError
    assert "secret" not in everything_said(caught.value)
    assert net.connected == [PUBLIC]
    assert left_in(tmp_path) == []


async def test_a_redirect_without_a_location_is_an_error(net: Net, tmp_path: Path) -> None:
    async def nowhere(_: web.Request) -> web.StreamResponse:
        return web.Response(status=302)

    net.answers = [nowhere]
    async with guarded(net) as transfers:
        with pytest.raises(TransferError, match="redirected to what is no https URL"):
            await transfers.download("https://files.test/a.png", tmp_path)


@pytest.mark.parametrize(("times", "good"), [(5, True), (6, False)])
async def test_five_redirects_are_followed_and_no_more(
    net: Net, tmp_path: Path, times: int, *, good: bool
) -> None:
    net.answers = [redirect("/a.png")] * times
    async with guarded(net) as transfers:
        if good:
            await transfers.download("https://files.test/a.png", tmp_path)
        else:
            with pytest.raises(TransferError, match="more than 5"):
                await transfers.download("https://files.test/a.png", tmp_path)
    assert len(net.requests) == 6


async def test_photos_do_not_follow_a_redirect(net: Net) -> None:
    net.answers = [redirect("https://cdn.test/up", 307)]
    async with guarded(net) as transfers:
        with pytest.raises(TransferError, match="307") as caught:
            await transfers.upload_photos(
                "https://files.test/up", frontal=PNG, side_1=PNG, side_2=PNG, body_type="male"
            )
    assert caught.value.status == 307
    assert net.connected == [PUBLIC]


async def test_the_origin_of_the_api_is_always_taken(net: Net, tmp_path: Path) -> None:
    base = f"https://localhost:{net.port}"
    async with rig(base_url=base, ssl_context=net.ssl_context) as made:
        path = await made.transfers.download(f"{base}/a.png", tmp_path)
        assert path.read_bytes() == PNG
        await made.transfers.download(f"https://LOCALHOST:{net.port}/a.png", tmp_path)
        # Another scheme, host or port is another origin.
        with pytest.raises(ValueError, match="https"):
            await made.transfers.download(f"http://localhost:{net.port}/a.png", tmp_path)
        for other in (
            f"https://127.0.0.1:{net.port}/",
            "https://localhost/",
            f"https://localhost:{net.port + 1}/",
        ):
            with pytest.raises(TransferError, match="refused"):
                await made.transfers.download(other, tmp_path)


async def test_a_redirect_away_from_the_api_comes_under_the_guard(net: Net, tmp_path: Path) -> None:
    base = f"https://localhost:{net.port}"
    net.answers = [redirect(f"https://127.0.0.1:{net.port}/a.png")]
    async with rig(base_url=base, ssl_context=net.ssl_context) as made:
        with pytest.raises(TransferError, match="refused"):
            await made.transfers.download(f"{base}/a.png", tmp_path)
    assert len(net.requests) == 1


async def test_private_addresses_are_taken_when_they_are_allowed(net: Net, tmp_path: Path) -> None:
    async with guarded(net, Names(files_test=[["10.0.0.1"]]), allow_private_urls=True) as transfers:
        await transfers.download("https://files.test/a.png", tmp_path)
        await transfers.download("https://127.0.0.1/a.png", tmp_path)
    assert net.connected == ["10.0.0.1", "127.0.0.1"]


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "x",
            "/x",
            "//files.test/x",
            "https://",
            "https:///x",
            "https:x",
            "ftp://files.test/x",
            "data:,x",
        ),
        *("https://files.test:99999/", "https://[::1", "https://bad host/", "https://a..b/", "https://.a/"),
        *(
            "https://files.test/\n",
            "https://files.test/\r\nHost: x",
            "\x00https://files.test/",
            "https://h%41/",
        ),
        *("https://good\\@127.0.0.1/", "https://" + "a" * 64 + ".test/", "https://" + "a." * 130 + "test/"),
        *(
            "http://files.test/secret",
            "http://127.0.0.1/",
            None,
            5,
            b"https://files.test/",
            ["https://files.test/"],
        ),
    ],
)
async def test_what_is_no_https_url_is_a_value_error_before_anything_is_sent(
    net: Net, tmp_path: Path, url: Any
) -> None:
    names = Names(files_test=[[PUBLIC]])
    async with guarded(net, names) as transfers:
        with pytest.raises(ValueError, match=r"^url must be") as caught:
            await transfers.download(url, tmp_path)
        assert "secret" not in everything_said(caught.value)
        with pytest.raises(ValueError, match=r"^upload_url must be"):
            await transfers.upload_photos(url, frontal=PNG, side_1=PNG, side_2=PNG, body_type="male")
    assert (names.asked, net.connected) == ([], [])


async def test_a_url_with_letters_and_spaces_is_quoted(net: Net, tmp_path: Path) -> None:
    async with guarded(net) as transfers:
        await transfers.download("https://files.test/größe a.png?q=ü", tmp_path / "a.png")
        await transfers.download(URL("https://files.test/b"), tmp_path / "b.png")
        await transfers.download("https://files.test/a b.png", tmp_path / "c.png")
    assert [r.raw_path for r in net.requests] == ["/gr%C3%B6%C3%9Fe%20a.png?q=%C3%BC", "/b", "/a%20b.png"]


async def test_no_header_cookie_or_proxy_of_another_place_goes_along(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def with_cookie(_: web.Request) -> web.StreamResponse:
        response = web.Response(body=PNG)
        response.set_cookie("a", "b")
        return response

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    (tmp_path / "netrc").write_text("machine files.test login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    net.answers = [with_cookie]
    async with guarded(net) as transfers:
        for _ in range(2):
            await transfers.download("https://files.test/a.png", tmp_path)
        await transfers.upload_photos(
            "https://files.test/up", frontal=PNG, side_1=PNG, side_2=PNG, body_type="male"
        )
    plain = {"Host", "User-Agent", "Accept", "Accept-Encoding", "Connection"}
    down, again, up = net.requests
    assert set(down.headers) == set(again.headers) == plain
    assert set(up.headers) == plain | {"Content-Type", "Content-Length"}
    assert down.headers["Accept-Encoding"] == "identity"


@pytest.mark.usefixtures("net")
async def test_a_wrong_certificate_is_an_error_that_is_not_tried_again(tmp_path: Path) -> None:
    async with rig(resolver=Names(files_test=[[PUBLIC]])) as made:
        with pytest.raises(AvaturnConnectionError, match="certificate is not valid") as caught:
            await made.transfers.download("https://files.test/a.png?secret", tmp_path)
        with pytest.raises(AvaturnConnectionError, match="certificate is not valid"):
            await made.transfers.upload_photos(
                "https://files.test/up", frontal=PNG, side_1=PNG, side_2=PNG, body_type="male"
            )
    assert made.slept == []
    assert "secret" not in everything_said(caught.value)


@pytest.mark.parametrize("names", [Names(), Names(files_test=[[]])], ids=["unknown", "without addresses"])
async def test_a_name_that_does_not_resolve_is_tried_again_and_then_an_error(
    net: Net, tmp_path: Path, names: Names
) -> None:
    async with rig(resolver=names, ssl_context=net.ssl_context) as made:
        with pytest.raises(AvaturnConnectionError, match="its name does not resolve"):
            await made.transfers.download("https://files.test/a.png", tmp_path)
        with pytest.raises(AvaturnConnectionError, match="its name does not resolve"):
            await made.transfers.upload_photos(
                "https://files.test/up", frontal=PNG, side_1=PNG, side_2=PNG, body_type="male"
            )
    assert made.slept == [0.25, 0.5] * 2
    assert net.connected == []


async def test_a_resolver_of_the_caller_is_not_closed_and_our_own_is(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Names(files_test=[["10.0.0.1"]])
    monkeypatch.setattr(aiohttp, "DefaultResolver", lambda: own)
    given = Names(files_test=[["10.0.0.1"]])
    for resolver in (None, given):
        async with rig(resolver=resolver) as made:
            with pytest.raises(TransferError, match="refused"):
                await made.transfers.download("https://files.test/a.png", "a.png")
    assert (given.closed, own.closed) == (0, 1)
    await GuardedResolver(given).close()
    assert given.closed == 0


async def test_traces_see_the_requests_under_the_guard_and_without_it(net: Net, tmp_path: Path) -> None:
    seen: list[str] = []

    async def start(_: Any, __: Any, params: aiohttp.TraceRequestStartParams) -> None:
        seen.append(params.url.path)

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(start)
    base = f"https://localhost:{net.port}"
    async with guarded(net, base_url=base, trace_configs=[trace]) as transfers:
        await transfers.download("https://files.test/a.png", tmp_path)
        with pytest.raises(AvaturnConnectionError):
            await transfers.download(f"{base}/b.png", tmp_path)
    assert set(seen) == {"/a.png", "/b.png"}
    assert asyncio.get_running_loop().is_running()
