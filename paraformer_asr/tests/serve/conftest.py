"""One service, and one server of it, for all tests of a file: its programs are compiled once."""

import pytest

from serve.running_server import make_service, serving


@pytest.fixture(scope="module")
def service():
    service = make_service()
    service.start()
    yield service
    service.stop()


@pytest.fixture(scope="module")
def server(service):
    with serving(service) as server:
        yield server
