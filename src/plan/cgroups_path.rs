//! `linux.cgroupsPath` (config-linux.md, "Cgroups Path"): the place of the container's cgroup.
//!
//! It has two forms, by the manager: `SLICE:PREFIX:NAME` for systemd, a path for the runtime's own. Wherever a path says it
//! is, it is beneath the caller's own cgroup.

use super::CgroupPlace;
use crate::bundle::Problem;

const POINTER: &str = "/linux/cgroupsPath";

/// The longest name of a unit, in bytes (systemd.unit(5)).
const UNIT_NAME_LIMIT: usize = 255;

/// The longest name of a directory, in bytes (NAME_MAX).
const NAME_LIMIT: usize = 255;

const SCOPE: &str = ".scope";
const SLICE: &str = ".slice";

/// Whether `path` has the form that is for systemd.
pub(super) fn is_for_systemd(path: &str) -> bool {
    path.matches(':').count() == 2 && !path.contains('/')
}

/// The scope that `path` stands for.
///
/// # Errors
/// It is not of that form, or no unit can have such a name. The message on the form is runc's, for those who look for it.
pub(super) fn in_systemd(path: &str) -> Result<CgroupPlace, Problem> {
    let problem = |message: String| Problem::new(POINTER, message);
    if path.is_empty() {
        return Ok(CgroupPlace::Systemd {
            slice: None,
            name: None,
        });
    }
    let parts: Vec<_> = path.split(':').collect();
    let [slice, prefix, name] = parts[..] else {
        return Err(problem(format!(
            "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {path:?} instead"
        )));
    };
    if let Some(message) = wrong_slice(slice) {
        return Err(problem(message));
    }
    if name.is_empty() {
        return Err(problem("has no name after the second \":\"".to_owned()));
    }
    if name.ends_with(SLICE) {
        let message = format!(
            "{name:?} would be a slice, which systemd puts no process in: give a name without {SLICE:?}"
        );
        return Err(problem(message));
    }
    let bare = format!("{prefix}-{name}");
    if bare.contains('/') || bare.chars().any(char::is_control) {
        let message = format!(
            "no unit can be named {bare:?}: it may have neither \"/\" nor control characters"
        );
        return Err(problem(message));
    }
    let name = unit_name(&bare);
    let length = name.len() + SCOPE.len();
    if length > UNIT_NAME_LIMIT {
        let message =
            format!("the name of the scope is too long: {length} bytes of {UNIT_NAME_LIMIT}");
        return Err(problem(message));
    }
    Ok(CgroupPlace::Systemd {
        slice: Some(slice.to_owned()).filter(|slice| !slice.is_empty()),
        name: Some(name),
    })
}

/// The cgroup that `path` stands for, beneath the caller's own.
///
/// # Errors
/// It leads elsewhere, or no cgroup can have such a name.
pub(super) fn in_cgroupfs(path: &str) -> Result<CgroupPlace, Problem> {
    if path.is_empty() {
        return Ok(CgroupPlace::Cgroupfs { path: None });
    }
    let beneath = path.trim_start_matches('/');
    let names = beneath.split('/');
    if let Some(message) = names.into_iter().find_map(|name| wrong_component(name)) {
        return Err(Problem::new(POINTER, format!("{path:?} {message}")));
    }
    Ok(CgroupPlace::Cgroupfs {
        path: Some(beneath.to_owned()),
    })
}

/// `text` as a part of a unit's name: what no unit's name has is written as `\xHH`, as `systemd-escape --mangle` does. So is
/// `@`, which would make it an instance of a template.
pub fn unit_name(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'-' | b'_' | b'.' | b'\\' => {
            char::from(byte).to_string()
        }
        _ => format!("\\x{byte:02x}"),
    };
    text.bytes().map(escape).collect()
}

/// Why `slice` is none; the empty one is the runtime's choice (systemd.slice(5): a dash leads from a slice to one within it).
fn wrong_slice(slice: &str) -> Option<String> {
    if slice.is_empty() || slice == "-.slice" {
        return None;
    }
    let Some(name) = slice.strip_suffix(SLICE) else {
        return Some(format!(
            "{slice:?} is no slice: its name does not end with {SLICE:?}"
        ));
    };
    let message = if name.split('-').any(str::is_empty) {
        "is no slice: each \"-\" stands between the names of two"
    } else if unit_name(name) != name {
        "is no slice: a unit's name has letters, digits, and \":\", \"-\", \"_\", \".\", \"\\\" alone"
    } else if slice.len() > UNIT_NAME_LIMIT {
        "is too long for the name of a slice"
    } else {
        return None;
    };
    Some(format!("{slice:?} {message}"))
}

