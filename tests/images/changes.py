#!/usr/bin/env python3
"""Writes the layer that changes those below it, entry by entry: no tool packs all of this.

Usage: changes.py ARCHIVE
"""

import io
import sys
import tarfile

MTIME = 1_100_000_000


class Layer:
    def __init__(self, archive: tarfile.TarFile) -> None:
        self.archive = archive

    def add(self, name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", link: str = "", mode: int = 0o644) -> None:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname, entry.mode, entry.mtime, entry.size = kind, link, mode, MTIME + 0.25, len(content)
        self.archive.addfile(entry, io.BytesIO(content))

    def file(self, name: str, text: str = "") -> None:
        self.add(name, content=text.encode())

    def directory(self, name: str, mode: int = 0o755) -> None:
        self.add(name, tarfile.DIRTYPE, mode=mode)

    def symlink(self, name: str, target: str) -> None:
        self.add(name, tarfile.SYMTYPE, link=target, mode=0o777)

    def hard_link(self, name: str, target: str) -> None:
        self.add(name, tarfile.LNKTYPE, link=target)


def write(layer: Layer) -> None:
    # Whiteouts; one of what is not there means nothing.
    layer.directory("srv")
    for name in ["gone", "directory-gone", "never-there"]:
        layer.file(f"srv/.wh.{name}")
    # An opaque directory: said before and after what it has itself.
    layer.directory("srv/emptied", 0o750)
    layer.file("srv/emptied/.wh..wh..opq")
    layer.file("srv/emptied/new", "new\n")
    layer.directory("srv/replaced")
    layer.file("srv/replaced/of-this-layer", "stays\n")
    layer.file("srv/replaced/.wh..wh..opq")
    # Other types in the same places.
    layer.directory("srv/file-to-directory")
    layer.file("srv/file-to-directory/inside", "inside\n")
    layer.file("srv/directory-to-file", "a file\n")
    layer.symlink("srv/directory-to-link", "whole")
    layer.directory("srv/link-to-directory")
    layer.file("srv/link-to-file", "a file\n")
    # A hard link to a file of a layer below, and one to a file of this layer.
    layer.hard_link("srv/third", "srv/first")
    layer.file("srv/whole/own", "own\n")
    layer.hard_link("srv/whole/own-too", "./srv/whole/own")
    # Beneath a link of the layer below, which is the directory's: merged directories.
    layer.file("lib/of-the-third-layer.so", "in usr/lib\n")
    layer.directory("lib/modules")
    layer.file("lib/modules/list", "empty\n")
    # Directories that no entry makes.
    layer.file("var/cache/implied/deeply/file", "there\n")
    # The same name twice: the last one counts.
    layer.file("srv/twice", "the first\n")
    layer.file("srv/twice", "the second\n")


if __name__ == "__main__":
    with tarfile.open(sys.argv[1], "w", format=tarfile.PAX_FORMAT) as archive:
        write(Layer(archive))
