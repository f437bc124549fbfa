"""What the clock rings for. The names are in Redis, and a promise."""

# What ticks, and how often in seconds.
TICKS = {
    "bank.schedules.jobs.run_due": 2,
    "bank.processing.tasks.sweep": 3,
    "bank.processing.expiry.expire_holds": 5,
    "bank.replay.jobs.sweep_replays": 5,
    "bank.processing.sample.check_sample": 60,
    "bank.fx.jobs.refresh_rates": 3_600,
    "bank.auth.jobs.forget_logins": 3_600,
}

# What may take long, or waits for others, keeps nobody from posting.
SLOW = {"bank.fx.jobs.refresh_rates", "bank.auth.jobs.forget_logins"}
