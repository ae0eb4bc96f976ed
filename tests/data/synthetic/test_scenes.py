from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from hirl.config import ScenesConfig
from hirl.data.synthetic.scenes import OVERLAP, RADII, SEEDS, arrange, draw_scene, prepare_scenes

FEW = ScenesConfig(image_size=48, train_images=6, validation_images=3)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder of drawn scenes."""
    out = tmp_path_factory.mktemp("scenes")
    prepare_scenes(FEW, None, out)
    return out


def manifest(out):
    return json.loads((out / "manifest.json").read_text())


def refused(config, root, out):
    """The one line with which scenes are refused; nothing is written."""
    with pytest.raises(ValueError, match=r".") as caught:
        prepare_scenes(config, root, out)
    assert not out.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- drawn scenes -----------------------------------------------------------------------------------------------------


def test_the_manifest_leads_to_both_splits(drawn):
    facts = manifest(drawn)
    assert facts["categories"] == ["fish", "butterfly", "flower", "mushroom"]
    for split, count in (("train", 6), ("validation", 3)):
        annotations = COCO(drawn / facts[split]["annotations"])
        assert len(annotations.imgs) == count
        assert [category["name"] for category in annotations.cats.values()] == facts["categories"]
        for image in annotations.imgs.values():
            with Image.open(drawn / facts[split]["images"] / image["file_name"]) as picture:
                assert picture.size == (image["width"], image["height"]) == (48, 48)


def test_boxes_areas_and_masks_are_those_of_the_objects(drawn):
    annotations = COCO(drawn / "annotations/instances_train2017.json")
    for number in range(6):
        scene = draw_scene(number, 48, SEEDS["train"])
        found = annotations.loadAnns(annotations.getAnnIds(number + 1))
        assert len(found) == len(scene.labels)
        for annotation, label, mask in zip(found, scene.labels, scene.masks, strict=True):
            rows, columns = np.nonzero(mask)
            left, top = columns.min(), rows.min()
            assert annotation["bbox"] == [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
            assert annotation["area"] == mask.sum()
            assert (annotations.annToMask(annotation) == mask).all()
            assert annotation["category_id"] == label // 9 + 1  # a body plan has nine classes
            assert annotation["iscrowd"] == 0


def test_every_pixel_belongs_to_one_object_at_most_and_every_object_is_seen():
    for number in range(60):
        scene = draw_scene(number, 48, 0)
        assert 2 <= len(scene.labels) <= 4
        assert scene.masks.sum(0).max() <= 1
        assert scene.masks.sum((1, 2)).min() > 20  # the smallest frame, 12 pixels wide, has 113 in its circle


def test_an_object_hides_what_lies_behind_it(monkeypatch):
    frames = np.array([[0, 0, 0.9], [0.1, 0, 0.2]])  # a large puffer, and a small one before it
    scenes = []
    for count in (1, 2):
        monkeypatch.setattr("hirl.data.synthetic.scenes.arrange", lambda _, n=count: (np.full(n, 3), frames[:n]))
        scenes.append(draw_scene(0, 64, 0))
    (alone,), (behind, before) = (scene.masks for scene in scenes)
    assert 0 < before.sum() == (alone & before).sum()
    assert (behind == alone & ~before).all()


def test_objects_differ_in_size_keep_apart_and_stay_inside():
    frames = [arrange(np.random.default_rng(number))[1] for number in range(200)]
    radii = np.concatenate([radius for _, _, radius in (frame.T for frame in frames)])
    assert RADII[0] <= radii.min() < 0.3 < 0.55 < radii.max() <= RADII[1]
    assert all((np.abs(frame[:, :2]).T + 0.8 * frame[:, 2] <= 1).all() for frame in frames)
    overlaps = [one[2] + two[2] - np.hypot(*(one - two)[:2]) for frame in frames for one, two in neighbours(frame)]
    # four large frames do not always find room
    assert np.mean(np.array(overlaps) <= OVERLAP) > 0.9


def neighbours(frame):
    return [(one, two) for i, one in enumerate(frame) for two in frame[:i]]


def test_scenes_are_drawn_again_alike_and_each_alone(drawn, tmp_path):
    prepare_scenes(FEW, None, tmp_path)
    assert manifest(tmp_path) == manifest(drawn)
    prepare_scenes(FEW.model_copy(update={"train_images": 4}), None, tmp_path)
    assert manifest(tmp_path)["digest"] != manifest(drawn)["digest"]
    name = "train2017/000000000004.png"
    assert (np.asarray(Image.open(tmp_path / name)) == np.asarray(Image.open(drawn / name))).all()


def test_scenes_to_draw_need_numbers_and_room(tmp_path):
    out = tmp_path / "out"
    assert refused(ScenesConfig(train_images=2), None, out) == (
        "scenes.validation_images is not set: say how many scenes to draw"
    )
    assert "scenes.train_images is not set" in refused(ScenesConfig(validation_images=2), None, out)
    small = FEW.model_copy(update={"image_size": 16})
    assert refused(small, None, out) == "scenes.image_size is 16: give at least 32 pixels"


# --- a user's scenes --------------------------------------------------------------------------------------------------

WHOLE = ScenesConfig(name="coco")


@pytest.fixture
def users(drawn, tmp_path):
    """A user's folder in COCO's layout."""
    shutil.copytree(drawn, tmp_path / "coco")
    return tmp_path / "coco"


def edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_a_users_folder_is_taken_as_it_is(users, tmp_path):
    prepare_scenes(WHOLE, users, tmp_path / "out")
    facts = manifest(tmp_path / "out")
    assert facts["train"] == {
        "annotations": str(users / "annotations/instances_train2017.json"),
        "images": str(users / "train2017"),
    }
    assert facts["categories"] == ["fish", "butterfly", "flower", "mushroom"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.json"]


def test_the_first_so_many_images_keep_their_objects(users, tmp_path):
    edit(users / "annotations/instances_train2017.json", lambda content: content["images"].reverse())
    for last in range(3, 7):
        (users / f"train2017/{last:012d}.png").unlink()  # what is not asked for need not be there
    prepare_scenes(ScenesConfig(name="coco", train_images=2), users, tmp_path / "out")
    facts = manifest(tmp_path / "out")
    assert facts["train"]["images"] == str(users / "train2017")
    some = COCO(tmp_path / "out" / facts["train"]["annotations"])
    whole = COCO(users / "annotations/instances_train2017.json")
    assert sorted(some.imgs) == [1, 2]
    assert some.loadAnns(some.getAnnIds()) == whole.loadAnns(whole.getAnnIds([1, 2]))


def test_the_digest_follows_the_annotations(users, tmp_path):
    prepare_scenes(WHOLE, users, tmp_path / "out")
    before = manifest(tmp_path / "out")["digest"]
    edit(users / "annotations/instances_val2017.json", lambda content: content["annotations"].pop())
    prepare_scenes(WHOLE, users, tmp_path / "out")
    assert manifest(tmp_path / "out")["digest"] != before


def test_missing_parts_are_named(users, tmp_path):
    out = tmp_path / "out"
    assert "with --data-root FOLDER" in refused(WHOLE, None, out)
    assert "annotations/instances_train2017.json is missing: unpack" in refused(WHOLE, tmp_path / "none", out)
    (users / "val2017/000000000002.png").unlink()
    assert "val2017/000000000002.png is missing, though" in refused(WHOLE, users, out)
    shutil.rmtree(users / "val2017")
    assert "val2017 is missing: unpack" in refused(WHOLE, users, out)


def test_more_scenes_than_there_are_is_refused(users, tmp_path):
    message = refused(ScenesConfig(name="coco", validation_images=9), users, tmp_path / "out")
    assert message == "scenes.validation_images is 9, but there are 3: ask for at most as many"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("categories"), "categories must be a list of entries with id, name"),
        (lambda content: content["images"][0].pop("height"), "images must be a list of entries with file_name, height"),
        (lambda content: content.update(annotations={}), "annotations must be a list of entries with bbox"),
        (lambda content: content["categories"].pop(), "have different categories: give both the same list"),
    ],
)
def test_annotations_of_another_form_are_refused(users, tmp_path, change, message):
    edit(users / "annotations/instances_val2017.json", change)
    assert message in refused(WHOLE, users, tmp_path / "out")


def test_a_broken_file_of_annotations_is_named(users, tmp_path):
    (users / "annotations/instances_val2017.json").write_text("[")
    assert "instances_val2017.json is not JSON" in refused(WHOLE, users, tmp_path / "out")
    (users / "annotations/instances_val2017.json").write_text("[]")
    assert "instances_val2017.json is not COCO's JSON: images must be a list" in refused(WHOLE, users, tmp_path / "out")
