"""A validating webhook of somebody else's, which refuses every second pod of a namespace."""

import base64
import http.server
import json
import ssl
import threading

from overspill import pki


class RefusingWebhook:
    """In force while it is entered.

    Attributes:
        refused: how many creates it has refused.
    """

    def __init__(self, space):
        self._space = space
        self._asked = 0
        self.refused = 0

    def __enter__(self):
        folder = self._space.world.folder
        authority = pki.new_authority("webhook")
        pair = pki.issue(authority, common_name="webhook", hosts=["127.0.0.1"], server=True)
        for name, content in (("crt", pair.certificate), ("key", pair.key)):
            (folder / f"webhook.{name}").write_bytes(content)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "webhook.crt", folder / "webhook.key")
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self._space.cluster.apply(self._configuration(authority))
        self._space.world.until(self._is_asked, what="the webhook in force")
        return self

    def __exit__(self, *_error):
        self._space.cluster.kubectl("delete", "validatingwebhookconfiguration", self._space.name)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def _configuration(self, authority):
        return {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": self._space.name},
            "webhooks": [
                {
                    "name": "every-second.example.com",
                    "clientConfig": {
                        "url": f"https://127.0.0.1:{self._server.server_address[1]}/",
                        "caBundle": base64.b64encode(authority.certificate).decode(),
                    },
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self._space.name}},
                    "rules": [
                        {
                            "apiGroups": [""],
                            "apiVersions": ["v1"],
                            "operations": ["CREATE"],
                            "resources": ["pods"],
                        }
                    ],
                    "admissionReviewVersions": ["v1"],
                    "sideEffects": "None",
                    "failurePolicy": "Fail",
                }
            ],
        }

    def _is_asked(self):
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "probe"},
            "spec": {"containers": [{"name": "c", "image": "x"}]},
        }
        self._space.kubectl_error("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
        return self._asked > 0

    def _handler(self):
        webhook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = {"uid": review["request"]["uid"], **webhook.verdict()}
                body = json.dumps({**review, "request": None, "response": answer}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args):
                pass

        return Handler

    def verdict(self):
        """Whether the pod that is asked about now may be made."""
        self._asked += 1
        if self._asked % 2:
            return {"allowed": True}
        self.refused += 1
        return {"allowed": False, "status": {"code": 403, "message": "every second pod is refused"}}
