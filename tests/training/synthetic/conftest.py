"""A made body, its wardrobe, and a stage to draw scenes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.data.motion import read_motion
from training.data.synthetic.bodies import BodyModel
from training.data.synthetic.dress import Wardrobe, read_wardrobe
from training.data.synthetic.figures import Cast
from training.data.synthetic.raster import rasterise
from training.data.synthetic.scenes import Stage, sequence_chances

from .made_body import made_body, write_assets


@pytest.fixture(scope="session")
def body() -> BodyModel:
    return made_body()


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_assets(tmp_path_factory.mktemp("assets"))


@pytest.fixture(scope="session")
def wardrobe(assets: Path, body: BodyModel) -> Wardrobe:
    return read_wardrobe(assets, body)


@pytest.fixture(scope="session")
def stage(body: BodyModel, wardrobe: Wardrobe, motion_file: Path) -> Stage:
    motion = read_motion(motion_file)
    return Stage(Cast(body, wardrobe), motion, [], rasterise, sequence_chances(motion))
