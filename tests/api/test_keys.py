"""Keys from settings and from a file: who holds one, what a change does, and what a broken file does not do."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from service.api.keys import Keyring, read_keys
from service.errors import SettingWrong
from service.settings import Settings


def ring(file: Path, text: str) -> Keyring:
    file.write_text(text)
    return Keyring(Settings(key_file=file, keys=("fixed",)))


def change(file: Path, text: str) -> None:
    """Written beside and renamed, as careful editors and Kubernetes do it."""
    beside = file.with_name("beside")
    beside.write_text(text)
    beside.replace(file)


def test_keys_of_the_settings_and_of_the_file_stand_side_by_side(tmp_path: Path) -> None:
    keys = ring(tmp_path / "keys", "# for the robots\n\nr2.d2~+/=- \nboss admin\n")
    for key, admin in (("fixed", False), ("r2.d2~+/=-", False), ("boss", True)):
        holder = keys.holder(key)
        assert holder is not None and holder.admin is admin and key not in holder.name
    for key in ("", "boss admin", "# for the robots", "fixed ", "FIXED"):
        assert keys.holder(key) is None


def test_a_changed_file_counts_and_an_old_key_no_longer_opens(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    keys = ring(file, "old\n")
    change(file, "new\n")
    keys.reload()
    assert keys.holder("new") and keys.holder("fixed") and not keys.holder("old")


@pytest.mark.parametrize("text", ["", "# nothing\n", "two words\n", "clé\n", "k\x00\n"])
def test_a_file_that_breaks_is_logged_without_its_lines_and_changes_nothing(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    keys = ring(file, "old\n")
    change(file, text)
    with caplog.at_level(logging.ERROR):
        keys.reload()
        keys.reload()  # said once, not every two seconds
    assert keys.holder("old") and len(caplog.records) == 1 and "two words" not in caplog.text


def test_a_file_that_is_gone_changes_nothing_and_counts_again_when_it_is_back(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    keys = ring(file, "old\n")
    file.unlink()
    keys.reload()
    assert keys.holder("old")
    file.write_text("back\n")
    keys.reload()
    assert keys.holder("back") and not keys.holder("old")


@pytest.mark.parametrize(
    ("text", "told"), [(None, "cannot be read"), ("", "holds no key"), ("ok\n!\n", "line 2"), ("a" * 2**21, "at most")]
)
def test_a_file_that_cannot_be_used_stops_the_start_and_names_no_key(
    tmp_path: Path, text: str | None, told: str
) -> None:
    file = tmp_path / "keys"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SettingWrong, match=told) as refused:
        read_keys(file)
    assert refused.value.field == "key_file" and "!" not in str(refused.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "poselift.example"])
def test_without_keys_it_does_not_start_where_others_reach_it_unless_told_to(host: str, tmp_path: Path) -> None:
    with pytest.raises(SettingWrong, match="`host` is"):
        Keyring(Settings(host=host))
    assert not Keyring(Settings(host=host, allow_keyless=True)).required
    assert Keyring(Settings(host=host, keys=("one",))).required
    (tmp_path / "keys").write_text("one\n")
    assert Keyring(Settings(host=host, key_file=tmp_path / "keys")).required


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_on_loopback_it_starts_without_keys(host: str) -> None:
    assert not Keyring(Settings(host=host)).required
