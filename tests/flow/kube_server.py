"""A small apiserver for tests: an aiohttp handler on loopback, with or without TLS, and certificates for it."""

import contextlib
import datetime as dt
import ipaddress
import ssl

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

NOW = dt.datetime.now(dt.UTC)
YEAR = dt.timedelta(days=365)


@contextlib.asynccontextmanager
async def serving(handler, *, tls=None):
    """The URL at which `handler` answers every request."""

    async def answer(request):
        return await handler(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        port = runner.addresses[0][1]
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def status(code, reason="", message="", **details):
    """A metav1.Status as the apiserver words it."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
        "details": details,
    }


def refusal(code, reason="", message="", *, headers=None, **details):
    return web.json_response(status(code, reason, message, **details), status=code, headers=headers)


def reasons(events):
    """Of all Events that were told, each once, in order."""
    return list(dict.fromkeys(happening.reason for happening in events._series))


class Authority:
    """A CA that makes certificates, good and bad."""

    def __init__(self, name="test CA"):
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        self._certificate = self._signed(
            self._name, self._key.public_key(), NOW - YEAR, NOW + YEAR, constraints
        )

    @property
    def pem(self):
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, common_name, *, begins=NOW - YEAR / 2, ends=NOW + YEAR / 2, address="127.0.0.1"):
        """Certificate and key, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
        names = x509.SubjectAlternativeName(
            [x509.DNSName(common_name), x509.IPAddress(ipaddress.ip_address(address))]
        )
        signed = self._signed(name, key.public_key(), begins, ends, names)
        return signed.public_bytes(serialization.Encoding.PEM), key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def server_tls(self, folder, **wishes):
        """An SSL context for `serving`, which takes client certificates of this CA."""
        certificate, key = self.issue("apiserver", **wishes)
        (folder / "server.pem").write_bytes(certificate + key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem")
        context.load_verify_locations(cadata=self.pem.decode())
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def _signed(self, subject, public_key, begins, ends, extension):
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
            .add_extension(extension, critical=False)
            .sign(self._key, hashes.SHA256())
        )
