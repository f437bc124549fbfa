"""The console in Chromium, on a bank of real processes; one transfer that is found everywhere.

Screenshots of every page are kept in `build/screenshots`.
"""

import json
import re
import secrets
import subprocess
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import chromium, needs_chromium  # noqa: F401 - a fixture
from tests.observability.conftest import METRICS_TOKEN, SPAN, Watched, watched  # noqa: F401 - a fixture
from tests.processes import ADMIN_PASSWORD, HOST, ROOT, wait_until

SCREENSHOTS = ROOT / "build" / "screenshots"

pytestmark = needs_chromium


@pytest.fixture
def open_page(chromium: Browser, watched: Watched) -> Iterator[Callable[..., Page]]:  # noqa: F811
    """Open the console as an administrator: a page on which nothing goes wrong."""
    contexts, wrong = [], []

    def open_page(**options: object) -> Page:
        context = chromium.new_context(base_url=f"http://{HOST}:{watched.bank.port}", **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.goto("/console/")
        page.get_by_label("Username or email").fill("admin")
        page.get_by_label("Password").fill(ADMIN_PASSWORD)
        page.get_by_label("Password").press("Enter")
        expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def test_swagger_ui_needs_nothing_that_its_policy_refuses(open_page: Callable[..., Page]) -> None:
    # What the policy refuses is an error of the page, and the page has none.
    page = open_page()
    page.goto("/docs")
    live = page.locator(".opblock", has_text="/api/v1/auth/me")
    live.first.click()
    live.first.get_by_role("button", name="Try it out").click()
    expect(live.first.get_by_role("button", name="Execute")).to_be_visible()


def keep(page: Page, name: str) -> None:
    """Take a screenshot; nothing may reach beyond the width of the page."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), name


def curl(watched: Watched, request_id: str, trace_id: str) -> str:  # noqa: F811
    """A transfer as the README has it made; its id."""
    source, target = watched.accounts
    body = {"from_account_id": source, "to_account_id": target, "amount": "7.77", "currency": "USD"}
    told = {
        "Authorization": f"Bearer {watched.client.token}",
        "Content-Type": "application/json",
        "X-Request-ID": request_id,
        "Prefer": "wait=20",
        "traceparent": f"00-{trace_id}-{SPAN}-01",
    }
    headers = [part for name, value in told.items() for part in ("-H", f"{name}: {value}")]
    url = f"http://{HOST}:{watched.bank.port}/api/v1/transactions/transfer"
    done = subprocess.run(["curl", "-sS", *headers, "-d", json.dumps(body), url], capture_output=True, text=True, timeout=60, check=True)
    made = json.loads(done.stdout)
    assert made["status"] == "completed", made
    return str(made["id"])


def posted_transfers(watched: Watched) -> float:  # noqa: F811
    """The metric of posted transfers, over all processes."""
    shown = watched.client.request("GET", "/metrics", headers={"Authorization": f"Bearer {METRICS_TOKEN}"}).body.decode()
    return sum(
        float(value) for value in re.findall(r'^bank_transactions_posted_total\{[^}]*type="transfer"[^}]*\} ([0-9.e+]+)$', shown, re.M)
    )


def test_one_transfer_by_curl_is_found_everywhere(watched: Watched, open_page: Callable[..., Page]) -> None:  # noqa: F811
    request_id, trace_id = f"curl-{secrets.token_hex(6)}", secrets.token_hex(16)
    before = posted_transfers(watched)
    made = curl(watched, request_id, trace_id)

    # In a log line of the request, and of the worker that posted it.
    lines = [line for name in ("web", "worker-1") for line in watched.lines(name)]
    of_it = [line for line in lines if line.get("request_id") == request_id]
    assert any(line["event"] == "request" and line["status"] == 201 and line["trace_id"] == trace_id for line in of_it)
    assert any(line.get("transaction_id") == made and line["event"] != "request" for line in of_it)
    # In a metric.
    wait_until(lambda: posted_transfers(watched) == before + 1, "the metric counts it")
    # In a trace.
    wait_until(
        lambda: {"POST /api/v1/transactions/transfer", "enqueue", "drain", "WITH"} <= watched.sink.of(trace_id).keys(), "its trace arrives"
    )
    [drain] = watched.sink.of(trace_id)["drain"]
    wait_until(
        lambda: any(
            "INSERT INTO entries" in span.attributes.get("db.query.text", "")
            for spans in watched.sink.of(drain.links[0][0]).values()
            for span in spans
        ),
        "the SQL of its batch arrives",
    )
    # In the audit log.
    audited = watched.client.get(f"/audit-logs?entity_type=transaction&entity_id={made}").json["data"]
    assert [(row["action"], row["request_id"]) for row in audited] == [("transaction.transfer", request_id)]
    # In the console, by the id of its request.
    page = open_page()
    page.get_by_label("Find").fill(request_id)
    page.get_by_label("Find").press("Enter")
    expect(page.get_by_role("heading", name="Transfer of 7.77 USD completed")).to_be_visible()
    expect(page.locator("#request")).to_have_text(request_id)
    expect(page.locator("#trace")).to_have_text(trace_id)
    assert page.url.endswith(made)
    keep(page, "transaction")


def test_the_tiles_move_without_a_touch(watched: Watched, open_page: Callable[..., Page]) -> None:  # noqa: F811
    page = open_page()
    posted = page.locator(".tiles div", has=page.get_by_text("Posted", exact=True)).locator("dd")
    before = int(posted.inner_text())
    watched.transfer("moves-the-tiles")
    expect(posted).not_to_have_text(str(before))
    expect(page.get_by_role("img", name=re.compile("^Posted per second"))).to_be_visible()
    keep(page, "overview")


def test_an_account_is_frozen_by_the_keyboard_alone(watched: Watched, open_page: Callable[..., Page]) -> None:  # noqa: F811
    account = watched.client.post("/accounts", {"currency": "USD", "name": "To be frozen"}).json["id"]
    page = open_page()
    page.goto(f"/console/accounts/{account}")
    keep(page, "account-empty")
    page.get_by_role("link", name="Freeze …").press("Enter")
    page.keyboard.type("Card was stolen")
    keep(page, "freeze")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="To be frozen frozen")).to_be_visible()
    assert watched.client.get(f"/accounts/{account}").json["status"] == "frozen"


def test_a_transfer_is_rolled_back(watched: Watched, open_page: Callable[..., Page]) -> None:  # noqa: F811
    made = watched.transfer("to-be-rolled-back")["id"]
    page = open_page()
    page.goto(f"/console/transactions/{made}")
    page.get_by_role("link", name="Roll back …").click()
    page.get_by_label("Reason").fill("Sent by mistake")
    keep(page, "rollback")
    page.get_by_role("button", name="Roll back").click()
    expect(page.get_by_role("heading", name="Rollback of 1.00 USD completed")).to_be_visible()
    page.get_by_role("link", name=made).click()
    expect(page.get_by_role("definition").filter(has_text="1.00 USD")).to_be_visible()


def test_a_batch_fills_its_bar(watched: Watched, open_page: Callable[..., Page]) -> None:  # noqa: F811
    source, target = watched.accounts
    transfer = {"type": "transfer", "from_account_id": source, "to_account_id": target, "amount": "0.01", "currency": "USD"}
    batch = watched.client.post("/transactions/batch", {"mode": "independent", "transactions": [transfer] * 50}).json["id"]
    page = open_page()
    page.goto(f"/console/batches/{batch}")
    expect(page.get_by_text("0 of 50 final")).to_be_visible()
    watched.bank.add("worker-batch", "worker.py", "batch")
    watched.bank.wait_until_ready()
    expect(page.get_by_text("50 of 50 final")).to_be_visible()
    keep(page, "batch")


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 360)])
def test_every_page_in_both_themes_and_on_a_phone(watched: Watched, open_page: Callable[..., Page], theme: str, width: int) -> None:  # noqa: F811
    schedule = watched.client.post(
        "/schedules",
        {
            "name": "Rent",
            "transfer": {"from_account_id": watched.accounts[0], "to_account_id": watched.accounts[1], "amount": "1.00", "currency": "USD"},
            "recurrence": {"rrule": "FREQ=DAILY", "time_zone": "UTC", "start": "2031-01-01T08:00:00Z"},
        },
    ).json["id"]
    made = watched.transfer(f"shown-{theme}")["id"]
    page = open_page(color_scheme=theme, viewport={"width": width, "height": 800})
    paths = {
        "overview": "",
        "accounts": "accounts",
        "account": f"accounts/{watched.accounts[0]}",
        "transactions": "transactions",
        "transaction": f"transactions/{made}",
        "schedules": "schedules",
        "schedule": f"schedules/{schedule}",
        "batches": "batches",
        "found": "find?q=admin",
    }
    for name, path in paths.items():
        page.goto(f"/console/{path}")
        expect(page.get_by_role("main").get_by_role("heading").first).to_be_visible()
        keep(page, f"{name}-{theme}-{width}")
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back == {"light": "rgb(248, 250, 252)", "dark": "rgb(15, 23, 42)"}[theme]
    # The first stop of the keyboard leads past the navigation.
    page.goto("/console/accounts")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"


@pytest.mark.parametrize("width", [360, 1280])
def test_a_long_word_makes_no_page_wider(watched: Watched, open_page: Callable[..., Page], width: int) -> None:  # noqa: F811
    source = watched.accounts[0]
    target = watched.client.post("/accounts", {"currency": "USD", "name": "N" * 100}).json["id"]
    transfer = {"from_account_id": source, "to_account_id": target, "amount": "1.00", "currency": "USD", "description": "D" * 200}
    made = watched.client.post("/transactions/transfer", transfer, Prefer="wait=20").json["id"]
    recurrence = {"rrule": "FREQ=DAILY", "time_zone": "UTC", "start": "2031-01-01T08:00:00Z"}
    schedule = watched.client.post("/schedules", {"name": "S" * 100, "transfer": transfer, "recurrence": recurrence}).json["id"]
    page = open_page(viewport={"width": width, "height": 800})
    for name, path in {
        "account": f"accounts/{target}",
        "freeze": f"accounts/{target}/freeze",
        "transaction": f"transactions/{made}",
        "rollback": f"transactions/{made}/rollback",
        "schedule": f"schedules/{schedule}",
        "found": f"find?q={'F' * 250}",
    }.items():
        page.goto(f"/console/{path}")
        expect(page.get_by_role("main").get_by_role("heading").first).to_be_visible()
        keep(page, f"{name}-long-{width}")


def test_the_reader_stays_where_they_are_when_the_overview_moves(watched: Watched, open_page: Callable[..., Page]) -> None:  # noqa: F811
    source, target = watched.accounts
    rule = watched.client.post("/rules", {"name": "Odd", "expression": "transaction.amount == 543", "effect": "review"}).json["id"]
    body = {"from_account_id": source, "to_account_id": target, "amount": "5.43", "currency": "USD"}
    held = watched.client.post("/transactions/transfer", body).json["id"]
    wait_until(lambda: watched.client.get(f"/transactions/{held}").json["review"] == "open", "it waits for a review")
    page = open_page(viewport={"width": 360, "height": 800})
    link = page.get_by_role("link", name=held)
    link.focus()
    page.evaluate("document.querySelector('.table').scrollLeft = 150")
    told = page.locator("#live").get_by_text("As of").locator("time")
    before = told.inner_text()
    expect(told).not_to_have_text(before)
    expect(link).to_be_focused()
    assert page.evaluate("document.querySelector('.table').scrollLeft") == 150
    other = watched.client.post("/transactions/transfer", body).json["id"]
    expect(page.get_by_role("link", name=other)).to_be_visible()
    watched.client.request("DELETE", f"/rules/{rule}")


def test_a_page_that_asks_by_itself_leads_to_the_login_when_there_is_none(watched: Watched, chromium: Browser) -> None:  # noqa: F811
    context = chromium.new_context(base_url=f"http://{HOST}:{watched.bank.port}")
    page = context.new_page()
    page.goto("/console/")
    page.get_by_label("Username or email").fill("admin")
    page.get_by_label("Password").fill(ADMIN_PASSWORD)
    page.get_by_label("Password").press("Enter")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    context.clear_cookies()
    page.wait_for_url("**/console/login", timeout=20_000)
    context.close()
