"""Which requests are let in: of this machine, by its own names, from no other site's page.

The API knows no identities, so whoever reaches it may do all. A page of another site reaches it
through the browser of somebody who sits here: by a request across sites, or by a name of its own
that it lets point here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip",
             "via")  # fmt: skip
"""A proxy that speaks for others sends one of these."""

FROM_HERE = ("same-origin", "none")
OLD_HTTP = ("0.9", "1.0")
NO_PROXY = "call the API itself, from this machine: it knows no identities yet"


@lru_cache(maxsize=64)
def is_loopback(name: str) -> bool:
    """Whether a name or an address is one of this machine's loopback.

    >>> is_loopback("localhost"), is_loopback("127.0.0.2"), is_loopback("::1")
    (True, True, True)
    >>> is_loopback("0.0.0.0"), is_loopback("localhost.example.org")
    (False, False)
    """
    if name.lower().rstrip(".") == "localhost":
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback


def name_of(host: str) -> str | None:
    """The name in a Host header, without its port; None where it is malformed.

    >>> name_of("LOCALHOST:8005"), name_of("[::1]:8005"), name_of("a@b"), name_of("")
    ('localhost', '::1', None, None)
    """
    if not host or any(sign in host for sign in "/?#@\\ ,"):
        return None
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


@dataclass(frozen=True)
class DoorRules:
    """Who may ask the API.

    Args:
        allowed_hosts: Names beside the loopback's own that the Host header may have.
    """

    allowed_hosts: Collection[str] = ()

    def refuse(self, scope: Scope) -> str | None:
        """Why a request is not let in; None where it is."""
        headers = Headers(scope=scope)
        return self._refuse_peer(scope, headers) or self._refuse_site(scope["method"], headers)

    def _refuse_peer(self, scope: Scope, headers: Headers) -> str | None:
        client = scope.get("client")
        if client is None or not is_loopback(client[0]):
            return f"requests from other machines are not answered; {NO_PROXY}"
        if scope.get("http_version") in OLD_HTTP:
            return f"HTTP before 1.1 is what proxies speak; send HTTP/1.1, and {NO_PROXY}"
        if any(name in headers for name in FORWARDED):
            return f"a proxy has forwarded this request; {NO_PROXY}"
        hosts = headers.getlist("host")
        name = name_of(hosts[0]) if len(hosts) == 1 else None
        if name is None or not (is_loopback(name) or name in self.allowed_hosts):
            return (
                "the Host header names another machine; call the API as 127.0.0.1 or localhost, or "
                "add the name to API_ALLOWED_HOSTS"
            )
        return None

    def _refuse_site(self, method: str, headers: Headers) -> str | None:
        """The rule of Go's CrossOriginProtection: without either header it is no browser."""
        if method in SAFE_METHODS:
            return None
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site is not None:
            foreign = site not in FROM_HERE
        else:
            foreign = origin is not None and _host_of(origin) != headers.get("host")
        return "a page of another site has sent this request" if foreign else None


def _host_of(origin: str) -> str | None:
    """Name and port of an origin; None where it is malformed, or the word `null`."""
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None
