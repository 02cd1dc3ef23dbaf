"""The wheel holds all that the service needs, and runs from any folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this tree, unpacked, as an installation would lay it out."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel = next(WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"]))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_the_store_and_the_notices(unpacked: Path) -> None:
    models = {path.parent.parent.name for path in unpacked.glob("service/model_store/*/*/weights.safetensors")}
    assert {"lite-hrnet", "lite-hrnet-public", "rtmdet-nano", "lift-1", "lift-27"} <= models
    assert {path.name for path in unpacked.glob("*.dist-info/licenses/*")} >= {"LICENSE", "NOTICE"}


def test_the_wheel_knows_neither_tests_nor_training(unpacked: Path) -> None:
    assert {path.name for path in unpacked.iterdir() if path.suffix != ".dist-info"} == {"service"}


def test_the_unpacked_wheel_finds_its_own_store_from_another_folder(unpacked: Path, tmp_path: Path) -> None:
    program = (
        "from service.store.store import Store, embedded_store; folder = embedded_store(); "
        "assert not Store(folder).check(); print(folder)"
    )
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert Path(ended.stdout.strip()) == unpacked / "service" / "model_store"
