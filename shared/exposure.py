"""Where a node may serve without asking who calls: on this machine alone, unless it is told otherwise."""

import ipaddress

from shared.errors import ConfigurationError
from shared.settings import Settings


def check_exposure(settings: Settings) -> None:
    """Raises ConfigurationError where everybody who reaches the host could use it, and nobody said so."""
    if settings.auth == "none" and not settings.allow_anonymous and not is_loopback(settings.host):
        raise ConfigurationError(
            f"HOLDFAST_HOST={settings.host} can be reached from elsewhere, and HOLDFAST_AUTH is none: set "
            "HOLDFAST_AUTH=keys or jwt, or HOLDFAST_ALLOW_ANONYMOUS=true if whoever reaches it may use it"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server on `host`: a name other than localhost may be anything."""
    if host == "localhost":
        return True
    address = ip_address(host)
    return address is not None and address.is_loopback


def ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address, of `::ffff:127.0.0.1` the IPv4 one; None for a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
