"""Where `bank run` keeps things, and what it tells the processes: made from the environment."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bank.cli.adoption import NOTED, ROOT, TOLD
from bank.cli.supervisor import StartError
from bank.config import ConfigError, with_secrets
from bank.embedded import Postgres, Redis, Server, secret
from bank.processes import lock


@dataclass(frozen=True)
class Layout:
    """Ports, directories and settings of one `bank run`."""

    data_dir: Path
    port: int
    dashboard_port: int
    workers: int
    given: Mapping[str, str]

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Layout":
        """The layout that `environ` asks for (see `bank run --help`). Raises StartError naming a value that is no use."""
        try:
            environ = with_secrets(environ)
        except ConfigError as error:
            raise StartError(str(error)) from error
        port = _number(environ, "PORT", 8000, most=65534)
        return cls(
            data_dir=Path(environ.get("BANK_DATA_DIR") or ROOT / ".data").absolute(),
            port=port,
            dashboard_port=_number(environ, "BANK_DASHBOARD_PORT", port + 1, most=65535),
            workers=_number(environ, "BANK_WORKERS", 2, most=64),
            given=environ,
        )

    def prepare(self) -> None:
        """Make the directories, and see that no other `bank run` uses them as long as this process lives.

        Also empties the directory through which the processes share their metrics: one that was killed
        may have left a file there that makes every later reading fail. Raises StartError.
        """
        for directory in (self.data_dir, self.data_dir / "logs", self.metrics):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if lock(self.data_dir / "run.lock") is None:
            raise StartError(f"A bank runs on {self.data_dir} already. Stop it, or set BANK_DATA_DIR to another place.")
        for file in self.metrics.glob("*.db"):
            file.unlink()

    @property
    def metrics(self) -> Path:
        """The directory of the metrics shared between processes."""
        return self.data_dir / "metrics"

    @property
    def admin_password_file(self) -> Path:
        """The file of the administrator's password, where it was not given."""
        return self.data_dir / "admin-password"

    @property
    def seal_key(self) -> str:
        """The seed of the key that seals the log, made at the first start where it is not given."""
        return self.given.get("BANK_SEAL_KEY") or secret(self.data_dir / "secrets" / "seal")

    @property
    def public_key(self) -> str:
        """Its public half, in hexadecimal digits. Raises StartError when what was given is no key."""
        # Here and not at the top: it is needed once, while PostgreSQL starts.
        from bank.proof import keys

        try:
            return keys.public_half(keys.private_key(self.seal_key)).hex()
        except ValueError as error:
            raise StartError("BANK_SEAL_KEY must be 64 hexadecimal digits; use `openssl rand -hex 32`.") from error

    def note(self, environment: Mapping[str, str]) -> None:
        """Write down what the bank's other commands need to work on this bank; for the owner only, since it
        holds secrets."""
        file = self.data_dir / NOTED
        file.touch(mode=0o600)
        file.write_text(json.dumps({name: environment[name] for name in TOLD if environment.get(name)}))

    def log(self, name: str) -> Path:
        """The log file of the process with that name."""
        return self.data_dir / "logs" / f"{name}.log"

    def servers(self) -> list[Server]:
        """The embedded servers that no given URL replaces."""
        replaceable: list[tuple[str, type[Server]]] = [("DATABASE_URL", Postgres), ("REDIS_URL", Redis)]
        return [server(self.data_dir) for name, server in replaceable if not self.given.get(name)]

    def environment(self, servers: list[Server]) -> dict[str, str]:
        """What all processes are told. The administrator's password is not in it, only the migration gets that; nor the key that
        seals the log, which only the follower gets."""
        environment = {name: value for name, value in self.given.items() if name not in ("BANK_ADMIN_PASSWORD", "BANK_SEAL_KEY")}
        environment["BANK_ENV"] = environment.get("BANK_ENV") or "development"
        if environment["BANK_ENV"] == "development":
            environment["BANK_SELF_SERVICE_DEPOSITS"] = environment.get("BANK_SELF_SERVICE_DEPOSITS") or "true"
            # The rates that are installed end on some day of the past, and shall do to play with.
            environment["BANK_FX_MAX_AGE_DAYS"] = environment.get("BANK_FX_MAX_AGE_DAYS") or "99999"
        environment["JWT_SECRET_KEY"] = environment.get("JWT_SECRET_KEY") or secret(self.data_dir / "secrets" / "jwt")
        environment["BANK_SEAL_PUBLIC_KEYS"] = ",".join(filter(None, (environment.get("BANK_SEAL_PUBLIC_KEYS"), self.public_key)))
        for server in servers:
            environment["DATABASE_URL" if isinstance(server, Postgres) else "REDIS_URL"] = server.url
        return environment | {"PORT": str(self.port), "PROMETHEUS_MULTIPROC_DIR": str(self.metrics), "PYTHONUNBUFFERED": "1"}


def _number(environ: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = environ.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= most:
        raise StartError(f"{name} is {text!r}; it must be a whole number from 1 to {most}.")
    return int(text)
