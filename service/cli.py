"""The command line: reads arguments, calls, prints. Exit 0: done; 1: some inputs failed; 2: wrong use.

The models run in this process; `serve` alone opens a port.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import importlib.metadata
import logging
import re
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, NoReturn

from service import doctor, logs, settings
from service.api import clip_files, lifecycle, lift_files
from service.api import clips as clip_lines
from service.api import images as photo_answers
from service.api import lift as sequence_answers
from service.api.schemas import ClipFields, FileFields, Options, checked
from service.assembly import Service, build
from service.errors import Failed, OutOfRange, Refused, ServiceError, SettingWrong
from service.formats import FORMATS, Recording, read_keypoints, write
from service.importing.entry import import_file
from service.importing.fetch import ALL, chosen, fetch, terms
from service.importing.recognise import POSE_PRESETS, SIZES, public_files
from service.media import pictures, videos
from service.media.drawing import encode, side_by_side
from service.pipelines.call import Call, Class
from service.pipelines.clip import ClipFrame, ClipOptions
from service.pipelines.photo import PhotoOptions
from service.store.store import Entry, Store, embedded_store

log = logging.getLogger(__name__)

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif"}
CLIP_SUFFIXES = {".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi"}
FILE_FORMATS = ("json", *FORMATS)
CLIP_FORMATS = (*FILE_FORMATS, "mp4")
DONE, SOME_FAILED, WRONG_USE = 0, 1, 2
NO_DEADLINE_S = 1e9  # nobody waits at the other end of a socket


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits with its code."""
    parsed = parser().parse_args(arguments)
    try:
        code = parsed.run(parsed)
    except KeyboardInterrupt:
        code = 130
    except FileNotFoundError as error:
        print(f"poselift: there is no file {error.filename}", file=sys.stderr)
        code = WRONG_USE
    except (Refused, Failed) as error:
        print(f"poselift: {error}", file=sys.stderr)
        code = WRONG_USE if isinstance(error, Refused) else SOME_FAILED
    except BrokenPipeError:  # `poselift settings | head`
        code = DONE
    sys.exit(code)


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="poselift", description="Photos, clips and keypoints to people in 3D.")
    root.add_argument("--version", action="version", version=importlib.metadata.version("poselift"))
    commands = root.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        _add_settings(made)
        return made

    command("serve", serve, "Serve over HTTP and WebSocket.")
    predict_ = command("predict", predict, "Find the people of photos, clips, and folders of them.")
    predict_.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    predict_.add_argument("-o", "--output", type=Path, help="folder for the results; by default beside each input")
    _add_formats(predict_, "files to write of each input; by default json (a line a frame for clips)", CLIP_FORMATS)
    predict_.add_argument("--every", type=int, default=1, metavar="N", help="of clips every so many frames; all")
    predict_.add_argument("--overlay", action="store_true", help="also draw each photo beside its 3D poses (.png)")
    predict_.add_argument("--flip-test", action="store_true", help="look twice, mirrored: slower, a little better")
    predict_.add_argument("--stature", type=float, metavar="METRES", help="standing height; 1.70 is assumed")
    lift_ = command("lift", lift, "Lift a file of 2D keypoints; print the answer, or write files.")
    lift_.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="a body of POST /v1/lift (JSON; .msgpack; - for standard input), or keypoints of OpenPose (file, folder, "
        "zip), AlphaPose or COCO (JSON), .csv or .npz",
    )
    lift_.add_argument("-o", "--output", type=Path, help="folder for the files; by default beside FILE")
    _add_formats(lift_, "files to write; by default the answer is printed", FILE_FORMATS)
    lift_.add_argument("--image-size", nargs=2, type=int, metavar=("W", "H"), help="pixels, where FILE does not tell")
    lift_.add_argument("--fps", type=float, metavar="RATE", help="frames a second, where FILE does not tell; 30")
    lift_.add_argument("--flip-test", action="store_true", help="average with the mirror image: twice the work")
    lift_.add_argument("--stature", type=float, metavar="METRES", help="standing height; 1.70 is assumed")
    models = commands.add_parser("models", help="List, check, import and fetch models.").add_subparsers(
        metavar="COMMAND", required=True
    )
    for name, run, text in (
        ("list", list_models, "List the models of the store."),
        ("check", check_models, "Check every file of the store against its manifest."),
        ("import", import_model, "Convert a public network's file into the store."),
        ("fetch", fetch_models, "Download public weights into the store; without a name, list them."),
    ):
        made = models.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        made.add_argument("--store", type=Path, help="the model store; by default the embedded one")
        if name == "import":
            made.add_argument(
                "file", type=Path, metavar="FILE", help="OpenVINO IR (.xml), ONNX (.onnx), torch's (.pth)"
            )
            made.add_argument("--as", dest="name", required=True, metavar="NAME")
            made.add_argument("--preset", choices=POSE_PRESETS, help="whose preprocessing and decoding an HRNet wants")
            made.add_argument("--size", choices=tuple(SIZES), help="height x width that an HRNet was trained at")
        if name == "fetch":
            made.add_argument("names", nargs="*", metavar="NAME", help=f"of the list, or {ALL}")
            made.add_argument("--accept-licence", action="store_true", help="also what is not free for every use")
            made.add_argument("--from-mirror", metavar="URL", help="where the files lie instead, by their names")
    command("doctor", show_findings, "Say what is slow, missing or degraded on this machine, and how to mend it.")
    command("settings", show_settings, "Print every setting, its value and where it comes from.")
    return root


