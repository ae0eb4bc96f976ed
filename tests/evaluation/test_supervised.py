from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

from hirl.data.images import ImageSet
from hirl.evaluation.supervised import accuracies, check_labels, fingerprint, load_backbone
from hirl.files import write_json
from hirl.models.weights import save_weights

CPU = torch.device("cpu")


def image_set(labels: torch.Tensor, classes: int) -> ImageSet:
    """Return images whose first pixel is their index."""
    images = torch.arange(len(labels)).byte().view(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()
    return ImageSet(images, None, labels[:, None], [[str(number) for number in range(classes)]], [], 2)


def by_index(logits: torch.Tensor):
    """Return a classifier that looks up the logits of an image by the index in its first pixel."""
    return lambda views: logits[((views[:, 0, 0, 0] * 0.229 + 0.485) * 255).round().long()]


def test_accuracies_are_those_of_sklearn() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(50, 9, generator=generator), torch.randint(0, 9, (50,), generator=generator)
    expected = {f"top{k}": 100 * top_k_accuracy_score(labels, logits.numpy(), k=k, labels=range(9)) for k in (1, 5)}
    assert accuracies(by_index(logits), image_set(labels, 9), 7, CPU) == pytest.approx(expected)


def test_equal_or_missing_logits_score_as_chance() -> None:
    labels = torch.arange(60) % 6
    for logits in (torch.zeros(60, 6), torch.full((60, 6), torch.nan)):
        assert accuracies(by_index(logits), image_set(labels, 6), 16, CPU)["top1"] == pytest.approx(100 / 6)


def test_of_fewer_than_five_classes_the_true_one_is_always_among_the_five_best() -> None:
    found = accuracies(by_index(torch.eye(3)[[1, 2, 0]]), image_set(torch.tensor([1, 2, 1]), 3), 2, CPU)
    assert found == pytest.approx({"top1": 200 / 3, "top5": 100})


@pytest.mark.parametrize("stray", [-1, 3])
def test_a_label_out_of_range_is_named(stray: int) -> None:
    with pytest.raises(ValueError, match=f"^data: label {stray} is not one of its 3 classes: prepare the data again"):
        check_labels(image_set(torch.tensor([0, stray, 2]), 3), Path("data"))


def test_a_backbone_has_its_weights_and_the_rates_of_its_drop_paths(tiny_run, tmp_path) -> None:
    config = tiny_run("dino")
    saved = load_backbone(config.model_copy(update={"seed": 1}), None, 32)
    save_weights(saved, config.backbone, tmp_path / "weights.safetensors")
    loaded = load_backbone(config, tmp_path / "weights.safetensors", 32, drop_path=0.3)
    assert all(torch.equal(value, saved.state_dict()[key]) for key, value in loaded.state_dict().items())
    rates = [layer.drop_prob for layer in loaded.modules() if getattr(layer, "drop_prob", 0)]
    assert sorted(set(rates)) == pytest.approx([0.1, 0.2, 0.3])


def test_an_untrained_backbone_is_its_seeds(tiny_run) -> None:
    first, again, other = (
        load_backbone(tiny_run("simsiam").model_copy(update={"seed": seed}), None, 32).conv1.weight
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_patches_must_fit_the_images(tiny_run) -> None:
    with pytest.raises(ValueError, match="images of 36 pixels are no multiple of vit_narrow_patch8's patch, 8"):
        load_backbone(tiny_run("dino"), None, 36)


def test_missing_weights_are_named(tiny_run, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"none\.safetensors is not a readable weights file"):
        load_backbone(tiny_run("dino"), tmp_path / "none.safetensors", 32)


def test_a_fingerprint_follows_all_that_decides_the_result(tiny_run, tmp_path) -> None:
    config, files = tiny_run("simsiam"), [tmp_path / name for name in ("weights", "labels-10.csv")]
    for path in files:
        path.write_text("a")
    write_json(tmp_path / "manifest.json", {"digest": "a"})

    def prints(run=config, task="semisup-10", weights=files[0]) -> str:
        return fingerprint(task, run, weights, tmp_path)

    seen = {prints()}
    assert prints() in seen
    seen |= {prints(task="finetune"), prints(tiny_run("simsiam", evaluation={"semisup_10": {"epochs": 7}}))}
    seen |= {prints(tiny_run("mocov2")), prints(weights=None)}
    for path in files:
        path.write_text("b")
        seen.add(prints())
    write_json(tmp_path / "manifest.json", {"digest": "b"})
    seen.add(prints())
    assert len(seen) == 8
