"""MediaPipe Pose "full" on photos, one process: names on standard input, a JSON line each on standard output.

Its 33 landmarks as COCO's 17 keypoints, in pixels of the photo as stored; `ms` is its own call, from RGB pixels on, and
`decode_ms` what reading them from the file took before. Where it finds nobody, `keypoints` is null.
"""

import json
import sys
import time

import cv2
from mediapipe.python.solutions.pose import Pose

# Nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles; left before right.
COCO17 = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)


def main() -> None:
    with Pose(static_image_mode=True, model_complexity=1) as pose:
        for line in sys.stdin:
            started = time.perf_counter()
            stored = cv2.imread(line.rstrip("\n"))
            if stored is None:
                raise SystemExit(f"{line.strip()} is no photo")
            picture = cv2.cvtColor(stored, cv2.COLOR_BGR2RGB)
            decoded = time.perf_counter()
            found = pose.process(picture).pose_landmarks
            told = {"ms": 1000 * (time.perf_counter() - decoded), "decode_ms": 1000 * (decoded - started)}
            height, width = picture.shape[:2]
            marks = None if found is None else [found.landmark[index] for index in COCO17]
            keypoints = marks and [[mark.x * width, mark.y * height, mark.visibility] for mark in marks]
            print(json.dumps(told | {"keypoints": keypoints}), flush=True)


if __name__ == "__main__":
    main()
