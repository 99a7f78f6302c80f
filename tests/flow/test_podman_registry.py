"""Images pulled from a registry that wants a login, by a real Podman over TLS, and what the user is told of it."""

import base64
import json
import re
import shutil
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from podman_life import beginnings
from podman_pods import SLEEP, Stage, pod, waits

from overspill import pki
from overspill.model.observation import Observation, Waiting
from overspill.model.work import Container, RegistryCredential
from podman_service import IMAGE, PodmanService

pytestmark = pytest.mark.podman

USER, PASSWORD = "puller", "pull-secret-4711"
LOGIN = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
# Where Podman looks for the authority of a registry.
TRUSTED = Path("/etc/containers/certs.d")


class Registry(ThreadingHTTPServer):
    """One image of several tags, as the distribution specification serves it."""

    def __init__(self, image: Path, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.host = f"127.0.0.1:{self.server_port}"
        self.blobs = image / "blobs" / "sha256"
        index = json.loads((image / "index.json").read_text())
        self.manifest = index["manifests"][0]["digest"]
        authority = pki.new_authority("registry")
        leaf = pki.issue(authority, common_name="registry", hosts=("127.0.0.1",), server=True)
        (folder / "leaf.pem").write_bytes(leaf.certificate + leaf.key)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(folder / "leaf.pem")
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.trust = TRUSTED / self.host
        self.trust.mkdir(parents=True)
        (self.trust / "ca.crt").write_bytes(authority.certificate)

    def server_close(self) -> None:
        super().server_close()
        shutil.rmtree(self.trust)


class _Answer(BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        if self.headers.get("Authorization") != LOGIN:
            return self._reply(401, b"{}", ("WWW-Authenticate", 'Basic realm="registry"'))
        kind, _, name = self.path.rpartition("/")
        if self.path == "/v2/":
            return self._reply(200, b"{}", ("Content-Type", "application/json"))
        digest = name if name.startswith("sha256:") else self.server.manifest
        content = (self.server.blobs / digest.removeprefix("sha256:")).read_bytes()
        manifest = kind.endswith("/manifests")
        media = "application/vnd.oci.image.manifest.v1+json" if manifest else "application/octet-stream"
        return self._reply(200, content, ("Content-Type", media), ("Docker-Content-Digest", digest))

    def _reply(self, status: int, content: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (*headers, ("Content-Length", str(len(content)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """The test's own assertions tell enough."""


@pytest.fixture(scope="module")
def registry(podman: PodmanService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp("registry")
    podman.run("save", "--quiet", "--format", "oci-dir", "--output", str(folder / "image"), IMAGE)
    with Registry(folder / "image", folder) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def sleeper(image: str, **fields) -> Container:
    return Container("main", image, command=("sh", "-c", SLEEP), **fields)


async def test_an_image_is_pulled_with_the_pods_login_and_then_present(stage: Stage, registry: Registry):
    image = f"{registry.host}/team/app:1"
    another = RegistryCredential(registry.host, "another", "of-the-same-registry")
    login = RegistryCredential(registry.host, USER, PASSWORD)
    work = pod(sleeper(image), registry_credentials=(another, login))
    await stage.backend.create(work)
    seen = await stage.witness.running(work)
    assert seen.containers[0].image_id.startswith(f"{registry.host}/team/app@sha256:")
    pulling, pulled, created = beginnings(stage, work)
    assert pulling == ("Pulling", f'Pulling image "{image}"')
    assert pulled[0] == "Pulled"
    took = re.fullmatch(
        r'Successfully pulled image "(.+)" in [\d.]+s \([\d.]+s including waiting\)\. Image size: (\d+) bytes\.',
        pulled[1],
    )
    assert took
    assert took[1] == image
    assert int(took[2]) > 100_000
    assert created == ("Created", "Container created")

    again = pod(sleeper(image), name="again")
    await stage.backend.create(again)
    await stage.witness.running(again)
    present = f'Container image "{image}" already present on machine and can be accessed by the pod'
    assert beginnings(stage, again) == [("Pulled", present), ("Created", "Container created")]


async def test_a_pull_without_login_is_refused(stage: Stage, registry: Registry):
    work = pod(sleeper(f"{registry.host}/team/app:2"))
    await stage.backend.create(work)
    seen = await stage.witness.until(work, waits("ErrImagePull"))
    assert isinstance(seen, Observation)
    state = seen.containers[0].state
    assert isinstance(state, Waiting)
    assert "authentication required" in state.message or "unauthorized" in state.message
    assert [reason for reason, _ in beginnings(stage, work)] == ["Pulling"]
