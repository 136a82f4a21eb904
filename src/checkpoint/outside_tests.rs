use super::*;

fn plan() -> Plan {
    let text = include_str!("../../tests/plans/18-bind-mounts/plan.json");
    let mut plan: Plan = serde_json::from_str(text).unwrap();
    plan.masked_paths = vec![PathBuf::from("/proc/kcore"), PathBuf::from("/proc/acpi")];
    plan
}

fn external(key: &Path, beneath: &str) -> ExternalMount {
    ExternalMount {
        key: key.display().to_string(),
        beneath: beneath.into(),
        mountpoint: key.to_owned(),
    }
}

/// All that `plan` has from outside, and one mask.
fn all(plan: &Plan) -> Vec<ExternalMount> {
    let binds = plan.mounts.iter();
    let binds = binds.filter(|mount| matches!(mount.source, MountSource::Bind { .. }));
    let binds = binds.map(|mount| mount.destination.as_path());
    let devices = plan.devices.iter().map(|device| device.path.as_path());
    let masks = [Path::new("/proc/kcore")];
    let paths = binds.chain(devices).chain(masks);
    paths.map(|path| external(path, "")).collect()
}

#[test]
fn each_is_found_in_the_plan() {
    let plan = plan();
    let externals = all(&plan);
    let found = outside(&plan, &externals).unwrap();
    assert_eq!(found.len(), externals.len());
    for (found, external) in found.iter().zip(&externals) {
        assert_eq!(found.key, external.key);
        let path = match found.source {
            Source::Bind(index) => &plan.mounts[index].destination,
            Source::Device(index) => &plan.devices[index].path,
            Source::Mask => Path::new("/proc/kcore"),
        };
        assert_eq!(path, Path::new(&external.key));
    }
}

#[test]
fn what_is_beneath_a_mount_has_a_key_of_its_own() {
    let plan = plan();
    let mut externals = all(&plan);
    let first = PathBuf::from(&externals[0].key);
    externals.push(external(&first, "/sub/x"));
    let found = outside(&plan, &externals).unwrap();
    let last = found.last().unwrap();
    assert_eq!(last.key, format!("{}/sub/x", first.display()));
    assert_eq!(last.source, found[0].source);
    assert_eq!(last.beneath, Path::new("/sub/x"));
}

#[test]
fn what_one_of_the_two_lacks_is_refused() {
    let plan = plan();
    let mut more = all(&plan);
    more.push(external(Path::new("/nowhere"), ""));
    let error = outside(&plan, &more).unwrap_err();
    assert!(
        error.message().contains("\"/nowhere\""),
        "{}",
        error.message()
    );
    for (number, missing) in all(&plan).iter().enumerate() {
        let mut fewer = all(&plan);
        fewer.remove(number);
        let found = outside(&plan, &fewer);
        // A mask may have had nothing to cover.
        match missing.key.as_str() {
            "/proc/kcore" => assert!(found.is_ok()),
            key => assert!(found.unwrap_err().message().contains(key), "{key}"),
        }
    }
}
