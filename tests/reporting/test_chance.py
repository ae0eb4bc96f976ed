"""Chance is what guessing reaches: one class of all for top-1, nothing for AMI."""

from __future__ import annotations

import json

from hirl.config.tasks import TASKS, Metric
from hirl.reporting.chance import chance_levels

KNN = TASKS["knn"].shown[0]
SUPERCLASS = Metric("knn", "top1_level1", "kNN superclass (level 1)")
NMI, AMI = TASKS["clustering"].shown[1:]
TRANSFER, AP = TASKS["transfer"].shown[0], TASKS["detection"].shown[0]


def test_chance_is_one_class_of_all_at_the_metrics_level_and_in_its_own_data(tmp_path) -> None:
    for folder, counts in (("data", (12, 4)), ("transfer", (5,))):
        (tmp_path / folder).mkdir()
        names = [[str(number) for number in range(count)] for count in counts]
        (tmp_path / folder / "manifest.json").write_text(json.dumps({"class_names": names}))
    found = chance_levels(tmp_path, [KNN, SUPERCLASS, NMI, AMI, TRANSFER, AP])
    assert found == {KNN: 100 / 12, SUPERCLASS: 25.0, AMI: 0.0, TRANSFER: 20.0}


def test_data_without_a_manifest_has_no_chance_level(tmp_path) -> None:
    assert chance_levels(tmp_path, [KNN, TRANSFER]) == {}
