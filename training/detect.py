"""`python -m training detect human36m|rendered|photos VIDEOS`: a detector of ours over videos, into the 2D file of
their set, or over rendered photos.

Human3.6M's: the finder's surest box of every frame (the last one where it finds nobody). Rendered ones': the boxes that
were rendered, of photos a little beside. The detector's 17 joints, and Human3.6M's made of them as the service makes
them. Pixels from the picture's corner. It makes `data_2d_h36m_ours-NAME.npz`, `data_2d_NAME.npz`.
"""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from service.engines.engine import Engine
from service.engines.framing import CropRow, Found, PictureRow
from service.geometry.skeletons import to_h36m17
from service.loading import load_engine
from service.media.videos import ClipLimits, open_clip
from service.pipelines.certainty import Certainty
from service.pipelines.second_look import surest, turned_row, turns
from service.settings import Settings
from service.store.manifest import Role
from service.store.store import Entry, Store, embedded_store

from .data.human36m import RENAMED, TESTING, TRAINING, detections_file, views
from .data.lone import watch_photos
from .data.rendered import Sighting, points_file, read_sightings
from .pose import PoseTask
from .table import with_checkpoint

Array = NDArray[np.float32]
Picture = NDArray[np.uint8]
Detect = Callable[[Picture, Array], Array]  # picture, box (4,) to (17, 3)
Find = Callable[[Picture], Found]

LIMITS = ClipLimits(max_pixels=1100 * 1100, max_frames=100_000, max_seconds=3600)
VIDEO = re.compile(r"(?P<action>[A-Za-z]+)(?: (?P<take>\d+))?\.(?P<camera>\d{8})\.mp4")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("set", choices=["human36m", "rendered", "photos"])
    parser.add_argument(
        "videos",
        type=Path,
        help="holds S1/Videos/Directions 1.54138969.mp4 and the like, or rendered clips; of photos their labels",
    )
    parser.add_argument("--out", type=Path, help="folder of data_3d_h36m.npz, where the file belongs; of the clips")
    parser.add_argument("--name", required=True, help="the recipes ask for w32 and w32-attention")
    parser.add_argument("--row", type=Path, help="a trained table row's folder (recipe.json, latest.pt)")
    parser.add_argument("--pose", help="instead: a model of the store; by default its own")
    parser.add_argument("--person", help="the finder, a model of the store; by default its own")
    parser.add_argument("--store", type=Path, default=embedded_store())
    parser.add_argument("--subjects", nargs="*", default=[*TRAINING, *TESTING])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def detect(arguments: Namespace) -> str:
    """Runs the videos and returns what was written.

    Raises:
        ValueError: no video of a subject, or a take that has not four views; the message names it.
    """
    store, settings = Store(arguments.store), Settings(device=arguments.device)
    photos = arguments.set == "photos"
    if arguments.row is not None:
        pose = detector_of_row(arguments.row, torch.device(arguments.device))
    else:
        entry = _entry(store, "pose", arguments.pose)
        engine = load_engine(entry.manifest, entry.load, settings, arguments.device)
        pose = as_served(engine, Certainty.read(entry.manifest.certainty)) if photos else detector(engine)
    out: Path = arguments.out or (arguments.videos.parent if photos else arguments.videos)
    if arguments.set in ("rendered", "photos"):
        path = points_file(out, arguments.name)
        arrays: dict[str, Any] = dict((watch_photos if photos else watch)(pose, arguments.videos))
        np.savez_compressed(path, **arrays)
        return f"written: {path}"
    entry = _entry(store, "person", arguments.person)
    find = finder(load_engine(entry.manifest, entry.load, settings, arguments.device))
    points: dict[str, dict[str, list[Array]]] = {}
    for subject in arguments.subjects:
        points[subject] = {}
        for take, files in videos_of(arguments.videos, subject).items():
            points[subject][take] = [follow(find, pose, _pictures(file)) for file in files]
            print(f"{subject} {take}: {', '.join(str(len(each)) for each in points[subject][take])} frames", flush=True)
    path = out / detections_file(f"ours-{arguments.name}")[0]
    write_detections(path, points)
    return f"written: {path}"


def videos_of(root: Path, subject: str) -> dict[str, tuple[Path, ...]]:
    """The four files of every take of a subject, in the cameras' order; takes by the names of the 3D file.

    Raises:
        ValueError: there are none, or a take lacks a camera.
    """
    folder = root / subject / "Videos" if (root / subject / "Videos").is_dir() else root / subject
    takes: dict[str, dict[str, Path]] = {}
    for file in sorted(folder.glob("*.mp4")) if folder.is_dir() else ():
        # Files called `_ALL` show several takes in a row.
        if match := VIDEO.fullmatch(file.name):
            action = RENAMED.get(match["action"], match["action"])
            takes.setdefault(" ".join(filter(None, (action, match["take"]))), {})[match["camera"]] = file
    if not takes:
        raise ValueError(
            f"there are no videos of {subject} in {folder}: ACTION.CAMERA.mp4, of vision.imar.ro/human3.6m"
        )
    cameras = [view.id for view in views(subject)]
    for take, files in takes.items():
        if missing := [camera for camera in cameras if camera not in files]:
            raise ValueError(f"{subject} {take!r} lacks the video of camera {', '.join(missing)} in {folder}")
    return {take: tuple(files[camera] for camera in cameras) for take, files in takes.items()}


