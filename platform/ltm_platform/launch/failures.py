"""Ray's reports of failed ranks, as one sentence."""

from __future__ import annotations


def first_cause(failures: dict[int, Exception]) -> str:
    """The rank that broke and its exception in one line, without Ray's wrapping and traceback.

    When a rank is gone the others fail too, in the collective that they wait in.
    """

    def line(error: BaseException) -> str:
        cause = getattr(error, "cause", None) or error
        return f"{type(cause).__name__}: {cause}".splitlines()[0]

    lines = {rank: line(error) for rank, error in sorted(failures.items())}
    consequences = ("peer", "NCCL", "gloo")
    causes = [r for r, text in lines.items() if not any(word in text for word in consequences)]
    rank = (causes or list(lines))[0]
    return f"rank {rank}: {lines[rank]}"
