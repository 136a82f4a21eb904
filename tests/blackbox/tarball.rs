//! Tar archives and images as nobody should make them: every field is what the test says.

use serde_json::json;

use lodger::image::Digest;

/// What an archive is filled up to.
const BLOCK: usize = 512;

/// A header, field by field (tar(5) of libarchive).
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(crate) kind: u8,
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) size: u64,
    pub(crate) device: (u32, u32),
}

impl Header {
    pub(crate) fn new(kind: u8, name: &str) -> Header {
        Header {
            kind,
            name: name.into(),
            link: Vec::new(),
            mode: 0o755,
            owner: (0, 0),
            size: 0,
            device: (0, 0),
        }
    }

    fn block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.name[..self.name.len().min(100)]);
        put(100, format!("{:07o}", self.mode).as_bytes());
        put(108, format!("{:07o}", self.owner.0).as_bytes());
        put(116, format!("{:07o}", self.owner.1).as_bytes());
        if self.size < 1 << 33 {
            put(124, format!("{:011o}", self.size).as_bytes());
        } else {
            // Binary, as GNU tar has it.
            put(124, &[0x80, 0, 0, 0]);
            put(128, &self.size.to_be_bytes());
        }
        put(136, b"11145401322");
        put(148, b"        ");
        put(156, &[self.kind]);
        put(157, &self.link[..self.link.len().min(100)]);
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}", self.device.0).as_bytes());
        put(337, format!("{:07o}", self.device.1).as_bytes());
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

/// An archive, as far as it is written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    pub(crate) fn new() -> Tar {
        Tar::default()
    }

    /// A header with whatever follows it, filled up to whole blocks.
    pub(crate) fn entry(mut self, header: &Header, content: &[u8]) -> Tar {
        self.bytes.extend(header.block());
        self.bytes.extend(content);
        self.bytes
            .resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        self
    }

    fn put(self, kind: u8, name: &str, link: &str, content: &[u8]) -> Tar {
        let mut header = Header::new(kind, name);
        header.link = link.into();
        header.size = content.len() as u64;
        // Names that do not fit are given in an extended header.
        if name.len() > 100 || link.len() > 100 {
            let records = [("path", name), ("linkpath", link)];
            return self
                .pax(&records[..2 - usize::from(link.is_empty())])
                .entry(&header, content);
        }
        self.entry(&header, content)
    }

    pub(crate) fn dir(self, name: &str) -> Tar {
        self.put(b'5', name, "", b"")
    }

    pub(crate) fn file(self, name: &str, content: &str) -> Tar {
        self.put(b'0', name, "", content.as_bytes())
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Tar {
        self.put(b'2', name, target, b"")
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Tar {
        self.put(b'1', name, target, b"")
    }

    pub(crate) fn with_mode(self, kind: u8, name: &str, mode: u32) -> Tar {
        let mut header = Header::new(kind, name);
        header.mode = mode;
        self.entry(&header, b"")
    }

    /// An extended header for what comes next.
    pub(crate) fn pax(self, records: &[(&str, &str)]) -> Tar {
        let bytes = |(key, value): &(&str, &str)| ((*key).to_owned(), value.as_bytes().to_vec());
        self.pax_bytes(&records.iter().map(bytes).collect::<Vec<_>>())
    }

    /// As [`Tar::pax`], with values that are no text.
    pub(crate) fn pax_bytes(self, records: &[(String, Vec<u8>)]) -> Tar {
        let mut content = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length += 1;
            }
            content.extend(format!("{length} {key}=").into_bytes());
            content.extend(value);
            content.push(b'\n');
        }
        self.put(b'x', "pax", "", &content)
    }

    /// An extended header with this text, whatever it is.
    pub(crate) fn pax_text(self, content: &str) -> Tar {
        self.put(b'x', "pax", "", content.as_bytes())
    }

    /// The archive, with its end.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }

    /// The archive without its end, and without the last `missing` bytes.
    pub(crate) fn cut(mut self, missing: usize) -> Vec<u8> {
        self.bytes.truncate(self.bytes.len() - missing);
        self.bytes
    }
}

/// What `docker save` writes of an image with these layers, the lowest first.
pub(crate) fn docker_archive(layers: &[Vec<u8>]) -> Vec<u8> {
    let digests: Vec<String> = layers
        .iter()
        .map(|layer| Digest::of(layer).to_string())
        .collect();
    let names: Vec<String> = (0..layers.len()).map(|n| format!("{n}.tar")).collect();
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": arch, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": digests}
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": ["x:latest"], "Layers": names}]);
    let mut tar = Tar::new()
        .file("manifest.json", &manifest.to_string())
        .file("config.json", &config.to_string());
    for (name, layer) in names.iter().zip(layers) {
        tar = tar.put(b'0', name, "", layer);
    }
    tar.end()
}
