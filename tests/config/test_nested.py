from __future__ import annotations

from hirl.config.nested import flatten, merge, nest


def test_leaves_are_named_by_dotted_keys() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [2, 3]}}, "e": None}) == {"a.b": 1, "a.c.d": [2, 3], "e": None}


def test_a_dotted_key_is_the_way_to_its_leaf() -> None:
    assert nest("a.b.c", 1) == {"a": {"b": {"c": 1}}}
    assert flatten(nest("a.b.c", 1)) == {"a.b.c": 1}
    assert nest("a", [1]) == {"a": [1]}


def test_mappings_are_merged_key_by_key_and_all_else_whole() -> None:
    base = {"a": {"b": 1, "c": 2}, "d": [1, 2], "e": 3}
    merge(base, {"a": {"c": 4}, "d": [5], "f": {"g": 6}})
    assert base == {"a": {"b": 1, "c": 4}, "d": [5], "e": 3, "f": {"g": 6}}


def test_a_mapping_takes_the_place_of_a_value_and_a_value_that_of_a_mapping() -> None:
    base = {"a": 1, "b": {"c": 2}}
    merge(base, {"a": {"d": 3}, "b": None})
    assert base == {"a": {"d": 3}, "b": None}


def test_merging_changes_neither_the_layer_nor_what_the_base_was_made_of() -> None:
    inner, layer = {"b": 1}, {"a": {"b": 2}, "c": {"d": 3}}
    base = {"a": inner}
    merge(base, layer)
    merge(base, {"c": {"d": 4}})
    assert (inner, layer) == ({"b": 1}, {"a": {"b": 2}, "c": {"d": 3}})
