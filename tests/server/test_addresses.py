"""Which addresses a transfer connects to, whatever the URL, the resolver and the redirects say."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import aiohappyeyeballs
import aiohttp
import aiohttp.helpers
import pytest
import trustme
from aiohttp import web
from attrs import define, field
from hypothesis import assume, given
from hypothesis import strategies as st
from support.transfer_rig import PNG, Names, Rig, get_all_text, list_names, rig
from yarl import URL

from avaturn_async import AvaturnConnectionError, RetryPolicy, TransferError
from avaturn_async.transfers.session import GuardedResolver, is_name_or_public, is_public

PUBLIC = "93.184.216.34"
PUBLIC_V6 = "2606:2800:220:1:248:1893:25c8:1946"

# One address inside of each range, and the ends of ranges that are easily mistaken.
NOT_PUBLIC = """
    0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 127.255.255.254 168.63.129.16
    169.254.0.1 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1 192.168.255.255
    198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
    :: ::1 ::7f00:1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:a9fe:a9fe 64:ff9b::10.0.0.1 64:ff9b::7f00:1 64:ff9b:1::1
    100::1 2001::1 2001:db8::1 2002:7f00:1:: 2002:a00:1::1 2002:c0a8:101::1 3fff::1 4000::1 5f00::1 fc00::1
    fd00:ec2::254 fe80::1 fe80::1%eth0 2606:2800::1%eth0 fec0::1 ff02::1
"""
ARE_PUBLIC = f"""
    {PUBLIC} {PUBLIC_V6} 1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1
    168.63.129.15 169.253.255.255 172.15.255.255 172.32.0.0 192.0.1.1 192.167.255.255 192.169.0.0 198.17.255.255
    198.20.0.0 223.255.255.255 ::ffff:93.184.216.34 64:ff9b::93.184.216.34 2002:5db8:d822::1 2001:200::1 2a00::1 3ffe::1
"""
# Of private and of public addresses: no honest URL has them.
ODD_SPELLINGS = """
    127.1 127.0.1 0 1 2130706433 017700000001 0x7f000001 0X7F000001 0x7f.1 0x7f.0x0.0x0.0x1 0177.0.0.1 127.0.0.01
    127.0.0.1. 127.0.0.1.. 10.1 0x 1.2.3.4.5 256.256.256.256 1572395042 93.184.216.34. 0x5d.184.216.34
"""


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_address_of_a_special_range_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ARE_PUBLIC.split())
def test_address_outside_of_the_special_ranges_is_public(address: str) -> None:
    assert is_public(address)
    assert is_name_or_public(address)


@pytest.mark.parametrize("host", [*NOT_PUBLIC.split(), *ODD_SPELLINGS.split()])
def test_host_that_is_a_private_address_or_an_odd_spelling_is_refused(host: str) -> None:
    assert not is_name_or_public(host)


@pytest.mark.parametrize("host", ["localhost", "example.com", "example.com.", "a1", "1a", "1.example", "0xg"])
def test_name_is_left_to_the_resolver(host: str) -> None:
    assert is_name_or_public(host)


@given(st.ip_addresses())
def test_address_that_is_private_for_python_is_never_public(address: IPv4Address | IPv6Address) -> None:
    if isinstance(address, IPv6Address):
        # Translated addresses count by the address inside of them: see the next test.
        assume(not (address.ipv4_mapped or address.sixtofour or str(address).startswith("64:ff9b::")))
    if not address.is_global or address.is_multicast or address.is_reserved:
        assert not is_public(str(address))


@given(st.ip_addresses(v=4))
def test_ipv6_address_that_holds_an_ipv4_address_counts_as_that(inner: IPv4Address) -> None:
    number = int(inner)
    for outer in (
        IPv6Address((0xFFFF << 32) | number),
        IPv6Address((0x0064FF9B << 96) | number),
        IPv6Address((0x2002 << 112) | (number << 80) | 1),
    ):
        assert is_public(str(outer)) == is_public(str(inner))


@given(st.text("0123456789.:abcdefx%", min_size=1, max_size=24))
def test_host_that_is_an_address_for_aiohttp_does_not_pass_as_a_name(host: str) -> None:
    if aiohttp.helpers.is_ip_address(host):
        assert not is_name_or_public(host) or is_public(host)


@given(st.lists(st.sampled_from(["127", "0", "1", "0x7f", "0177", "0x0", "0x1"]), min_size=1, max_size=4))
def test_host_that_is_an_address_for_the_system_does_not_pass_as_a_name(labels: list[str]) -> None:
    host = ".".join(labels)
    address = socket.inet_ntoa(socket.inet_aton(host))
    assert not is_name_or_public(host) or is_public(address)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@define
class Net:
    """An internet in which each address leads to one TLS server on loopback."""

    port: int
    ssl_context: ssl.SSLContext
    connected: list[str] = field(factory=list[str])
    requests: list[web.Request] = field(factory=list[web.Request])
    handlers: list[Handler] = field(factory=list[Handler])


async def succeed(request: web.Request) -> web.StreamResponse:
    if request.method == "POST":
        return web.json_response({"status": "ok"})
    return web.Response(body=PNG, content_type="image/png")


def respond(status: int, **headers: str) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers=headers)

    return handler


@pytest.fixture(scope="module")
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of the server and of a client that trusts it."""
    authority = trustme.CA()
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("files.test", "cdn.test", PUBLIC, "localhost", "127.0.0.1").configure_cert(served)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return served, trusting


