use super::*;

fn of(name: &str, text: &str, scope: bool) -> UnitAnnotations {
    let annotations = [(format!("{PREFIX}{name}"), text.to_owned())];
    unit_annotations(&BTreeMap::from(annotations), scope)
}

/// Checks what each annotation of `table` (its name and its text) becomes: a property's name, value and first version.
fn assert_read(table: &[(&str, &str, &str, PropertyValue, u32)]) {
    for (name, given, property, value, since) in table {
        let found = of(name, given, true);
        let expected = UnitProperty {
            property: format!("/annotations/{PREFIX}{name}"),
            name: (*property).to_owned(),
            value: value.clone(),
            since: *since,
        };
        assert_eq!(found.properties, [expected], "{name} {given}: {found:?}");
        assert!(found.problems.is_empty() && found.notes.is_empty());
    }
}

#[test]
fn numbers_are_read_with_and_without_their_type() {
    use PropertyValue::{I32, U64};
    assert_read(&[
        (
            "MemoryMax",
            "uint64 1048576",
            "MemoryMax",
            U64(1 << 20),
            231,
        ),
        ("MemoryMax", " @t 5 ", "MemoryMax", U64(5), 231),
        ("TasksMax", "0x10", "TasksMax", U64(16), 227),
        ("CPUWeight", "100", "CPUWeight", U64(100), 232),
        ("KillSignal", "int32 2", "KillSignal", I32(2), 205),
        (
            "TimeoutStopUSec",
            "uint64 123456789",
            "TimeoutStopUSec",
            U64(123_456_789),
            205,
        ),
        (
            "TimeoutStopSec",
            "7",
            "TimeoutStopUSec",
            U64(7_000_000),
            205,
        ),
        (
            "TimeoutStopSec",
            "uint64 7",
            "TimeoutStopUSec",
            U64(7_000_000),
            205,
        ),
        (
            "RuntimeMaxSec",
            "1.5",
            "RuntimeMaxUSec",
            U64(1_500_000),
            244,
        ),
        (
            "RuntimeMaxSec",
            "double 0.0000019",
            "RuntimeMaxUSec",
            U64(1),
            244,
        ),
        (
            "CPUQuotaPeriodSec",
            "0.01",
            "CPUQuotaPeriodUSec",
            U64(10_000),
            242,
        ),
    ]);
}

#[test]
fn texts_and_lists_are_read_as_their_type() {
    use PropertyValue::{Bool, Bytes, Texts};
    let text = |text: &str| PropertyValue::Text(text.to_owned());
    let texts = |texts: &[&str]| Texts(texts.iter().map(ToString::to_string).collect());
    assert_read(&[
        (
            "CollectMode",
            "'inactive-or-failed'",
            "CollectMode",
            text("inactive-or-failed"),
            236,
        ),
        ("OOMPolicy", "\"kill\"", "OOMPolicy", text("kill"), 253),
        (
            "ManagedOOMSwap",
            "'kill'",
            "ManagedOOMSwap",
            text("kill"),
            247,
        ),
        (
            "Description",
            "'a web server, mine'",
            "Description",
            text("a web server, mine"),
            1,
        ),
        ("SendSIGHUP", "true", "SendSIGHUP", Bool(true), 207),
        (
            "MemoryZSwapWriteback",
            "boolean false",
            "MemoryZSwapWriteback",
            Bool(false),
            256,
        ),
        (
            "AllowedCPUs",
            "[byte 0x03, 0x01]",
            "AllowedCPUs",
            Bytes(vec![3, 1]),
            244,
        ),
        (
            "AllowedMemoryNodes",
            "@ay []",
            "AllowedMemoryNodes",
            Bytes(vec![]),
            244,
        ),
        (
            "Documentation",
            "['man:a(1)', \"https://b/,c\"]",
            "Documentation",
            texts(&["man:a(1)", "https://b/,c"]),
            205,
        ),
    ]);
}

