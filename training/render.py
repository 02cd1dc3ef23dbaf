"""`python -m training render`: pictures and clips of rendered people with their labels, or their joints alone.

Numbers pictures from 0; each depends on the seed and its number alone, so that the number of workers changes nothing
and more pictures begin with the same ones. Reads arguments, writes files, prints pictures per second.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.media.films import Film

from .data.motion import read_motion
from .data.synthetic.backgrounds import list_pictures
from .data.synthetic.bodies import read_body_model
from .data.synthetic.clips import RATE, clip
from .data.synthetic.dress import read_wardrobe
from .data.synthetic.figures import Cast
from .data.synthetic.film import jpeg
from .data.synthetic.joints import POSES_EACH, posed_body
from .data.synthetic.labels import annotation, category
from .data.synthetic.rasterisers import rasteriser
from .data.synthetic.scenes import Photo, Stage, crop_photo, sequence_chances, whole_photo

Made = TypeVar("Made")
CLIPS_FROM, JOINTS_FROM = 1_000_000, 2_000_000  # clips and joints draw from other generators than pictures

_stage: Stage  # of a worker process, made once by `_begin`


def add_arguments(task: argparse.ArgumentParser) -> None:
    task.add_argument("--motion", type=Path, required=True, help="motion pack that the poses come from")
    task.add_argument("--assets", type=Path, required=True, help="clothes and hair: an npz with its json beside it")
    task.add_argument("--backgrounds", type=Path, help="folder of photos that show nobody; without: made of noise")
    task.add_argument("--out", type=Path, required=True, help="folder to write into")
    task.add_argument("--count", type=int, default=0, help="pictures")
    kinds = "one person each, whole scenes, or bodies of whom nothing is drawn, for `training lift --bodies`"
    task.add_argument("--kind", choices=("crops", "photos", "joints"), default="crops", help=kinds)
    task.add_argument("--clips", type=int, default=0, help="clips of people who pass each other")
    task.add_argument("--seed", type=int, default=0)
    task.add_argument("--workers", type=int, default=1, help="processes that draw")
    task.add_argument("--renderer", choices=("auto", "cpu", "egl"), default="auto")
    task.add_argument("--size", type=int, nargs=2, default=(252, 336), metavar=("WIDTH", "HEIGHT"), help="of crops")
    task.add_argument("--room", type=float, default=1.75, help="of crops: sides of the picture in sides of the box")
    task.add_argument("--quality", type=int, default=80, help="of the JPEG files")
    task.add_argument("--name", default="synthetic_train", help="of the annotation file and the pictures' folder")


def render(arguments: argparse.Namespace) -> dict[str, Any]:
    """Writes NAME.json and NAME/ (pictures), and NAME_clips.json and NAME_clips/; gives what was written, how fast."""
    facts: dict[str, Any] = {}
    if arguments.count and arguments.kind == "joints":
        facts |= _joints(arguments)
    elif arguments.count:
        facts |= _pictures(arguments)
    if arguments.clips:
        facts |= _clips(arguments)
    return facts


def _pictures(arguments: argparse.Namespace) -> dict[str, Any]:
    folder = arguments.out / arguments.name
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    images: list[dict[str, Any]] = []
    people: list[dict[str, Any]] = []
    drawn = 0.0
    for number, (size, found, seconds) in enumerate(
        _in_order(arguments, partial(_draw, arguments, folder), arguments.count)
    ):
        name = _file_name(number)
        drawn += seconds
        image = {"id": number + 1, "file_name": f"{arguments.name}/{name}", "width": size[0], "height": size[1]}
        images.append(image | found["camera"] | {"boxes_complete": True})
        for person in found["people"]:
            people.append(person | {"id": len(people) + 1, "image_id": number + 1})
        if (number + 1) % 100 == 0:
            _write(arguments, images, people)
            rate = (number + 1) / (time.perf_counter() - begun)
            print(f"{number + 1} of {arguments.count} pictures, {rate:.2f} pictures/s", flush=True)
    _write(arguments, images, people)
    wall = time.perf_counter() - begun
    return {
        "pictures": len(images),
        "people": len(people),
        "pictures_per_second": round(len(images) / wall, 2),
        "cpu_seconds_a_picture": round(drawn / max(len(images), 1), 3),
        "bytes": sum(path.stat().st_size for path in folder.glob("*.jpg")),
    }


def _write(arguments: argparse.Namespace, images: list[dict[str, Any]], people: list[dict[str, Any]]) -> None:
    info = {
        "description": f"rendered people, seed {arguments.seed}, motion {arguments.motion.stem}",
        "joints3d": "h36m17, metres, camera axes: x right, y down, z away",
        "projected": "COCO's 17 joints in pixels wherever they fall, null behind the camera",
    }
    coco = {"info": info, "images": images, "annotations": people, "categories": [category()]}
    (arguments.out / f"{arguments.name}.json").write_text(json.dumps(coco, separators=(",", ":")), encoding="utf-8")


def _joints(arguments: argparse.Namespace) -> dict[str, Any]:
    """Writes NAME.npz: `count` poses or a few more, for each body has POSES_EACH."""
    begun = time.perf_counter()
    made = list(_in_order(arguments, partial(_pose, arguments), -(-arguments.count // POSES_EACH)))
    arrays = {name: np.concatenate([each[name] for each in made]) for name in made[0]}
    arguments.out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(arguments.out / f"{arguments.name}.npz", **arrays)  # type: ignore[arg-type]
    poses = len(arrays["points"])
    return {"poses": poses, "poses_per_second": round(poses / (time.perf_counter() - begun), 1)}


def _pose(arguments: argparse.Namespace, number: int) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng([arguments.seed, JOINTS_FROM + number])
    return posed_body(_stage, tuple(arguments.size), arguments.room, rng)


def _clips(arguments: argparse.Namespace) -> dict[str, Any]:
    """Writes NAME_clips/000000.mp4 and, beside each, a json of its camera and of everybody in each frame."""
    folder = arguments.out / f"{arguments.name}_clips"
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    frames = 0
    for number, made in enumerate(_in_order(arguments, partial(_film, arguments, folder), arguments.clips)):
        frames += made
        rate = frames / (time.perf_counter() - begun)
        print(f"{number + 1} of {arguments.clips} clips, {rate:.2f} pictures/s", flush=True)
    return {"clips": arguments.clips, "frames": frames}


def _in_order(arguments: argparse.Namespace, make: Callable[[int], Made], count: int) -> Iterator[Made]:
    """What `make` gives for 0, 1, ... count - 1, in that order, made by the workers."""
    begin = partial(_begin, arguments.motion, arguments.assets, arguments.backgrounds, arguments.renderer)
    if arguments.workers <= 1:
        begin()
        yield from map(make, range(count))
        return
    with multiprocessing.get_context("spawn").Pool(arguments.workers, begin) as pool:
        yield from pool.imap(make, range(count))


def _begin(motion_file: Path, assets: Path, backgrounds: Path | None, renderer: str) -> None:
    global _stage
    model = read_body_model()
    motion = read_motion(motion_file)
    pictures = list_pictures(backgrounds) if backgrounds else []
    cast = Cast(model, read_wardrobe(assets, model))
    _stage = Stage(cast, motion, pictures, rasteriser(renderer), sequence_chances(motion))


def _draw(arguments: argparse.Namespace, folder: Path, number: int) -> tuple[tuple[int, int], dict[str, Any], float]:
    begun = time.process_time()
    rng = np.random.default_rng([arguments.seed, number])
    if arguments.kind == "crops":
        photo = crop_photo(_stage, tuple(arguments.size), arguments.room, rng)
    else:
        photo = whole_photo(_stage, rng)
    (folder / _file_name(number)).write_bytes(jpeg(photo.pixels, arguments.quality))
    return photo.view.size, _facts(photo), time.process_time() - begun


def _film(arguments: argparse.Namespace, folder: Path, number: int) -> int:
    """Films a clip; gives its number of frames."""
    rng = np.random.default_rng([arguments.seed, CLIPS_FROM + number])
    frames = []
    photo = None
    with (folder / f"{number:06d}.mp4").open("wb+") as file, Film(file, RATE) as film:
        for index, photo in enumerate(clip(_stage, rng)):
            film.add(photo.pixels, index / RATE)
            people = [annotation(person, person.owner, index) for person in photo.people]
            frames.append({"index": index, "time": round(index / RATE, 5), "people": people})
    if photo is None:
        raise RuntimeError(f"clip {number} has no frame")
    size = {"width": photo.view.size[0], "height": photo.view.size[1]}
    facts = size | {"fps": RATE, "focal_px": round(photo.view.focal_px, 2), "ids": "`id` is the person's own"}
    text = json.dumps(facts | {"frames": frames}, separators=(",", ":"))
    (folder / f"{number:06d}.json").write_text(text, encoding="utf-8")
    return len(frames)


def _facts(photo: Photo) -> dict[str, Any]:
    return {
        "camera": {"focal_px": round(photo.view.focal_px, 2)},
        "people": [annotation(person, 0, 0) for person in photo.people],
    }


def _file_name(number: int) -> str:
    return f"{number:06d}.jpg"
