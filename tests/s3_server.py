"""A local S3 service for tests: moto's server in a thread, on loopback, with credentials that only it knows."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

BUCKET = "bucket"
_folders = itertools.count()


class Service:
    """A running service; ``stop`` and ``start`` keep its address and, as the bucket lives in memory, its objects."""

    def __init__(self) -> None:
        from moto.moto_server.threaded_moto_server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        host, self.port = self._server.get_host_and_port()
        self.endpoint = f"http://{host}:{self.port}"

    def stop(self) -> None:
        """Answer nothing more."""
        self._server.stop()

    def start(self) -> None:
        """Answer again, at the same port."""
        from moto.moto_server.threaded_moto_server import ThreadedMotoServer

        self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()

    def folder(self) -> str:
        """Address of a folder that no other test uses."""
        return f"s3://{BUCKET}/test-{next(_folders)}"


@contextmanager
def serving() -> Iterator[Service]:
    """A service, with the environment that finds it; the bucket is there."""
    service = Service()
    environment = {
        "AWS_ENDPOINT_URL": service.endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            import boto3

            boto3.client("s3").create_bucket(Bucket=BUCKET)
            yield service
        finally:
            service.stop()