/// Why there can be no cgroup `name` beneath another.
fn wrong_component(name: &str) -> Option<&'static str> {
    match name {
        "" => Some("names no cgroup between, before or after a \"/\""),
        "." | ".." => {
            Some("has \".\" or \"..\" in it: a container's cgroup stays beneath its caller's")
        }
        _ if name.len() > NAME_LIMIT => Some("has a name of more than 255 bytes in it"),
        _ if name.chars().any(char::is_control) => Some("has control characters in it"),
        // The callers' own processes are in one of them (`CALLERS`), and would end with the container.
        _ if name.starts_with("lodger.") => Some(
            "has a name in it that begins as those that lodger makes for itself do: \"lodger.\"",
        ),
        _ if name.starts_with("cgroup.") => {
            Some("has a name in it that begins as the kernel's own files do: \"cgroup.\"")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(slice: &str, name: &str) -> CgroupPlace {
        CgroupPlace::Systemd {
            slice: (!slice.is_empty()).then(|| slice.to_owned()),
            name: Some(name.to_owned()),
        }
    }

    #[test]
    fn a_scope_is_of_a_slice_a_prefix_and_a_name() {
        for (path, slice, name) in [
            ("user.slice:libpod:0a1b", "user.slice", "libpod-0a1b"),
            ("a-b-c.slice:docker:x", "a-b-c.slice", "docker-x"),
            ("-.slice:p:n", "-.slice", "p-n"),
            (":runc:web", "", "runc-web"),
            // As runc names it.
            ("::web", "", "-web"),
            (":p:a+b", "", r"p-a\x2bb"),
            (":p:a@b", "", r"p-a\x40b"),
            (":p:n.scope", "", "p-n.scope"),
            (":p:ö", "", r"p-\xc3\xb6"),
        ] {
            assert_eq!(in_systemd(path), Ok(scope(slice, name)), "{path}");
            assert!(is_for_systemd(path), "{path}");
        }
        let unnamed = CgroupPlace::Systemd {
            slice: None,
            name: None,
        };
        assert_eq!(in_systemd(""), Ok(unnamed));
    }

    #[test]
    fn what_systemd_could_not_name_is_refused() {
        let long = format!(":p:{}", "n".repeat(248));
        assert!(in_systemd(&long[..long.len() - 1]).is_ok());
        for (path, why) in [
            (
                "/user.slice/x",
                "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got \"/user.slice/x\" instead",
            ),
            ("a:b", "expected cgroupsPath"),
            ("a:b:c:d", "expected cgroupsPath"),
            ("user:p:n", "does not end with \".slice\""),
            ("a/b.slice:p:n", "a unit's name has"),
            ("../b.slice:p:n", "a unit's name has"),
            ("a b.slice:p:n", "a unit's name has"),
            ("a@b.slice:p:n", "a unit's name has"),
            (".slice:p:n", "stands between the names"),
            ("a--b.slice:p:n", "stands between the names"),
            ("-a.slice:p:n", "stands between the names"),
            ("a-.slice:p:n", "stands between the names"),
            (":p:", "has no name"),
            (":p:n.slice", "would be a slice"),
            (":p:a/b", "neither \"/\""),
            (":../..:n", "neither \"/\""),
            (":p:a\nb", "control characters"),
            (&long, "too long: 256 bytes of 255"),
        ] {
            let problem = in_systemd(path).unwrap_err();
            assert_eq!(problem.pointer, POINTER);
            assert!(problem.message.contains(why), "{path}: {problem}");
        }
    }

    #[test]
    fn a_path_is_beneath_the_callers_cgroup() {
        for (path, beneath) in [
            ("/a/b", "a/b"),
            ("a/b", "a/b"),
            ("//a", "a"),
            ("/user.slice:libpod:0a1b", "user.slice:libpod:0a1b"),
            ("a..b/...", "a..b/..."),
            ("lodger/a.lodger.b", "lodger/a.lodger.b"),
        ] {
            let place = CgroupPlace::Cgroupfs {
                path: Some(beneath.to_owned()),
            };
            assert_eq!(in_cgroupfs(path), Ok(place), "{path}");
        }
        assert_eq!(in_cgroupfs(""), Ok(CgroupPlace::Cgroupfs { path: None }));
    }

    #[test]
    fn a_path_that_leads_elsewhere_is_refused() {
        let long = "n".repeat(256);
        for path in [
            "/",
            "..",
            "/..",
            "/a/../b",
            "a/..",
            "/./a",
            "a//b",
            "a/",
            "a\nb",
            "a/\u{7f}",
            "cgroup.procs",
            "a/cgroup.kill",
            "lodger.callers",
            "/lodger.callers/a",
            "a/lodger.joining",
            &long,
        ] {
            assert_eq!(in_cgroupfs(path).unwrap_err().pointer, POINTER, "{path:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_path_leads_elsewhere(path in "[/.a:\\-\n@s+ö]{0,12}(\\.slice)?[/.a:\\-]{0,8}") {
            if let Ok(CgroupPlace::Cgroupfs { path: Some(path) }) = in_cgroupfs(&path) {
                assert!(path.split('/').all(|name| !["", ".", ".."].contains(&name)));
            }
            if let Ok(CgroupPlace::Systemd { slice, name }) = in_systemd(&path) {
                for name in slice.iter().chain(&name) {
                    assert!(!name.contains('/') && name.is_ascii() && !name.contains('@'));
                }
            }
        }
    }
}
