"""Everyone in one photo: `python photo.py PHOTO [URL]`. Needs `pip install httpx`."""

import sys
from pathlib import Path

import httpx


def find_people(photo: Path, url: str = "http://localhost:8000") -> dict:
    """The answer's JSON. A refusal says in its `detail` what was wrong, and what would have been right."""
    answer = httpx.post(
        f"{url}/v1/images",
        params={"max_people": 5, "states": True},
        content=photo.read_bytes(),
        headers={"Content-Type": "application/octet-stream"},
        timeout=30,
    )
    if answer.is_error:
        raise SystemExit(f"{answer.status_code}: {answer.json()['detail']}")
    return answer.json()


if __name__ == "__main__":
    found = find_people(Path(sys.argv[1]), *sys.argv[2:3])
    width, height = found["image"]["width"], found["image"]["height"]
    print(f"{len(found['people'])} people in {width} x {height} pixels, by {found['models']}")
    for person in found["people"]:
        x, y, score = person["keypoints"][0]
        print(f"person {person['id']}, {person['score']:.2f}: nose at {x:.0f}, {y:.0f} (score {score:.2f})")
        left_wrist = person["joints3d"][13]  # metres from the pelvis: x right, y down, z away from the camera
        where = person["position"]  # the pelvis before the camera, or None where it cannot be told
        print(f"  left wrist at {left_wrist} m from the pelvis, which is at {where}; {person['scale']}")
