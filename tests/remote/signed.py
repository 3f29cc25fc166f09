"""Requests signed as AWS wants them (version 4), for what no client of ours does: a bucket's CORS rules, its policy."""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from urllib.parse import urlsplit

import httpx

from tests.remote.servers import S3Bucket


def put_setting(bucket: S3Bucket, what: str, body: bytes) -> None:
    """PUT /bucket?what. what: cors or policy."""
    host = urlsplit(bucket.endpoint).netloc
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(body).hexdigest()
    headers = {"host": host, "x-amz-content-sha256": digest, "x-amz-date": now}
    names = ";".join(headers)
    lines = [f"{name}:{value}" for name, value in headers.items()]
    request = "\n".join(["PUT", f"/{bucket.bucket}", f"{what}=", *lines, "", names, digest])
    scope = f"{now[:8]}/{bucket.region}/s3/aws4_request"
    wanted = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(request.encode()).hexdigest()])
    key = b"AWS4" + bucket.credentials["secret_access_key"].encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, wanted.encode(), "sha256").hex()
    said = f"Credential={bucket.credentials['access_key_id']}/{scope}, SignedHeaders={names}, Signature={signature}"
    answer = httpx.put(
        f"{bucket.endpoint}/{bucket.bucket}?{what}=",
        content=body,
        headers={**headers, "authorization": f"AWS4-HMAC-SHA256 {said}"},
    )
    answer.raise_for_status()
