//! Archives of layouts, those of docker, and root filesystems without an image.

use super::*;

type Builder = ::tar::Builder<Vec<u8>>;

fn builder() -> Builder {
    ::tar::Builder::new(Vec::new())
}

fn link(builder: &mut Builder, kind: ::tar::EntryType, name: &str, target: &str) {
    let mut header = ::tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o777);
    header.set_entry_type(kind);
    builder.append_link(&mut header, name, target).unwrap();
}

/// The archive in a file of its own.
struct Archived {
    directory: tempfile::TempDir,
}

impl Archived {
    fn new(content: &[u8]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("image.tar"), content).unwrap();
        Self { directory }
    }

    fn image(&self, transport: &str, selector: &str) -> Result<SourceImage> {
        self.image_with(transport, selector, None)
    }

    fn image_with(
        &self,
        transport: &str,
        selector: &str,
        scratch: Option<&OwnedFd>,
    ) -> Result<SourceImage> {
        let path = self.directory.path().join("image.tar");
        open(
            &format!("{transport}:{}{selector}", path.display()),
            "linux/amd64",
            scratch,
        )
    }
}

/// The usual layout as an archive, `before` each of its files, and its files' names.
fn layout_archive(prefix: &str, twice: &str) -> Vec<u8> {
    let made = Made::usual();
    let mut builder = builder();
    let mut names = vec!["index.json".to_owned(), "oci-layout".to_owned()];
    for blob in fs::read_dir(made.path("blobs/sha256")).unwrap() {
        let name = blob.unwrap().file_name().into_string().unwrap();
        names.push(format!("blobs/sha256/{name}"));
    }
    for name in names {
        let content = fs::read(made.path(&name)).unwrap();
        add(&mut builder, &format!("{prefix}{name}"), &content);
        if name == twice {
            add(&mut builder, &format!("{prefix}{name}"), &content);
        }
    }
    builder.into_inner().unwrap()
}

#[test]
fn a_layout_is_read_from_an_archive() {
    for prefix in ["", "./"] {
        let archived = Archived::new(&layout_archive(prefix, ""));
        let image = archived.image("oci-archive", "").unwrap();
        let content = read(&image.layers[0], &Limits::default()).unwrap();
        assert_eq!(content, tar("a", b"content"));
        assert_refused(archived.image("docker-archive", ""), "oci-archive:FILE");
        assert_refused(archived.image("oci", ""), "a file is oci-archive:FILE");
    }
}

#[test]
fn an_archive_may_be_compressed_as_a_whole() {
    let plain = layout_archive("", "");
    let scratch = tempfile::tempdir().unwrap();
    let fd = rootfs::open_directory(scratch.path()).unwrap();
    for content in [
        gzip(&plain),
        zstd::encode_all(&plain[..], 1).unwrap(),
        xz(&plain, 1),
    ] {
        let archived = Archived::new(&content);
        let image = archived.image_with("oci-archive", "", Some(&fd)).unwrap();
        assert!(read(&image.layers[0], &Limits::default()).is_ok());
        assert_refused(
            archived.image("oci-archive", ""),
            "no place to decompress it",
        );
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
        let cut = Archived::new(&content[..content.len() / 2]);
        assert_refused(
            cut.image_with("oci-archive", "", Some(&fd)),
            "cannot decompress",
        );
        let short = Limits {
            layer: 1024,
            ..Limits::default()
        };
        let path = archived.directory.path().join("image.tar");
        let reference = Reference::OciArchive(path, None);
        let source = Source::open(&reference, &short, Some(&fd)).unwrap();
        assert_refused(
            source.image(&Platform::parse("linux/amd64").unwrap()),
            "--max-layer",
        );
    }
}

