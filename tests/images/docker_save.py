#!/usr/bin/env python3
"""Writes an image of an OCI layout as `docker save` does: up to version 24 one directory for each layer (`old`), since then an
OCI layout with a manifest.json beside it (`new`). skopeo and podman write a third kind.

Usage: docker_save.py LAYOUT TAG old|new ARCHIVE
"""

import gzip
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

REF_NAME = "org.opencontainers.image.ref.name"


def blob(layout: Path, descriptor: dict) -> bytes:
    return (layout / "blobs" / descriptor["digest"].replace(":", "/")).read_bytes()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def old(archive: tarfile.TarFile, tag: str, config: bytes, layers: list[bytes]) -> None:
    name, parent, paths = hashlib.sha256(config).hexdigest() + ".json", None, []
    add(archive, name, config)
    for layer in layers:
        identity = hashlib.sha256((parent or "").encode() + layer).hexdigest()
        about = {"id": identity, **({"parent": parent} if parent else {})}
        directory = tarfile.TarInfo(f"{identity}/")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(directory)
        add(archive, f"{identity}/VERSION", b"1.0")
        add(archive, f"{identity}/json", json.dumps(about).encode())
        add(archive, f"{identity}/layer.tar", layer)
        paths.append(f"{identity}/layer.tar")
        parent = identity
    add(archive, "manifest.json", json.dumps([{"Config": name, "RepoTags": [f"{tag}:latest"], "Layers": paths}]).encode())
    add(archive, "repositories", json.dumps({tag: {"latest": parent}}).encode())


def new(archive: tarfile.TarFile, tag: str, config: bytes, layers: list[bytes]) -> None:
    def put(content: bytes, kind: str) -> dict:
        digest = hashlib.sha256(content).hexdigest()
        add(archive, f"blobs/sha256/{digest}", content)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}

    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(config, "application/vnd.oci.image.config.v1+json"),
        "layers": [put(layer, "application/vnd.oci.image.layer.v1.tar") for layer in layers],
    }
    names = {"io.containerd.image.name": f"docker.io/library/{tag}:latest", REF_NAME: "latest"}
    described = {**put(json.dumps(manifest).encode(), manifest["mediaType"]), "annotations": names}
    paths = ["blobs/" + each["digest"].replace(":", "/") for each in [manifest["config"], *manifest["layers"]]]
    add(archive, "index.json", json.dumps({"schemaVersion": 2, "manifests": [described]}).encode())
    add(archive, "manifest.json", json.dumps([{"Config": paths[0], "RepoTags": [f"{tag}:latest"], "Layers": paths[1:]}]).encode())
    add(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')


def main(layout: Path, tag: str, kind: str, path: str) -> None:
    index = json.loads((layout / "index.json").read_bytes())
    found = next(each for each in index["manifests"] if each["annotations"][REF_NAME] == tag)
    manifest = json.loads(blob(layout, found))
    layers = [gzip.decompress(blob(layout, each)) for each in manifest["layers"]]
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        {"old": old, "new": new}[kind](archive, tag, blob(layout, manifest["config"]), layers)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
