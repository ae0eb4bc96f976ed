from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hirl.config import CONFIG_ROOT, MODEL_CONFIGS, TASKS, flatten, load_study, read_yaml
from tests.config.conftest import PLAIN, problem

PAPER_TASKS = (  # evaluations that the methods' files have published settings for; your own need none
    *("knn", "probe", "linear", "finetune", "semisup-1", "semisup-10", "transfer"),
    *("clustering", "detection", "hierarchy"),
)
STUDIES = sorted(path.stem for path in (CONFIG_ROOT / "studies").glob("*.yaml"))
RUNS = [(study, method) for study in STUDIES for method in load_study(study).config.methods]


# --- what is shipped --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "method"), RUNS)
def test_every_shipped_run_resolves(name: str, method: str) -> None:
    for variant in ("baseline", "hirl"):
        config = load_study(name).resolve(method, variant)
        assert isinstance(config.model, MODEL_CONFIGS[config.algorithm])
        assert config.training.effective_lr > 0


@pytest.mark.parametrize(("name", "method"), RUNS)
def test_baseline_and_hirl_differ_in_the_hierarchy_alone(name: str, method: str) -> None:
    baseline, hirl = (
        flatten(load_study(name).resolve(method, v).model_dump(mode="json")) for v in ("baseline", "hirl")
    )
    different = {key for key in baseline.keys() | hirl.keys() if baseline.get(key) != hirl.get(key)}
    assert {key.split(".")[0] for key in different} == {"variant", "hierarchy"}
    assert baseline["hierarchy"] is None


def test_the_controls_train_what_the_evidence_trains() -> None:
    evidence, controls = load_study("taxonomy_long"), load_study("taxonomy_controls")
    for method in evidence.config.methods:
        one, other = (study.resolve(method, "baseline").model_dump(exclude={"study"}) for study in (evidence, controls))
        assert one == other


@pytest.mark.parametrize("path", sorted(CONFIG_ROOT.glob("methods/*.yaml")), ids=lambda path: path.stem)
def test_method_files_name_their_source_and_spell_out_their_method(path: Path) -> None:
    content = read_yaml(path)
    assert content["source"]
    if "base" not in content:
        assert set(content["model"]) == set(MODEL_CONFIGS[path.stem].model_fields)
        trained = {TASKS[task].settings for task in PAPER_TASKS if TASKS[task].protocol == "trained"}
        assert set(content["evaluation"]) == trained


def test_the_papers_study_runs_every_method_file_and_every_evaluation() -> None:
    study = load_study("imagenet").config
    assert set(study.methods) == {path.stem for path in CONFIG_ROOT.glob("methods/*.yaml")}
    assert set(study.tasks) == set(PAPER_TASKS)
    assert list(study.variants) == ["baseline", "hirl"]


# --- layers -----------------------------------------------------------------------------------------------------------

LAYERED = """
methods:
  mocov2:
    training: {epochs: 7}
    views: {jitter: {hue: 0.3}}
  dino:
all:
  training: {epochs: 5, batch_size: 64}
  hierarchy: {start_epoch: 1}
  views: {jitter: {hue: 0.2, contrast: 0.1}}
"""


def test_later_layers_win_key_by_key(study) -> None:
    path = study(LAYERED)
    config = load_study(path).resolve(
        "mocov2", "hirl", 3, {"training.batch_size": 32, "hierarchy.num_clusters": [9, 3]}
    )
    assert (config.training.epochs, config.training.batch_size) == (7, 32)
    jitter = config.views.jitter
    assert (jitter.hue, jitter.contrast, jitter.brightness) == (0.3, 0.1, 0.4)  # method block, all, method file
    assert config.hierarchy.num_clusters == (9, 3)
    assert load_study(path).resolve("dino", "hirl").training.epochs == 5
    assert (config.name, config.study) == ("mocov2-hirl-s3", "own")


def test_provenance_names_the_layer_of_each_value(study) -> None:
    found = {
        key: origin
        for key, _, origin in load_study(study(LAYERED)).provenance("mocov2", "hirl", 1, {"model.momentum": 0.5})
    }
    expected = {
        "training.epochs": "studies/own.yaml methods.mocov2",
        "training.batch_size": "studies/own.yaml all",
        "training.optimizer.base_lr": "methods/mocov2.yaml",
        "training.precision": "default",
        "model.momentum": "--set",
        "seed": "the run",
    }
    assert {key: found[key] for key in expected} == expected
    assert set(found) == set(flatten(load_study(study(LAYERED)).resolve("mocov2", "hirl").model_dump(mode="json")))


