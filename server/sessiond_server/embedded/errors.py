"""The error of the bundled servers, with advice for the operator."""


class EmbeddedError(Exception):
    """The bundled servers cannot run. `advice` says what to do."""

    def __init__(self, problem: str, advice: str) -> None:
        super().__init__(f"{problem}\n  {advice}")
        self.problem = problem
        self.advice = advice
