"""The images that are unpacked: Debian's essential packages as OCI layouts, of one layer and of several."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import tarfile
from pathlib import Path

from .base import TOP, die, which

TAG = "debian"
REF_NAME = "org.opencontainers.image.ref.name"
SUFFIX = {"gzip": "+gzip", "zstd": "+zstd"}
COMPRESS = {"gzip": ["gzip", "-6", "-n"], "zstd": ["zstd", "-q", "-3"]}
DECOMPRESS = {"gzip": "gzip -dc", "zstd": "zstd -dc"}
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}  # as Go names it
# The layers of the image with several: the first prefix that fits, the rest is the first layer.
PARTS = ("usr/share/", "usr/lib/", "usr/", "var/")


def debian_tar() -> Path:
    """The tests' own archive, which is made if it is missing."""
    script = "source tests/lib/setup.bash; setup_packages mmdebstrap=mmdebstrap; setup_debian_tar"
    answer = subprocess.run(["bash", "-euc", script], cwd=TOP, stdout=subprocess.PIPE, text=True, check=False)
    if answer.returncode:
        die("no Debian root filesystem to make images of: mmdebstrap and a mirror are needed")
    return Path(answer.stdout.strip())


def split(archive: Path, directory: Path) -> list[Path]:
    """The archive as several ones, none of which has anything of another."""
    paths = [directory / f"part-{number}.tar" for number in range(len(PARTS) + 1)]
    parts = [tarfile.open(path, "w", format=tarfile.PAX_FORMAT) for path in paths]
    with tarfile.open(archive) as whole:
        placed: dict[str, int] = {}
        for entry in whole:
            name = entry.linkname if entry.islnk() else entry.name
            number = placed.get(name)
            if number is None:
                beneath = name.removeprefix("./")
                number = next((n for n, prefix in enumerate(PARTS, 1) if beneath.startswith(prefix)), 0)
            placed[entry.name] = number
            parts[number].addfile(entry, whole.extractfile(entry) if entry.isreg() else None)
    for part in parts:
        part.close()
    return paths


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_layout(directory: Path, layers: list[Path], compression: str) -> Path:
    """An OCI image layout with one image, TAG."""
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(kind: str, content: bytes) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    def put_layer(layer: Path) -> dict[str, object]:
        partial = directory / "partial"
        with layer.open("rb") as source, partial.open("wb") as target:
            subprocess.run(COMPRESS[compression], stdin=source, stdout=target, check=True)
        digest, size = digest_of(partial), partial.stat().st_size
        partial.rename(blobs / digest)
        kind = f"application/vnd.oci.image.layer.v1.tar{SUFFIX[compression]}"
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": size}

    config = {
        "architecture": ARCHITECTURE.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Cmd": ["/bin/true"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest_of(layer)}" for layer in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put("config.v1+json", json.dumps(config).encode()),
        "layers": [put_layer(layer) for layer in layers],
    }
    described = put("manifest.v1+json", json.dumps(manifest).encode())
    described["annotations"] = {REF_NAME: TAG}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return directory


def layer_blobs(layout: Path) -> list[Path]:
    """The compressed layers, bottom first."""

    def read(descriptor: dict[str, str]) -> dict[str, list[dict[str, str]]]:
        return json.loads(blob(descriptor).read_text())

    def blob(descriptor: dict[str, str]) -> Path:
        return layout / "blobs" / descriptor["digest"].replace(":", "/")

    index = json.loads((layout / "index.json").read_text())
    return [blob(layer) for layer in read(index["manifests"][0])["layers"]]


def make_layouts(directory: Path) -> dict[str, Path]:
    """The layouts by the task that unpacks them."""
    directory.mkdir()
    tar = debian_tar()
    parts = split(tar, directory)
    made = {
        "gzip": make_layout(directory / "gzip", [tar], "gzip"),
        "several": make_layout(directory / "several", parts, "gzip"),
    }
    if which("zstd"):
        made["zstd"] = make_layout(directory / "zstd", [tar], "zstd")
    for part in parts:
        part.unlink()
    return made
