"""rq-dashboard in a real browser: it works by its Content-Security-Policy, and what somebody brings into a page does not run."""

import threading
from collections.abc import Callable, Iterator

import pytest
import redis
from flask import Flask
from playwright.sync_api import Browser, Page, expect
from rq import Queue, Worker
from rq.serializers import JSONSerializer
from werkzeug.serving import make_server

from bank import dashboard
from bank.config import Config
from tests.browser import chromium, needs_chromium  # noqa: F401 - a fixture
from tests.conftest import PASSWORD, Person
from tests.processes import HOST

pytestmark = needs_chromium


@pytest.fixture
def address(config: Config, app: Flask) -> Iterator[str]:
    server = make_server(HOST, 0, dashboard.create_app(config), threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://{HOST}:{server.server_port}"
    server.shutdown()
    thread.join()


@pytest.fixture
def queue(config: Config) -> Iterator[Queue]:
    with redis.Redis.from_url(config.redis_url) as connection:
        queue = Queue("test-in-browser", connection=connection, serializer=JSONSerializer)
        yield queue
        queue.delete(delete_jobs=True)


Refused = list[str]


@pytest.fixture
def open_page(chromium: Browser, address: str, admin: Person) -> Iterator[Callable[[str], tuple[Page, Refused]]]:  # noqa: F811
    """Open a page as an administrator, and what goes wrong on it."""
    context = chromium.new_context(base_url=address, http_credentials={"username": admin.username, "password": PASSWORD})

    def open_page(path: str) -> tuple[Page, Refused]:
        page, wrong = context.new_page(), []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if "Content Security Policy" in message.text else None)
        page.goto(path)
        return page, wrong

    yield open_page
    context.close()


@pytest.fixture
def worker(queue: Queue) -> Iterator[Worker]:
    worker = Worker([queue], name="in-browser", connection=queue.connection, serializer=JSONSerializer)
    worker.register_birth()
    yield worker
    worker.register_death()


def test_every_page_works_by_its_policy(open_page: Callable[[str], tuple[Page, Refused]], queue: Queue, worker: Worker) -> None:
    job = queue.enqueue("bank.processing.tasks.drain", 1, description="drain lane 1")
    for path, place, shown in (
        ("/rq/", "table#queues", queue.name),
        ("/rq/0/view/workers", "table#workers", worker.name),
        (f"/rq/0/view/jobs/{queue.name}/queued/8/asc/1", "table#jobs", "drain lane 1"),
        (f"/rq/0/view/job/{job.id}", "div.container", "drain lane 1"),
    ):
        page, wrong = open_page(path)
        expect(page.locator(place)).to_contain_text(shown)
        assert wrong == []
    # What a click does is done by the inline script too.
    page, wrong = open_page(f"/rq/0/view/jobs/{queue.name}/queued/8/asc/1")
    page.locator("#empty-btn").click()
    page.locator("#confirmation-modal-yes").click()
    expect(page.locator("table#jobs")).to_contain_text("No jobs")
    assert (wrong, queue.count) == ([], 0)


_BRING = """html => new Promise(resolve => {
    document.addEventListener("securitypolicyviolation", event => resolve([event.effectiveDirective, window.ran]), {once: true});
    window.did = () => resolve(["nothing", true]);
    document.body.append(document.createRange().createContextualFragment(html));
})"""


@pytest.mark.parametrize(
    "html",
    [
        "<script>window.ran = true; did()</script>",
        "<script type='text/javascript'>window.ran = true; did()</script>",
        "<script nonce=''>window.ran = true; did()</script>",
        "<img src='/nowhere' onerror='window.ran = true; did()'>",
        "<script src='data:text/javascript,window.ran = true; did()'></script>",
    ],
)
def test_a_script_that_somebody_brings_into_a_page_does_not_run(open_page: Callable[[str], tuple[Page, Refused]], html: str) -> None:
    page, _ = open_page("/rq/")
    directive, ran = page.evaluate(_BRING, html)
    assert directive.startswith("script-src") and ran is None
