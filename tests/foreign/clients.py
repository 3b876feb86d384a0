"""Clients that retry by themselves, as their users set them up, against a gateway.

    clients.py <requests|httpx|aiohttp|stripe> <base url>

Prints one line of JSON for each call: what the library gave its caller in the end. What it sent on the way is counted
elsewhere. The first word of a key says what the upstream does to the first request that reaches it.
"""

import asyncio
import json
import sys
import time

# Less than a late answer takes, so that the first attempt of such a call ends without one.
TIMEOUT = 0.6
RETRIES = 7
RETRIED = (429, 500, 502, 503, 504)
BODY = {"amount": 2000, "currency": "usd"}
OTHER = {"amount": 9900, "currency": "usd"}
# What is called: the case, the endpoint, and the bodies that are sent one after the other under one key.
CALLS = [
    ("answer", "/v1/orders", [BODY, BODY]),
    ("late", "/v1/orders", [BODY, BODY]),
    ("drip", "/v1/orders", [BODY, BODY]),
    ("fail", "/v1/orders", [BODY]),
    ("busy", "/v1/orders", [BODY]),
    ("mismatch", "/v1/orders", [BODY, OTHER]),
    ("cut", "/v1/charges", [BODY]),
]


def told(case, key, status, headers, body):
    """Prints what a call came to."""
    marks = {name: headers.get(name) for name in ("idempotency-status", "idempotent-replayed")}
    print(json.dumps({"case": case, "key": key, "status": status, "body": body, **marks}), flush=True)


def may_retry(status, headers):
    """What a careful client does: the answer's own word first."""
    said = headers.get("stripe-should-retry")
    return said == "true" if said else status in RETRIED or status == 409


def pause(attempt, headers):
    return max(0.1 * 2**attempt, min(float(headers.get("retry-after") or 0), 2.0))


def run_requests(base):
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    retry = Retry(
        total=RETRIES, backoff_factor=0.1, status_forcelist=RETRIED, allowed_methods=None, raise_on_status=False
    )
    session = requests.Session()
    session.mount("http://", HTTPAdapter(max_retries=retry))

    def post(path, key, body):
        answer = session.post(base + path, json=body, headers={"Idempotency-Key": key}, timeout=TIMEOUT)
        return answer.status_code, answer.headers, answer.text

    call_all("requests", post)


def run_httpx(base):
    import httpx

    class Retrying(httpx.BaseTransport):
        """Sends a request again after a failure of the connection and after an answer that asks for it."""

        def __init__(self):
            self.inner = httpx.HTTPTransport()

        def handle_request(self, request):
            for attempt in range(RETRIES + 1):
                headers = {}
                try:
                    answer = self.inner.handle_request(request)
                    answer.read()
                    if attempt == RETRIES or not may_retry(answer.status_code, answer.headers):
                        return answer
                    headers = answer.headers
                except httpx.TransportError:
                    if attempt == RETRIES:
                        raise
                time.sleep(pause(attempt, headers))
            raise AssertionError("the last attempt returns or raises")

    client = httpx.Client(transport=Retrying(), timeout=TIMEOUT)

    def post(path, key, body):
        answer = client.post(base + path, json=body, headers={"Idempotency-Key": key})
        return answer.status_code, answer.headers, answer.text

    call_all("httpx", post)


def run_aiohttp(base):
    import aiohttp

    async def post(path, key, body):
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for attempt in range(RETRIES + 1):
                headers = {}
                try:
                    async with session.post(base + path, json=body, headers={"Idempotency-Key": key}) as answer:
                        text = await answer.text()
                        if attempt == RETRIES or not may_retry(answer.status, answer.headers):
                            return answer.status, answer.headers, text
                        headers = answer.headers
                except (aiohttp.ClientError, asyncio.TimeoutError):
                    if attempt == RETRIES:
                        raise
                await asyncio.sleep(pause(attempt, headers))
        raise AssertionError("the last attempt returns or raises")

    call_all("aiohttp", lambda path, key, body: asyncio.run(post(path, key, body)))


def call_all(client, post):
    for case, path, bodies in CALLS:
        key = f"{case}.{client}"
        for body in bodies:
            told(case, key, *post(path, key, body))


def run_stripe(base):
    import stripe

    stripe.api_key = "sk_test_none"
    stripe.api_base = base
    stripe.max_network_retries = 4
    stripe.enable_telemetry = False
    stripe.default_http_client = stripe.RequestsClient(timeout=TIMEOUT)

    def post(case, key, amount):
        try:
            made = stripe.PaymentIntent.create(amount=amount, currency="usd", idempotency_key=key)
            answer = made.last_response
            told(case, key, answer.code, answer.headers, answer.body)
        except stripe.StripeError as error:
            headers = {name.lower(): value for name, value in (error.headers or {}).items()}
            told(case, key, error.http_status, headers, f"{type(error).__name__}: {error.user_message}")

    for case, amounts in [
        ("answer", [2000, 2000]),
        ("late", [2000, 2000]),
        ("fail", [2000, 2000]),
        ("mismatch", [2000, 9900]),
        ("cut", [2000]),
    ]:
        for amount in amounts:
            post(case, f"{case}.stripe", amount)


if __name__ == "__main__":
    {"requests": run_requests, "httpx": run_httpx, "aiohttp": run_aiohttp, "stripe": run_stripe}[sys.argv[1]](sys.argv[2])
