"""Weights files: read only if they are the file that was meant, and written whole or not at all."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest

from service.errors import StoreBroken
from service.store.weights import Array, checksum, read_weights, statistics_embeddings_and_heads, write_weights

RNG = np.random.default_rng(0)
ARRAYS: dict[str, Array] = {
    "conv.weight": RNG.normal(size=(4, 3, 3, 3)).astype(np.float32),
    "bn.running_mean": RNG.normal(size=4).astype(np.float32),
    "bn.num_batches_tracked": np.array(7),
    "empty": np.zeros((0, 3), np.float32),
}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    again = read_weights(file, write_weights(file, ARRAYS))
    assert again.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (again[name].dtype, again[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(again[name], array)


def test_half_keeps_what_is_named_and_what_would_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    arrays = ARRAYS | {"large": np.array([1e5], np.float32), "double": np.array([0.5])}
    again = read_weights(file, write_weights(file, arrays, half=True))
    kinds = {name: array.dtype.name for name, array in again.items()}
    assert kinds == {
        "conv.weight": "float16",
        "bn.running_mean": "float32",
        "bn.num_batches_tracked": "int64",
        "empty": "float16",
        "large": "float32",
        "double": "float16",
    }
    np.testing.assert_allclose(again["conv.weight"], ARRAYS["conv.weight"], rtol=1e-3, atol=1e-7)


def test_the_caller_may_say_what_keeps_its_32_bits(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    again = read_weights(file, write_weights(file, ARRAYS, half=True, keep_full=lambda name: name.startswith("conv")))
    assert again["conv.weight"].dtype == np.float32
    assert again["bn.running_mean"].dtype == np.float16


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("stage2.0.branches.0.0.bn1.running_var", True),
        ("Spatial_pos_embed", True),
        ("Spatial_patch_to_embedding.weight", True),
        ("unknown_token", True),
        ("final_layer.weight", True),
        ("head.1.bias", True),
        ("weighted_mean.weight", True),
        ("stage2.0.branches.0.0.conv1.weight", False),
        ("Spatial_blocks.0.attn.qkv.weight", False),
        ("layer1.0.bn1.weight", False),
    ],
)
def test_statistics_embeddings_and_last_layers_keep_their_32_bits(name: str, kept: bool) -> None:
    assert statistics_embeddings_and_heads(name) is kept


def test_the_same_arrays_give_the_same_file(tmp_path: Path) -> None:
    turned = dict(reversed(list(ARRAYS.items())))
    transposed = turned | {"conv.weight": np.asfortranarray(turned["conv.weight"])}
    first, second = (write_weights(tmp_path / name, arrays) for name, arrays in (("a", ARRAYS), ("b", transposed)))
    assert first == second == checksum(tmp_path / "a") == hashlib.sha256((tmp_path / "b").read_bytes()).hexdigest()


def test_the_arrays_are_left_as_they_were(tmp_path: Path) -> None:
    before = {name: array.copy() for name, array in ARRAYS.items()}
    write_weights(tmp_path / "a", ARRAYS, half=True)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(array, before[name])


def test_another_file_than_the_one_meant_is_refused_with_both_checksums(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    found = write_weights(file, ARRAYS)
    with pytest.raises(StoreBroken, match=f"weights.safetensors .*{'0' * 64} is wanted, {found} was found"):
        read_weights(file, "0" * 64)


def test_a_pickle_is_never_opened_even_with_the_right_checksum(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    file = tmp_path / "weights.safetensors"
    file.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(StoreBroken, match="is no safetensors file"):
        read_weights(file, checksum(file))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("length", [0, 5, 60, -1])
def test_a_truncated_file_is_refused_even_with_its_own_checksum(tmp_path: Path, length: int) -> None:
    file = tmp_path / "weights.safetensors"
    write_weights(file, ARRAYS)
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(StoreBroken, match=str(file)):
        read_weights(file, checksum(file))


def test_a_kind_of_number_that_numpy_lacks_is_refused(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    file = tmp_path / "weights.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(StoreBroken, match=str(file)):
        read_weights(file, checksum(file))


def test_a_missing_file_is_a_broken_store(tmp_path: Path) -> None:
    with pytest.raises(StoreBroken, match=r"none.safetensors cannot be read"):
        read_weights(tmp_path / "none.safetensors", "0" * 64)


@pytest.mark.parametrize("bad", [np.array([np.nan]), np.array([-np.inf], np.float32), np.array(["text"])])
def test_what_is_no_number_is_not_written_and_the_old_file_stays(tmp_path: Path, bad: Array) -> None:
    file = tmp_path / "weights.safetensors"
    sha256 = write_weights(file, ARRAYS)
    with pytest.raises(ValueError, match="`bad`"):
        write_weights(file, ARRAYS | {"bad": bad})
    assert read_weights(file, sha256).keys() == ARRAYS.keys()
    assert list(tmp_path.iterdir()) == [file]
