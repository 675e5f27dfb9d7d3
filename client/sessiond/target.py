"""Where a target points."""

from ipaddress import ip_address


def is_local(target: str) -> bool:
    """Whether all that is said to `target`, a gRPC target string, stays on this machine; unknown forms do not."""
    scheme, colon, rest = target.partition(":")
    if colon and scheme in ("unix", "unix-abstract"):
        return True
    if colon and scheme in ("ipv4", "ipv6"):
        return all(_is_loopback(address) for address in rest.split(","))
    if colon and scheme == "dns":
        return _is_loopback(rest.rpartition("/")[2])
    return _is_loopback(target)


def _is_loopback(address: str) -> bool:
    if address.startswith("["):
        host = address[1:].partition("]")[0]
    else:
        host = address.partition(":")[0] if address.count(":") <= 1 else address
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
