//! Layers as streams.

use super::*;

/// The layer in `content`, which should be the tar `expected`.
fn layer(content: &[u8], expected: &[u8]) -> LayerBlob {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    let part = Part::whole(file.into(), "the layer".to_owned()).unwrap();
    LayerBlob::new(part, Some(Digest::of(content)), Some(Digest::of(expected))).unwrap()
}

/// More than the buffers of a stream hold together, and hard to compress.
fn long() -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33).to_le_bytes()[0]
    };
    (0..9 << 18).map(|_| next()).collect()
}

#[test]
fn every_compression_is_found_by_its_first_bytes() {
    let tar = long();
    let (first, second) = tar.split_at(1 << 18);
    let zstd = |content: &[u8]| zstd::encode_all(content, 1).unwrap();
    let skippable = [&[0x53, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 7, 7][..], &zstd(&tar)].concat();
    for (content, compression) in [
        (tar.clone(), Compression::None),
        (gzip(&tar), Compression::Gzip),
        (
            [gzip(first), gzip(&[]), gzip(second)].concat(),
            Compression::Gzip,
        ),
        (zstd(&tar), Compression::Zstd),
        ([zstd(first), zstd(second)].concat(), Compression::Zstd),
        (skippable, Compression::Zstd),
        (xz(&tar, 0), Compression::Xz),
        (
            [xz(first, 0), vec![0; 4], xz(second, 0)].concat(),
            Compression::Xz,
        ),
        (Vec::new(), Compression::None),
    ] {
        let expected = if content.is_empty() { &[][..] } else { &tar };
        let layer = layer(&content, expected);
        assert_eq!(layer.compression(), compression);
        assert!(
            read(&layer, &Limits::default()).unwrap() == expected,
            "{compression:?}"
        );
    }
}

#[test]
fn other_compressions_are_refused_by_name() {
    for (magic, name) in [
        (&b"BZh91AY"[..], "bzip2"),
        (b"\x04\x22\x4d\x18\0\0", "lz4"),
        (b"LZIP\x01", "lzip"),
        (b"\x5d\0\0\x80\0\0", "lzma"),
    ] {
        let file = tempfile::tempfile().unwrap();
        (&file).write_all(magic).unwrap();
        let part = Part::whole(file.into(), "the layer".to_owned()).unwrap();
        assert_refused(
            LayerBlob::new(part, None, None),
            &format!("is compressed with {name}"),
        );
    }
}

#[test]
fn damaged_streams_are_errors_and_never_an_early_end() {
    let tar = &long()[..300_000];
    let whole = [gzip(tar), zstd::encode_all(tar, 1).unwrap(), xz(tar, 0)];
    for content in &whole {
        let mut flipped = content.clone();
        let middle = content.len() / 2;
        flipped[middle] ^= 0x40;
        let garbage = [content, &b"garbage after the end"[..]].concat();
        let zeros = [content, &[0; 10][..]].concat();
        let cut = content[..content.len() - 1].to_vec();
        let half = content[..middle].to_vec();
        for damaged in [flipped, garbage, zeros, cut, half] {
            let layer = layer(&damaged, tar);
            let mut stream = layer.open(Arc::default(), &Limits::default()).unwrap();
            let ended = stream.read_to_end(&mut Vec::new());
            let verified = stream.verify();
            assert!(verified.is_err(), "{:?}", layer.compression());
            if ended.is_err() {
                assert_eq!(stream.failure(), verified.err());
            }
        }
    }
}

#[test]
fn other_content_than_was_meant_is_told_apart() {
    let tar = tar("a", b"1");
    let other = Digest::of(b"other");
    let part = || {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&gzip(&tar)).unwrap();
        Part::whole(file.into(), "the layer".to_owned()).unwrap()
    };
    let limits = Limits::default();
    let wrong = LayerBlob::new(part(), Some(other.clone()), None).unwrap();
    assert_refused(read(&wrong, &limits), "its descriptor says");
    let wrong = LayerBlob::new(part(), None, Some(other)).unwrap();
    assert_refused(read(&wrong, &limits), "(rootfs.diff_ids)");
    assert_eq!(
        read(&LayerBlob::new(part(), None, None).unwrap(), &limits).unwrap(),
        tar
    );
}

#[test]
fn a_stream_that_nobody_reads_on_ends() {
    let tar = long();
    for content in [tar.clone(), gzip(&tar)] {
        let layer = layer(&content, &tar);
        let progress = Arc::new(AtomicU64::new(0));
        let mut stream = layer.open(progress.clone(), &Limits::default()).unwrap();
        stream.read_exact(&mut [0; 1000]).unwrap();
        drop(stream);
        // The thread held the other reference.
        assert_eq!(Arc::strong_count(&progress), 1);
        drop(layer.open(Arc::default(), &Limits::default()).unwrap());
        let mut unread = layer.open(Arc::default(), &Limits::default()).unwrap();
        assert_eq!(unread.verify().unwrap(), Digest::of(&tar));
    }
}

#[test]
fn memory_and_length_have_limits() {
    let tar = long();
    let small = Limits {
        window: 1 << 20,
        ..Limits::default()
    };
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(24).unwrap();
    encoder.write_all(&tar).unwrap();
    let wide = encoder.finish().unwrap();
    let second = [zstd::encode_all(&b"first"[..], 1).unwrap(), wide.clone()].concat();
    for (content, part) in [
        (wide, "it needs 16 MiB"),
        (second, "too much memory"),
        // A dictionary of 8 MiB.
        (xz(&tar, 6), "it needs 8 MiB"),
    ] {
        let layer = layer(&content, &tar);
        assert_refused(read(&layer, &small), part);
        assert_refused(read(&layer, &small), "--max-window");
        if !part.starts_with("too") {
            assert!(read(&layer, &Limits::default()).is_ok());
        }
    }
    let short = Limits {
        layer: 1 << 20,
        entries: 10,
        ..Limits::default()
    };
    // Zeros behind the end of a tar are not the reader's: a few kilobytes may be terabytes of them.
    let bomb = layer(&gzip(&vec![0; 3 << 20]), &[]);
    assert_refused(read(&bomb, &short), "--max-layer");
}
