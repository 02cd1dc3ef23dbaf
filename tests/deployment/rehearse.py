"""`python -m tests.deployment.rehearse CLEAN WORK`: the Dockerfile's CPU target without a container engine.

CLEAN is a folder with a minimal Debian (debootstrap, with python3, python3-venv and python3-pip); WORK takes two copies
of it. Every RUN line runs as it stands, in a chroot; then the image's own start command runs as process 1 of its own
namespace, as the image's user, on a read-only root, and gets SIGTERM under load. Wants root. Prints what came of it.
"""

from __future__ import annotations

import concurrent.futures
import io
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
from PIL import Image

from .test_dockerfile import ROOT, argument, inherited, last

BUILDERS = ("wheel", "packages-cpu")
TARGET = "cpu"
KEY = "rehearsal"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Empty, as the Dockerfile allows: pip's default index, whatever it is on this machine.
ARGUMENTS = {"TORCH_INDEX_URL": ""}
CALLERS = 6
LOADED_S = 6.0  # of load before the signal


def fresh(clean: Path, folder: Path) -> Path:
    """A copy of the clean root that can reach the package index as this machine does."""
    subprocess.run(["cp", "-a", str(clean), str(folder)], check=True)
    for file in ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt"):
        if Path(file).exists():
            shutil.copy(file, folder / file[1:])
    (folder / "usr/bin/python").symlink_to("python3")
    return folder


def play(stage: str, root: Path, others: dict[str, Path]) -> None:
    """Does the COPY and RUN lines of a stage and of those below it that are not played yet."""
    environment = {"PATH": PATH, "HOME": "/root"} | {k: v for k, v in os.environ.items() if k.startswith("PIP_CERT")}
    for name in ("PYTHON_VERSION", "TORCH_VERSION", "TORCHVISION_VERSION"):
        environment[name] = argument(name)
    folder = "/"
    for instruction in inherited(stage):
        if instruction.word == "ENV":
            environment |= dict(pair.split("=", 1) for pair in shlex.split(instruction.rest))
        elif instruction.word == "ARG" and "=" in instruction.rest:
            name, value = instruction.rest.split("=", 1)
            environment.setdefault(name, ARGUMENTS.get(name, value))
        elif instruction.word == "WORKDIR":
            folder = instruction.rest
            (root / folder[1:]).mkdir(parents=True, exist_ok=True)
        elif instruction.word == "COPY":
            *words, target = instruction.rest.split()
            source = next((others[word.split("=")[1]] for word in words if word.startswith("--from=")), ROOT)
            for word in (word for word in words if not word.startswith("--")):
                copy(source / word.lstrip("/"), root / str(Path(folder, target)).lstrip("/"), target.endswith("/"))
        elif instruction.word == "RUN":
            started = time.monotonic()
            command = ["chroot", str(root), "env", "-i", *(f"{k}={v}" for k, v in environment.items())]
            subprocess.run([*command, "/bin/sh", "-c", f"cd {folder} && {instruction.rest}"], check=True)
            print(f"{time.monotonic() - started:6.1f} s  {stage}: RUN {instruction.rest[:100]}", flush=True)


def copy(source: Path, target: Path, into: bool) -> None:
    """As COPY does it: a folder's content, a file into a folder or under a name."""
    if source == target:  # one root plays both builders
        return
    if source.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        ignored = shutil.ignore_patterns("__pycache__", "*.tmp")
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True, ignore=ignored)
    else:
        place = target / source.name if into else target
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, place)


def left_behind(clean: Path, root: Path) -> list[str]:
    """What building needs and running does not, beside what the clean root came with: to be empty."""
    patterns = "*.whl", "requirements*.lock", "pip", "wheels", "locks", "build"
    places = root, root / "opt", root / "opt/poselift", root / "opt/poselift/bin", root / "tmp"
    found = {path for place in places for pattern in patterns for path in place.glob(pattern)}
    found |= {path for pattern in patterns[:2] for path in (root / "opt").rglob(pattern)}
    relative = sorted(str(path.relative_to(root)) for path in found)
    return [path for path in relative if not (clean / path).exists()]


