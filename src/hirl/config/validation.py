"""Build a section from what a user wrote; everything wrong with it becomes one line."""

from __future__ import annotations

from collections.abc import Mapping
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
    location = problem["loc"]
    if problem["type"] == "extra_forbidden":
        known = _known_keys(section, location[:-1])
        key = [*_dotted(location[:-1], prefix), str(location[-1])]
        return f"unknown key {'.'.join(key)!r}; {did_you_mean(location[-1], known)}known here: {', '.join(known)}"
    message = problem["msg"].removeprefix("Value error, ")
    if not location:
        return message
    value = "" if isinstance(problem["input"], Mapping) and problem["input"] else f" = {problem['input']!r}"
    return f"{'.'.join(_dotted(location, prefix))}{value}: {message}"


def _dotted(location: tuple[Any, ...], prefix: str) -> list[str]:
    """Return the keys of a location, without the tags of unions, which are no identifiers."""
    keys = [str(part) for part in location if isinstance(part, int) or part.isidentifier()]
    return [*filter(None, [prefix.rstrip(".")]), *keys]


def _known_keys(section: type[Section], location: tuple[Any, ...]) -> list[str]:
    """Return the keys that the section at a location takes."""
    for part in location:
        annotation: Any = section.model_fields[part].annotation
        candidates = (annotation, *getattr(annotation, "__args__", ()))
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, Section))
    return sorted(section.model_fields)
