use super::*;
use crate::cgroup::fs::pretended;

fn setting(file: &str, value: &str) -> Setting {
    Setting {
        property: format!("/linux/resources/unified/{file}"),
        controller: file.split('.').next().unwrap().to_owned(),
        writes: vec![FileWrite {
            file: file.to_owned(),
            value: value.to_owned(),
        }],
    }
}

fn write(file: &str, value: &str) -> FileWrite {
    setting(file, value).writes.remove(0)
}

#[test]
fn what_was_before_can_be_written_again() {
    let io = "8:0 rbps=1 wbps=max riops=max wiops=max\n8:16 rbps=2 wbps=3 riops=4 wiops=5\n";
    let weights = "default 100\n8:16 300\n";
    for (text, file, value, expected) in [
        ("max\n", "memory.max", "5", "max"),
        ("max 100000\n", "cpu.max", "5 6", "max 100000"),
        ("\n", "cpuset.cpus", "0", "\n"),
        (
            "root invalid (x)\n",
            "cpuset.cpus.partition",
            "member",
            "root",
        ),
        (
            io,
            "io.max",
            "8:16 rbps=9",
            "8:16 rbps=2 wbps=3 riops=4 wiops=5",
        ),
        (
            io,
            "io.max",
            "8:1 rbps=9",
            "8:1 rbps=max wbps=max riops=max wiops=max",
        ),
        (weights, "io.weight", "default 7", "default 100"),
        (weights, "io.weight", "7", "default 100"),
        (weights, "io.bfq.weight", "8:16 7", "8:16 300"),
        (weights, "io.bfq.weight", "8:0 7", "8:0 default"),
        (
            "mlx4_0 hca_handle=2 hca_object=max\n",
            "rdma.max",
            "mlx4_0 hca_handle=1",
            "mlx4_0 hca_handle=2 hca_object=max",
        ),
    ] {
        assert_eq!(
            value_before(text, &write(file, value)),
            expected,
            "{file} {value}"
        );
    }
}

#[test]
fn leaving_idleness_gives_the_weight_back() {
    let (_place, dir) = pretended(&[("cpu.idle", "0\n"), ("cpu.weight", "250\n")]);
    let had = before(&dir, &write("cpu.idle", "1")).unwrap();
    assert_eq!(had, [write("cpu.weight", "250"), write("cpu.idle", "0")]);
}

#[test]
fn the_kernel_takes_each_step() {
    let (_place, dir) = pretended(&[("cpu.max.burst", "5000\n")]);
    for (burst, expected) in [
        (
            "1000",
            ["cpu.max.burst", "cpu.max", "memory.swap.max", "memory.max"],
        ),
        (
            "9000",
            ["cpu.max", "cpu.max.burst", "memory.swap.max", "memory.max"],
        ),
    ] {
        for settings in [
            [
                setting("cpu.max", "9 9"),
                setting("cpu.max.burst", burst),
                setting("memory.max", "1"),
                setting("memory.swap.max", "1"),
            ],
            [
                setting("cpu.max.burst", burst),
                setting("cpu.max", "9 9"),
                setting("memory.swap.max", "1"),
                setting("memory.max", "1"),
            ],
        ] {
            let files: Vec<_> = ordered(&dir, &settings)
                .iter()
                .map(|s| s.writes[0].file.clone())
                .collect();
            assert_eq!(files, expected);
        }
    }
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a file in a temporary directory is removed"
)]
fn a_failure_puts_everything_back() {
    let (place, dir) = pretended(&[("memory.max", "max"), ("pids.max", "77")]);
    dir.make_directory("cpu.weight").unwrap();
    let mut undo = Undo {
        dirs: vec![dir],
        ..Undo::default()
    };
    let settings = [
        setting("memory.max", "123"),
        setting("pids.max", "44"),
        setting("memory.high", "max"),
        setting("cpu.weight", "7"),
    ];
    let error = undo.write(&settings[..3]).map(|enforced| enforced.len());
    assert_eq!(error, Ok(2), "what is usual needs no file");
    assert_eq!(undo.dirs[0].read("memory.max").unwrap(), "123");
    let error = undo.write(&settings[3..]).unwrap_err();
    let error = undo.all(&mut None, error);
    assert!(
        error.hints().unwrap().contains("nothing was changed"),
        "{error}"
    );
    assert_eq!(undo.dirs[0].read("memory.max").unwrap(), "max");
    assert_eq!(undo.dirs[0].read("pids.max").unwrap(), "77");

    std::fs::remove_file(place.path().join("pids.max")).unwrap();
    let error = undo.all(&mut None, Error::new("first"));
    assert!(
        error
            .message()
            .starts_with("first: and some limits could not be set back"),
        "{error}"
    );
    assert!(error.message().contains("pids.max"), "{error}");
    assert_eq!(error.hints(), None);
}

#[test]
fn what_is_remembered_is_replaced() {
    let enforced = |file: &str, value: &str| Enforced {
        property: "/x".to_owned(),
        file: file.to_owned(),
        value: value.to_owned(),
        by: EnforcedBy::Cgroupfs,
    };
    let changed = Changed {
        enforced: vec![
            enforced("memory.max", "2"),
            enforced("io.max", "8:0 rbps=2"),
        ],
        undo: Undo::default(),
    };
    let before = [
        enforced("memory.max", "1"),
        enforced("pids.max", "1"),
        enforced("io.max", "8:0 rbps=1"),
        enforced("io.max", "8:1 rbps=1"),
        enforced("io.max", "8:0 wbps=1"),
    ];
    let values: Vec<_> = changed
        .merged(&before)
        .into_iter()
        .map(|e| e.value)
        .collect();
    assert_eq!(values, ["1", "8:1 rbps=1", "8:0 wbps=1", "2", "8:0 rbps=2"]);
}

#[test]
fn the_scope_has_again_what_its_files_said() {
    let (_place, dir) = pretended(&[
        ("memory.max", "5\n"),
        ("cpu.idle", "1\n"),
        ("cpu.max", "34000 100000\n"),
    ]);
    let settings = [
        setting("memory.max", "9"),
        setting("cpu.weight", "9"),
        setting("cpu.max", "1 2"),
        setting("cpuset.cpus", "0"),
        setting("io.max", "8:0 rbps=1"),
    ];
    let found = properties_before(&dir, &settings).unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|p| format!("{}={:?}", p.name, p.value))
        .collect();
    let max = u64::MAX;
    assert_eq!(
        found,
        [
            "MemoryMax=U64(5)".to_owned(),
            "CPUWeight=U64(0)".to_owned(),
            "CPUQuotaPerSecUSec=U64(340000)".to_owned(),
            "CPUQuotaPeriodUSec=U64(100000)".to_owned(),
            "AllowedCPUs=Bytes([])".to_owned(),
            format!("IOReadBandwidthMax=DeviceNumbers([(\"/dev/block/8:0\", {max})])"),
            format!("IOWriteBandwidthMax=DeviceNumbers([(\"/dev/block/8:0\", {max})])"),
            format!("IOReadIOPSMax=DeviceNumbers([(\"/dev/block/8:0\", {max})])"),
            format!("IOWriteIOPSMax=DeviceNumbers([(\"/dev/block/8:0\", {max})])"),
        ]
    );
}
