"""Checkpoints as the projects publish them, made here: their names, shapes and wrappings, not their values."""

from __future__ import annotations

import itertools
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from service.errors import SettingWrong, Unreadable
from service.importing.checkpoints import read_checkpoint
from service.importing.entry import preset_of
from service.importing.pickles import look
from service.importing.recognise import convert
from service.networks import create, load_weights

State = dict[str, Tensor]


def hollow(name: str, **options: object) -> State:
    """Every weight of a network by name and shape, each one stored number: a small file of the true form."""
    with torch.device("meta"):
        state = create(name, **options).state_dict()
    return {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in state.items()}


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


def mmpose(state: State, head: str) -> State:
    return {f"{head if key.startswith('final_layer') else 'backbone'}.{key}": value for key, value in state.items()}


def imagenet(state: State) -> State:
    """HRNet-W32-C: all outputs of the last module, and a classifier whose `final_layer` is another thing."""
    kept = {key: value for key, value in state.items() if not key.startswith("final_layer")}
    zero = torch.zeros(())
    return kept | {
        "stage4.2.fuse_layers.1.0.0.0.weight": zero.expand(64, 32, 3, 3),
        "incre_modules.0.0.conv1.weight": zero.expand(32, 32, 1, 1),
        "final_layer.0.weight": zero.expand(2048, 1024, 1, 1),
        "classifier.weight": zero.expand(1000, 2048),
    }


WRAPPED: dict[str, tuple[Callable[[State], Any], str]] = {
    "official": (lambda s: s, "official"),
    "official training checkpoint": (
        lambda s: {
            "epoch": 209,
            "state_dict": prefixed(s, "module."),
            "best_state_dict": s,
            "optimizer": {"state": {}},
        },
        "official",
    ),
    "mmpose 0.x": (lambda s: {"meta": {"epoch": 210}, "state_dict": mmpose(s, "keypoint_head")}, "mmpose"),
    "mmpose 1.x": (lambda s: {"state_dict": mmpose(s, "head"), "meta": {"sigmas": np.ones(17)}}, "mmpose"),
}


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_an_hrnet_is_read_however_it_is_wrapped(tmp_path: Path, wrapping: str) -> None:
    state, (wrap, preset) = hollow("hrnet-w32"), WRAPPED[wrapping]
    torch.save(wrap(state), tmp_path / "pose.pth")
    read = read_checkpoint(tmp_path / "pose.pth")
    assert (read.role, read.network, read.preset) == ("pose", "hrnet-w32", preset)
    assert len(read.arrays) == 1_754
    assert {key: array.shape for key, array in read.arrays.items()} == {k: tuple(v.shape) for k, v in state.items()}
    assert {a.dtype for k, a in read.arrays.items() if not k.endswith("tracked")} == {np.dtype(np.float32)}


def test_the_larger_hrnet_is_told_by_its_width(tmp_path: Path) -> None:
    torch.save(hollow("hrnet-w48"), tmp_path / "pose.pth")
    assert read_checkpoint(tmp_path / "pose.pth").network == "hrnet-w48"


def test_a_file_of_torch_s_old_form_is_read(tmp_path: Path) -> None:
    torch.save(hollow("hrnet-w32"), tmp_path / "pose.pth", _use_new_zipfile_serialization=False)
    assert len(read_checkpoint(tmp_path / "pose.pth").arrays) == 1_754


def test_an_imagenet_backbone_starts_a_training_and_is_not_imported(tmp_path: Path) -> None:
    torch.save(imagenet(hollow("hrnet-w32")), tmp_path / "hrnet_w32.pth")
    read = read_checkpoint(tmp_path / "hrnet_w32.pth")
    assert (read.role, read.network) == ("start", "hrnet-w32")
    assert read.arrays.keys() == {key for key in hollow("hrnet-w32") if not key.startswith("final_layer")}
    with pytest.raises(Unreadable, match=r"hrnet_w32.pth is the backbone of an hrnet-w32 without a pose head"):
        convert(tmp_path / "hrnet_w32.pth")


def small_poseformer() -> nn.Module:
    torch.manual_seed(0)
    return create("lifter", frames=9, width=8, depth=2, head="weighted_mean").eval()


def test_a_poseformer_s_training_checkpoint_gives_its_poses(tmp_path: Path) -> None:
    original = small_poseformer()
    torch.save(
        {
            "epoch": 5,
            "lr": 4e-5,
            "random_state": np.random.RandomState(1234),
            "optimizer": {"state": {}, "param_groups": [{"lr": np.float64(1e-4)}]},
            "model_pos": prefixed(original.state_dict(), "module."),
        },
        tmp_path / "best.bin",
    )
    read = read_checkpoint(tmp_path / "best.bin")
    assert (read.role, read.network, read.options["frames"]) == ("lift", "lifter", 9)
    imported = create(read.network, **read.options).eval()
    load_weights(imported, read.arrays, "best.bin")
    window = torch.randn(2, 9, 17, 2)
    with torch.inference_mode():
        assert torch.equal(imported(window), original(window))


