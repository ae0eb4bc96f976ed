from __future__ import annotations

import pytest


def test_the_atlas_of_a_folder_shows_its_classes_and_files(fitted, tmp_path):
    fitted.write_atlas(tmp_path / "atlas.html", title="colors of mine")
    page = (tmp_path / "atlas.html").read_text()
    assert "colors of mine" in page
    assert "red/00.png" in page
    assert str(fitted.paths_[0].parents[1]) not in page  # names are relative to the folder
    assert '"green"' in page


def test_the_atlas_of_an_array_needs_the_pictures_again_and_claims_no_class(tiny_model, pictures, tmp_path):
    model = tiny_model(epochs=1).fit(pictures)
    with pytest.raises(ValueError, match="the fitted pictures are no files: give them to the atlas again"):
        model.write_atlas(tmp_path / "atlas.html")
    with pytest.raises(ValueError, match="48 images, but there are 10 pictures"):
        model.write_atlas(tmp_path / "atlas.html", pictures[:10])
    assert not (tmp_path / "atlas.html").exists()
    model.write_atlas(tmp_path / "atlas.html", pictures)
    assert '"classes":null' in (tmp_path / "atlas.html").read_text()
