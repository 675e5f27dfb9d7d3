"""What the demo holds the service to."""


class FailedError(Exception):
    """The service broke one of its promises."""


def expect(what: str, got: object, wanted: object) -> None:
    """Raises FailedError where they differ."""
    if got != wanted:
        raise FailedError(f"{what}: not as it should be")
