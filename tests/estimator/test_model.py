"""The estimator: what it learns from pictures in every form, scikit-learn's manners, and what it refuses."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn
from torch.utils.data import TensorDataset

from hirl.estimator.model import HIRL
from tests.estimator.conftest import colored

LEVELS = 3


class Small(nn.Module):
    """A network of the user's own, without `num_features`."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 12, 3, 2), nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, images):
        return self.layers(images).flatten(1)


# --- what is learned --------------------------------------------------------------------------------------------------


def test_a_folder_gives_a_tree_of_all_its_images_in_the_order_of_their_paths(fitted, class_folders):
    assert fitted.tree_.num_clusters == (6, 3, 2)
    assert fitted.paths_ == sorted(class_folders.rglob("*.png"))
    assert len(fitted.labels_) == len(fitted.features_) == len(fitted.class_labels_) == 48
    names = fitted.classes_tree_.class_names[0]
    assert [names[label] for label in fitted.class_labels_[:, 0]] == [path.parent.name for path in fitted.paths_]


def test_colors_fall_into_clusters_and_neighbors_of_their_own(fitted):
    for cluster in np.unique(fitted.labels_):
        colors = fitted.class_labels_[fitted.labels_ == cluster, 0]
        assert np.bincount(colors).max() / len(colors) > 0.9
    assert fitted.knn_accuracy_ == 100
    places, cosines = fitted.neighbors(fitted.paths_[0], 3)
    assert places[0, 0] == 0
    assert cosines[0, 0] == pytest.approx(1, abs=1e-6)
    assert (fitted.class_labels_[places[0], 0] == fitted.class_labels_[0, 0]).all()


def test_fitted_pictures_keep_their_features_and_nearly_all_their_paths(fitted, class_folders):
    assert np.abs(fitted.transform(class_folders) - fitted.features_).max() < 1e-5  # batches of other sizes
    paths = fitted.predict_path(class_folders)
    assert paths.shape == (48, LEVELS)
    # k-means compares with means, a path with unit centroids: pictures between two clusters may differ
    assert (paths == fitted.tree_.assignments.numpy()).mean() > 0.9
    assert np.array_equal(fitted.predict(class_folders), paths[:, 0])


def test_paths_of_new_pictures_nest(fitted):
    paths = fitted.predict_path(colored(3, side=40))
    tree = fitted.tree_
    for level in range(LEVELS - 1):
        assert np.array_equal(tree.parents[level].numpy()[paths[:, level]], paths[:, level + 1])


def test_an_array_and_a_data_set_of_the_same_pictures_give_the_same_fit(tiny_model, pictures):
    one = tiny_model(epochs=1).fit(pictures)
    other = tiny_model(epochs=1).fit(TensorDataset(torch.from_numpy(pictures)))
    assert np.array_equal(one.labels_, other.labels_)
    assert np.array_equal(one.features_, other.features_)
    assert one.n_features_in_ == 16 * 16 * 3
    assert one.paths_ is None
    assert one.knn_accuracy_ is None
    assert one.class_labels_.shape == (48, 0)


