"""gunicorn's own log, in the format of all others: `logger_class` in `bank/gunicorn.py`, `--logger-class` elsewhere."""

from typing import Any

from gunicorn.glogging import Logger

from bank.config import Config, ConfigError
from bank.observability import logs


class Log(Logger):
    """What the arbiter and its workers say of themselves, as our lines."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        try:
            config = Config.from_env()
        except ConfigError:
            # The workers will say so, and end.
            config = Config()
        for handler in self.error_log.handlers:
            handler.setFormatter(logs.formatter(config))
