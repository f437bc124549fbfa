"""Secrets from files: NAME_FILE in the place of NAME."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from bank.cli import main
from bank.cli.adoption import NOTED, adopt
from bank.cli.layout import Layout
from bank.cli.supervisor import StartError
from bank.config import SECRETS, Config, ConfigError, with_secrets
from tests.test_house_rules import ROOT

GIVEN = {
    "DATABASE_URL": "postgresql://bank:one@database/bank?sslmode=require",
    "DATABASE_OWNER_URL": "postgresql://bank_owner:three@database/bank?sslmode=require",
    "DATABASE_REPLICA_URL": "postgresql://bank:one@replica/bank?sslmode=require",
    "REDIS_URL": "rediss://:two@redis:6379/0",
    "JWT_SECRET_KEY": "5f1c0e7d92ab48d3a6b7f20c94e81d3b",
    "JWT_OLD_SECRET_KEYS": "c2a94f7e015b8d6390e1f4a72d5c8b36,71e0b9d24ca85f3617d8e2b0f94a6c53",
    "BANK_TOTP_KEY": "e83b5d07c41f9a26b0d7e5f3128c6a94",
    "BANK_METRICS_TOKEN": "4b7e19c0d25f83a6e0b1c97d5a3f8264",
    "BANK_SEAL_KEY": "9d41c7b0e26f8a35d17c04be93f5a8620b7e1d94c83fa65e2079b4d6f1c8e53a",
}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """The environment of GIVEN as files, as an editor leaves them."""
    for name, value in GIVEN.items():
        (tmp_path / name).write_text(f"{value}\n")
    return {f"{name}_FILE": str(tmp_path / name) for name in GIVEN}


def test_secrets_come_from_files_as_from_variables(files: dict[str, str]) -> None:
    assert {*GIVEN} == {*SECRETS} - {"BANK_ADMIN_PASSWORD"}
    assert Config.from_env(files) == Config.from_env(GIVEN)


def test_every_secret_is_one_and_nothing_else_is_read_from_a_file(files: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "password").write_text("of the administrator \r\n")
    found = with_secrets({"BANK_ADMIN_PASSWORD_FILE": str(tmp_path / "password"), "PORT": "1", "PORT_FILE": "/nowhere"})
    # A blank at its end may be meant.
    assert found == {"BANK_ADMIN_PASSWORD": "of the administrator ", "PORT": "1", "PORT_FILE": "/nowhere"}


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_that_is_given_twice_stops_the_start_with_both_names(files: dict[str, str], name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{name}, {name}_FILE: only one") as error:
        Config.from_env({**files, name: "told", f"{name}_FILE": str(tmp_path / "DATABASE_URL")})
    assert "told" not in str(error.value) and "bank:one" not in str(error.value)


@pytest.mark.parametrize("name", SECRETS)
def test_an_empty_variable_beside_a_file_counts_as_not_given(files: dict[str, str], name: str) -> None:
    assert Config.from_env({**files, name: ""}) == Config.from_env(GIVEN)


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize(("content", "reason"), [(None, "No such file"), (b"\n", "is empty"), (b"\xff", "is no text")])
def test_a_file_that_is_no_use_stops_the_start_with_its_name(
    files: dict[str, str], tmp_path: Path, name: str, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "broken"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"{name}_FILE: {file} .*{reason}"):
        Config.from_env({**files, f"{name}_FILE": str(file)})


def test_a_directory_in_the_place_of_a_file_stops_the_start(files: dict[str, str], tmp_path: Path) -> None:
    # What a container runtime makes where the file of a mount was missing.
    with pytest.raises(ConfigError, match=r"REDIS_URL_FILE: .* cannot be read: Is a directory"):
        Config.from_env({**files, "REDIS_URL_FILE": str(tmp_path)})


def test_bank_run_takes_files_and_tells_its_processes_what_is_in_them(files: dict[str, str], tmp_path: Path) -> None:
    layout = Layout.from_env({**files, "BANK_DATA_DIR": str(tmp_path / "data")})
    told = layout.environment([])
    assert {name: told.get(name) for name in GIVEN} == {**GIVEN, "BANK_SEAL_KEY": None}
    assert not any(name.endswith("_FILE") for name in told)
    assert layout.seal_key == GIVEN["BANK_SEAL_KEY"]
    with pytest.raises(StartError, match="JWT_SECRET_KEY, JWT_SECRET_KEY_FILE"):
        Layout.from_env({**files, "JWT_SECRET_KEY": "x"})


def test_where_a_file_names_the_database_the_bank_that_runs_here_is_left_alone(files: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / NOTED).write_text('{"DATABASE_URL": "postgresql://here/bank", "REDIS_URL": "redis://here"}')
    here = {"BANK_DATA_DIR": str(tmp_path)}
    environ = {"DATABASE_URL_FILE": files["DATABASE_URL_FILE"], **here}
    adopt(environ)
    assert environ == {"DATABASE_URL_FILE": files["DATABASE_URL_FILE"], **here}
    environ = {"REDIS_URL_FILE": files["REDIS_URL_FILE"], **here}
    adopt(environ)
    assert with_secrets(environ)["REDIS_URL"] == GIVEN["REDIS_URL"]


@pytest.mark.parametrize("arguments", [["verify-receipt", "README.md"], ["follow"]])
def test_a_command_names_the_file_of_the_seal_key_that_it_cannot_read(arguments: list[str], files: dict[str, str], tmp_path: Path) -> None:
    environ = {**files, "BANK_SEAL_KEY_FILE": str(tmp_path / "gone"), "BANK_DATA_DIR": str(tmp_path)}
    done = CliRunner(env={**environ, **dict.fromkeys(GIVEN, "")}).invoke(main, arguments)
    assert done.exit_code != 0
    assert f"BANK_SEAL_KEY_FILE: {tmp_path / 'gone'} cannot be read" in done.output


def test_the_page_of_settings_names_every_file() -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    assert [name for name in SECRETS if f"`{name}_FILE`" not in text] == []
