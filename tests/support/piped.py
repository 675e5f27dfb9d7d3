"""Looks into the pipes of a client."""

import sessiond


def calls_through_pipes(client: sessiond.Client) -> int:
    """How many calls of the client were answered through pipes."""
    pipes = client._connection._pipes
    return pipes.answered if pipes is not None else 0
