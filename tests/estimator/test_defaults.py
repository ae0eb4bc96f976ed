from __future__ import annotations

from itertools import pairwise, product

import pytest
import yaml

from hirl.config import load_study
from hirl.estimator.defaults import LEAST_IMAGES, METHODS, VARIANTS, Choices, Facts, default_clusters, own_study


def resolve(tmp_path, facts, choices):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(own_study(facts, choices)))
    return load_study(str(path)).resolve(choices.method, choices.variant)


def test_imagenet_gets_the_papers_clusters():
    assert default_clusters(1_281_167) == pytest.approx([30_000, 10_000, 1_000], rel=0.01)


def test_few_images_get_clusters_that_still_show_something_and_hold_images():
    for images in range(LEAST_IMAGES, 3000, 7):
        clusters = default_clusters(images)
        assert all(fine >= coarse >= 2 for fine, coarse in pairwise(clusters))
        assert 4 * clusters[0] <= images


@pytest.mark.parametrize("gpu", [False, True])
def test_every_method_and_variant_has_a_study_for_images_of_any_number_and_size(tmp_path, gpu):
    for method, variant, (side, images) in product(METHODS, VARIANTS, ((32, LEAST_IMAGES), (500, 100_000))):
        config = resolve(tmp_path, Facts("folder", images, side, True, gpu), Choices(method, variant))
        assert config.training.batch_size <= images
        assert config.data.image_size == config.views.global_size
        if variant != "baseline":
            assert config.hierarchy.start_epoch < config.training.epochs
            assert config.hierarchy.features == ("invariant" if variant == "hirl-invariant" else "embedding")


def test_images_that_do_not_fit_into_memory_stay_in_files(tmp_path):
    stored = [
        resolve(tmp_path, Facts("folder", images, 500, True, True), Choices()).data.storage
        for images in (5000, 100_000)
    ]
    assert stored == ["memory", "files"]


def test_every_choice_goes_before_the_default(tmp_path):
    choices = Choices("dino", "hirl", 7, 48, 12, "vit_narrow_patch8", (9, 5))
    config = resolve(tmp_path, Facts("folder", 300, 500, True, False), choices)
    assert (config.training.epochs, config.training.batch_size, config.data.image_size) == (7, 12, 48)
    assert config.backbone.name == "vit_narrow_patch8"
    assert config.hierarchy.num_clusters == (9, 5)


def test_images_without_classes_have_no_tasks():
    assert own_study(Facts("unlabelled", 300, 32, False, False), Choices())["tasks"] == []


@pytest.mark.parametrize(
    ("facts", "choices", "said"),
    [
        (
            Facts("folder", 15, 32, True, False),
            Choices(),
            "15 training images are too few for clusters: give at least 16",
        ),
        (Facts("folder", 99, 32, True, False), Choices("beit"), "'beit' needs a tokenizer, so write a study"),
        (Facts("folder", 99, 32, True, False), Choices("bert"), "method 'bert' is unknown; here: mocov2, "),
        (Facts("folder", 99, 32, True, False), Choices(variant="h"), "variant 'h' is unknown; here: hirl, "),
    ],
)
def test_what_is_not_possible_is_said_in_one_line(facts, choices, said):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        own_study(facts, choices)
    assert said in str(caught.value)
