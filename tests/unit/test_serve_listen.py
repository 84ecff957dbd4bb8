import asyncio
import contextlib
import json
import re
import socket
import ssl
import time
from pathlib import Path

import pytest
from serving import BrakedEngine, noise, serving, tiny_predictor

from rayft.config import ServeConfig
from rayft.errors import ConfigError
from rayft.serve.limits import Limits
from rayft.serve.listen import ListenSettings, reserve_port, start_listening
from rayft.serve.replica import listen_settings
from rayft.serve.tls import TlsFiles

HEAD = b"POST /v1/models/zoo:predict HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return BrakedEngine(tiny_predictor(tmp_path_factory.mktemp("zoo") / "package"))


@pytest.fixture(scope="module")
def impatient(engine):
    limits = Limits(slow_client_s=1.0, max_connections=3, max_body_bytes=1000, requests_per_connection=5)
    with serving(engine, ListenSettings(port=0, limits=limits)) as running:
        yield running


def connect(endpoint):
    return socket.create_connection(("127.0.0.1", endpoint.listeners.port), timeout=20)


def read_all(connection) -> bytes:
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def read_one(connection) -> bytes:
    """Read one answer in JSON, up to the end of its object."""
    answer = b""
    while b"}" not in answer:
        answer += connection.recv(1 << 16)
    return answer


def status_of(answer: bytes) -> int:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert json.loads(body)["error"]
    return int(head.split()[1])


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /v1/mod",
        HEAD + b"X-Slow: ",
        b"\r\n",
        HEAD + b"Content-Length: 10\r\n\r\n123",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n",
    ],
)
def test_a_client_that_does_not_go_on_is_told_and_left(impatient, sent):
    with connect(impatient) as connection:
        start = time.monotonic()
        connection.sendall(sent)
        answer = read_one(connection)
        assert status_of(answer) == 408
        assert 0.5 < time.monotonic() - start < 15
    assert impatient.ask("GET", "/health/live")[0] == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"GET http://x HTTP/1.1\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT x:1 HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (HEAD + b"Content-Length: -1\r\n\r\n", 400),
        (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (HEAD + b"X: " + b"y" * (70 << 10), 431),
    ],
)
def test_what_is_no_http_is_refused(impatient, sent, status):
    with connect(impatient) as connection:
        connection.sendall(sent)
        assert status_of(read_all(connection)) == status


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 1000000000\r\n\r\n",
        b"Content-Length: 1001\r\nExpect: 100-continue\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n" + (b"200\r\n" + b"x" * 512 + b"\r\n") * 2,
    ],
)
def test_a_body_too_large_is_refused_before_it_has_come(impatient, rest):
    with connect(impatient) as connection:
        connection.sendall(HEAD + rest)
        answer = read_one(connection)
        assert status_of(answer) == 413


def test_a_refused_body_that_goes_on_coming_leaves_the_connection_usable(impatient):
    body = b"x" * 300_000
    with connect(impatient) as connection:
        connection.sendall(HEAD + b"Content-Length: 300000\r\n\r\n")
        assert b"413" in connection.recv(1 << 16).splitlines()[0]
        connection.sendall(body + b"GET /health/live HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert b"200 OK" in read_all(connection)


def test_bodies_are_bounded_together_as_well(engine):
    limits = Limits(max_held_bytes=5000)
    with serving(engine, ListenSettings(port=0, limits=limits)) as endpoint:
        for _ in range(3):
            with connect(endpoint) as first:
                first.sendall(HEAD + b"Content-Length: 4000\r\n\r\n" + b"x" * 3000)
                # Until those have been read, a second one still fits.
                until = time.monotonic() + 20
                while (answer := endpoint.ask("POST", "/v1/models/zoo:predict", b"x" * 3000))[0] == 422:
                    assert time.monotonic() < until
                assert (answer[0], answer[1]["retry-after"]) == (429, "1")
                # The first is let through, and is no picture.
                first.sendall(b"x" * 1000)
                assert status_of(read_one(first)) == 422
        assert len(endpoint.predict(noise(1))) == 3


def test_one_connection_too_many_is_refused(impatient):
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(impatient)) for _ in range(3)]
        # Answered, so they are all known.
        for connection in held:
            connection.sendall(b"GET /health/live HTTP/1.1\r\n\r\n")
            assert b"200 OK" in read_one(connection)
        with connect(impatient) as connection:
            answer = read_all(connection)
            assert status_of(answer) == 503
            assert b"retry-after: 1" in answer
    until = time.monotonic() + 20
    while impatient.ask("GET", "/health/live")[0] == 503:
        assert time.monotonic() < until


def test_a_connection_ends_after_its_share_of_requests(impatient):
    with connect(impatient) as connection:
        count, answer = 0, b""
        while b"connection: close" not in answer:
            connection.sendall(b"GET /health/live HTTP/1.1\r\n\r\n")
            answer = read_one(connection)
            count += 1
            assert count < 10
        # Five, give or take a fifth.
        assert 4 <= count <= 6
        assert read_all(connection) == b""


