"""Fetching what a provider has published, as RQ runs it."""

import structlog
from flask import current_app

from bank.config import Config
from bank.fx import service
from bank.fx.provider import EuropeanCentralBank, RateProvider
from bank.processing.counters import RatesSeen, counters
from bank.resilience.cache import cache

log = structlog.get_logger(__name__)


def refresh_rates() -> int:
    """Take in the days that the provider has published since the last time, and forget old quotes; runs by rq-scheduler.

    Returns how many days. The provider is asked between transactions and never within one. Raises Unavailable when it cannot be
    reached; the next time is in an hour, and what is here counts for days.
    """
    config: Config = current_app.config["BANK"]
    service.forget_quotes()
    newest = service.newest_day()
    if newest is not None:
        # Before the provider is asked: it may be away, and then this is of interest.
        counters.seen(RatesSeen(newest))
    provider: RateProvider = EuropeanCentralBank(config.fx_url)
    days = provider.days_after(newest)
    service.record(provider.name, days)
    if days:
        cache().forget("rates")
        counters.seen(RatesSeen(days[-1].day))
        log.info("rates_recorded", source=provider.name, days=len(days), newest=days[-1].day.isoformat())
    return len(days)
