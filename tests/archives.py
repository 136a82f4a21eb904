"""Writes archives as it is asked to, and says what is in them.

One request a line: {"path", "format", "entries"}; one answer a line: what Python's tarfile lists of the archive at "path".
Names and values are hexadecimal, as they need not be text. What a format cannot hold is left out.
"""

import hashlib
import io
import json
import sys
import tarfile

OPTIONS = {"encoding": "utf-8", "errors": "surrogateescape"}
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def text(digits):
    return bytes.fromhex(digits).decode(**OPTIONS)


def digits(text):
    return text.encode(**OPTIONS).hex()


def write(path, form, entries):
    with tarfile.open(path, "w", format=FORMATS[form], **OPTIONS) as archive:
        for entry in entries:
            info = tarfile.TarInfo(text(entry["name"]))
            info.type = entry["type"].encode()
            info.linkname = text(entry["link"])
            for field in ("mode", "uid", "gid", "devmajor", "devminor"):
                setattr(info, field, entry[field])
            quarters = entry["quarters"]
            info.mtime = quarters / 4 if form == "pax" else quarters // 4
            info.pax_headers = {"SCHILY.xattr." + name: text(value) for name, value in entry["xattrs"].items()}
            content = bytes(entry["seed"] * place % 251 for place in range(entry["size"]))
            # A link may say a size and have no content.
            info.size = len(content)
            start = archive.fileobj.tell()
            try:
                archive.addfile(info, io.BytesIO(content) if info.isreg() else None)
            except ValueError:
                archive.fileobj.seek(start)


def listed(path):
    with tarfile.open(path, **OPTIONS) as archive:
        for info in archive:
            prefix = "SCHILY.xattr."
            xattrs = {name.removeprefix(prefix): value for name, value in info.pax_headers.items() if name.startswith(prefix)}
            content = archive.extractfile(info).read() if info.isreg() else b""
            yield {
                "name": digits(info.name),
                "type": info.type.decode(),
                "link": digits(info.linkname) if info.issym() or info.islnk() else "",
                "mode": info.mode,
                "uid": info.uid,
                "gid": info.gid,
                "quarters": int(info.mtime * 4),
                "device": [info.devmajor, info.devminor] if info.isdev() and not info.isfifo() else [0, 0],
                "xattrs": {name: digits(value) for name, value in xattrs.items()},
                "size": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }


for line in sys.stdin:
    request = json.loads(line)
    if "entries" in request:
        write(request["path"], request["format"], request["entries"])
    print(json.dumps(list(listed(request["path"]))), flush=True)
