"""Volumes as files: sources, items, modes, paths, what is missing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from podmaking import make_found, make_pod, make_token, resolved, work_of

from overspill.agent.downward import quoted
from overspill.agent.spec import Missing
from overspill.errors import Unsupported
from overspill.model.work import EmptyDir, File, Files, FlexVolume, Nfs

FOUND = make_found(
    config_maps={"conf": {"a": "1", "b": "2", "bin": b"\xff"}, "none": None},
    secrets={"keys": {"k": b"\x00secret"}, "none": None},
    tokens=make_token() | make_token("vault-token", audience="vault", renew_after=480.0, seconds=600),
)


def volume_of(source, found=FOUND, **meta):
    pod = make_pod({"resources": {"limits": {"cpu": "2"}}}, volumes=[{"name": "v"} | source], **meta)
    return work_of(pod, found).volumes["v"]


def files_of(source, **meta):
    volume = volume_of(source, **meta)
    assert isinstance(volume, Files)
    return {file.path: (file.data, file.mode) for file in volume.files}


def complaint_of(source, found=FOUND) -> str:
    with pytest.raises(Missing) as raised:
        volume_of(source, found)
    assert (raised.value.reason, raised.value.event) == ("ContainerCreating", "FailedMount")
    start = 'MountVolume.SetUp failed for volume "v" : '
    assert str(raised.value).startswith(start)
    return str(raised.value).removeprefix(start)


@pytest.mark.parametrize(
    ("source", "volume"),
    [
        ({"emptyDir": {}}, EmptyDir()),
        ({"emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}, EmptyDir("Memory", 64 << 20)),
        ({"emptyDir": {"sizeLimit": "1.5k"}}, EmptyDir("", 1500)),
        ({"nfs": {"server": "nas", "path": "/x", "readOnly": True}}, Nfs("nas", "/x", read_only=True)),
        (
            {"flexVolume": {"driver": "alicloud/disk", "fsType": "ext4", "options": {"volumeId": "d-1"}}},
            FlexVolume("alicloud/disk", "ext4", options={"volumeId": "d-1"}),
        ),
    ],
)
def test_volumes_without_files(source, volume):
    assert volume_of(source) == volume


@pytest.mark.parametrize(
    ("source", "field"),
    [
        ({"emptyDir": {"medium": "HugePages"}}, "spec.volumes[0].emptyDir.medium"),
        ({"emptyDir": {"medium": "HugePages-2Mi"}}, "spec.volumes[0].emptyDir.medium"),
        ({"hostPath": {"path": "/"}}, "spec.volumes[0]"),
    ],
)
def test_what_is_not_to_be_had_is_refused(source, field):
    with pytest.raises(Unsupported) as raised:
        volume_of(source)
    assert raised.value.fields == (field,)


def test_a_config_map_is_all_its_keys():
    assert files_of({"configMap": {"name": "conf"}}) == {
        "a": (b"1", 0o644),
        "b": (b"2", 0o644),
        "bin": (b"\xff", 0o644),
    }


def test_items_choose_rename_and_have_modes_of_their_own():
    items = [{"key": "a", "path": "deep/er/one", "mode": 0o400}, {"key": "bin", "path": "two"}]
    assert files_of({"configMap": {"name": "conf", "items": items, "defaultMode": 0o600}}) == {
        "deep/er/one": (b"1", 0o400),
        "two": (b"\xff", 0o600),
    }


def test_a_secret():
    assert files_of({"secret": {"secretName": "keys", "defaultMode": 0o440}}) == {"k": (b"\x00secret", 0o440)}


def test_a_mode_of_zero_is_a_mode():
    assert (
        files_of({"secret": {"secretName": "keys", "items": [{"key": "k", "path": "k", "mode": 0}]}})["k"][1]
        == 0
    )


@pytest.mark.parametrize(
    "source",
    [
        {"configMap": {"name": "none", "optional": True}},
        {"configMap": {"name": "conf", "optional": True, "items": [{"key": "zzz", "path": "z"}]}},
        {"secret": {"secretName": "none", "optional": True}},
        {"secret": {"secretName": "keys", "optional": True, "items": [{"key": "zzz", "path": "z"}]}},
        {"projected": {"sources": [{"configMap": {"name": "none", "optional": True}}]}},
        {"projected": {}},
    ],
)
def test_what_is_optional_may_be_missing(source):
    assert volume_of(source) == Files()


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ({"configMap": {"name": "none"}}, 'configmap "none" not found'),
        ({"secret": {"secretName": "none"}}, 'secret "none" not found'),
        (
            {"configMap": {"name": "conf", "items": [{"key": "zzz", "path": "z"}]}},
            "configmap references non-existent config key: zzz",
        ),
        (
            {"secret": {"secretName": "keys", "items": [{"key": "zzz", "path": "z"}]}},
            "references non-existent secret key: zzz",
        ),
        (
            {"projected": {"sources": [{"configMap": {"name": "none"}}, {"secret": {"name": "none"}}]}},
            '[configmap "none" not found, secret "none" not found]',
        ),
        (
            {"downwardAPI": {"items": [{"path": "x", "fieldRef": {"fieldPath": "spec.secret"}}]}},
            "unsupported fieldPath: spec.secret",
        ),
        (
            {
                "downwardAPI": {
                    "items": [
                        {"path": "x", "resourceFieldRef": {"containerName": "who", "resource": "limits.cpu"}}
                    ]
                }
            },
            "container who not found",
        ),
    ],
)
def test_what_is_missing_is_told_in_the_kubelets_words(source, complaint):
    assert complaint_of(source) == complaint


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "..", "..data", "a/..", ""])
def test_no_path_leads_out_of_the_volume(path):
    items = [{"key": "a", "path": path}]
    assert "must be relative" in complaint_of({"configMap": {"name": "conf", "items": items}})


def test_deep_folders_are_looked_at_once():
    items = [{"key": "a", "path": "a/" * 200_000 + name} for name in ("x", "y")]
    assert len(volume_of({"configMap": {"name": "conf", "items": items}}).files) == 2


def test_a_text_that_many_files_tell_is_made_once():
    items = [{"path": f"f{n}", "fieldRef": {"fieldPath": "metadata.annotations"}} for n in range(100)]
    files = volume_of({"downwardAPI": {"items": items}}, annotations={"a": "b"}).files
    assert len({id(file.data) for file in files}) == 1


def test_a_file_cannot_be_a_folder_too():
    items = [{"key": "a", "path": "x"}, {"key": "b", "path": "x/y"}]
    assert (
        complaint_of({"configMap": {"name": "conf", "items": items}})
        == "path 'x/y' needs a folder where 'x' is a file"
    )


@given(st.text(alphabet="ab./", max_size=12))
def test_whatever_path_is_taken_stays_inside(path):
    try:
        volume = volume_of({"configMap": {"name": "conf", "items": [{"key": "a", "path": path}]}})
    except Missing:
        return
    (file,) = volume.files
    assert not file.path.startswith("/")
    assert ".." not in file.path.split("/")


def test_the_pods_own_fields_as_files():
    items = [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "notes", "fieldRef": {"fieldPath": "metadata.annotations"}, "mode": 0o400},
        {"path": "one", "fieldRef": {"fieldPath": "metadata.labels['app']"}},
        {"path": "who/name", "fieldRef": {"fieldPath": "metadata.name"}},
        {
            "path": "cpu",
            "resourceFieldRef": {"containerName": "main", "resource": "limits.cpu", "divisor": "1m"},
        },
    ]
    files = files_of(
        {"downwardAPI": {"items": items}},
        labels={"tier": "front", "app": "web"},
        annotations={"b": 'say "hi"\n', "a": "ü\x01\u2028"},
    )
    assert files == {
        "labels": (b'app="web"\ntier="front"', 0o644),
        "notes": ('a="ü\\x01\\u2028"\nb="say \\"hi\\"\\n"'.encode(), 0o400),
        "one": (b"web", 0o644),
        "who/name": (b"web-0", 0o644),
        "cpu": (b"2000", 0o644),
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", '"plain"'),
        ("\t\\", r'"\t\\"'),
        ("\x7f", r'"\x7f"'),
        ("\U000e0001", r'"\U000e0001"'),
        ("日本", '"日本"'),
    ],
)
def test_quoting(text, expected):
    assert quoted(text) == expected


KUBE_API_ACCESS = {
    "projected": {
        "defaultMode": 0o600,
        "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
            {"configMap": {"name": "conf", "items": [{"key": "a", "path": "ca.crt"}]}},
            {
                "downwardAPI": {
                    "items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]
                }
            },
            {"secret": {"name": "keys", "items": [{"key": "k", "path": "key", "mode": 0o400}]}},
        ],
    }
}


def test_several_sources_in_one_folder():
    assert files_of(KUBE_API_ACCESS) == {
        "token": (b"token-text", 0o600),
        "ca.crt": (b"1", 0o600),
        "namespace": (b"shop", 0o600),
        "key": (b"\x00secret", 0o400),
    }


def test_a_volume_with_a_token_is_renewed_when_the_first_is_due():
    vault = {"serviceAccountToken": {"path": "vault", "audience": "vault", "expirationSeconds": 600}}
    both = {"projected": {"sources": [*KUBE_API_ACCESS["projected"]["sources"], vault]}}
    assert volume_of(KUBE_API_ACCESS).refresh_after == 2880.0
    assert volume_of(both).refresh_after == 480.0
    assert volume_of({"configMap": {"name": "conf"}}).refresh_after is None


def test_the_later_source_wins_a_path():
    sources = [
        {"configMap": {"name": "conf"}},
        {"secret": {"name": "keys", "items": [{"key": "k", "path": "a"}]}},
    ]
    assert files_of({"projected": {"sources": sources}})["a"][0] == b"\x00secret"


def test_without_its_service_account_a_token_is_waited_for():
    found = make_found(
        config_maps={"conf": {"a": "1"}}, secrets={"keys": {"k": "x"}}, tokens=dict.fromkeys(make_token())
    )
    assert complaint_of(KUBE_API_ACCESS, found) == 'failed to fetch token: serviceaccounts "clerk" not found'


def test_volumes_are_told_before_environments_and_all_at_once():
    pod = make_pod(
        {"envFrom": [{"secretRef": {"name": "none"}}]},
        volumes=[
            {"name": "one", "configMap": {"name": "none"}},
            {"name": "two", "secret": {"secretName": "none"}},
        ],
    )
    with pytest.raises(Missing) as raised:
        resolved(pod, FOUND)
    assert raised.value.reason == "ContainerCreating"
    assert str(raised.value) == (
        'MountVolume.SetUp failed for volume "one" : configmap "none" not found; '
        'MountVolume.SetUp failed for volume "two" : secret "none" not found; '
        'secret "none" not found'
    )


def test_contents_do_not_show_in_reprs():
    assert "secret" not in repr(FOUND.secrets["keys"])
    assert "token-text" not in repr(FOUND.tokens)
    assert "hidden" not in repr(File("x", b"hidden"))