@pytest.fixture
async def net(monkeypatch: pytest.MonkeyPatch, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> AsyncIterator[Net]:
    served, trusting = tls

    async def handle(request: web.Request) -> web.StreamResponse:
        made.requests.append(request)
        await request.read()
        return await (made.handlers.pop(0) if made.handlers else succeed)(request)

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
async def guarded(net: Net, names: Names | None = None, **options: Any) -> AsyncIterator[Rig]:
    names = names or Names(files_test=[[PUBLIC]], cdn_test=[[PUBLIC_V6]])
    async with rig(resolver=names, ssl_context=net.ssl_context, **options) as made:
        yield made


FILE = "https://files.test/a.png?secret"


async def test_public_name_is_connected_to_over_tls(net: Net, tmp_path: Path) -> None:
    async with guarded(net) as made:
        path = await made.download(tmp_path, FILE)
        await made.upload(PNG, "https://files.test/up")
    assert path.read_bytes() == PNG
    assert net.connected == [PUBLIC, PUBLIC]


@pytest.mark.parametrize("host", [PUBLIC, f"[{PUBLIC_V6}]"])
async def test_public_address_in_the_url_is_connected_to(net: Net, tmp_path: Path, host: str) -> None:
    async with guarded(net, retry=RetryPolicy(attempts=1)) as made:
        try:
            await made.download(tmp_path, f"https://{host}/a.png")
        except AvaturnConnectionError as error:
            assert "certificate" in str(error)  # noqa: PT017 - the IPv6 address has none
    assert net.connected == [host.strip("[]")]


@pytest.mark.parametrize(
    "addresses",
    [
        *([address] for address in ("127.0.0.1", "::1", "169.254.169.254", "::ffff:10.0.0.1", "fe80::1%eth0")),
        *([PUBLIC, "10.0.0.1"], ["::1", PUBLIC_V6], [PUBLIC, "not an address"]),
    ],
)
async def test_name_with_a_private_address_is_refused(net: Net, tmp_path: Path, addresses: list[str]) -> None:
    async with guarded(net, Names(files_test=[addresses])) as made:
        with pytest.raises(TransferError, match=r"^download from files\.test: refused") as down:
            await made.download(tmp_path, FILE)
        with pytest.raises(TransferError, match=r"^upload to files\.test: refused") as up:
            await made.upload(PNG, FILE)
    assert net.connected == []
    assert list_names(tmp_path) == []
    for caught in (down, up):
        assert "?secret" not in get_all_text(caught.value)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "10.0.0.1", "0", "127.0.0.1."),
        *("[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::]"),
        *("[fe80::1%25eth0]", "[fe80::1]", "169.254.169.254", "127。0。0。1", "\uff11\uff12\uff17.0.0.1", "①②⑦.0.0.1"),
        *("user:word@127.0.0.1", "files.test@10.0.0.1"),
    ],
)
async def test_private_address_in_the_url_is_refused_in_each_spelling(net: Net, tmp_path: Path, host: str) -> None:
    names = Names(files_test=[[PUBLIC]])
    async with guarded(net, names) as made:
        for url in (f"https://{host}/a.png", f"https://{host}:8443/a.png?key=s3cret"):
            with pytest.raises(TransferError, match="refused") as caught:
                await made.download(tmp_path / "a.png", url)
            assert "s3cret" not in get_all_text(caught.value)
            assert "word" not in str(caught.value)
            with pytest.raises(TransferError, match="refused"):
                await made.upload(PNG, url)
    assert (net.connected, names.requested) == ([], [])


async def test_name_is_resolved_and_checked_for_each_connection(net: Net, tmp_path: Path) -> None:
    names = Names(files_test=[[PUBLIC], ["1.1.1.1"], ["127.0.0.1"]])
    async with guarded(net, names) as made:
        await made.download(tmp_path, FILE)
        net.handlers = [respond(503)]
        with pytest.raises(TransferError, match="refused"):  # at the second attempt
            await made.download(tmp_path, FILE)
    assert names.requested == ["files.test"] * 3
    assert net.connected == [PUBLIC, "1.1.1.1"]


