"""What the property-based test of the HTTP API may not take from the schema alone.

A schema cannot say everything: that a token is one that was granted, or that a text has so many bytes. A request that fits
the schema may be refused for one of the reasons below, which the field's description says, and for no other.
"""

import itertools
import json
import os

import requests
import schemathesis

NODE = os.environ["HOLDFAST_NODE"]
TENANT = "acme"
# Keys whose lease ran out before the test began, under a policy that holds them: what claim and resolve are about.
LAPSED = [f"lapsed-{number}" for number in range(63)]
turns = itertools.count()

BYTES = {"actor": 128, "reason": 512, "worker": 128, "checkpoint.name": 64}


def is_said(code: str, field: str, body: dict) -> bool:
    """Whether the documentation says that this body is refused, though it fits the schema."""
    if code == "token-invalid":
        # Those that the schema's texts make are no token, and one that was granted is another key's.
        return True
    if code == "key-invalid":
        return body.get("key", "").startswith("hf1.")
    if field in BYTES:
        value = body.get("checkpoint", {}).get("name", "") if field == "checkpoint.name" else body.get(field, "")
        return len(value.encode("utf-8", "surrogatepass")) > BYTES[field]
    if not body.get("endpoint"):
        # The endpoint's default is the method and the path of the request, and has to be a name.
        request = body.get("request") or {}
        path = request.get("path", "").split("?")[0].split("#")[0]
        default = f"{request.get('method', '')} {path}"
        is_name = len(default) <= 256 and all(" " <= character <= "~" for character in default)
        return (field == "request.path" and not path.startswith("/")) or (field == "endpoint" and not is_name)
    return False


@schemathesis.check
def accepted_as_documented(ctx, response, case):
    """A request that fits the schema is refused only for what the documentation says besides."""
    if response.status_code not in (400, 413, 415, 422) or not case.meta.generation.mode.is_positive:
        return
    problem = json.loads(response.content)
    body = case.body if isinstance(case.body, dict) else {}
    if not is_said(problem["code"], problem.get("field") or "", body):
        raise AssertionError(f"a request that fits the schema is refused: {problem['code']}: {problem['detail']}")


def reserve(key: str, lease_ms: int) -> dict:
    """The grant of a new key."""
    body = {"tenant": TENANT, "key": key, "fingerprint": "aa", "lease_ms": lease_ms}
    return requests.post(f"{NODE}/v1/reserve", json=body, timeout=10).json()


FENCING = {key: reserve(key, 50)["fencing"] for key in LAPSED}


@schemathesis.hook
def before_call(ctx, case, kwargs):
    """Leads most requests that fit the schema to a key that there is: generated ones would find none."""
    turn = next(turns)
    if not case.meta.generation.mode.is_positive or turn % 4 == 0:
        return
    lapsed = LAPSED[turn % len(LAPSED)]
    body = case.body
    if isinstance(body, dict) and "token" in body:
        key = f"granted-{turn}"
        case.body = {**body, "tenant": TENANT, "key": key, "token": reserve(key, 60_000)["token"]}
    elif isinstance(body, dict) and ("worker" in body or "verdict" in body):
        fencing = {"fencing": FENCING[lapsed]} if "verdict" in body else {}
        case.body = {**body, **fencing, "tenant": TENANT, "key": lapsed}
    elif isinstance(body, dict) and "fingerprint" in body and turn % 2 == 0:
        case.body = {**body, "tenant": TENANT, "key": lapsed}
    elif "key" in case.path_parameters:
        case.path_parameters = {"tenant": TENANT, "key": lapsed}
