"""`sessiond keys new`: an entry for the keys file on standard output, its key, once, on standard error."""

import sys
from collections.abc import Sequence

from sessiond_server import auth
from sessiond_server.settings import SettingError


def run(name: str, tenant: str, user: str, scopes: Sequence[str]) -> int:
    try:
        key, entry = auth.new_key(name, tenant, user, scopes or auth.SCOPES)
    except ValueError as error:
        raise SettingError(str(error)) from None
    print(entry)
    print(f"The key, which is shown only now: {key}", file=sys.stderr)
    if sys.stdout.isatty():
        print("Put the [[keys]] entry above into the keys file: sessiond keys new ... >> keys.toml", file=sys.stderr)
    return 0
