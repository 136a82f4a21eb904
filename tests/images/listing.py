#!/usr/bin/env python3
"""Prints what is in a directory, one JSON document a line, sorted by name: type, mode, owner, times, links, attributes and
content. Run it where all owners are mapped.

Usage: listing.py DIRECTORY
"""

import hashlib
import json
import os
import stat
import sys

KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFSOCK: "socket",
}


def content(path: bytes) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def attributes(path: bytes) -> dict[str, str]:
    return {name: os.getxattr(path, name, follow_symlinks=False).hex() for name in os.listxattr(path, follow_symlinks=False)}


def describe(path: bytes, found: os.stat_result) -> dict[str, object]:
    kind = stat.S_IFMT(found.st_mode)
    entry = {
        "kind": KINDS[kind],
        "mode": f"{stat.S_IMODE(found.st_mode):04o}",
        "owner": [found.st_uid, found.st_gid],
        "mtime": found.st_mtime_ns,
        "xattrs": attributes(path),
    }
    if kind == stat.S_IFREG:
        entry.update(size=found.st_size, sha256=content(path), allocated=found.st_blocks * 512)
    elif kind == stat.S_IFLNK:
        entry.update(target=os.fsdecode(os.readlink(path)))
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        entry.update(device=[os.major(found.st_rdev), os.minor(found.st_rdev)])
    return entry


def walk(top: bytes) -> dict[bytes, tuple[bytes, os.stat_result]]:
    found = {b".": (top, os.lstat(top))}
    for directory, directories, files in os.walk(top, onerror=fail):
        for name in directories + files:
            path = os.path.join(directory, name)
            found[os.path.relpath(path, top)] = (path, os.lstat(path))
    return found


def fail(error: OSError) -> None:
    raise error


def main(top: str) -> None:
    entries = walk(os.fsencode(top))
    groups: dict[tuple[int, int], list[str]] = {}
    for name in sorted(entries):
        _, found = entries[name]
        if not stat.S_ISDIR(found.st_mode):
            groups.setdefault((found.st_dev, found.st_ino), []).append(os.fsdecode(name))
    for name in sorted(entries):
        path, found = entries[name]
        entry = describe(path, found)
        same = groups.get((found.st_dev, found.st_ino), [])
        if len(same) > 1:
            entry["linked"] = same
        print(json.dumps({"path": os.fsdecode(name), **entry}))


if __name__ == "__main__":
    main(sys.argv[1])