#[test]
fn ambiguous_and_broken_archives_are_refused() {
    let twice = Archived::new(&layout_archive("", "index.json"));
    assert_refused(twice.image("oci-archive", ""), "index.json in");
    assert_refused(twice.image("oci-archive", ""), "is there more than once");

    let mut linked = builder();
    add(&mut linked, "real", br#"{"imageLayoutVersion":"1.0.0"}"#);
    link(&mut linked, ::tar::EntryType::Symlink, "oci-layout", "real");
    let linked = Archived::new(&linked.into_inner().unwrap());
    assert_refused(linked.image("oci-archive", ""), "oci-layout in");
    assert_refused(linked.image("oci-archive", ""), "is a link");

    let mut many = builder();
    for n in 0..=20_000 {
        add(&mut many, &n.to_string(), b"");
    }
    let many = Archived::new(&many.into_inner().unwrap());
    assert_refused(many.image("oci-archive", ""), "more than 20000 members");

    // A member of two MiB, of which one is there.
    let big = tar("big", &vec![1; 2 << 20]);
    assert_refused(
        Archived::new(&big[..1 << 20]).image("oci-archive", ""),
        "is incomplete",
    );
    assert_refused(
        Archived::new(&[1; 2048]).image("oci-archive", ""),
        "cannot read",
    );
    assert_refused(
        open("oci-archive:/", "linux/amd64", None),
        "a directory is oci:DIR",
    );
    assert_refused(
        open("oci-archive:/dev/null", "linux/amd64", None),
        "is not a regular file",
    );
}

#[test]
fn a_big_member_is_jumped_over() {
    let mut big = builder();
    add(&mut big, "big", &vec![1; (1 << 20) + 1]);
    add(&mut big, "after", b"content");
    let archived = Archived::new(&big.into_inner().unwrap());
    let part = Part::open(&archived.directory.path().join("image.tar")).unwrap();
    let archive = Archive::index(part, None, &Limits::default()).unwrap();
    let after = archive.open("after").unwrap().unwrap();
    assert_eq!(after.read(100).unwrap(), b"content");
    assert_eq!(archive.open("big").unwrap().unwrap().length, (1 << 20) + 1);
    assert!(archive.open("none").unwrap().is_none());
}

/// As docker before 25 wrote them: two images that share a layer, which is there once.
fn docker_archive() -> Builder {
    let (base, top) = (tar("a", b"base"), tar("b", b"top"));
    let configs = [config(&[&base]), config(&[&base, &top])].map(|config| config.to_string());
    let names = configs
        .each_ref()
        .map(|config| format!("{}.json", Digest::of(config.as_bytes()).hex()));
    let mut builder = builder();
    add(&mut builder, "1/layer.tar", &base);
    add(&mut builder, "2/layer.tar", &top);
    link(
        &mut builder,
        ::tar::EntryType::Symlink,
        "3/layer.tar",
        "../1/layer.tar",
    );
    link(
        &mut builder,
        ::tar::EntryType::Link,
        "4/layer.tar",
        "2/layer.tar",
    );
    for (name, config) in names.iter().zip(&configs) {
        add(&mut builder, name, config.as_bytes());
    }
    let manifest = json!([
        { "Config": names[0], "RepoTags": ["debian:12"], "Layers": ["1/layer.tar"] },
        { "Config": names[1], "RepoTags": null, "Layers": ["3/layer.tar", "4/layer.tar"] },
    ]);
    add(
        &mut builder,
        "manifest.json",
        manifest.to_string().as_bytes(),
    );
    builder
}

#[test]
fn what_docker_saves_is_read() {
    let archived = Archived::new(&docker_archive().into_inner().unwrap());
    assert_refused(
        archived.image("docker-archive", ""),
        "name one of them after the path: debian:12",
    );
    assert_refused(
        archived.image("docker-archive", ":debian:13"),
        "it has debian:12",
    );
    assert_refused(archived.image("oci-archive", ""), "docker-archive:FILE");
    let limits = Limits::default();
    for (name, count) in [(":debian:12", 1), (":docker.io/library/debian:12", 1)] {
        let image = archived.image("docker-archive", name).unwrap();
        assert_eq!(image.layers.len(), count);
        assert!(image.manifest.is_none());
        assert_eq!(image.suggested_name.as_deref(), Some(&name[1..]));
    }
    let id = Digest::of(
        config(&[&tar("a", b"base"), &tar("b", b"top")])
            .to_string()
            .as_bytes(),
    );
    let image = archived.image("docker-archive", &format!("@{id}")).unwrap();
    let layers: Vec<_> = image
        .layers
        .iter()
        .map(|layer| read(layer, &limits).unwrap())
        .collect();
    assert_eq!(layers, [tar("a", b"base"), tar("b", b"top")]);
    let tars = layers.iter().map(|tar| (Digest::of(tar), tar.len() as u64));
    let manifest = made_manifest(&image.config, &tars.collect::<Vec<_>>());
    let manifest = Document::object(&manifest, "it")
        .unwrap()
        .manifest()
        .unwrap();
    assert_eq!((manifest.0.digest, manifest.1.len()), (id, 2));
    assert_refused(
        archived.image("docker-archive", &format!("@{}", Digest::of(b""))),
        "no image with the id",
    );
}

#[test]
fn hostile_archives_of_docker_are_refused() {
    let base = tar("a", b"base");
    let good = config(&[&base]).to_string();
    let name = format!("{}.json", Digest::of(good.as_bytes()).hex());
    let archive = |layers: &[&str], config: &str, more: &dyn Fn(&mut Builder)| {
        let mut builder = builder();
        add(&mut builder, "1/layer.tar", &base);
        add(&mut builder, &name, config.as_bytes());
        more(&mut builder);
        let manifest = json!([{ "Config": name, "RepoTags": ["a:b"], "Layers": layers }]);
        add(
            &mut builder,
            "manifest.json",
            manifest.to_string().as_bytes(),
        );
        Archived::new(&builder.into_inner().unwrap()).image("docker-archive", "")
    };
    let symlink = ::tar::EntryType::Symlink;
    assert!(archive(&["1/layer.tar"], &good, &|_| ()).is_ok());
    assert_refused(
        archive(&["1/layer.tar"], "{}", &|_| ()),
        "is not what its digest means",
    );
    assert_refused(archive(&["../../etc/passwd"], &good, &|_| ()), "is missing");
    assert_refused(
        archive(&["1/layer.tar", "1/layer.tar"], &good, &|_| ()),
        "has 1 diff_ids, and the manifest has 2 layers",
    );
    for (name, target, part) in [
        ("x", "/etc/passwd", "is missing"),
        ("x", "../etc/passwd", "is not a plain regular file"),
        ("x", "x", "leads from link to link"),
        ("1/layer.tar", "../1/layer.tar", "is there more than once"),
    ] {
        let linked = archive(&[name], &good, &|builder| {
            link(builder, symlink, name, target)
        });
        assert_refused(linked, part);
    }
}

#[test]
fn a_root_filesystem_is_an_image_of_one_layer() {
    let tar = tar("etc/x", b"");
    let archived = Archived::new(&gzip(&tar));
    let image = archived.image("rootfs", "").unwrap();
    assert_eq!(image.suggested_name.as_deref(), Some("image"));
    assert_eq!(read(&image.layers[0], &Limits::default()).unwrap(), tar);
    assert!(image.layers[0].directory().is_none());
    let config: Value = serde_json::from_slice(&image.config).unwrap();
    assert_eq!(config["config"]["Cmd"], json!(["/bin/sh"]));
    let with_id = made_config(&Platform::host(), &[Digest::of(&tar)]);
    let (platform, ids) = Document::object(&with_id, "it").unwrap().config().unwrap();
    assert_eq!((platform, ids), (Platform::host(), vec![Digest::of(&tar)]));

    let directory = format!("rootfs:{}", archived.directory.path().display());
    let image = open(&directory, "linux/amd64", None).unwrap();
    assert!(image.layers[0].directory().is_some());
    assert_refused(
        image.layers[0].open(Arc::default(), &Limits::default()),
        "a directory is no stream",
    );
    assert_refused(open("rootfs:/nonexistent", "linux/amd64", None), "ENOENT");
}