def test_a_poseformer_of_the_published_sizes_is_recognised(tmp_path: Path) -> None:
    state = hollow("lifter", frames=81, head="weighted_mean")
    assert len(state) == 110
    torch.save({"model_pos": prefixed(state, "module.")}, tmp_path / "best.bin")
    assert read_checkpoint(tmp_path / "best.bin").options == {
        "frames": 81,
        "width": 32,
        "depth": 4,
        "head": "weighted_mean",
    }


def mmpose_videopose(state: State, head: str) -> State:
    renamed = {}
    for key, value in state.items():
        kind, *rest = key.split(".")
        if kind.startswith("expand"):
            renamed[f"backbone.expand_conv.{kind.removeprefix('expand_')}.{rest[0]}"] = value
        elif kind == "shrink":
            renamed[f"{head}.conv.{rest[0]}"] = value
        else:
            block, part = divmod(int(rest[0]), 2)
            inner = f"conv{part + 1}.0.{kind.removeprefix('layers_')}.{rest[1]}"
            renamed[f"backbone.tcn_blocks.{block}.{inner}"] = value
    return renamed


VIDEOPOSE: dict[str, Callable[[State], Any]] = {
    "official": lambda s: {"epoch": 80, "model_pos": s, "model_traj": s, "random_state": np.random.RandomState(1)},
    "mmpose 0.x": lambda s: {"meta": {}, "state_dict": mmpose_videopose(s, "keypoint_head")},
    "mmpose 1.x": lambda s: {"meta": {}, "state_dict": mmpose_videopose(s, "head")},
}


@pytest.mark.parametrize("wrapping", VIDEOPOSE)
@pytest.mark.parametrize("frames", [3, 27])
def test_a_videopose3d_gives_its_poses_however_it_is_wrapped(tmp_path: Path, wrapping: str, frames: int) -> None:
    torch.manual_seed(0)
    original = create("videopose3d", frames=frames, channels=8).eval()
    torch.save(VIDEOPOSE[wrapping](original.state_dict()), tmp_path / "lift.pth")
    read = read_checkpoint(tmp_path / "lift.pth")
    assert (read.role, read.network) == ("lift", "videopose3d")
    assert read.options == {"frames": frames, "channels": 8}
    imported = create(read.network, **read.options).eval()
    load_weights(imported, read.arrays, "lift.pth")
    window = torch.randn(2, frames, 17, 2)
    with torch.inference_mode():
        assert torch.equal(imported(window), original(window))