async def test_redirects_are_followed_and_each_is_resolved_under_the_guard(net: Net, tmp_path: Path) -> None:
    net.handlers = [respond(301, Location="https://cdn.test/b?key=%2F+x"), respond(307, Location="../c?d")]
    async with guarded(net) as made:
        path = await made.download(tmp_path, "https://files.test/a.png?sig=a%2Fb+c%7E")
    assert path.name == "a.png"
    assert net.connected == [PUBLIC, PUBLIC_V6, PUBLIC_V6]
    assert [request.raw_path for request in net.requests] == ["/a.png?sig=a%2Fb+c%7E", "/b?key=%2F+x", "/c?d"]


@pytest.mark.parametrize(
    ("status", "location"),
    [
        *((status, "https://127.0.0.1/") for status in (301, 302, 303, 307, 308)),
        *(
            (302, location)
            for location in (
                *("http://files.test/a.png", "https://127.1/", "https://[::1]/", "https://0x7f.1/"),
                *("https://private.test/", "//private.test/", "ftp://files.test/", "file:///etc/passwd", ""),
                *("https://files.test:99999/", "https://files.test:0/", "https://bad host/", "https://a..b/"),
                *("data:image/png,x", "https://\x01/"),
            )
        ),
    ],
)
async def test_redirect_to_plain_http_or_a_private_address_is_refused(
    net: Net, tmp_path: Path, location: str, status: int
) -> None:
    async def move(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        head = f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
        request.transport.write(head.encode())
        return web.Response()

    net.handlers = [move]
    names = Names(files_test=[[PUBLIC]], private_test=[["192.168.1.1"]])
    async with guarded(net, names, retry=RetryPolicy(attempts=1)) as made:
        with pytest.raises((TransferError, AvaturnConnectionError)) as caught:
            await made.download(tmp_path, FILE)
    if "\x01" not in location:  # aiohttp accepts no such header
        assert type(caught.value) is TransferError
    assert "?secret" not in get_all_text(caught.value)
    assert net.connected == [PUBLIC]
    assert list_names(tmp_path) == []


async def test_redirect_without_a_location_is_an_error(net: Net, tmp_path: Path) -> None:
    net.handlers = [respond(302)]
    async with guarded(net) as made:
        with pytest.raises(TransferError, match="redirected to a URL that is not https"):
            await made.download(tmp_path, FILE)


async def test_five_redirects_are_followed_and_no_more(net: Net, tmp_path: Path) -> None:
    async with guarded(net) as made:
        net.handlers = [respond(302, Location="/a.png")] * 5
        await made.download(tmp_path, FILE)
        net.handlers = [respond(302, Location="/a.png")] * 6
        with pytest.raises(TransferError, match="more than 5"):
            await made.download(tmp_path, FILE)
    assert len(net.requests) == 12


async def test_photos_do_not_follow_a_redirect(net: Net) -> None:
    net.handlers = [respond(307, Location="https://cdn.test/up")]
    async with guarded(net) as made:
        with pytest.raises(TransferError, match="307") as caught:
            await made.upload(PNG, FILE)
    assert caught.value.status == 307
    assert net.connected == [PUBLIC]


async def test_only_the_origin_of_the_api_needs_no_public_address(net: Net, tmp_path: Path) -> None:
    base = f"https://localhost:{net.port}"
    async with rig(base_url=base, ssl_context=net.ssl_context) as made:
        assert (await made.download(tmp_path, f"{base}/a.png")).read_bytes() == PNG
        await made.download(tmp_path, f"https://LOCALHOST:{net.port}/a.png")
        # Another scheme, host or port is another origin.
        with pytest.raises(ValueError, match="https"):
            await made.download(tmp_path, f"http://localhost:{net.port}/a.png")
        others = (f"https://127.0.0.1:{net.port}/a.png", "https://localhost/", f"https://localhost:{net.port + 1}/")
        for other in others:
            with pytest.raises(TransferError, match="refused"):
                await made.download(tmp_path, other)
        net.handlers = [respond(302, Location=others[0])]
        with pytest.raises(TransferError, match="refused"):
            await made.download(tmp_path, f"{base}/a.png")
    assert len(net.requests) == 3


async def test_private_addresses_are_connected_to_with_allow_private_urls(net: Net, tmp_path: Path) -> None:
    async with guarded(net, Names(files_test=[["10.0.0.1"]]), allow_private_urls=True) as made:
        await made.download(tmp_path, FILE)
        await made.download(tmp_path, "https://127.0.0.1/a.png")
    assert net.connected == ["10.0.0.1", "127.0.0.1"]


@pytest.mark.parametrize(
    "url",
    [
        *("", "x", "/x", "//files.test/x", "https://", "https:///x", "https:x", "ftp://files.test/x", "data:,x"),
        *("https://files.test:99999/", "https://[::1", "https://bad host/", "https://a..b/", "https://.a/"),
        *("https://files.test/\n", "https://files.test/\r\nHost: x", "\x00https://files.test/", "https://h%41/"),
        *("https://good\\@127.0.0.1/", "https://" + "a" * 64 + ".test/", "https://" + "a." * 130 + "test/"),
        *("http://files.test/secret", "http://127.0.0.1/", None, 5, b"https://files.test/", ["https://files.test/"]),
    ],
)
async def test_url_that_is_not_https_is_refused_before_a_request(net: Net, tmp_path: Path, url: Any) -> None:
    names = Names(files_test=[[PUBLIC]])
    async with guarded(net, names) as made:
        kind = ValueError if isinstance(url, str) else TypeError
        with pytest.raises(kind, match=r"^url must be") as caught:
            await made.download(tmp_path, url)
        assert "secret" not in str(caught.value)
        with pytest.raises(kind, match=r"^upload_url must be"):
            await made.upload(PNG, url)
    assert (names.requested, net.connected) == ([], [])


async def test_url_with_letters_and_spaces_is_quoted(net: Net, tmp_path: Path) -> None:
    async with guarded(net) as made:
        await made.download(tmp_path / "a.png", "https://files.test/größe a.png?q=ü")
        await made.download(tmp_path / "b.png", URL("https://files.test/b"))
        await made.download(tmp_path / "c.png", "https://files.test/a b.png")
    assert [r.raw_path for r in net.requests] == ["/gr%C3%B6%C3%9Fe%20a.png?q=%C3%BC", "/b", "/a%20b.png"]


async def test_no_header_cookie_or_proxy_of_another_source_is_used(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    (tmp_path / "netrc").write_text("machine files.test login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with guarded(net) as made:
        net.handlers = [respond(200, **{"Set-Cookie": "a=b"})]
        await made.download(tmp_path / "a", "https://files.test/a")
        await made.download(tmp_path, FILE)
        await made.upload(PNG, "https://files.test/up")
    plain = {"Host", "User-Agent", "Accept", "Accept-Encoding", "Connection"}
    down, again, up = net.requests
    assert set(down.headers) == set(again.headers) == plain
    assert set(up.headers) == plain | {"Content-Type", "Content-Length"}


@pytest.mark.usefixtures("net")
async def test_invalid_certificate_is_an_error_at_once(tmp_path: Path) -> None:
    async with rig(resolver=Names(files_test=[[PUBLIC]])) as made:
        with pytest.raises(AvaturnConnectionError, match="certificate is not valid") as caught:
            await made.download(tmp_path, FILE)
        with pytest.raises(AvaturnConnectionError, match="certificate is not valid"):
            await made.upload(PNG, FILE)
    assert made.slept == []
    assert "?secret" not in get_all_text(caught.value)


@pytest.mark.parametrize("names", [Names(), Names(files_test=[[]])], ids=["unknown", "without addresses"])
async def test_name_that_does_not_resolve_is_an_error_after_the_attempts(
    net: Net, tmp_path: Path, names: Names
) -> None:
    async with guarded(net, names) as made:
        with pytest.raises(AvaturnConnectionError, match="its name does not resolve"):
            await made.download(tmp_path, FILE)
        with pytest.raises(AvaturnConnectionError, match="its name does not resolve"):
            await made.upload(PNG, FILE)
    assert made.slept == [0.25, 0.5] * 2
    assert net.connected == []


async def test_resolver_of_the_caller_is_not_closed_and_our_own_is(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Names(files_test=[["10.0.0.1"]])
    monkeypatch.setattr(aiohttp, "DefaultResolver", lambda: own)
    given = Names(files_test=[["10.0.0.1"]])
    for resolver in (None, given):
        async with rig(resolver=resolver) as made:
            with pytest.raises(TransferError, match="refused"):
                await made.download("a.png", FILE)
    await GuardedResolver(given).close()
    assert (given.closed, own.closed) == (0, 1)


async def test_trace_configs_see_requests_under_the_guard_and_without_it(net: Net, tmp_path: Path) -> None:
    seen: list[str] = []

    async def start(_: Any, __: Any, params: aiohttp.TraceRequestStartParams) -> None:
        seen.append(params.url.path)

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(start)
    base = f"https://localhost:{net.port}"
    names = Names(files_test=[[PUBLIC]], localhost=[["127.0.0.1"]])
    async with guarded(net, names, base_url=base, trace_configs=[trace]) as made:
        await made.download(tmp_path, FILE)
        await made.download(tmp_path, f"{base}/b.png")
    assert seen == ["/a.png", "/b.png"]
