"""Which serving certificates of virtual nodes are approved, and when a certificate is replaced."""

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from overspill import pki
from overspill.serve.kubelet.approver import REQUESTER, Node, Request, objection, requested_node
from overspill.serve.kubelet.certificate import rotation_delay

NAME = "virtual-node-eci-0"
NODE = msgspec.convert(
    {
        "metadata": {"name": NAME, "labels": {"type": "virtual-kubelet"}},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]},
    },
    Node,
)


def request(
    *,
    name=f"system:node:{NAME}",
    groups=("system:nodes",),
    hosts=(NAME, "10.0.0.1"),
    username=REQUESTER,
    usages=("digital signature", "server auth"),
    signer="kubernetes.io/kubelet-serving",
    pem=b"",
):
    made = pem or pki.new_request(common_name=name, organizations=groups, hosts=hosts).request
    spec = {"signerName": signer, "username": username, "usages": usages, "request": made}
    return msgspec.convert({"metadata": {"name": "r"}, "spec": spec}, Request)


def test_what_an_agent_asks_for_is_approved():
    assert objection(request(), NODE) == ""
    assert objection(request(hosts=(NAME,)), NODE) == ""
    assert requested_node(request()) == NAME


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (request(username="system:serviceaccount:default:other"), "not asked for by"),
        (request(username=f"system:node:{NAME}"), "not asked for by"),
        (request(signer="kubernetes.io/kube-apiserver-client"), "not asked for by"),
        (request(usages=("digital signature", "client auth")), "usages"),
        (request(usages=("digital signature", "server auth", "client auth")), "usages"),
        (request(name="system:node:worker-0"), "subject"),
        (request(groups=("system:masters",)), "subject"),
        (request(groups=("system:nodes", "system:masters")), "subject"),
        (request(hosts=(NAME, "10.0.0.2")), "10.0.0.2"),
        (request(hosts=("kubernetes.default.svc",)), "kubernetes.default.svc"),
    ],
)
def test_nothing_else_is(asked, why):
    assert why in objection(asked, NODE)


def test_only_for_virtual_nodes_that_exist():
    worker = msgspec.convert({"metadata": {"name": NAME}, "status": {"addresses": []}}, Node)
    assert "no virtual node" in objection(request(), None)
    assert "no virtual node" in objection(request(), worker)


def csr(*names):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "system:nodes"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, f"system:node:{NAME}"),
        ]
    )
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    "names",
    [
        (),
        (x509.RFC822Name("a@b.example"),),
        (x509.UniformResourceIdentifier("spiffe://x"), x509.DNSName(NAME)),
        (x509.DNSName("*." + NAME),),
    ],
)
def test_other_kinds_of_names_are_not_approved(names):
    assert objection(request(pem=csr(*names)), NODE) != ""


def test_what_is_no_request_is_for_no_node():
    assert requested_node(request(pem=b"nonsense")) == ""
    assert requested_node(request(name="somebody")) == ""


def test_a_certificate_is_replaced_within_its_life():
    assert rotation_delay(1000.0, now=0.0, at=0.7) == 700.0
    assert rotation_delay(1000.0, now=2000.0, at=0.7) == 0.0
