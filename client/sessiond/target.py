"""Tells whether a gRPC target is on this machine."""

from ipaddress import ip_address


def is_local(target: str) -> bool:
    """Returns whether all traffic to `target`, a gRPC target string, stays on this machine; False for unknown forms."""
    scheme, colon, rest = target.partition(":")
    if colon and scheme in ("unix", "unix-abstract"):
        return True
    if colon and scheme in ("ipv4", "ipv6"):
        return all(_is_loopback(address) for address in rest.split(","))
    if colon and scheme == "dns":
        server, _, address = rest.removeprefix("//").rpartition("/") if rest.startswith("//") else ("", "", rest)
        # A name server that the target names may resolve "localhost" to any address.
        return _is_loopback(address, named=not server)
    return _is_loopback(target)


def _is_loopback(address: str, *, named: bool = True) -> bool:
    """Returns whether an address, with or without a port, is of this machine. With `named` the name "localhost" counts
    too."""
    if address.startswith("["):
        host = address[1:].partition("]")[0]
    else:
        host = address.partition(":")[0] if address.count(":") <= 1 else address
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return named and host == "localhost"
