"""Certificates for 127.0.0.1, and keys of SuperNodes, made for one test."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PEM = serialization.Encoding.PEM
DAY = datetime.timedelta(days=1)


@dataclass
class Files:
    """Where they are, as options of `flower server` and `flower client`."""

    folder: Path

    @property
    def server(self):
        names = {"certificate": "server.pem", "certificate-key": "server.key"}
        names |= {"ca": "ca.pem", "node-keys": "keys"}
        return [w for n, f in names.items() for w in (f"--{n}", self.folder / f)]

    def client(self, name):
        certificates = ["--root-certificates", self.folder / "ca.pem"]
        return [*certificates, "--node-key", self.folder / f"{name}.key"]


def write(folder, names):
    """A server's certificate, and a key for each name."""
    (folder / "keys").mkdir(parents=True)
    authority, authority_key = _certificate("authority", None, None)
    server, server_key = _certificate("127.0.0.1", authority, authority_key)
    (folder / "ca.pem").write_bytes(authority.public_bytes(PEM))
    (folder / "server.pem").write_bytes(server.public_bytes(PEM))
    plain = serialization.PrivateFormat.PKCS8
    (folder / "server.key").write_bytes(_private(server_key, plain))
    for name in names:
        key = ec.generate_private_key(ec.SECP384R1())
        ssh = serialization.PrivateFormat.OpenSSH
        (folder / f"{name}.key").write_bytes(_private(key, ssh))
        public = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        (folder / "keys" / f"{name}.pub").write_bytes(public)
    return Files(folder)


def _certificate(name, issuer, issuer_key):
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(x509.BasicConstraints(issuer is None, None), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
    )
    if issuer is None:
        usage = x509.KeyUsage(
            True, False, False, False, False, True, True, False, False
        )
        builder = builder.add_extension(usage, critical=True)
    else:
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        names = x509.SubjectAlternativeName([address])
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(
            issuer.public_key()
        )
        builder = builder.add_extension(names, critical=False)
        builder = builder.add_extension(identifier, critical=False)
    return builder.sign(issuer_key or key, hashes.SHA384()), key


def _private(key, form):
    return key.private_bytes(PEM, form, serialization.NoEncryption())
