"""What can be wrong with a scenario or with the machine that runs it."""

from __future__ import annotations

from clonal.errors import Error


class ScenarioError(Error):
    """A scenario that cannot be run; names the line and what to write instead."""

    def __init__(self, line: int, problem: str, hint: str) -> None:
        super().__init__(f"line {line}: {problem}; {hint}", line=line, problem=problem, hint=hint)


class NotModelled(Error):
    """A step that only the real kernel takes."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the model does not have {what}; run this scenario on the kernel alone", what=what)


class UnlikeMachines(Error):
    """A model and a kernel that cannot agree: one `setting` differs."""

    def __init__(self, setting: str, model: object, kernel: object) -> None:
        super().__init__(
            f"{setting} is {model} in the model and {kernel} here; give the model a Config with {kernel}",
            setting=setting,
            model=model,
            kernel=kernel,
        )


class PuppetLost(Error):
    """A puppet ended or fell silent; its runner is of no more use."""

    def __init__(self, pid: int, what: str) -> None:
        super().__init__(f"puppet {pid or '(new)'}: {what}", pid=pid, what=what)
