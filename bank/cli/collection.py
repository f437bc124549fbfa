"""`bank collection`: every call of the API, to be tried in Postman or Bruno."""

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from bank import create_app
from bank.config import Config
from bank.web.examples import CAST

_SCHEMA = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"

# What a call's answer leaves for those that come after it: its operation, the member of the answer, and the variable.
_KEPT = {
    "auth_login": {"access_token": "access_token", "refresh_token": "refresh_token"},
    "auth_refresh": {"access_token": "access_token", "refresh_token": "refresh_token"},
    "auth_register": {"id": "user_id"},
    "accounts_open_account": {"id": "account_id"},
    "transactions_transfer": {"id": "transaction_id"},
    "batches_submit_batch": {"id": "batch_id"},
    "schedules_create_schedule": {"id": "schedule_id"},
    "limits_set_limit": {"id": "limit_id"},
    "rules_set_rule": {"id": "rule_id"},
    "replays_start_replay": {"id": "replay_id"},
}
_VARIABLES = ("access_token", "refresh_token", *CAST)


@dataclass(frozen=True, slots=True)
class Call:
    """One call with its examples; `url` and `body` have `{{variables}}` in the place of ids."""

    name: str
    folder: str
    method: str
    url: str
    description: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: str | None
    token: str | None
    kept: Mapping[str, str]


@click.command("collection")
@click.option("--format", "form", type=click.Choice(["postman", "bruno"]), default="postman", show_default=True, help="For which client.")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), default=".", show_default=True, help="Where to write it.")
@click.option("--url", default="http://localhost:8000", show_default=True, help="Where the bank is, to begin with.")
def command(form: str, output: Path, url: str) -> None:
    """Write every call of the API as a collection for Postman (v2.1) or Bruno.

    Made from the OpenAPI document of this version, a folder a tag; what is there is written over. Log in by the
    call of that name, and all others use its token. Needs no bank that runs.
    """
    spec = document()
    output.mkdir(parents=True, exist_ok=True)
    if form == "postman":
        written = [output / "bank.postman_collection.json"]
        written[0].write_text(json.dumps(postman(spec, url), indent=2, ensure_ascii=False) + "\n")
    else:
        written = []
        for name, text in bruno(spec, url).items():
            written.append(output / name)
            written[-1].parent.mkdir(parents=True, exist_ok=True)
            written[-1].write_text(text)
    click.echo(f"{output}: {len(written)} file{'s' if len(written) > 1 else ''}")


def document() -> dict[str, Any]:
    """The OpenAPI document. Nothing is connected to, and no setting changes what it says."""
    nowhere = {"DATABASE_URL": "postgresql+psycopg2://nobody@127.0.0.1:1/none", "REDIS_URL": "redis://127.0.0.1:1/0"}
    config = Config.from_env(
        {"BANK_ENV": "test", "JWT_SECRET_KEY": secrets.token_hex(32), "RATELIMIT_ENABLED": "false", "BANK_LOG_LEVEL": "ERROR", **nowhere}
    )
    found: dict[str, Any] = create_app(config).test_client().get("/openapi.json").get_json()
    return found


def calls(spec: Mapping[str, Any]) -> Iterator[Call]:
    """Every operation of an OpenAPI document, in its order, with the first of its examples."""
    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            if method == "parameters":
                continue
            parameters = operation.get("parameters", [])
            # An ETag or a cursor of nothing is no good to begin with; what there is of an example is.
            shown = {(each["in"], each["name"]): {**each.get("schema", {}), **each} for each in parameters if each["name"] != "If-Match"}
            examples = {key: str(each["example"]) for key, each in shown.items() if "example" in each}
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            headers = {name: value for (place, name), value in examples.items() if place == "header" and name != "Idempotency-Key"}
            if ("header", "Idempotency-Key") in shown:
                headers["Idempotency-Key"] = "{{$guid}}"
            if content:
                headers["Content-Type"] = "application/json"
            name = operation["operationId"]
            token = ("{{refresh_token}}" if name == "auth_refresh" else "{{access_token}}") if operation.get("security") else None
            yield Call(
                name=operation["summary"],
                folder=operation["tags"][0],
                method=method.upper(),
                url=re.sub(r"\{(\w+)\}", r"{{\1}}", path),
                description=operation.get("description", ""),
                headers=headers,
                query={
                    name: _named(value) for (place, name), value in examples.items() if place == "query" and shown[place, name]["required"]
                },
                body=_named(json.dumps(content["example"], indent=2, ensure_ascii=False)) if content else None,
                token=token,
                kept=_KEPT.get(name, {}),
            )


