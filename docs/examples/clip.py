"""A clip, line by line while it is computed; then as a file for Blender: `python clip.py CLIP [URL]`.

Needs `pip install httpx`.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx

NO_HURRY = httpx.Timeout(30, read=None)  # a line comes at least every 10 s; a file only at the end


def lines(clip: Path, url: str = "http://localhost:8000") -> Iterator[dict]:
    """`start`, then `frame` and `progress`, at last `end` or `error`."""
    with (
        clip.open("rb") as body,
        httpx.stream(
            "POST", f"{url}/v1/clips", content=body, headers={"Content-Type": "video/mp4"}, timeout=NO_HURRY
        ) as answer,
    ):
        if answer.is_error:
            answer.read()
            raise SystemExit(f"{answer.status_code}: {answer.json()['detail']}")
        for line in answer.iter_lines():
            yield json.loads(line)


def file_of(clip: Path, form: str, url: str = "http://localhost:8000") -> tuple[str, bytes]:
    """The clip's people as csv, npz, coco, openpose, trc, c3d, bvh or mp4: the file's name and content."""
    with clip.open("rb") as body:
        answer = httpx.post(
            f"{url}/v1/clips",
            params={"format": form},
            content=body,
            headers={"Content-Type": "video/mp4"},
            timeout=NO_HURRY,
        )
    if answer.is_error:
        raise SystemExit(f"{answer.status_code}: {answer.json()['detail']}")
    return answer.headers["content-disposition"].partition('filename="')[2].rstrip('"'), answer.content


if __name__ == "__main__":
    path, address = Path(sys.argv[1]), sys.argv[2:3]
    for line in lines(path, *address):
        if line["type"] == "frame":
            print(f"{line['time']:7.3f} s: {[person['id'] for person in line['people']]}")
        elif line["type"] == "end":
            print(f"{line['frames']} frames, tracks {[track['id'] for track in line['tracks']]}")
        elif line["type"] == "error":
            raise SystemExit(f"broken after frame {line['last_frame']}: {line['problem']['detail']}")
    name, content = file_of(path, "bvh", *address)
    Path(name).write_bytes(content)
    print(f"wrote {name}, {len(content)} bytes: one BVH a person")
