from __future__ import annotations

import numpy as np
import pytest

from hirl.methods.schedules import half_cosine, linear_warm_up


@pytest.mark.parametrize(("start", "end"), [(3.0, 1.0), (0.996, 1.0), (1.0, 0.25)])
def test_half_a_cosine_passes_its_start_its_middle_and_its_end(start: float, end: float) -> None:
    values = [half_cosine(start, end, progress) for progress in (0, 0.5, 1)]
    assert values == pytest.approx([start, (start + end) / 2, end])


@pytest.mark.parametrize("count", [2, 4, 12510])
def test_a_warm_up_is_numpys_linspace_and_then_its_end(count: int) -> None:
    values = [linear_warm_up(0.04, 0.07, count, number) for number in range(count + 3)]
    np.testing.assert_allclose(values, [*np.linspace(0.04, 0.07, count), 0.07, 0.07, 0.07], rtol=1e-14)
    assert values[count - 1] == 0.07


@pytest.mark.parametrize("count", [0, 1])
def test_a_warm_up_without_room_to_rise_is_over_at_once(count: int) -> None:
    assert linear_warm_up(0.04, 0.07, count, 0) == 0.07
