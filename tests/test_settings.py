"""Settings: where a value comes from, what is refused, and that keys are never shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.errors import SettingWrong
from service.settings import Loaded, Settings, cpu_limit, load, rows

ROOT = Path(__file__).resolve().parents[1]


def loaded(
    tmp_path: Path,
    text: str = "",
    environment: dict[str, str] | None = None,
    **flags: str | None,
) -> Loaded:
    file = tmp_path / "poselift.toml"
    file.write_text(text)
    return load(flags, environment or {}, file)


def test_without_anything_every_setting_is_its_default(tmp_path: Path) -> None:
    found = load({}, {}, tmp_path / "poselift.toml")
    assert found.settings == Settings()
    assert set(found.sources.values()) == {"default"}
    assert found.sources.keys() == Settings.model_fields.keys()
    assert found.ignored == ()


def test_a_flag_stands_over_a_variable_over_the_file_over_the_default(tmp_path: Path) -> None:
    text, variable = (
        "port = 1\nqueue_rows = 11\nmax_image_mb = 21",
        {"POSELIFT_PORT": "2", "POSELIFT_MAX_IMAGE_MB": "22"},
    )
    found = loaded(tmp_path, text, variable, max_image_mb="23", device=None)
    assert (found.settings.port, found.settings.queue_rows, found.settings.max_image_mb) == (2, 11, 23)
    names = ("port", "queue_rows", "max_image_mb", "device")
    assert [found.sources[name] for name in names] == ["POSELIFT_PORT", "poselift.toml", "--max-image-mb", "default"]


def test_only_the_value_that_counts_is_checked(tmp_path: Path) -> None:
    assert loaded(tmp_path, "port = 70000", {"POSELIFT_PORT": "tcp://10.0.0.1:80"}, port="9000").settings.port == 9000


def test_what_settings_print_can_be_given_again(tmp_path: Path) -> None:
    environment = {
        "POSELIFT_HOSTS": "a.example, b.example:8443",
        "POSELIFT_DEVICE": "cuda:1",
        "POSELIFT_LIFT": "lift-27@4",
    }
    first = loaded(tmp_path, "caller_share = 0.25\ndrain_delay_s = 0", environment)
    again = loaded(tmp_path, "", {}, **{row.name: row.value for row in rows(first) if row.value != "none"})
    assert again.settings == first.settings


def test_lists_are_comma_separated_in_variables_and_arrays_in_the_file(tmp_path: Path) -> None:
    assert loaded(tmp_path, "", {"POSELIFT_HOSTS": "a, b,"}).settings.hosts == ("a", "b")
    assert loaded(tmp_path, 'hosts = ["a", "b"]').settings.hosts == ("a", "b")
    assert loaded(tmp_path, 'hosts = ["a", "b"]', hosts="").settings.hosts == ()


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    assert loaded(tmp_path, "port = 1", {"POSELIFT_PORT": "", "POSELIFT_STORE": ""}).settings.port == 1


@pytest.mark.parametrize(
    ("text", "environment", "flags", "field", "message"),
    [
        ("port = 70000", {}, {}, "port", "`port` (poselift.toml): should be less than or equal to 65535; got 70000"),
        ("port = true", {}, {}, "port", "`port` (poselift.toml): cannot be true or false; got true"),
        ("", {"POSELIFT_THREADS": "two"}, {}, "threads", "`threads` (POSELIFT_THREADS): should be a valid integer"),
        ("", {}, {"device": "gpu"}, "device", "`device` (--device): should match pattern"),
        ("", {}, {"caller_share": "nan"}, "caller_share", "should be a finite number; got 'nan'"),
        ("", {}, {"person_side": "481"}, "person_side", "should be a multiple of 32; got '481'"),
        ("", {}, {"pose": "Lite HRNet"}, "pose", "`pose` (--pose): should match pattern"),
        ('hosts = "a"', {}, {}, "hosts", "`hosts` (poselift.toml): should be a valid tuple; got 'a'"),
        ("", {}, {"trusted_proxies": "10.0.0.0/8,x"}, "trusted_proxies", "'x' does not appear to be"),
        ("", {}, {"origins": "a.example"}, "origins", "`origins` (--origins): should match pattern"),
        ("deadline_ms = 900000", {}, {}, "deadline_ms", "`deadline_ms` 900000 is over `max_deadline_ms` 600000"),
        ("", {"POSELIFT_PORT": "tcp://10.0.0.1:80"}, {}, "port", "set `enableServiceLinks: false` in the pod"),
        ("", {}, {"prot": "1"}, "prot", "`prot` (--prot) is no setting; near it: port"),
        ("max-image-mb = 1", {}, {}, "max-image-mb", "near it: max_image_mb"),
        ("[server]\nport = 1", {}, {}, "server", "`server` (poselift.toml) is no setting"),
        ("port = ", {}, {}, "poselift.toml", "poselift.toml cannot be read"),
    ],
)
def test_a_wrong_setting_is_named_with_its_source_its_limit_and_what_came(
    tmp_path: Path, text: str, environment: dict[str, str], flags: dict[str, str], field: str, message: str
) -> None:
    with pytest.raises(SettingWrong) as wrong:
        loaded(tmp_path, text, environment, **flags)
    assert message in str(wrong.value)
    assert wrong.value.field == field


def test_variables_that_are_no_settings_are_told_but_do_not_stop_the_start(tmp_path: Path) -> None:
    environment = {"POSELIFT_SERVICE_HOST": "10.0.0.1", "POSELIFT_PROT": "1", "PATH": "/bin"}
    assert loaded(tmp_path, "", environment).ignored == ("POSELIFT_PROT", "POSELIFT_SERVICE_HOST")


def test_the_environment_is_that_of_the_process_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSELIFT_PORT", "1234")
    assert load(toml=tmp_path / "poselift.toml").settings.port == 1234


def test_keys_are_counted_and_never_shown(tmp_path: Path) -> None:
    found = loaded(tmp_path, "", {"POSELIFT_KEYS": "very-secret, also.secret"})
    assert found.settings.keys == ("very-secret", "also.secret")
    assert next(row.value for row in rows(found) if row.name == "keys") == "set (2)"
    written = f"{found!r} {found.settings} {rows(found)} {found.settings.model_dump_json()}"
    assert "secret" not in written
    assert "set (2)" in repr(found.settings)


@pytest.mark.parametrize("text", ['keys = ["a secret"]', 'keys = ["also-secret", 3]', 'keys = "secret"'])
def test_a_wrong_key_is_refused_without_being_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingWrong) as wrong:
        loaded(tmp_path, text)
    assert "secret" not in str(wrong.value)
    assert "`keys` (poselift.toml)" in str(wrong.value)


@pytest.mark.parametrize("given", ["", " ", ","])
def test_an_empty_list_of_keys_does_not_open_the_service(tmp_path: Path, given: str) -> None:
    with pytest.raises(SettingWrong, match=r"`keys` \(POSELIFT_KEYS\)"):
        loaded(tmp_path, "", {"POSELIFT_KEYS": given})
    with pytest.raises(SettingWrong, match=r"`keys` \(--keys\)"):
        loaded(tmp_path, "", keys=given)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1


def test_every_setting_says_what_it_does_and_stands_in_the_operators_table() -> None:
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    table = page.split("| setting | default | meaning |")[1].split("\n\n")[0]
    named = {name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line.split("|")[1] if line else "")}
    assert named == set(Settings.model_fields)
    assert all(len(field.description or "") > 10 for field in Settings.model_fields.values())


def test_threads_are_the_cpus_of_this_process_unless_said_otherwise() -> None:
    assert Settings().network_threads == Settings().decoders == cpu_limit() >= 1
    assert (Settings(threads=3).network_threads, Settings(decode_threads=5).decoders) == (3, 5)


def cgroup(tmp_path: Path, files: dict[str, str], membership: str) -> int:
    for name, text in files.items():
        file = tmp_path / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "membership").write_text(membership)
    return cpu_limit(tmp_path / "cgroup", tmp_path / "membership")


@pytest.mark.parametrize(
    ("files", "membership", "cpus"),
    [
        ({"cpu.max": "200000 100000\n"}, "0::/\n", 2),
        ({"cpu.max": "350000 100000\n"}, "0::/\n", 3),
        ({"cpu.max": "50000 100000\n"}, "0::/\n", 1),
        ({"a/b/cpu.max": "max 100000\n", "a/cpu.max": "400000 100000\n"}, "0::/a/b\n", 4),
        ({"cpu.max": "500000 100000\n"}, "0::/not/mounted/here\n", 5),
        (
            {"cpu,cpuacct/x/cpu.cfs_quota_us": "300000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"},
            "4:cpu,cpuacct:/x\n",
            3,
        ),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/\n", 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu:/\n1:name=systemd:/\n", 8),
        ({"cpu.max": "max 100000\n"}, "0::/\n", 8),
        ({"cpu.max": "1600000 100000\n"}, "0::/\n", 8),
        ({}, "nonsense\n", 8),
    ],
)
def test_the_cpu_limit_is_the_least_of_quotas_and_affinity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], membership: str, cpus: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert cgroup(tmp_path, files, membership) == cpus


def test_without_cgroups_the_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    assert cpu_limit(tmp_path / "none", tmp_path / "none") == 3
