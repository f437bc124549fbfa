"""bank: double-entry money behind an HTTP API."""

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from bank.config import Config


def create_app(config: "Config | None" = None) -> "Flask":
    """A configured application. Connects to nothing: the first request or job does.

    Raises ConfigError when `config` is not given and the environment is not usable.
    """
    # Imported here and not above: whoever needs only a part of the package, as the supervisor does, starts sooner.
    from flask import Flask
    from flask_cors import CORS
    from werkzeug.middleware.proxy_fix import ProxyFix

    from bank import db as database
    from bank.accounts import service as accounts_service
    from bank.accounts.views import blp as accounts
    from bank.audit.views import blp as audit
    from bank.auth import tokens
    from bank.auth.views import blp as auth
    from bank.balances import service as balances_service
    from bank.balances.views import blp as balances
    from bank.batches.views import blp as batches
    from bank.config import Config
    from bank.console import accounts as _accounts_pages  # noqa: F401 - the pages, each of which puts itself on their blueprint
    from bank.console import orders as _orders_pages  # noqa: F401 - the same
    from bank.console import session
    from bank.console import transactions as _transactions_pages  # noqa: F401 - the same
    from bank.console import views as _other_pages  # noqa: F401 - the same
    from bank.console.pages import blp as console
    from bank.followers import models as _followers  # noqa: F401 - has no views, and the migrations must know its tables
    from bank.fx import service as fx_service
    from bank.fx.views import blp as fx
    from bank.imports import models as _imports  # noqa: F401 - the same
    from bank.limits import models as _limits  # noqa: F401 - for the migrations too: its views read the tables by their names
    from bank.limits.views import limits, rules
    from bank.observability import access, health, logs, metrics, stats, traces
    from bank.observability.views import blp as admin
    from bank.privacy.views import blp as privacy
    from bank.processing import shedding, standby
    from bank.proof import models as _proof  # noqa: F401 - the same
    from bank.replay.views import blp as replays
    from bank.resilience import cache, deadlines, replicas
    from bank.schedules.views import blp as schedules
    from bank.statements.views import blp as statements
    from bank.transactions.views import blp as transactions
    from bank.users import service as users_service
    from bank.users.views import blp as users
    from bank.web import body, context, docs, headers, problems, streaming
    from bank.web import limits as rate_limits
    from bank.web.api import Api

    config = config or Config.from_env()
    logs.configure(config)
    app = Flask(__name__, static_folder=None)
    app.request_class = body.StrictRequest
    app.json = body.StrictJSON(app)
    app.config.update(
        BANK=config,
        # A batch may be larger; its route says so.
        MAX_CONTENT_LENGTH=64 * 1024,
        MAX_FORM_MEMORY_SIZE=64 * 1024,
        JWT_SECRET_KEY=config.jwt_secret,
        JWT_ACCESS_TOKEN_EXPIRES=timedelta(seconds=config.access_token_seconds),
        JWT_REFRESH_TOKEN_EXPIRES=timedelta(seconds=config.refresh_token_seconds),
        **database.settings(config.database_url, config.database_replica_url, max(config.web_threads, config.worker_threads + 1)),
        **docs.settings(config),
        **rate_limits.settings(config),
    )
    if config.trusted_proxies:
        proxies = config.trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=proxies)  # type: ignore[method-assign]
    database.init_app(app)
    deadlines.init_app(app)
    app.extensions.update(standby=standby.Standby(app), gate=shedding.Gate())
    headers.init_app(app)
    context.init_app(app)
    traces.init_app(app, config)
    access.init_app(app)
    problems.init_app(app)
    streaming.init_app(app, config)
    if config.cors_origins:
        # The console is for its own pages alone.
        CORS(app, resources="/api/*", origins=list(config.cors_origins), supports_credentials=False, expose_headers=headers.EXPOSED)
    # By a token, or on the pages by a cookie.
    rate_limits.init_app(app, lambda: tokens.user() or session.user())
    replicas.init_app(app, config, tokens.user)
    tokens.init_app(app)
    loads = {"account": accounts_service.shown, "balance": balances_service.shown, "user": users_service.shown, "rates": fx_service.shown}
    cache.init_app(app, config, loads)
    metrics.init_app(app, config)
    stats.init_app(app)
    health.init_app(app)
    docs.init_app(app, config)
    api = Api(app)
    for blueprint in (
        auth,
        users,
        privacy,
        accounts,
        statements,
        transactions,
        batches,
        schedules,
        limits,
        rules,
        fx,
        balances,
        audit,
        admin,
        replays,
    ):
        api.register_blueprint(blueprint)
    app.register_blueprint(console)
    return app