def _add_formats(command: argparse.ArgumentParser, text: str, known: Sequence[str]) -> None:
    command.add_argument(
        "--format", nargs="+", action="extend", choices=known, metavar="FORMAT", help=f"{text}: {', '.join(known)}"
    )


def _add_settings(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("settings (also POSELIFT_*, poselift.toml; `poselift settings` explains)")
    for name, field in settings.Settings.model_fields.items():
        flag = "--" + name.replace("_", "-")
        text = (field.description or "").partition(";")[0].replace("%", "%%")
        group.add_argument(flag, dest=f"setting_{name}", metavar="VALUE", help=text)


def _load(arguments: argparse.Namespace) -> settings.Loaded:
    flags = {name: getattr(arguments, f"setting_{name}") for name in settings.Settings.model_fields}
    loaded = settings.load(flags)
    for variable in loaded.ignored:
        print(f"poselift: {variable} is no setting and is ignored", file=sys.stderr)
    return loaded


def serve(arguments: argparse.Namespace) -> int:
    loaded = _load(arguments).settings
    logs.setup(loaded.log_level, loaded.log_format)
    return lifecycle.run(build(loaded), loaded)


def predict(arguments: argparse.Namespace) -> int:
    _check(ClipFields, {"every": arguments.every, "stature": arguments.stature})
    files = _files(arguments.paths, arguments.output)
    if not files:
        raise SettingWrong("there is no photo or clip under the given paths", field="PATH")

    async def work(service: Service) -> int:
        failed = 0
        for number, (file, result) in enumerate(files.items(), 1):
            _progress(f"{number}/{len(files)} {file.name}")
            try:
                await _predict_one(service, file, result, arguments)
            except (ServiceError, OSError) as error:
                failed += 1
                _progress("")
                print(f"poselift: {file}: {error}", file=sys.stderr)
        _progress("")
        return SOME_FAILED if failed else DONE

    return _with_service(arguments, work)


async def _predict_one(service: Service, file: Path, result: Path, arguments: argparse.Namespace) -> None:
    """Writes `result` with the suffixes of what was found."""
    result.parent.mkdir(parents=True, exist_ok=True)
    options = PhotoOptions(flip_test=arguments.flip_test, stature=arguments.stature)
    call = Call("command line", Class.CLIP, asyncio.get_running_loop().time() + NO_DEADLINE_S)
    formats = dict.fromkeys(arguments.format or ["json"])
    suffix = file.suffix.lower()
    if suffix in CLIP_SUFFIXES or (suffix == ".gif" and pictures.moves(file.read_bytes())):
        await _predict_clip(service, file, result, formats, ClipOptions(options, every=arguments.every), call)
        return
    limits = photo_answers.picture_limits(service.settings.max_image_mpx)
    picture = pictures.read_picture(file.read_bytes(), limits)
    answer = await service.photo.find_people(picture, options, call)
    # COCO and others name their photos by number.
    number = (re.findall(r"\d+", file.stem) or ["0"])[-1][-18:]
    size = (answer.width, answer.height)
    recording = clip_files.photo_recording(answer.people, size, answer.camera, int(number))
    for name in formats:
        if name == "json":
            result.with_name(f"{result.name}.json").write_bytes(photo_answers.photo_answer(answer, file.name) + b"\n")
        elif name == "mp4":
            raise OutOfRange("`format` mp4 is for clips", field="format")
        else:
            _write(recording, name, result)
    if arguments.overlay:
        drawn = encode(side_by_side(picture.pixels, answer.people), "png")
        result.with_name(f"{result.name}.overlay.png").write_bytes(drawn)


async def _predict_clip(
    service: Service, file: Path, result: Path, formats: Iterable[str], options: ClipOptions, call: Call
) -> None:
    """NDJSON as the service streams it: written while the clip is decoded, so memory does not grow with it.

    Other formats are made at the clip's end, from what was kept on disk until then.
    """
    limits, others = clip_lines.clip_limits(service.settings), [name for name in formats if name != "json"]
    with (
        videos.open_clip(file, limits) as clip,
        closing(clip_files.ClipSpool(service.settings.max_spool_mb)) as spool,
        contextlib.ExitStack() as opened,
    ):
        lines, last_frame = None, None
        if "json" in formats:
            lines = opened.enter_context(result.with_name(f"{result.name}.ndjson").open("wb"))
        try:
            async with aclosing(service.clip.run(clip, options, call)) as items:
                async for item in items:
                    if lines:
                        lines.write(clip_lines.json_line(clip_lines.line_of(item, file.name)))
                    if isinstance(item, ClipFrame):
                        last_frame = item.index
                    if others:
                        spool.add(item)
                        if spool.full:
                            spool.flush()
        except ServiceError as error:
            if lines:
                lines.write(clip_lines.json_line(clip_lines.error_line(error, file.name, last_frame)))
            raise
        for name in others:
            _progress(f"{file.name}: {name}")
            with _named_at_the_end(result) as (made, names):
                for told, _ in clip_files.write_file(
                    spool, name, _stem(result, name), made, file, limits, options.every
                ):
                    names[:] = [told]


def _write(recording: Recording, name: str, result: Path) -> None:
    """One file of a recording (a zip of them where the format needs it), under the name that the format gives it."""
    with _named_at_the_end(result) as (made, names):
        names[:] = [write(recording, name, _stem(result, name), made)[0]]


@contextmanager
def _named_at_the_end(result: Path) -> Iterator[tuple[BinaryIO, list[str]]]:
    """A file beside `result` that gets the name put into the list once it is whole; half a file is none."""
    partial, names = result.with_name(f".{result.name}.partial"), list[str]()
    try:
        with partial.open("wb+") as made:
            yield made, names
        partial.replace(result.with_name(names[0]))
    finally:
        partial.unlink(missing_ok=True)


def _stem(result: Path, name: str) -> str:
    """Two formats are a JSON file, and neither is ours."""
    form = FORMATS.get(name)
    return f"{result.name}.{name}" if form and (form.suffix, form.holds) == (".json", "all") else result.name


def _check(model: type[Options], given: Mapping[str, object]) -> None:
    """Raises OutOfRange, as every door does, for an option out of its range."""
    checked(model, {name: value for name, value in given.items() if value is not None})


def lift(arguments: argparse.Namespace) -> int:
    _check(FileFields, {"image_size": arguments.image_size, "fps": arguments.fps, "stature": arguments.stature})
    path: Path = arguments.file
    body, table = None, path.suffix.lower() in (".csv", ".npz")
    if str(path) == "-" or (path.is_file() and not table):
        body = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    elif not path.exists():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    kind = "application/msgpack" if path.suffix == ".msgpack" else "application/json"

    async def work(service: Service) -> int:
        limits, call = (
            service.settings,
            Call("command line", Class.CLIP, asyncio.get_running_loop().time() + NO_DEADLINE_S),
        )
        if body is not None and (kind != "application/json" or str(path) == "-" or lift_files.is_body(body)):
            asked = sequence_answers.read_sequences(body, kind, limits.max_frames, limits.max_people)
            twice = asked.options.flip_test or arguments.flip_test
            asked = replace(asked, options=replace(asked.options, flip_test=twice))
            if not arguments.format:
                lifted = await service.lift.lift_people(asked.people, asked.options, call)
                sys.stdout.buffer.write(sequence_answers.lift_answer(lifted, asked) + b"\n")
                return DONE
            file, options = lift_files.file_of(asked)
        else:
            file = read_keypoints(path)
            size = tuple(arguments.image_size) if arguments.image_size else None
            options = lift_files.file_options(file, size, arguments.fps, arguments.stature)
            options = replace(options, flip_test=arguments.flip_test)
        people = await lift_files.lift_file(file, options, service.lift, call)
        answer = lift_files.file_answer(file, people, service.lift.models) + b"\n"
        if not arguments.format:
            sys.stdout.buffer.write(answer)
            return DONE
        name = "keypoints" if str(path) == "-" else path.stem
        result = (arguments.output or (Path() if str(path) == "-" else path.parent)) / f"{name}.lifted"
        result.parent.mkdir(parents=True, exist_ok=True)
        recording = lift_files.file_recording(file, options, people)
        for wanted in dict.fromkeys(arguments.format):
            if wanted == "json":
                result.with_name(f"{result.name}.json").write_bytes(answer)
            else:
                _write(recording, wanted, result)
        return DONE

    return _with_service(arguments, work)


def _with_service(arguments: argparse.Namespace, work: Callable[[Service], Awaitable[int]]) -> int:
    """Starts the models in this process, does the work, and ends them."""
    loaded = _load(arguments).settings
    logs.setup("warning", loaded.log_format)

    async def run() -> int:
        service = build(loaded)
        try:
            _progress("loading the models")
            await service.start()
            _progress("")
            return await work(service)
        finally:
            await service.close()

    return asyncio.run(run())


def _files(paths: Sequence[Path], output: Path | None) -> dict[Path, Path]:
    """The files themselves, and every photo and clip below the folders, each with where its results go, unsuffixed.

    Results lie beside their input, or in `output` as the input lies in its folder. They bear its name without the
    suffix, or with it where two inputs would write the same file.
    """
    known = PHOTO_SUFFIXES | CLIP_SUFFIXES
    found: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            inside = [p for p in path.rglob("*") if p.suffix.lower() in known and ".overlay" not in p.suffixes]
            found.update({p: (output / p.relative_to(path) if output else p) for p in sorted(inside)})
        else:
            found[path] = output / path.name if output else path
    stems = Counter(result.with_suffix("") for result in found.values())
    return {
        file: result if stems[result.with_suffix("")] > 1 else result.with_suffix("") for file, result in found.items()
    }


def _progress(text: str) -> None:
    """One line that is written over; nothing where nobody looks."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def list_models(arguments: argparse.Namespace) -> int:
    for entry in Store(arguments.store or embedded_store()).entries():
        manifest = entry.manifest
        terms = manifest.weights.licence + ("" if manifest.permissive else ", not permissive")
        size = f"{manifest.weights.bytes / 2**20:.1f} MB"
        print(f"{entry.label:20} {manifest.role:8} {size:>9}  {terms:28} {manifest.summary}")
    return DONE


def check_models(arguments: argparse.Namespace) -> int:
    problems = Store(arguments.store or embedded_store()).check()
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print("every file is what its manifest says")
    return SOME_FAILED if problems else DONE


def import_model(arguments: argparse.Namespace) -> int:
    store = _growing_store(arguments.store)
    try:
        entry = import_file(arguments.file, arguments.name, store, preset=arguments.preset, size=arguments.size)
    except ValueError as error:
        raise SettingWrong(str(error)) from error
    print(_told(entry))
    return DONE


def fetch_models(arguments: argparse.Namespace) -> int:
    if not arguments.names:
        for row in public_files():
            print(f"{row.name:26} {'' if row.permissive else 'not '}permissive  {terms(row)}")
        return DONE
    store, failed = _growing_store(arguments.store), 0
    for row in chosen(arguments.names, arguments.accept_licence):

        def progress(done: int, total: int | None, name: str = row.name) -> None:
            part = f" {100 * done // total:3} %" if total else ""
            _progress(f"{name}{part} {done / 2**20:.1f} MB")

        print(f"{row.name}: {terms(row)}")
        try:
            entry = fetch(row, store, mirror=arguments.from_mirror, progress=progress)
        except (Refused, Failed, OSError, ValueError) as error:
            failed += 1
            _progress("")
            print(f"poselift: {row.name}: {error}", file=sys.stderr)
            continue
        _progress("")
        print(_told(entry))
    return SOME_FAILED if failed else DONE


def _growing_store(folder: Path | None) -> Store:
    """The store that models are put into; a folder that is not there yet is made."""
    folder = folder or embedded_store()
    folder.mkdir(parents=True, exist_ok=True)
    return Store(folder)


def _told(entry: Entry) -> str:
    """What was found in a file, where it is now, and how to serve it."""
    manifest = entry.manifest
    preset = ", ".join(
        f"{key} {manifest.input[key]}"
        for key in ("width", "height", "transform", "decode", "head")
        if key in manifest.input
    )
    notes = "".join(f"\nNote: {note}" for note in manifest.training.get("notes", ()))
    return (
        f"{entry.label}: {manifest.network}{preset and ', '}{preset}; licence {manifest.weights.licence}"
        f"{'' if manifest.permissive else ' (not permissive)'}, file SHA-256 {manifest.training['sha256']}{notes}\n"
        f"It is in {entry.folder}; serve it with `poselift serve --{manifest.role} {entry.label}`"
    )


def show_findings(arguments: argparse.Namespace) -> int:
    findings = doctor.examine(_load(arguments).settings)
    for finding in findings:
        mend = f"\n{'':29}{finding.mend}" if finding.mend else ""
        print(f"{finding.grade:9} {finding.name:18} {finding.told}{mend}")
    return SOME_FAILED if any(finding.grade == "broken" for finding in findings) else DONE


def show_settings(arguments: argparse.Namespace) -> int:
    for row in settings.rows(_load(arguments)):
        print(f"{row.name:18} {row.value:16} {row.source:16} {row.description}")
    return DONE
