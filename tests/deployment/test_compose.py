"""The form of docker-compose.yml and of the Prometheus and Grafana that it starts; no container engine is needed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.api.keys import read_keys
from service.api.lifecycle import LAST_WORDS_S, NET_S

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ["poselift", "poselift-gpu"]


def seconds(text: str) -> float:
    """Compose's `55s` and `2m` as seconds."""
    number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "m": 60}[unit]


def test_the_cpu_starts_by_itself_and_the_gpu_by_its_profile() -> None:
    assert [name for name, service in SERVICES.items() if "profiles" not in service] == [
        "keys",
        "poselift",
        "prometheus",
        "grafana",
    ]
    assert SERVICES["poselift-gpu"]["profiles"] == ["gpu"]
    (device,) = SERVICES["poselift-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", 1, ["gpu"])


@pytest.mark.parametrize("name", OURS)
def test_what_is_built_is_a_target_of_the_dockerfile(name: str) -> None:
    target = SERVICES[name]["build"]["target"]
    assert re.search(rf"^FROM .* AS {target}$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert SERVICES[name]["image"] == f"poselift:{target}"


def test_every_port_is_published_on_loopback_alone_and_none_twice() -> None:
    published = [port.rsplit(":", 1)[0] for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert len(set(published)) == len(published)
    (exposed,) = re.findall(r"^EXPOSE (\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert all(SERVICES[name]["ports"][0].endswith(f":{exposed}") for name in OURS)


@pytest.mark.parametrize("name", OURS)
def test_the_service_waits_for_its_key_and_can_only_read_it(name: str) -> None:
    service = SERVICES[name]
    assert service["depends_on"] == {"keys": {"condition": "service_completed_successfully"}}
    assert service["environment"]["POSELIFT_KEY_FILE"] == "/etc/poselift/keys"
    assert service["volumes"] == ["keys:/etc/poselift:ro"]


def test_the_key_is_made_once_and_is_one(tmp_path: Path) -> None:
    shell, option, script = SERVICES["keys"]["command"]
    made = script.replace("/keys/keys", str(tmp_path / "keys"))
    contents = []
    for _ in range(2):
        subprocess.run([shell, option, made], check=True)
        contents.append((tmp_path / "keys").read_text())
        assert len(read_keys(tmp_path / "keys")) == 1
    assert contents[0] == contents[1] and re.fullmatch("[0-9a-f]{64}", contents[0])
    assert SERVICES["keys"]["network_mode"] == "none"


@pytest.mark.parametrize("name", OURS)
def test_the_root_is_read_only_and_tmp_is_bounded(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    (tmp,) = service["tmpfs"]
    assert re.match(r"/tmp:size=\d+[mg]\b", tmp)
    assert service["cap_drop"] == ["ALL"]


def test_nothing_that_is_started_may_write_to_its_image_or_gain_rights() -> None:
    for service in SERVICES.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", OURS)
def test_the_health_check_asks_for_readiness_within_its_own_time(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][:3] == ["CMD", "python", "-c"]
    compile(check["test"][3], "healthcheck", "exec")
    assert ":8000/readyz" in check["test"][3]
    (timeout,) = re.findall(r"timeout=(\d+)", check["test"][3])
    assert int(timeout) < seconds(check["timeout"]) <= seconds(check["interval"])


@pytest.mark.parametrize("name", OURS)
def test_a_stop_waits_longer_than_the_drain(name: str) -> None:
    environment = SERVICES[name]["environment"]
    drain = float(environment["POSELIFT_DRAIN_DELAY_S"]) + float(environment["POSELIFT_DRAIN_GRACE_S"])
    assert seconds(SERVICES[name]["stop_grace_period"]) >= drain + LAST_WORDS_S + NET_S + 5


@pytest.mark.parametrize("name", OURS)
def test_a_lost_device_starts_the_service_anew(name: str) -> None:
    assert SERVICES[name]["restart"] == "unless-stopped"


def test_every_mounted_file_exists_and_every_volume_is_declared() -> None:
    mounts = [mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", [])]
    assert mounts
    for mount in mounts:
        assert (ROOT / mount).exists() if mount.startswith(".") else mount in COMPOSE["volumes"]


def test_prometheus_scrapes_the_services_of_the_file() -> None:
    (job,) = yaml.safe_load((ROOT / "docker/prometheus.yml").read_text())["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    (lookup,) = job["dns_sd_configs"]
    assert lookup["names"] == OURS
    assert (lookup["type"], lookup["port"]) == ("A", 8000)


def test_grafana_shows_the_board_from_the_prometheus_of_the_file() -> None:
    grafana, folder = SERVICES["grafana"], ROOT / "docker/grafana/provisioning"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["url"], source["isDefault"]) == ("prometheus", "http://prometheus:9090", True)
    (provider,) = yaml.safe_load((folder / "dashboards/poselift.yml").read_text())["providers"]
    mounts = dict(mount.removesuffix(":ro").split(":") for mount in grafana["volumes"])
    assert mounts["./docker/grafana/provisioning"] == "/etc/grafana/provisioning"
    board = mounts["./k8s/components/dashboard/poselift.json"]
    assert str(Path(board).parent) == provider["options"]["path"]
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == board


def test_grafana_lets_people_look_and_nobody_change_anything() -> None:
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "true"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
