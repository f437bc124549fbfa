"""Where a request comes from, as what is counted by it takes it."""

from ipaddress import IPv6Address, ip_address


def place(address: str | None) -> str:
    """The address, or of IPv6 the network of 64 bits: one customer of a provider has 2^64 addresses of it at least (RFC 6177).

    An address of IPv4 that is written as one of IPv6 (RFC 4291, 2.5.5.2) is what it is: all of these are in one such network.
    """
    try:
        parsed = ip_address(address or "")
    except ValueError:
        return "unknown"
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or parsed.exploded[:19])
    return str(parsed)