def start(root: Path, port: int) -> subprocess.Popen[bytes]:
    """The image's entry point and command, as process 1, as its user, on a read-only root with a /tmp."""
    environment = {"PATH": PATH}
    for instruction in inherited(TARGET):
        if instruction.word == "ENV":
            environment |= dict(pair.split("=", 1) for pair in shlex.split(instruction.rest))
    environment["PATH"] = environment["PATH"].replace("$PATH", PATH)
    environment |= {"POSELIFT_PORT": str(port), "POSELIFT_KEYS": KEY, "POSELIFT_DRAIN_DELAY_S": "1"}
    words = [*json.loads(last(TARGET, "ENTRYPOINT")), *json.loads(last(TARGET, "CMD"))]
    uid, gid = last(TARGET, "USER").split(":")
    given = " ".join(shlex.quote(f"{name}={value}") for name, value in environment.items())
    inner = (
        f"mount --bind {root} {root} && mount -o remount,ro,bind {root} && mount -t tmpfs tmpfs {root}/tmp "
        f"&& chmod 1777 {root}/tmp && mount -t proc proc {root}/proc && mount --rbind /dev {root}/dev "
        f"&& exec chroot --userspec={uid}:{gid} {root} env -i {given} "
        f"sh -c 'cd {last(TARGET, 'WORKDIR')} && exec {shlex.join(words)}'"
    )
    return subprocess.Popen(["unshare", "--mount", "--pid", "--fork", "sh", "-c", inner])


def end_under_load(process: subprocess.Popen[bytes], port: int) -> dict[str, object]:
    """Photos from some callers, SIGTERM to process 1 meanwhile: how many were answered whole, and the exit code."""
    headers = {"Authorization": f"Bearer {KEY}"}
    file = io.BytesIO()
    Image.new("RGB", (640, 480), (90, 120, 60)).save(file, "JPEG")
    url, begun = f"http://127.0.0.1:{port}", time.monotonic()
    while time.monotonic() - begun < 600:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                break
        except httpx.TransportError:
            time.sleep(0.2)
    ready_s = time.monotonic() - begun
    stop = time.monotonic() + LOADED_S

    def call(_: int) -> dict[str, int]:
        counts: dict[str, int] = {}
        with httpx.Client(timeout=60) as client:
            while True:
                try:
                    answer = client.post(f"{url}/v1/images", content=file.getvalue(), headers=headers)
                    what = str(answer.status_code) if answer.json() else "empty"
                except httpx.ConnectError:  # the port is closed: nothing was accepted
                    return counts
                except (httpx.TransportError, ValueError) as error:
                    what = f"lost: {type(error).__name__}"
                counts[what] = counts.get(what, 0) + 1

    with concurrent.futures.ThreadPoolExecutor(CALLERS) as pool:
        calls = [pool.submit(call, number) for number in range(CALLERS)]
        time.sleep(max(0.0, stop - time.monotonic()))
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        status = Path(f"/proc/{child}/status").read_text()
        names = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        os.kill(int(child), signal.SIGTERM)
        total: dict[str, int] = {}
        for one in calls:
            for what, count in one.result().items():
                total[what] = total.get(what, 0) + count
    return {
        "ready_after_s": round(ready_s, 1),
        "name_and_number_of_process_1": [names["Name"], names["NSpid"].split()[-1]],
        "user": names["Uid"].split()[0],
        "answers": total,
        "exit_code": process.wait(90),
        "load_average": [round(one, 1) for one in os.getloadavg()],
    }


def main() -> None:
    clean, work = Path(sys.argv[1]), Path(sys.argv[2])
    builder = fresh(clean, work / "builder")
    for stage in BUILDERS:
        play(stage, builder, dict.fromkeys(BUILDERS, builder))
    runtime = fresh(clean, work / "runtime")
    play(TARGET, runtime, {"packages-cpu": builder})
    print(json.dumps({"left_behind": left_behind(clean, runtime)}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start(runtime, port)
    print(json.dumps(end_under_load(process, port)))


if __name__ == "__main__":
    main()
