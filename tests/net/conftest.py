import ssl

import attrs
import pytest
import trustme

from .peers import Batches, Dialled


@attrs.frozen
class Certificates:
    """TLS for `localhost` and 127.0.0.1, by an authority that only `client` trusts."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    other_host: ssl.SSLContext
    stranger: ssl.SSLContext


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    authority, stranger = trustme.CA(), trustme.CA()

    def server(issuer: trustme.CA, *names: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issuer.issue_cert(*names).configure_cert(context)
        return context

    client = ssl.create_default_context()
    authority.configure_trust(client)
    return Certificates(
        server(authority, "localhost", "127.0.0.1"),
        client,
        server(authority, "elsewhere.example"),
        server(stranger, "localhost", "127.0.0.1"),
    )


@pytest.fixture
def sink() -> Batches:
    return Batches()


@pytest.fixture
def dialled() -> Dialled:
    return Dialled()
