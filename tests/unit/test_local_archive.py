"""Image archives: what is in them, byte for byte the same."""

import hashlib
import json
import tarfile

from overspill.local.archive import File, Image, layer_of, write_archive

FILES = {"bin/tool": File(b"#!/bin/sh\n", 0o755), "bin/alias": File(link="tool"), "etc/x/y": File(b"z")}


def test_a_layer_has_its_files_their_modes_and_their_folders(tmp_path):
    (tmp_path / "l.tar").write_bytes(layer_of(FILES))
    with tarfile.open(tmp_path / "l.tar") as tar:
        found = {each.name: each for each in tar}
        assert sorted(found) == ["bin", "bin/alias", "bin/tool", "etc", "etc/x", "etc/x/y", "tmp"]
        assert (found["bin/tool"].mode, found["bin/alias"].linkname) == (0o755, "tool")
        assert found["tmp"].mode == 0o1777
        assert tar.extractfile("etc/x/y").read() == b"z"


def test_the_same_files_in_another_order_are_the_same_layer():
    assert layer_of(FILES) == layer_of(dict(reversed(FILES.items())))


def test_an_archive_names_its_layers_by_their_digest_and_holds_shared_ones_once(tmp_path):
    layers = []
    for name in ("base", "top"):
        (tmp_path / name).write_bytes(layer_of({name: File(b"x")}))
        layers.append(tmp_path / name)
    images = [
        Image(name="localhost/a:1", layers=layers[:1], command=("a",)),
        Image(name="localhost/b:1", layers=layers, entrypoint=("b",), command=(), env={"K": "v"}),
    ]
    target = tmp_path / "images.tar"
    write_archive(target, images)
    first = target.read_bytes()
    write_archive(target, images)
    assert target.read_bytes() == first
    with tarfile.open(target) as tar:
        names = tar.getnames()
        manifest = json.load(tar.extractfile("manifest.json"))
        config = json.load(tar.extractfile(manifest[1]["Config"]))
        for digest, layer in zip(config["rootfs"]["diff_ids"], manifest[1]["Layers"], strict=True):
            assert digest == "sha256:" + hashlib.sha256(tar.extractfile(layer).read()).hexdigest()
    assert len(names) == len(set(names))
    assert [each["RepoTags"] for each in manifest] == [["localhost/a:1"], ["localhost/b:1"]]
    assert manifest[0]["Layers"] == manifest[1]["Layers"][:1]
    assert config["config"]["Entrypoint"] == ["b"]
    assert config["config"]["Cmd"] is None
    assert "K=v" in config["config"]["Env"]
