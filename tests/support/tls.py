"""Certificates for servers on loopback, made on the spot."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.tools import openssl


@dataclass(frozen=True)
class Certificates:
    authority: Path
    certificate: Path
    key: Path

    @property
    def server(self) -> list[str]:
        """Arguments of redis-server, but for the port."""
        files = ["--tls-cert-file", str(self.certificate), "--tls-key-file", str(self.key)]
        return [*files, "--tls-ca-cert-file", str(self.authority), "--tls-auth-clients", "no"]


def certificates(folder: Path) -> Certificates:
    """An authority, and a certificate of 127.0.0.1 that it signed."""
    made = Certificates(folder / "ca.crt", folder / "redis.crt", folder / "redis.key")
    authority_key, request, names = folder / "ca.key", folder / "redis.csr", folder / "names"
    names.write_text("subjectAltName=IP:127.0.0.1,DNS:redis.test\n")
    key: list[str | Path] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    _openssl("req", "-x509", *key, "-keyout", authority_key, "-out", made.authority, "-subj", "/CN=test", "-days", "2")
    _openssl("req", *key, "-keyout", made.key, "-out", request, "-subj", "/CN=redis")
    authority: list[str | Path] = ["-CA", made.authority, "-CAkey", authority_key, "-CAcreateserial", "-days", "2"]
    _openssl("x509", "-req", "-in", request, *authority, "-extfile", names, "-out", made.certificate)
    return made


def _openssl(*arguments: str | Path) -> None:
    subprocess.run([openssl(), *map(str, arguments)], check=True, capture_output=True)
