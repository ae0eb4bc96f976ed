from __future__ import annotations

import pytest

from hirl.config.suggestions import did_you_mean, unknown


@pytest.mark.parametrize(
    ("word", "meant"), [("dnio", "did you mean 'dino'? "), ("Dino", "did you mean 'dino'? "), ("resnet", ""), (3, "")]
)
def test_a_word_that_resembles_a_known_one_is_answered_with_it(word: object, meant: str) -> None:
    assert did_you_mean(word, ["simsiam", "dino", "ibot"]) == meant


def test_an_unknown_word_is_answered_with_all_known_ones() -> None:
    assert unknown("pear", ["apple", "plum"]) == "is unknown; known: apple, plum"
