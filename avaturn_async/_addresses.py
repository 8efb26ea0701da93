"""The addresses that a transfer may connect to, and a resolver that gives no others.

The URL of a result may come from a webhook that anybody can send, and a URL that is followed blindly is a
way into the network that the server stands in. So a name is checked by what it resolves to, each time it is
resolved, and the connection goes to the very addresses that were checked: a name that changes its mind
between a check and the connection (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import re
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from aiohttp.abc import AbstractResolver, ResolveResult

from avaturn_async.errors import TransferError

# IANA's special-purpose registries (RFC 6890). ipaddress.is_global says another thing in each Python release.
_SPECIAL_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's host, reachable from each virtual machine there
        "169.254.0.0/16",  # link-local, with the metadata services of the clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
# All other of IPv6 is loopback, local, multicast or reserved.
_UNICAST_V6 = IPv6Network("2000::/3")
_SPECIAL_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, with Teredo
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation
    )
)
# Where a network has only IPv6, DNS64 gives each IPv4 address in this prefix (RFC 6052).
_NAT64 = IPv6Network("64:ff9b::/96")

# A last label of digits makes a host an IPv4 address in the eyes of some resolver (WHATWG URL, 3.5).
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+", re.IGNORECASE)


def is_public(address: str) -> bool:
    """Whether the text is an IP address, in its usual spelling, of the public internet."""
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, IPv6Address):
        inner = _inner_v4(ip)
        if inner is None:
            return (
                ip.scope_id is None
                and ip in _UNICAST_V6
                and not any(ip in network for network in _SPECIAL_V6)
            )
        ip = inner
    return not any(ip in network for network in _SPECIAL_V4)


def _inner_v4(ip: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that packets to this IPv6 address end at."""
    if ip in _NAT64:
        return IPv4Address(int(ip) & 0xFFFF_FFFF)
    return ip.ipv4_mapped or ip.sixtofour


def is_name_or_public(host: str) -> bool:
    """Whether a URL's host is a name, still to be resolved, or a public address in its usual spelling.

    aiohttp asks no resolver for a host of digits. ``127.1``, ``0x7f.1``, ``017700000001`` and ``2130706433``
    are spellings of 127.0.0.1 that no honest URL has, so none but the usual one is taken.
    """
    if ":" in host or _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        return is_public(host)
    return True


class GuardedResolver(AbstractResolver):
    """Resolves names by another resolver, and refuses those with an address that is not public."""

    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a name, all of them public.

        Raises:
            TransferError: One of them is not. The others are no reason to trust that name.
            OSError: It has none.
        """
        found = await self._resolver.resolve(host, port, family)
        if not found:
            raise OSError(f"{host} has no addresses")  # aiohttp counts on at least one
        if not all(is_public(each["host"]) for each in found):
            raise TransferError(f"{host} resolves to an address that is not public")
        return found

    async def close(self) -> None:
        """Nothing: the resolver belongs to whoever made it."""