def _named(text: str) -> str:
    for name, value in CAST.items():
        text = text.replace(value, f"{{{{{name}}}}}")
    return text


def postman(spec: Mapping[str, Any], url: str) -> dict[str, Any]:
    """A collection of Postman, v2.1."""
    folders: dict[str, list[dict[str, Any]]] = {}
    for call in calls(spec):
        folders.setdefault(call.folder, []).append(_postman_item(call))
    described = {tag["name"]: tag.get("description", "") for tag in spec.get("tags", [])}
    return {
        "info": {"name": spec["info"]["title"], "description": spec["info"]["description"], "schema": _SCHEMA},
        "auth": {"type": "bearer", "bearer": [{"key": "token", "value": "{{access_token}}", "type": "string"}]},
        "variable": [{"key": "base_url", "value": url}, *({"key": name, "value": ""} for name in _VARIABLES)],
        "item": [{"name": folder, "description": described.get(folder, ""), "item": items} for folder, items in folders.items()],
    }


def _postman_item(call: Call) -> dict[str, Any]:
    query = [{"key": name, "value": value} for name, value in call.query.items()]
    request: dict[str, Any] = {
        "method": call.method,
        "description": call.description,
        "header": [{"key": name, "value": value} for name, value in call.headers.items()],
        "url": {
            "raw": f"{{{{base_url}}}}{_with_query(call)}",
            "host": ["{{base_url}}"],
            "path": call.url.strip("/").split("/"),
            **({"query": query} if query else {}),
        },
    }
    if call.token is None:
        request["auth"] = {"type": "noauth"}
    elif call.token != "{{access_token}}":  # noqa: S105 - a variable's name
        request["auth"] = {"type": "bearer", "bearer": [{"key": "token", "value": call.token, "type": "string"}]}
    if call.body is not None:
        request["body"] = {"mode": "raw", "raw": call.body, "options": {"raw": {"language": "json"}}}
    item: dict[str, Any] = {"name": call.name, "request": request, "response": []}
    if call.kept:
        kept = [f'    pm.collectionVariables.set("{variable}", answer.{member});' for member, variable in call.kept.items()]
        script = ["if (pm.response.code < 300) {", "    const answer = pm.response.json();", *kept, "}"]
        item["event"] = [{"listen": "test", "script": {"type": "text/javascript", "exec": script}}]
    return item


def _with_query(call: Call) -> str:
    # The braces of a variable stay as they are.
    return f"{call.url}?{urlencode(call.query, safe='{}:')}" if call.query else call.url


def bruno(spec: Mapping[str, Any], url: str) -> dict[str, str]:
    """The files of a collection of Bruno, by their paths in its folder."""
    variables = "\n".join([f"  base_url: {url}", *(f"  {name}: " for name in _VARIABLES)])
    about = {"version": "1", "name": spec["info"]["title"], "type": "collection"}
    files = {
        "bruno.json": json.dumps(about, indent=2) + "\n",
        "environments/local.bru": f"vars {{\n{variables}\n}}\n",
    }
    for number, call in enumerate(calls(spec), 1):
        name = re.sub(r"[^\w ,-]", "", call.name)
        files[f"{call.folder}/{name}.bru"] = _bruno_file(call, name, number)
    return files


def _bruno_file(call: Call, name: str, number: int) -> str:
    kind, auth = "json" if call.body is not None else "none", "bearer" if call.token else "none"
    parts = [
        ("meta", [f"name: {name}", "type: http", f"seq: {number}"]),
        (call.method.lower(), [f"url: {{{{base_url}}}}{_with_query(call)}", f"body: {kind}", f"auth: {auth}"]),
        ("params:query", [f"{name}: {value}" for name, value in call.query.items()]),
        ("headers", [f"{name}: {value}" for name, value in call.headers.items()]),
        ("auth:bearer", [f"token: {call.token}"] if call.token else []),
        ("body:json", (call.body or "").splitlines()),
        ("script:post-response", _bruno_script(call)),
        ("docs", call.description.splitlines()),
    ]
    return "\n\n".join(f"{part} {{\n" + "".join(f"  {line}\n" for line in lines) + "}" for part, lines in parts if lines) + "\n"


def _bruno_script(call: Call) -> list[str]:
    kept = [f'  bru.setEnvVar("{variable}", res.body.{member});' for member, variable in call.kept.items()]
    return ["if (res.status < 300) {", *kept, "}"] if kept else []
