"""What a user sees of a network, a disk or an account that does not work."""

import datetime
import errno
import ipaddress
import json
import shutil
import socket
import ssl
import threading

import pytest

import tests.hub_server as hub_server
from comigs_mlx import sync
from comigs_mlx.federation.exchanges.hub import client
from tests.federation.conftest import TOKENS, reach
from tests.hub_server import Fault

SECRET = "hf_" + "Secret" * 5


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(client, "FIRST_WAIT", 0.05)
    monkeypatch.setattr(client, "CONNECT", 1.0)


@pytest.fixture
def at(monkeypatch, hub):
    """(endpoint, user, patience): where and as whom the command reaches a Hub."""
    hub.store.users[SECRET] = "ann"

    def chosen(endpoint=hub.url, token=SECRET, patience=0.5):
        reach(monkeypatch, endpoint, token, patience=patience)

    yield chosen
    del hub.store.users[SECRET]


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained(), tmp_path / "run")


@pytest.fixture
def fails(cli, run, repo):
    """(words, actions) -> each ends with one line with these words, exit 2."""

    def check(*words, actions=("pull", "push", "status")):
        before = content(run)
        for action in actions:
            argv = ["--federation", f"hf://{repo}"]
            argv += [] if action == "status" else ["--run", str(run)]
            argv += ["--participant", "ann"] if action == "push" else []
            code, out, err = cli(sync.main, action, *argv)
            last = err.strip().splitlines()[-1]
            assert code == 2, err
            assert out == ""
            for word in words:
                assert word in last
            assert "Traceback" not in err
            assert "Secret" not in err
            assert content(run) == before

    return check


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture
def made(cli, run, repo, at):
    """A federation on the loopback Hub, founded by ann with this run."""
    at(patience=10)
    argv = ["init", "--federation", f"hf://{repo}", "--run", str(run)]
    code, _, err = cli(sync.main, *argv, "--quorum", "1")
    assert code == 0, err
    (run / "federation.json").unlink()
    at()


def certificate(folder):
    """A self-signed certificate of 127.0.0.1 and its key, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "proxy")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "certificate.pem"
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    file.write_bytes(key.private_bytes(pem, form, plain) + signed.public_bytes(pem))
    return file


@pytest.fixture
def https(tmp_path):
    """A Hub behind TLS that nobody vouches for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    server = hub_server.Server()
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with server:
        yield f"https://127.0.0.1:{server.server_port}"


def test_a_certificate_nobody_vouches_for(at, fails, https):
    at(https)
    fails("certificate of the Hub is not trusted", "SSL_CERT_FILE")


def test_plain_text_where_tls_is_expected(at, fails, hub):
    at(hub.url.replace("http:", "https:"), patience=1.5)
    fails("connection to the Hub failed", "check the network", actions=["pull"])


def test_nobody_listens(at, fails):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    at(f"http://127.0.0.1:{port}", patience=1.5)  # a busy machine needs its time
    fails("connection to the Hub failed", "check the network")


def test_a_name_that_does_not_exist(at, fails, monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    at("http://hub.invalid")
    fails("connection to the Hub failed", "check the network", actions=["pull"])


def test_a_proxy_that_refuses(at, fails, https, monkeypatch):
    """It answers CONNECT with 407: the user's name and password are missing."""

    def serve(listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(
                    b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                    b"Content-Length: 0\r\n\r\n"
                )

    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    user = f"http://me:SecretWord@127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setenv("HTTPS_PROXY", user)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    import huggingface_hub

    huggingface_hub.close_session()
    at("https://hub.example", patience=3.0)  # a busy machine reads certificates slowly
    try:
        fails("the proxy does not let", "check HTTPS_PROXY", actions=["pull"])
    finally:
        listener.close()
        huggingface_hub.close_session()


@pytest.mark.parametrize("pattern", ["/revision/", "/tree/", "/resolve/"])
def test_a_server_that_hangs(made, at, fails, hub, pattern):
    hub.faults.append(Fault(pattern, "hang", times=99))
    fails("try", "later", actions=["pull"])


def test_an_account_that_may_not(made, at, cli, run, fails, hub, repo):
    argv = ["--federation", f"hf://{repo}", "--run", str(run)]
    assert cli(sync.main, "pull", *argv)[0] == 0
    at(token="hf_" + "SecretWrong" * 3, patience=10)
    fails("does not accept the token", "hf auth login")
    at(token=False, patience=10)
    fails("hf auth login", actions=["push"])
    at(token=TOKENS["eve"])
    fails("ask its owner for the right", "--create-pr", actions=["push"])
    hub.store.repos[repo].private = True
    fails("if it is private", "hf auth login")
    at(token=False, patience=10)
    fails("if it is private", "hf auth login")
    hub.store.repos[repo].private, hub.store.repos[repo].gated = False, True
    at(token=TOKENS["eve"])
    fails("is gated: open its page on the Hub")


@pytest.mark.parametrize("name", ["write_bytes", "mkdir"])
def test_a_full_disk_while_reading_contributions(
    made, cli, at, run, repo, fails, monkeypatch, name
):
    """Closing keeps contributions in a temporary folder."""
    import pathlib

    at(patience=10)
    argv = ["--federation", f"hf://{repo}", "--run", str(run)]
    assert cli(sync.main, "pull", *argv)[0] == 0
    inner = getattr(pathlib.Path, name)

    def full(path, *args, **kwargs):
        if "comigs-" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return inner(path, *args, **kwargs)

    monkeypatch.setattr(pathlib.Path, name, full)
    code, out, err = cli(sync.main, "push", *argv, "--participant", "ann")
    assert code == 2
    assert "No space left" in err or "full" in err
    assert "Traceback" not in err
    monkeypatch.setattr(pathlib.Path, name, inner)
    code, out, err = cli(sync.main, "push", *argv, "--participant", "ann", "--json")
    assert code == 0, err
    assert json.loads(out)["closed"]


def test_a_full_disk_while_pulling_loses_nothing(made, at, run, fails, monkeypatch):
    import os

    inner = os.fsync

    def full(number):
        inner(number)
        raise OSError(errno.ENOSPC, "No space left on device")

    at(patience=10)
    monkeypatch.setattr(os, "fsync", full)
    fails("space", actions=["pull"])