#[test]
fn values_of_another_type_are_refused() {
    for (name, given) in [
        ("MemoryMax", "-1"),
        ("MemoryMax", "'5'"),
        ("MemoryMax", ""),
        ("MemoryMax", "uint645"),
        ("MemoryMax", "18446744073709551616"),
        ("MemoryMax", "64M"),
        ("MemoryMax", "+5"),
        ("TimeoutStopSec", "18446744073709551615"),
        ("TimeoutStopSec", "'7'"),
        ("TimeoutStopSec", ".5"),
        ("TimeoutStopSec", "1e3"),
        ("CollectMode", "'never'"),
        ("CollectMode", "inactive"),
        ("OOMPolicy", "'kill"),
        ("Description", "'a\nb'"),
        ("Description", "'"),
        ("Description", r"'a\'b'"),
        ("KillSignal", "2147483648"),
        ("SendSIGHUP", "1"),
        ("AllowedCPUs", "[256]"),
        ("AllowedCPUs", "3"),
        ("Documentation", "['a' 'b']"),
        ("Documentation", "['a',]"),
    ] {
        let found = of(name, given, true);
        assert_eq!(found.problems.len(), 1, "{name} {given:?}: {found:?}");
        assert!(found.problems[0].message.contains(" is not "), "{found:?}");
        assert!(found.properties.is_empty());
    }
}

/// CVE-2024-3154: an annotation that makes the user's manager run a program of its choice.
#[test]
fn what_could_do_more_than_limit_is_refused() {
    for name in [
        "ExecStart",
        "ExecStartPre",
        "ExecStopPost",
        "ExecCondition",
        "Slice",
        "Delegate",
        "PIDs",
        "PIDFDs",
        "User",
        "Environment",
        "WorkingDirectory",
        "Before",
        "After",
        "Requires",
        "BindsTo",
        "Conflicts",
        "OnFailure",
        "FailureAction",
        "SuccessAction",
        "JobTimeoutAction",
        "StartLimitAction",
        "KillMode",
        "SendSIGKILL",
        "DeviceAllow",
        "BPFProgram",
        "IPIngressFilterPath",
        "memorymax",
        "MemoryMax ",
        "",
        "Sec",
        "USec",
        "MemoryMaxSec",
        "TimeoutStop",
        "TimeoutStopUSecSec",
    ] {
        for scope in [true, false] {
            let found = of(name, "uint64 1", scope);
            assert_eq!(found.problems.len(), 1, "{name}");
            assert!(
                found.problems[0].message.contains("not on the list"),
                "{name}"
            );
            assert_eq!(
                found.problems[0].pointer,
                format!("/annotations/{PREFIX}{name}")
            );
            assert!(found.properties.is_empty() && found.notes.is_empty());
        }
    }
}

#[test]
fn without_a_scope_a_limit_is_refused_and_the_rest_told() {
    for (name, value) in [
        ("MemoryMax", "5"),
        ("RuntimeMaxSec", "5"),
        ("OOMPolicy", "'kill'"),
    ] {
        let found = of(name, value, false);
        assert_eq!(found.problems.len(), 1, "{name}");
        assert!(
            found.problems[0].message.contains("there is none"),
            "{found:?}"
        );
        assert!(found.properties.is_empty() && found.notes.is_empty());
    }
    let found = of("TimeoutStopSec", "5", false);
    assert!(found.problems.is_empty() && found.properties.is_empty());
    assert_eq!(found.notes.len(), 1);
}

#[test]
fn other_annotations_are_not_for_the_scope() {
    let annotations = [
        ("org.systemd.propertyMemoryMax".to_owned(), "5".to_owned()),
        ("run.oci.handler".to_owned(), "x".to_owned()),
    ];
    let found = unit_annotations(&BTreeMap::from(annotations), true);
    assert_eq!(found, UnitAnnotations::default());
}

#[test]
fn every_name_has_a_version() {
    for (name, _) in LIMITS.iter().chain(OTHERS) {
        assert!(since(name).is_some(), "{name}");
    }
}

proptest::proptest! {
    #[test]
    fn no_value_panics(name in "[A-Za-z]{0,10}(Sec)?", text in "\\PC{0,24}") {
        for name in [name.as_str(), "MemoryMax", "TimeoutStopSec", "Documentation", "AllowedCPUs", "OOMPolicy"] {
            of(name, &text, true);
        }
    }
}
