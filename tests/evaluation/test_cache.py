from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

from hirl.evaluation.cache import FeatureCache, unit_rows


@pytest.fixture
def cache() -> FeatureCache:
    generator = np.random.default_rng(0)
    features = [generator.normal(size=(count, 4)).astype(np.float32) for count in (6, 3)]
    return FeatureCache(*features, *(generator.integers(0, 5, (count, 2)) for count in (6, 3)))


def test_cache_is_the_same_after_saving(cache, tmp_path):
    cache.save(tmp_path / "features.safetensors")
    loaded = FeatureCache.load(tmp_path / "features.safetensors")
    for name, array in vars(cache).items():
        assert np.array_equal(array, getattr(loaded, name))
        assert array.dtype == getattr(loaded, name).dtype


def test_half_precision_features_are_read_as_float32(cache, tmp_path):
    arrays = vars(cache) | {"train": cache.train.astype(np.float16), "validation": cache.validation.astype(np.float16)}
    save_file(arrays, tmp_path / "features.safetensors")
    loaded = FeatureCache.load(tmp_path / "features.safetensors")
    assert loaded.train.dtype == loaded.validation.dtype == np.float32
    assert np.allclose(loaded.train, cache.train, rtol=2**-11, atol=0)  # half precision keeps eleven bits


def test_unusable_files_are_refused_in_one_line(cache, tmp_path):
    save_file({"train": cache.train}, tmp_path / "part")
    cache.validation[1, 2] = np.nan
    cache.save(tmp_path / "nan")
    messages = {"missing": "make one with `hirl features`", "part": "validation", "nan": "validation features hold NaN"}
    for name, message in messages.items():
        with pytest.raises(ValueError, match=message) as error:
            FeatureCache.load(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
        assert "\n" not in str(error.value)


def test_unit_rows_keep_zero_rows():
    rows = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32))
    assert np.allclose(rows, [[0.6, 0.8], [0.0, 0.0]])  # float32