class Code:
    """Unpickled for real, it would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("new_form", [True, False])
def test_code_in_a_checkpoint_is_not_run_and_is_named(tmp_path: Path, new_form: bool) -> None:
    content = {"state_dict": hollow("videopose3d", frames=9), "meta": Code(tmp_path / "it ran")}
    torch.save(content, tmp_path / "pose.pth", _use_new_zipfile_serialization=new_form)
    with pytest.raises(Unreadable, match=rf"pose.pth asks to run `{os.name}.mkdir`"):
        read_checkpoint(tmp_path / "pose.pth")
    assert not (tmp_path / "it ran").exists()


def save(content: object, path: Path, form: str, protocol: int) -> None:
    if form == "pickle":
        with path.open("wb") as file:
            pickle.dump(content, file, protocol)
    else:
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=form == "zip")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("form", "protocol"),
    # torch.save knows no protocol under 2
    [*itertools.product(["pickle"], range(6)), *itertools.product(["zip", "old form"], range(2, 6))],
)
def test_code_is_named_whatever_protocol_it_is_pickled_by(tmp_path: Path, form: str, protocol: int) -> None:
    content = {"first": [1, ("a", "b")], "weights": torch.ones(2), "meta": Code(tmp_path / "it ran")}
    if form == "pickle":
        del content["weights"]
    save(content, tmp_path / "pose.pth", form, protocol)
    with pytest.raises(Unreadable, match=rf"pose.pth asks to run `{os.name}.mkdir` .*; it was not run"):
        read_checkpoint(tmp_path / "pose.pth")
    assert not (tmp_path / "it ran").exists()


def test_an_archive_whose_pickle_is_packed_and_broken_is_refused_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "pose.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pose/data.pkl", pickle.dumps(list(range(5000)), 2))
    body = bytearray(path.read_bytes())
    body[60:90] = b"\xff" * 30
    path.write_bytes(body)
    with pytest.raises(Unreadable, match=r"pose.pth is no file of weights"):
        read_checkpoint(path)


def test_a_name_that_comes_out_of_the_memo_is_found(tmp_path: Path) -> None:
    """Written by hand: the name is put away, forgotten among others, and fetched again for the call."""
    body = (
        b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x940"  # push and remember both, drop one
        b"(K\x01K\x021"  # a mark, two numbers, all of them dropped
        b"h\x01\x93\x8c\x04true\x85R."  # the second from the memo: posix.system("true")
    )
    (tmp_path / "pose.pth").write_bytes(body)
    assert look(tmp_path / "pose.pth").names == ("posix.system",)
    with pytest.raises(Unreadable, match=r"asks to run `posix\.system`"):
        read_checkpoint(tmp_path / "pose.pth")


@pytest.mark.filterwarnings("error")
def test_weights_of_a_later_protocol_are_refused_with_what_to_do(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(2)}}, tmp_path / "pose.pth", pickle_protocol=4)
    with pytest.raises(Unreadable, match=r"pose.pth is pickled by protocol 4, .* save it anew"):
        read_checkpoint(tmp_path / "pose.pth")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html>\n<html>no such file</html>", "it is text and begins with '<!DOCTYPE html>'"),
        (b"checkpoint of\nthe last epoch\n", "it is text and begins with 'checkpoint of'"),
        ("größer".encode() * 2000, "it is text and begins with 'größer"),
        (bytes(range(256)), "is no file of weights that torch saved: UnpicklingError"),
    ],
)
def test_what_is_no_checkpoint_is_called_what_it_is(tmp_path: Path, body: bytes, message: str) -> None:
    (tmp_path / "pose.pth").write_bytes(body)
    with pytest.raises(Unreadable, match=re.escape(message)) as refused:
        read_checkpoint(tmp_path / "pose.pth")
    assert "asks to run" not in str(refused.value)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_program_of_torch_jit_is_refused_as_one(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "pose.pt")
    with pytest.raises(Unreadable, match=r"pose.pt is a program of torch.jit, which is not run"):
        read_checkpoint(tmp_path / "pose.pt")


def test_a_class_of_another_package_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({"model": create("videopose3d", frames=9, channels=2)}, tmp_path / "whole.pt")
    with pytest.raises(Unreadable, match=r"`service\.networks\.temporal_convolutions\.TemporalConvolutions`"):
        read_checkpoint(tmp_path / "whole.pt")


def test_every_kind_of_wrong_weight_is_told_at_once(tmp_path: Path) -> None:
    state = hollow("hrnet-w32")
    for block in range(4):
        del state[f"layer1.{block}.conv2.weight"]
    state["final_layer.weight"] = torch.zeros(16, 32, 1, 1)
    state["deconv.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "pose.pth")
    with pytest.raises(Unreadable) as refused:
        read_checkpoint(tmp_path / "pose.pth")
    told = str(refused.value)
    assert told.startswith("pose.pth is not hrnet-w32 as we have it: ")
    assert "4 missing (`layer1.0.conv2.weight`, `layer1.1.conv2.weight`, `layer1.2.conv2.weight`, ...)" in told
    assert "1 unexpected (`deconv.weight`)" in told
    assert "1 of another shape (`final_layer.weight` (16, 32, 1, 1) for (17, 32, 1, 1))" in told


def test_16_bit_weights_come_in_32_and_counters_that_lack_are_zero(tmp_path: Path) -> None:
    state = create("videopose3d", frames=3, channels=4).state_dict()
    halves = {key: value.half() for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(halves, tmp_path / "lift.pt")
    arrays = read_checkpoint(tmp_path / "lift.pt").arrays
    assert arrays["shrink.weight"].dtype == np.float32
    np.testing.assert_array_equal(arrays["shrink.weight"], halves["shrink.weight"].numpy())
    assert arrays["expand_bn.num_batches_tracked"] == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"weight": torch.zeros(2)},
            r"holds no HRNet, PoseFormer, VideoPose3D or torchvision detector: its weights are called `weight`",
        ),
        ({}, "holds no weights"),
        ([torch.zeros(2)], "holds no weights"),
        ({"state_dict": {"a": 1}}, "`a` is no weight but int"),
        ({"stage4.0.branches.0.0.conv1.weight": torch.zeros(1)}, "this one's has no weight"),
        ({"Spatial_pos_embed": torch.zeros(1)}, "position embeddings"),
        ({"expand_conv.weight": torch.zeros(1)}, "missing"),
        ({"expand_conv.weight": torch.zeros(())}, "`channels` must be 1 or more, got 0"),
    ],
)
def test_other_content_is_refused_with_what_it_is(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(Unreadable, match=f"weights.pt.*{message}"):
        read_checkpoint(tmp_path / "weights.pt")


@pytest.mark.parametrize("body", [b"", b"x", b"\x80\x02}q\x00.", b"PK\x03\x04 not a zip"])
def test_what_torch_never_saved_is_refused_without_advice_to_run_it(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "weights.pt").write_bytes(body)
    with pytest.raises(Unreadable, match=r"weights.pt") as refused:
        read_checkpoint(tmp_path / "weights.pt")
    assert "weights_only" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "wrapping", "asked", "preset", "size"),
    [
        ("pose_hrnet_w32_256x192.pth", "official", None, "official", (192, 256)),
        ("pose_hrnet_w32_384x288.pth", "official", None, "official", (288, 384)),
        ("pose.pth", "official", "alphapose", "alphapose", (192, 256)),
        ("td-hm_hrnet-w32_8xb64.pth", "mmpose 1.x", None, "mmpose", (192, 256)),
        ("td-hm_hrnet-w32_udp-8xb64_384x288.pth", "mmpose 1.x", None, "mmpose-udp", (288, 384)),
        ("td-hm_hrnet-w32_dark-8xb64-210e_coco-256x192-0e00bf12_20220914.pth", "mmpose 1.x", None, "dark", (192, 256)),
        ("hrnet_w32_coco_384x288_dark-307dafc2_20210203.pth", "mmpose 0.x", None, "dark", (288, 384)),
        ("darkness.pth", "mmpose 1.x", None, "mmpose", (192, 256)),
        ("pose_256x192.pth", "official", "dark", "dark", (192, 256)),
        ("AlphaPose_hrnet_w32_256x192.pth", "official", None, "alphapose", (192, 256)),
    ],
)
def test_preset_and_size_are_what_is_asked_or_what_form_and_name_say(
    tmp_path: Path, name: str, wrapping: str, asked: str | None, preset: str, size: tuple[int, int]
) -> None:
    torch.save(WRAPPED[wrapping][0](hollow("hrnet-w32")), tmp_path / name)
    converted = convert(tmp_path / name, preset=asked)
    assert (converted.preset, (converted.width, converted.height)) == (preset, size)
    written = preset_of(converted)
    assert (written["width"], written["height"]) == size
    wide = {(192, 256): 11, (288, 384): 17}[size]
    assert written.get("blur") == (wide if preset in ("mmpose-udp", "dark") else None)
    assert written["decode"] == {"mmpose-udp": "udp", "dark": "dark"}.get(preset, "quarter")
    assert converted.licence == "" and not converted.restricted


@pytest.mark.parametrize(
    ("name", "wrapping", "asked", "notes"),
    [
        ("pose_256x192.pth", "official", (None, None), ["taken for HRNet's own: .*`--preset alphapose`"]),
        ("pose.pth", "official", ("alphapose", None), ["neither the file nor its name tells the input size"]),
        ("pose.pth", "official", ("alphapose", "256x192"), []),
        ("w32_dark-256x192.pth", "mmpose 1.x", (None, None), ["its name says `dark`: preset `dark`"]),
        ("w32_256x192.pth", "mmpose 1.x", (None, None), ["taken for MMPose's plain form.*`dark`"]),
    ],
)
def test_what_the_file_does_not_tell_is_said(
    tmp_path: Path, name: str, wrapping: str, asked: tuple[str | None, str | None], notes: list[str]
) -> None:
    torch.save(WRAPPED[wrapping][0](hollow("hrnet-w32")), tmp_path / name)
    told = convert(tmp_path / name, *asked).notes
    assert len(told) == len(notes)
    for said, expected in zip(told, notes, strict=True):
        assert re.search(expected, said)


def test_a_preset_is_refused_where_there_is_none_to_choose(tmp_path: Path) -> None:
    torch.save(hollow("videopose3d", frames=9), tmp_path / "lift.pt")
    with pytest.raises(SettingWrong, match=r"`--preset` and `--size` are for HRNets, lift.pt holds a videopose3d"):
        convert(tmp_path / "lift.pt", preset="official")
    assert convert(tmp_path / "lift.pt").restricted


@pytest.mark.parametrize(("option", "value"), [("preset", "darker"), ("size", "192x256")])
def test_an_unknown_preset_or_size_is_refused_with_the_known_ones(tmp_path: Path, option: str, value: str) -> None:
    torch.save(hollow("hrnet-w32"), tmp_path / "pose.pt")
    with pytest.raises(SettingWrong, match=rf"`--{option}` must be one of .*, got '{value}'"):
        convert(tmp_path / "pose.pt", *((value,) if option == "preset" else (None, value)))
