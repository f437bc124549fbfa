"""Fetching what a provider has published, as RQ runs it."""

import structlog
from flask import current_app

from bank.config import Config
from bank.fx import service
from bank.fx.provider import EuropeanCentralBank, RateProvider
from bank.resilience.cache import cache

log = structlog.get_logger(__name__)


def refresh_rates() -> int:
    """Take in the days that the provider has published since the last time, and forget old quotes; runs by rq-scheduler.

    Returns how many days. The provider is asked between transactions and never within one. Raises Unavailable when it cannot be
    reached; the next time is in an hour, and what is here counts for days.
    """
    config: Config = current_app.config["BANK"]
    service.forget_quotes()
    provider: RateProvider = EuropeanCentralBank(config.fx_url, outside_only=config.env == "production")
    days = provider.days_after(service.newest_day())
    service.record(provider.name, days)
    if days:
        cache().forget("rates")
        log.info("rates_recorded", source=provider.name, days=len(days), newest=days[-1].day.isoformat())
    return len(days)