def test_pipelined_requests_are_answered_in_order(impatient):
    with connect(impatient) as connection:
        connection.sendall(
            b"GET /health/live HTTP/1.1\r\n\r\nGET /v2 HTTP/1.1\r\n\r\n"
            b"GET /nowhere HTTP/1.1\r\nConnection: close\r\n\r\n"
        )
        answers = read_all(connection)
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"200", b"404"]
    assert answers.index(b'"live"') < answers.index(b'"rayft"') < answers.index(b"nowhere")


def test_a_reserved_port_is_shared_but_not_with_strangers(engine):
    with reserve_port("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        settings = ListenSettings(port=port)
        with serving(engine, settings) as first, serving(engine, settings) as second:
            assert (first.listeners.port, second.listeners.port) == (port, port)
            assert first.ask("GET", "/health/live")[0] == 200
            with pytest.raises(ConfigError) as caught:
                reserve_port("127.0.0.1", port)
            assert f"127.0.0.1:{port}" in caught.value.args[0]
            assert "another port" in caught.value.args[1]


def test_a_port_of_somebody_else_is_refused(engine):
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        settings = ListenSettings(port=stranger.getsockname()[1])
        with pytest.raises(ConfigError, match=str(settings.port)):
            asyncio.run(start_listening(engine, settings, metrics=lambda: ("text/plain", b"")))


@pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.7"])
def test_a_host_that_is_not_here_is_refused(host):
    with pytest.raises(ConfigError, match=host):
        reserve_port(host, 0)


def test_the_bound_address_is_the_one_asked_for(engine):
    # Another address of the loopback network is not answered.
    with serving(engine, ListenSettings(port=0)) as endpoint, pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", endpoint.listeners.port), timeout=5)


# TLS.


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """Files of a certificate that signs itself, for 127.0.0.1."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "rayft test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    traditional = serialization.PrivateFormat.TraditionalOpenSSL
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, traditional, plain))
    locked = serialization.BestAvailableEncryption(b"secret")
    (folder / "locked.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, traditional, locked))
    return folder


def ask_tls(endpoint, context) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", endpoint.listeners.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(b"GET /health/live HTTP/1.1\r\nConnection: close\r\n\r\n")
        return read_all(connection)


def test_tls_is_spoken_where_files_are_given(engine, authority):
    files = TlsFiles(authority / "cert.pem", authority / "key.pem")
    with serving(engine, ListenSettings(port=0, tls=files)) as endpoint:
        context = ssl.create_default_context(cafile=authority / "cert.pem")
        assert b"200 OK" in ask_tls(endpoint, context)
        with connect(endpoint) as plain:
            plain.sendall(b"GET /health/live HTTP/1.1\r\n\r\n")
            assert b"200 OK" not in read_all(plain)


def test_clients_without_a_certificate_are_refused_where_one_is_asked_for(engine, authority):
    files = TlsFiles(authority / "cert.pem", authority / "key.pem", authority / "cert.pem")
    with serving(engine, ListenSettings(port=0, tls=files)) as endpoint:
        context = ssl.create_default_context(cafile=authority / "cert.pem")
        # TLS 1.3 refuses after the handshake: as an error, or as the end of the connection.
        with contextlib.suppress(OSError):
            assert ask_tls(endpoint, context) == b""
        context.load_cert_chain(authority / "cert.pem", authority / "key.pem")
        assert b"200 OK" in ask_tls(endpoint, context)


def test_the_config_of_an_endpoint_may_ask_for_certificates_of_clients():
    tls = {"cert": "cert.pem", "key": "key.pem"}
    assert listen_settings(ServeConfig(models=("zoo",), tls=tls)).tls == TlsFiles(Path("cert.pem"), Path("key.pem"))
    asking = listen_settings(ServeConfig(models=("zoo",), tls={**tls, "client_ca": "ca.pem"}))
    assert asking.tls.client_ca == Path("ca.pem")


@pytest.mark.parametrize("key", ["locked.pem", "cert.pem", "missing.pem"])
def test_tls_files_that_do_not_fit_are_refused(engine, authority, key):
    settings = ListenSettings(port=0, tls=TlsFiles(authority / "cert.pem", authority / key))
    with pytest.raises(ConfigError, match=key):
        asyncio.run(start_listening(engine, settings, metrics=lambda: ("text/plain", b"")))


def test_without_keys_only_loopback_is_allowed(engine):
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0") as caught:
        asyncio.run(start_listening(engine, ListenSettings(host="0.0.0.0", port=0), metrics=lambda: ("", b"")))
    assert "rayft keys create" in caught.value.args[1]


def test_a_picture_is_answered_after_all_that(impatient):
    assert len(impatient.predict(noise(1))) == 3