def follow(find: Find, pose: Detect, pictures: Iterable[Picture]) -> Array:
    """(frames, 17, 2) of the one person in a video, in the h36m17 order; a joint that is not seen keeps its place."""
    box: Array | None = None
    joints: list[Array] = []
    for picture in pictures:
        found = find(picture)
        if len(found.boxes):
            box = found.boxes[0]
        if box is None:  # nobody yet: the whole picture
            box = np.array([0, 0, picture.shape[1], picture.shape[0]], np.float32)
        joints.append(_kept(pose(picture, box), joints))
    return np.stack(joints)


def watch(pose: Detect, folder: Path) -> dict[str, Array]:
    """(frames, 17, 2) of every sighting in a folder of rendered clips, by its name, otherwise as `follow`."""
    points: dict[str, list[Array]] = {}
    by_clip: dict[str, list[Sighting]] = {}
    for sighting in read_sightings(folder):
        by_clip.setdefault(sighting.clip, []).append(sighting)
    for clip, sightings in by_clip.items():
        for index, picture in enumerate(_pictures(folder / f"{clip}.mp4")):
            for each in sightings:
                if 0 <= index - each.first < len(each.boxes):
                    joints = points.setdefault(each.name, [])
                    joints.append(_kept(pose(picture, each.boxes[index - each.first]), joints))
        print(f"{clip}: {len(sightings)} people, {sum(len(each.boxes) for each in sightings)} poses", flush=True)
    return {name: np.stack(joints) for name, joints in points.items()}


def _kept(pose: Array, before: Sequence[Array]) -> Array:
    """(17, 2) in the h36m17 order; where a joint is not seen, its place in the frame before."""
    made = to_h36m17(pose, "coco17")[:, :2]
    known = np.isfinite(made).all(axis=-1, keepdims=True)
    joints: Array = np.where(known, made, before[-1] if len(before) else np.nanmean(made, axis=0)).astype(np.float32)
    return joints


def write_detections(path: Path, points: dict[str, dict[str, list[Array]]]) -> None:
    """As every project writes it: `positions_2d` by subject and take, four views each, and `metadata`."""
    symmetry = [[4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]]
    told: dict[str, Any] = {"positions_2d": points, "metadata": {"num_joints": 17, "keypoints_symmetry": symmetry}}
    arrays: dict[str, Any] = {}
    for name, value in told.items():
        arrays[name] = np.empty((), object)
        arrays[name][()] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


def finder(engine: Engine) -> Find:
    def find(picture: Picture) -> Found:
        found: Found = engine.run(engine.prepare([PictureRow(picture)]))[0]
        return found

    return find


def detector(engine: Engine) -> Detect:
    """With flip test."""

    def pose(picture: Picture, box: Array) -> Array:
        return _look(engine, CropRow(picture, box, flip_test=True))

    return pose


def as_served(engine: Engine, certainty: Certainty | None) -> Detect:
    """One look without flip test, and others at who lies or stands on their head, as the service looks at photos."""

    def pose(picture: Picture, box: Array) -> Array:
        row = CropRow(picture, box, flip_test=False)
        first = _look(engine, row)
        others = [_look(engine, turned_row(row, angle)) for angle in turns(first[None])[0]]
        return surest(first, others, lambda points: points if certainty is None else certainty.of(points, box))

    return pose


def _look(engine: Engine, row: CropRow) -> Array:
    points: Array = engine.run(engine.prepare([row]))[0]
    return points


def detector_of_row(folder: Path, device: torch.device) -> Detect:
    """A detector that `training table` trained, with flip test."""
    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    module = with_checkpoint(recipe, folder / "latest.pt").to(device).eval()
    task = PoseTask(recipe, [], device, False)

    @torch.no_grad()
    def pose(picture: Picture, box: Array) -> Array:
        rows = [CropRow(picture, box, flip_test=True)]
        heatmaps = module(task.crops(torch.from_numpy(task.framing.inputs(rows)))).float().cpu().numpy()
        points: Array = task.framing.answers([heatmaps], rows)[0]
        return points

    return pose


def _entry(store: Store, role: Role, named: str | None) -> Entry:
    return store.default(role) if named is None else store.find(named)


def _pictures(file: Path) -> Iterable[Picture]:
    with open_clip(file, LIMITS) as clip:
        for frame in clip:
            yield frame.pixels
