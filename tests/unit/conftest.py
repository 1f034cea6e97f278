"""What unit tests of several packages share."""

import os
from collections.abc import Iterator

import boto3
import pytest


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Numbers that are compared to the bit come from one thread."""
    import torch  # a second and more, and most unit tests do without

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def bucket(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """s3:// URI of an empty folder in a bucket that exists, with the environment leading to it."""
    lead_to(moto_endpoint, monkeypatch)
    boto3.client("s3", endpoint_url=moto_endpoint).create_bucket(Bucket="food")
    return f"s3://food/{os.urandom(4).hex()}"


def lead_to(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes that endpoint the one that s3:// means."""
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