def test_the_same_seed_gives_the_same_fit_and_leaves_torchs_generator_alone(tiny_model, pictures):
    before = torch.get_rng_state()
    fits = [tiny_model(epochs=1, random_state=seed).fit(pictures).features_ for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(fits[0], fits[1])
    assert not np.array_equal(fits[0], fits[2])


@pytest.mark.parametrize("variant", ["baseline", "hirl-invariant"])
def test_every_variant_ends_with_a_tree(tiny_model, pictures, variant):
    model = tiny_model(variant=variant).fit(pictures)
    assert model.tree_.num_clusters == (6, 3, 2)
    assert ("path_loss" in model.history_[-1]) == (variant != "baseline")


def test_a_module_of_the_users_own_is_trained_as_a_copy(tiny_model, pictures):
    network = Small()
    before = network.layers[0].weight.clone()
    model = tiny_model(backbone=network).fit(pictures)
    assert model.transform(pictures[:3]).shape == (3, 12)
    assert torch.equal(network.layers[0].weight, before)
    assert not torch.equal(model.network_.backbone.network.layers[0].weight, before)


def test_without_epochs_the_features_of_a_backbone_are_clustered_as_they_are(tiny_model, pictures):
    torch.manual_seed(0)
    network = Small().eval()
    model = tiny_model(backbone=network, epochs=0).fit(pictures)
    assert model.history_ == []
    assert model.tree_.centroids[0].shape == (6, 12)
    assert torch.equal(model.network_.backbone.network.layers[0].weight, network.layers[0].weight)


def test_an_interrupted_fit_resumes_in_its_folder(tiny_model, class_folders, tmp_path, monkeypatch, capsys):
    from hirl.training.loop import Pretrainer

    step = Pretrainer.step

    def killed(self, batch, number):
        if number == self.per_epoch:  # the first step of the second epoch
            raise KeyboardInterrupt
        return step(self, batch, number)

    whole = tiny_model().fit(class_folders)
    monkeypatch.setattr(Pretrainer, "step", killed)
    model = tiny_model(folder=tmp_path, verbose=True)
    with pytest.raises(KeyboardInterrupt):
        model.fit(class_folders)
    monkeypatch.undo()
    model.fit(class_folders)
    assert "resumes after epoch 1/2" in capsys.readouterr().out
    assert np.array_equal(model.features_, whole.features_)


def test_one_line_says_what_is_done_and_silence_is_the_default(tiny_model, class_folders, capsys):
    tiny_model(epochs=1).fit(class_folders)
    assert capsys.readouterr().out == ""
    tiny_model(epochs=1, verbose=True).fit(class_folders)
    assert capsys.readouterr().out.splitlines()[0] == (
        "48 images of 4 classes: simsiam hirl, resnet8 at 16 px, 1 epochs of batches of 16; "
        "clusters 2 > 3 > 6, from epoch 1 on"
    )


# --- scikit-learn's manners -------------------------------------------------------------------------------------------


class OnTables(HIRL):
    """HIRL on the tables that scikit-learn's checks make: every row becomes a picture of stripes."""

    def fit(self, X, y=None):
        table = validate_data(self, X, dtype=np.float64)
        self.low_, self.range_ = table.min(axis=0), np.ptp(table, axis=0).clip(1e-9)
        super().fit(self._pictures(table))
        self.n_features_in_ = table.shape[1]
        return self

    def transform(self, X):
        check_is_fitted(self)
        return super().transform(self._pictures(validate_data(self, X, reset=False, dtype=np.float64)))

    def predict_path(self, X):
        check_is_fitted(self)
        return super().predict_path(self._pictures(validate_data(self, X, reset=False, dtype=np.float64)))

    def _pictures(self, table):
        stripes = ((table - self.low_) / self.range_).clip(0, 1)
        return np.broadcast_to(stripes[:, None, :, None], (*stripes[:, None].shape[:2], stripes.shape[1], 3)).repeat(
            3, 1
        )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = True, False
        return tags


class Averages(nn.Module):
    """Fixed random features of a picture, for fits without training."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weights", torch.randn(3 * 64, 6, generator=torch.Generator().manual_seed(0)))

    def forward(self, images):
        return nn.functional.adaptive_avg_pool2d(images, 8).flatten(1) @ self.weights


EXCLUDED = {
    "check_fit2d_1sample": "its error speaks of images where the check looks for samples",
    "check_estimators_overwrite_params": "joblib gives the copy of a module another hash than the module",
    "check_methods_sample_order_invariance": "allows no rounding, and a product of float32 rounds by its place",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator", [HIRL, OnTables])
def test_scikit_learns_checks_pass(estimator):
    model = estimator("simsiam", epochs=0, backbone=Averages(), image_size=8, num_clusters=(3, 2), batch_size=4)
    results = check_estimator(model, expected_failed_checks=EXCLUDED, on_fail=None)
    assert len(results) > (40 if estimator is OnTables else 0)
    assert not [r["check_name"] for r in results if r["status"] == "failed"]


def test_parameters_are_read_set_and_cloned(tiny_model):
    model = tiny_model(backbone=Small())
    copied = clone(model.set_params(epochs=3, method="mocov2"))
    assert (copied.epochs, copied.method) == (3, "mocov2")
    assert copied.get_params().keys() == HIRL().get_params().keys()
    assert copied.backbone is not model.backbone


def test_fit_changes_no_parameter(tiny_model, pictures):
    model = tiny_model(epochs=1)
    before = pickle.dumps(model.get_params())
    assert model.fit(pictures) is model
    assert pickle.dumps(model.get_params()) == before


def test_it_works_in_a_pipeline_names_its_columns_and_survives_pickle(tiny_model, pictures):
    pipeline = make_pipeline(tiny_model(epochs=1), Normalizer()).fit(pictures)
    features = pipeline.transform(pictures)
    assert np.allclose(np.linalg.norm(features, axis=1), 1)
    model = pickle.loads(pickle.dumps(pipeline[0]))
    assert np.array_equal(model.transform(pictures), model.features_) or np.allclose(
        model.transform(pictures), model.features_, atol=1e-5
    )
    assert list(model.get_feature_names_out()[:2]) == ["hirl0", "hirl1"]


def test_fit_predict_gives_the_finest_clusters(tiny_model, pictures):
    model = tiny_model(epochs=1)
    assert np.array_equal(model.fit_predict(pictures), model.labels_)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_nothing_works_before_a_fit(tiny_model, pictures):
    model = tiny_model()
    for use in (model.transform, model.predict, model.predict_path, model.neighbors, model.save):
        with pytest.raises(NotFittedError, match="call fit with pictures first"):
            use(pictures)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"method": "bert"}, "method 'bert' is unknown; here: mocov2"),
        ({"variant": "hurl"}, "variant 'hurl' is unknown; here: hirl"),
        ({"epochs": 0}, "epochs is 0, so that nothing is trained: give weights or a backbone"),
        ({"epochs": -1}, "training.epochs = -1"),
        ({"num_clusters": (50, 3)}, "num_clusters 50 is more than the 48"),
        ({"num_clusters": (3, 6)}, "fine to coarse"),
        ({"backbone": "resnet9"}, "backbone.name 'resnet9' is unknown"),
        ({"backbone": nn.Conv2d(3, 4, 1)}, "the backbone's output for two images is [2, 4, 16, 16]"),
        ({"backbone": nn.Linear(3, 4)}, "the backbone fails on images [2, 3, 16, 16]"),
        ({"backbone": Small(), "weights": "w"}, "are two starts: give one of them"),
        ({"weights": "nothing"}, "nothing is no file and no known name: give a file of weights"),
        ({"method": "ibot", "backbone": "resnet8", "settings": {}}, "ibot masks the patches of a ViT"),
        ({"settings": {"training.rate": 1}}, "unknown key 'training.rate'"),
        ({"batch_size": 64}, "batch_size is 64, but there are 48 images: lower it"),
    ],
)
def test_an_impossible_parameter_is_named_in_one_line(pictures, parameters, said):
    tiny = {"method": "simsiam", "epochs": 1, "image_size": 16, "num_clusters": (6, 3), "batch_size": 16}
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        HIRL(**(tiny | parameters)).fit(pictures)
    assert said.lower() in str(caught.value).lower()


def test_impossible_pictures_are_named_in_one_line(tiny_model, tmp_path, pictures):
    for images, said in (
        (tmp_path, "holds no image"),
        (tmp_path / "none", "is missing"),
        (pictures[:1], "num_clusters 6 is more than the 1 training images"),
        (pictures.astype(int), "dtype int64"),
    ):
        with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
            tiny_model().fit(images)
        assert said in str(caught.value)


def test_a_broken_image_is_named(tiny_model, class_folders, tmp_path):
    import shutil

    root = shutil.copytree(class_folders, tmp_path / "in")
    (root / "red/03.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"03\.png cannot be read as an image: replace or remove it$"):
        tiny_model().fit(root)