def test_a_run_knows_the_configuration_of_its_baseline() -> None:
    loaded = load_study("demo")
    hirl, baseline = (loaded.resolve("dino", variant, 3) for variant in ("hirl", "baseline"))
    assert hirl.baseline == baseline
    assert hirl.baseline.pretraining_hash == baseline.pretraining_hash
    assert (hirl.stem_epochs, baseline.stem_epochs) == (hirl.hierarchy.start_epoch, 0)


def test_a_study_knows_where_its_runs_leave_their_baselines() -> None:
    loaded = load_study("demo")
    assert loaded.stem_epochs("mocov2", 0) == (10,)
    assert loaded.stem_epochs("mocov2", 0, {"hierarchy.start_epoch": 0}) == ()
    assert loaded.stem_epochs("mocov2", 0, {"training.epochs": 10}) == ()  # such a HIRL run is refused


def test_studies_take_their_own_keys_from_a_call(study) -> None:
    config = load_study(study(LAYERED), {"methods": ["dino", "swav"], "seeds": [0, 1]}).config
    assert list(config.methods) == ["dino", "swav"]
    assert config.seeds == (0, 1)
    assert load_study(study(LAYERED), {"methods": ["mocov2"]}).config.methods["mocov2"]["training"] == {"epochs": 7}


def test_a_study_names_its_runs_and_configures_its_controls(study) -> None:
    path = study(LAYERED)
    names = ("mocov2-baseline-s0", "mocov2-hirl-s0", "dino-baseline-s0", "dino-hirl-s0")
    assert list(map(str, load_study(path).run_names())) == [
        *names,
        "untrained-resnet50-s0",
        "untrained-vit_base_patch16-s0",
    ]
    assert load_study(path).resolve_control("vit_base_patch16").method == "dino"
    assert "name one of its methods' backbones" in problem(lambda: load_study(path).resolve_control("resnet18"))


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("methods: [mocov4]", ["'mocov4' is unknown", "mocov2, simsiam, swav, mocov3, dino, ibot, beit"]),
        ("methods: [mocov2]\nseed: [0]", ["own.yaml", "unknown key 'seed'", "seeds"]),
        ("methods: [mocov2]\ntasks: [knm]", ["own.yaml", "tasks.0 = 'knm'", "known: knn, probe"]),
        ("methods: [mocov2]\nvariants: [hirl, both]", ["variants.both", "has no block"]),
        ("methods: [mean-teacher]", ["methods = 'mean-teacher'", "has no hyphen", "use _"]),
        ("methods: [untrained]", ["methods.untrained = 'untrained'", "choose another"]),
        ("methods: [mocov2]\nall: {data: {label_lists: {5: list.txt}}}", ["known: 1, 10"]),
        ("- mocov2", ["own.yaml must hold a mapping"]),
        ("methods: 3", ["own.yaml", "methods = 3"]),
        ("methods: [mocov2", ["own.yaml is not valid YAML"]),
        ("methods: {mocov2: {data: {image_size: 8}}}", ["methods.mocov2.data is not possible", "all.data"]),
        ("methods: [mocov2]\nall: {trainig: {epochs: 3}}", ["unknown key 'trainig'"]),
    ],
)
def test_a_wrong_study_is_named_with_what_is_allowed(study, text: str, parts: list[str]) -> None:
    message = problem(lambda: load_study(study(text)).resolve("mocov2", "hirl"))
    assert all(part in message for part in parts), message


def test_unknown_names_are_answered_with_the_known_ones(study) -> None:
    message = problem(lambda: load_study("imagnet").resolve("mocov2", "hirl"))
    assert all(name in message for name in ("no studies file 'imagnet'", *STUDIES))
    assert "known: mocov2, simsiam" in problem(lambda: load_study(study(PLAIN)).resolve("moco", "hirl"))
    assert "known: baseline, hirl" in problem(lambda: load_study(study(PLAIN)).resolve("mocov2", "both"))
    assert "seed = -1" in problem(lambda: load_study(study(PLAIN)).resolve("mocov2", "hirl", -1))


# --- the files of a study ---------------------------------------------------------------------------------------------


def test_a_missing_config_folder_is_named(study, tmp_path: Path, monkeypatch) -> None:
    path = study(PLAIN)
    monkeypatch.setattr("hirl.config.study.CONFIG_ROOT", tmp_path / "config")
    message = problem(lambda: load_study(path).resolve("mocov2", "hirl"))
    assert f"{tmp_path}/config is missing: install hirl again" in message


