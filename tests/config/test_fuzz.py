"""Broken studies, drawn: whatever a user writes is either a study or one line of explanation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hirl.config import StudyConfig, flatten, load_study, parse_override

KEYS = sorted(flatten(load_study("demo").resolve("ibot", "hirl").model_dump(mode="json")))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10**7),
    st.floats(),
    st.sampled_from(["", "all", "auto", "demo", "1e-4", "ä", "../demo", "a: b"]),
    st.text(max_size=5),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
STUDY_KEYS = st.sampled_from(["own", *StudyConfig.model_fields])
# files are written to the test's folder again and again, which is meant
QUICK = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@contextmanager
def errors_of_one_line() -> Iterator[None]:
    """Let pass what a user may read: a ValueError of one line, no other error."""
    try:
        yield
    except ValueError as error:
        readable = type(error) is ValueError and str(error) and "\n" not in str(error)
        if not readable:
            raise


@QUICK
@given(content=st.dictionaries(STUDY_KEYS, VALUES, max_size=4))
def test_any_mapping_is_a_study_or_one_line(study, content: dict[str, Any]) -> None:
    path = study(yaml.safe_dump({"methods": ["ibot"]} | content, allow_unicode=True))
    with errors_of_one_line():
        loaded = load_study(path)
        for method in loaded.config.methods:
            loaded.resolve(method, "hirl")


@QUICK
@given(key=st.sampled_from(KEYS), value=VALUES)
def test_any_value_of_any_key_is_accepted_or_one_line(key: str, value: Any) -> None:
    with errors_of_one_line():
        load_study("demo").resolve("ibot", "hirl", 0, {key: value})


@QUICK
@given(text=st.text(max_size=30))
def test_any_text_is_an_override_or_one_line(text: str) -> None:
    with errors_of_one_line():
        parse_override(text)


@QUICK
@given(text=st.text("ab01:,-*&![]{}#'\" \n?<|", max_size=40))
def test_any_text_is_a_study_file_or_one_line(study, text: str) -> None:
    with errors_of_one_line():
        load_study(study(text))
