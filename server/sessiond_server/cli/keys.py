"""`sessiond keys new`: prints an entry for the keys file on standard output, and the key itself on standard error."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sessiond_server import auth
from sessiond_server.settings import SettingError
from sessiond_server.settings.values import seconds

_LIFETIME = seconds(1, 3650 * 86400.0)


def run(name: str, tenant: str, user: str, scopes: Sequence[str], expires: str) -> int:
    try:
        key, entry = auth.new_key(name, tenant, user, scopes or auth.SCOPES, _when(expires) if expires else None)
    except ValueError as error:
        raise SettingError(str(error)) from None
    print(entry)
    print(f"The key, which is shown only now: {key}", file=sys.stderr)
    if sys.stdout.isatty():
        print("Put the [[keys]] entry above into the keys file: sessiond keys new ... >> keys.toml", file=sys.stderr)
    return 0


def _when(text: str) -> datetime:
    """Parses a duration from now, or a time with a time zone. Raises ValueError."""
    try:
        return datetime.now(UTC) + timedelta(seconds=_LIFETIME(text))
    except ValueError:
        pass
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        when = datetime.min
    if when.tzinfo is None:
        raise ValueError("--expires must be a duration such as 90d, or a time such as 2027-01-31T00:00:00Z")
    return when