def test_a_study_reads_every_file_once(study, monkeypatch) -> None:
    opened: list[str] = []
    read = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, *rest: opened.append(path.name) or read(path, *rest))
    own = load_study(study("methods: [mocov2, dino, swav_800]\nseeds: [0, 1, 2]"))
    for run in own.run_names():
        if not run.is_control:
            own.resolve(run.method, run.variant, run.seed)
    own.resolve_control("resnet50")
    list(own.provenance("dino", "hirl"))
    assert sorted(opened) == ["dino.yaml", "mocov2.yaml", "own.yaml", "swav.yaml", "swav_800.yaml"]


def test_configuration_costs_no_torch() -> None:
    resolve = "hirl.config.load_study('demo').resolve('dino', 'hirl')"
    code = f"import sys, hirl.config, hirl.files; {resolve}; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_a_study_may_start_from_another(study) -> None:
    base = study("methods: {dino: {training: {epochs: 9, batch_size: 32}}}\nall: {data: {image_size: 8}}", "base")
    path = study(f"base: {base}\nmethods: {{dino: {{training: {{epochs: 4}}}}}}\nseeds: [7]")
    config = load_study(path).resolve("dino", "baseline")
    assert (config.training.epochs, config.training.batch_size, config.data.image_size) == (4, 32, 8)
    assert load_study(path).config.seeds == (7,)


def test_a_method_named_without_settings_keeps_those_of_the_base(study) -> None:
    base = study("methods: {dino: {training: {epochs: 50}}}", "base")
    for named in ("{dino: }", "[dino]"):
        assert load_study(study(f"base: {base}\nmethods: {named}")).resolve("dino", "hirl").training.epochs == 50


def test_the_base_of_a_study_must_have_no_base_itself(study) -> None:
    first = study("methods: [dino]", "first")
    second = study(f"base: {first}", "second")
    message = problem(lambda: load_study(study(f"base: {second}", "third")))
    assert f"{second} is the base of a study and has base" in message


# --- variants of a study's own ----------------------------------------------------------------------------------------

ARMS = """
methods: [mocov2]
variants: {baseline: , hirl: , hirl-invariant: {features: invariant, views: 4}}
"""


def test_a_variant_of_the_studys_own_differs_from_hirl_in_its_block(study) -> None:
    loaded = load_study(study(ARMS))
    hirl, own = (loaded.resolve("mocov2", variant) for variant in ("hirl", "hirl-invariant"))
    assert own.hierarchy == hirl.hierarchy.model_copy(update={"features": "invariant", "views": 4})
    assert own.name == "mocov2-hirl-invariant-s0"
    assert own.pretraining_hash != hirl.pretraining_hash
    assert own.model_copy(update={"hierarchy": hirl.hierarchy, "variant": "hirl"}) == hirl


def test_a_call_chooses_among_the_studys_variants(study) -> None:
    path = study(ARMS)
    chosen = load_study(path, {"variants": ["baseline", "hirl-invariant"]})
    assert [name.variant for name in chosen.run_names()] == ["baseline", "hirl-invariant", "control"]
    assert chosen.resolve("mocov2", "hirl-invariant").hierarchy.views == 4
    message = problem(lambda: load_study(path, {"variants": ["hirl-flat"]}))
    assert "'hirl-flat' is unknown; known: baseline, hirl, hirl-invariant" in message


def test_a_studys_variants_replace_those_of_its_base(study) -> None:
    assert list(load_study(study("base: demo\nvariants: [hirl]\n")).config.variants) == ["hirl"]
    assert list(load_study(study("base: demo\n")).config.variants) == ["baseline", "hirl"]


@pytest.mark.parametrize(
    ("variants", "part"),
    [
        ("{hirl: {views: 3}}", "variants.hirl is the paper's and takes no block"),
        ("{'my trees': {views: 3}}", "letters, digits"),
        ("{control: {views: 3}}", "letters, digits"),
    ],
)
def test_a_wrong_variant_is_named(study, variants: str, part: str) -> None:
    assert part in problem(lambda: load_study(study(f"methods: [mocov2]\nvariants: {variants}\n")))


def test_a_tree_of_the_true_classes_is_refused_outside_control_studies(study) -> None:
    text = "methods: [mocov2]\nvariants: {baseline: , hirl-classes: {tree: classes, noise: 0.5}}\n"
    assert "reads labels" in problem(lambda: load_study(study(text)).resolve("mocov2", "hirl-classes"))
    controls = load_study(study(text + "control_study: true\n"))
    assert controls.resolve("mocov2", "hirl-classes").hierarchy.noise == 0.5


def test_noise_without_classes_is_refused(study) -> None:
    text = "methods: [mocov2]\nvariants: {hirl-noisy: {noise: 0.5}}\n"
    assert "it permutes classes" in problem(lambda: load_study(study(text)).resolve("mocov2", "hirl-noisy"))
