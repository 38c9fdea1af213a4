"""What can go wrong outside a request. Requests fail with `proxy.entry.api_errors.ApiError`.

CaduceusError
├── CommandError          the command line's answer is no (exit 1)
└── ConfigurationError    file, key and reason; nothing starts
"""


class CaduceusError(Exception):
    """The root; its text is one line that says what to do."""


class CommandError(CaduceusError):
    """Printed on stderr; the command exits with 1."""


class ConfigurationError(CaduceusError):
    """Every problem found, each as `where: reason`."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        self.problems = problems
        super().__init__("\n".join(f"{where}: {reason}" for where, reason in problems))
