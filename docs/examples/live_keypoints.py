"""Live keypoints in, 3D joints out: `python live_keypoints.py [URL]`. Needs `pip install websockets`.

A walking stick figure stands for your own detector. Frames are sent at their own pace whether or not the last one is
answered; the server answers the newest, and counts in `dropped` what it left out.
"""

import asyncio
import json
import math
import sys

import websockets

FPS = 30
# coco17: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles; left before right.
STANDING = [
    *[(320, 80), (326, 74), (314, 74), (334, 78), (306, 78)],
    *[(352, 120), (288, 120), (362, 175), (278, 175), (366, 228), (274, 228)],
    *[(340, 232), (300, 232), (342, 312), (298, 312), (344, 392), (296, 392)],
]


def keypoints(seq: int) -> list[list[float]]:
    """x, y in pixels and a score for each joint; null would be one that is not known."""
    swing = 18 * math.sin(2 * math.pi * seq / FPS)
    forward = {9: -swing, 10: swing, 15: swing, 16: -swing}  # wrists and ankles
    return [[x + forward.get(joint, 0), y, 0.9] for joint, (x, y) in enumerate(STANDING)]


async def stream(url: str = "ws://localhost:8000", frames: int = 60) -> list[dict]:
    """Sends frames at FPS and gathers the poses."""
    poses = []
    async with websockets.connect(f"{url}/v1/live/keypoints", subprotocols=["poselift.v1.json"]) as socket:
        start = {"type": "start", "skeleton": "coco17", "image_size": [640, 480], "fps": FPS, "latency": "low"}
        await socket.send(json.dumps(start))

        async def send() -> None:
            for seq in range(frames):
                frame = {"type": "frame", "seq": seq, "time": seq / FPS, "keypoints": keypoints(seq)}
                await socket.send(json.dumps(frame))
                await asyncio.sleep(1 / FPS)
            await socket.send(json.dumps({"type": "end"}))

        sending = asyncio.create_task(send())
        async for text in socket:  # ends when the server closes
            message = json.loads(text)
            if message["type"] == "pose":
                poses.append(message)
            elif message["type"] == "error":  # the stream goes on
                print(message["problem"]["detail"], file=sys.stderr)
        await sending
    return poses


if __name__ == "__main__":
    answered = asyncio.run(stream(*sys.argv[1:2]))
    ages = sorted(pose["age_ms"] for pose in answered)
    print(f"{len(answered)} poses, {answered[-1]['dropped']} dropped, median age {ages[len(ages) // 2]:.1f} ms")
    print("right wrist of the last pose, metres from the pelvis:", answered[-1]["people"][0]["joints3d"][16])
