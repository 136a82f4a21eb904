use super::*;

#[test]
fn a_path_in_the_list_of_namespaces_is_seen() {
    let cases = [
        (
            r#"{"linux":{"namespaces":[{"type":"pid"}]},"root":{"path":"r"}}"#,
            false,
        ),
        (r#"{"root":{"path":"r"}}"#, false),
        (
            r#"{"linux":{"namespaces":[{"path":"/p","type":"pid"}]}}"#,
            true,
        ),
        (
            r#"{"linux":{"namespaces":[{"type":"pid"},{"type":"uts","path" : "/a]"}]}}"#,
            true,
        ),
        (
            r#"{"annotations":{"namespaces":"]"},"linux":{"namespaces":[{"path":"/p"}]}}"#,
            true,
        ),
        (
            r#"{"linux":{"namespaces":[{"type":"uts","x":["]\"]",{}],"path":"/p"}]}}"#,
            true,
        ),
        (
            r#"{"linux":{"namespaces" : [{"type":"uts"}], "x":{"path":"/p"}}}"#,
            false,
        ),
        (r#"{"linux":{"names\u0070aces":[{"path":"/p"}]}}"#, true),
        (r#"{"linux":{"n\u0065tDevices":{}}}"#, true),
        (r#"{"linux":{"netDevices":{}}}"#, true),
        (r#"{"process":{"args":["\u003c\u2028"]}}"#, false),
        (r#"{"linux":{"namespaces":[{"type":"pid"#, false),
    ];
    for (config, expected) in cases {
        assert_eq!(may_join(config.as_bytes()), expected, "{config}");
    }
}
