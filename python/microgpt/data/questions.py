"""Lines read as questions with answers, such as `13 + 29 = 42;`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from microgpt.errors import UsageError


@dataclass(frozen=True)
class TextQuestion:
    """A line that holds a mark: what is asked ends with the mark, the rest is the answer."""

    before: bytes
    """The lines above it that are asked along, each with its line end."""
    asked: bytes
    answer: bytes
    """With its line end, where the line has one."""
    mark: str
    """The text that the mark was found as."""


def mark_pattern(text: str | None, pattern: str | None) -> re.Pattern[bytes]:
    """Returns what finds a mark that is given as the `text` itself or as a `pattern`.

    Raises:
        UsageError: it is empty, or no pattern.
    """
    if pattern is None:
        pattern = re.escape(text or "")
    try:
        found = re.compile(pattern.encode())
    except re.error as error:
        raise UsageError(f"{pattern!r} is no regular expression: {error}") from None
    if found.match(b""):
        raise UsageError("the mark is empty: give the text that answers follow, such as '='")
    return found


def questions_of(text: bytes, mark: re.Pattern[bytes], lines_before: int) -> list[TextQuestion]:
    """Returns a question for each line that holds the mark, which ends at the mark's first place,
    behind up to `lines_before` of the lines above. Its line end is part of an answer, which else
    would be right however it went on; a line of which nothing is left asks nothing."""
    lines = text.splitlines(keepends=True)
    questions: list[TextQuestion] = []
    for place, line in enumerate(lines):
        found = mark.search(line)
        if found is None or not line[found.end() :].strip(b"\r\n"):
            continue
        above = lines[max(0, place - lines_before) : place]
        questions.append(
            TextQuestion(
                before=b"".join(above),
                asked=line[: found.end()],
                answer=line[found.end() :],
                mark=found.group().decode(errors="replace"),
            )
        )
    return questions


def by_mark(questions: Sequence[TextQuestion], right: Sequence[bool]) -> dict[str, tuple[int, int]]:
    """Returns, for each mark, its questions answered right, and all of its questions."""
    counts: dict[str, tuple[int, int]] = {}
    for question, hit in sorted(zip(questions, right, strict=True), key=lambda pair: pair[0].mark):
        correct, lines = counts.get(question.mark, (0, 0))
        counts[question.mark] = correct + hit, lines + 1
    return counts
