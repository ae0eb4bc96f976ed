"""Build a section from what a user wrote; everything wrong with it becomes one line."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError

from hirl.config.sections import Section
from hirl.config.suggestions import did_you_mean

SomeSection = TypeVar("SomeSection", bound=Section)


def validate(section: type[SomeSection], content: Any, where: str, prefix: str = "") -> SomeSection:
    """Build a section from a mapping.

    Args:
        where: the file or run that the content belongs to, named first in an error.
        prefix: of the keys in an error, such as "model.".

    Raises:
        ValueError: unknown keys, wrong types or impossible values; one line names each.
    """
    try:
        return section.model_validate(content)
    except ValidationError as error:
        problems = (_one_problem(section, problem, prefix) for problem in error.errors())
        raise ValueError(f"{where}: " + "; ".join(problems)) from None


def _one_problem(section: type[Section], problem: Any, prefix: str) -> str:
    """Say what is wrong with one key."""
    places = [str(part) for part in problem["loc"] if isinstance(part, int) or part.isidentifier()]  # no union's tags
    key = prefix + ".".join(places)
    if problem["type"] == "extra_forbidden":
        known = _known_keys(section, problem["loc"][:-1])
        return f"unknown key {key!r}; {did_you_mean(places[-1], known)}known here: {', '.join(known)}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key} = {problem['input']!r}: {message}" if problem["loc"] else message


def _known_keys(section: type[Section], location: tuple[Any, ...]) -> list[str]:
    """Return the keys that the section at a location takes."""
    for part in location:
        annotation: Any = section.model_fields[part].annotation
        candidates = (annotation, *getattr(annotation, "__args__", ()))
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, Section))
    return sorted(section.model_fields)
