"""Make the atlas page of a study: its HIRL runs with their trees, and their baselines' features clustered the same way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hirl.config import TreeKMeansConfig
from hirl.data.images import ImageSet, load_images
from hirl.distributed.device import seed_step
from hirl.evaluation.cache import FeatureCache
from hirl.hierarchy.kmeans import hierarchical_kmeans
from hirl.hierarchy.tree import SemanticTree
from hirl.reporting.atlas import picture
from hirl.reporting.atlas_page import AtlasClasses, AtlasRun, write_atlas
from hirl.reporting.runs import Run, level_names, open_runs

CLUSTERED_AT_MOST = 200_000  # images whose features are clustered here: on a CPU, in minutes
