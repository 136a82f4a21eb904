//! The options of an overlay filesystem: which of them are directories, and what a user namespace changes
//! (kernel, filesystems/overlayfs.rst).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The directories of an overlay filesystem, absolute on the host (kernel, filesystems/overlayfs.rst).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    /// Lower directories, the topmost first.
    pub lower: Vec<PathBuf>,
    /// Lower directories that only hold file data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<PathBuf>,
    /// The upper directory, which gets all changes, and the work directory; without them it is read-only.
    pub upper: Option<(PathBuf, PathBuf)>,
}

/// Options that need trusted.* extended attributes, which a user namespace cannot write.
const TRUSTED: [(&str, &str); 3] = [
    ("metacopy", "on"),
    ("redirect_dir", "on"),
    ("verity", "require"),
];

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overlay {
    /// The directories.
    pub layers: Layers,
    /// The other options.
    pub options: Vec<(String, Option<String>)>,
    /// Whether `userxattr` was added.
    pub user_xattr_added: bool,
}

/// An option of the config: its index, name and value.
type Given = (usize, String, Option<String>);

/// Sorts `data`; relative directories begin at `directory`. A problem is the member it is with, and what it is.
pub(super) fn sort(data: Vec<Given>, directory: &Path) -> Result<Overlay, Vec<(String, String)>> {
    let mut layers = Layers::default();
    let (mut upper, mut work) = (None, None);
    let mut options: Vec<(String, Option<String>)> = Vec::new();
    let mut problems = Vec::new();
    for (index, name, value) in data {
        let mut problem = |message: String| problems.push((format!("/options/{index}"), message));
        let path = |text: &str| directory.join(text);
        match (name.as_str(), &value) {
            ("lowerdir", Some(list)) => match split(list) {
                Some((lower, data)) => {
                    layers.lower = lower.iter().map(|l| path(l)).collect();
                    layers.data = data.iter().map(|l| path(l)).collect();
                }
                None => problem(format!("{list:?} is no list of directories")),
            },
            ("lowerdir+", Some(one)) => layers.lower.push(path(one)),
            ("datadir+", Some(one)) => layers.data.push(path(one)),
            ("upperdir", Some(one)) => upper = Some(path(&unescape(one))),
            ("workdir", Some(one)) => work = Some(path(&unescape(one))),
            (_, Some(value)) if TRUSTED.contains(&(name.as_str(), value)) => problem(format!(
                "\"{name}={value}\" needs trusted.* extended attributes, which a user namespace cannot write"
            )),
            _ => options.push((name, value)),
        }
    }
    let mut missing = |message: &str| problems.push(("/options".to_owned(), message.to_owned()));
    if layers.lower.is_empty() {
        missing("an overlay needs \"lowerdir=…\"");
    }
    layers.upper = match (upper, work) {
        (Some(upper), Some(work)) => Some((upper, work)),
        (None, None) => None,
        _ => {
            missing("\"upperdir=…\" and \"workdir=…\" come together");
            None
        }
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    let user_xattr_added = !options.iter().any(|(name, _)| name == "userxattr");
    if user_xattr_added {
        options.push(("userxattr".to_owned(), None));
    }
    Ok(Overlay {
        layers,
        options,
        user_xattr_added,
    })
}

/// The directories of `lowerdir=`, `LOWER:LOWER…[::DATA::DATA…]`, without their backslashes.
fn split(list: &str) -> Option<(Vec<String>, Vec<String>)> {
    let mut parts = vec![String::new()];
    let mut chars = list.chars();
    while let Some(c) = chars.next() {
        match c {
            ':' => parts.push(String::new()),
            '\\' => parts.last_mut()?.extend(chars.next()),
            _ => parts.last_mut()?.push(c),
        }
    }
    let first_data = parts.iter().position(String::is_empty);
    let data = parts.split_off(first_data.unwrap_or(parts.len()));
    // Before each of these is an empty part.
    let pairs = data.chunks(2);
    let data = pairs.map(|pair| match pair {
        [empty, name] if empty.is_empty() && !name.is_empty() => Some(name.clone()),
        _ => None,
    });
    let data = data.collect::<Option<Vec<_>>>()?;
    (!parts.is_empty()).then_some((parts, data))
}

fn unescape(path: &str) -> String {
    let mut clean = String::new();
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => clean.extend(chars.next()),
            _ => clean.push(c),
        }
    }
    clean
}

/// `paths` as a value of `lowerdir=`, for kernels that take no other form.
pub fn joined(layers: &Layers) -> String {
    let escaped = |path: &PathBuf| {
        let text = path.to_string_lossy();
        text.replace('\\', "\\\\").replace(':', "\\:")
    };
    let lower: Vec<String> = layers.lower.iter().map(escaped).collect();
    let data = layers
        .data
        .iter()
        .map(|path| format!("::{}", escaped(path)));
    lower.join(":") + &data.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(options: &[&str]) -> Result<Overlay, Vec<(String, String)>> {
        let given = options.iter().enumerate().map(|(index, option)| {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (*option, None),
            };
            (index, name.to_owned(), value)
        });
        sort(given.collect(), Path::new("/bundle"))
    }

    #[test]
    fn directories_are_found_and_joined_to_the_bundle() {
        let overlay = sorted(&[
            r"lowerdir=/a\:b:c\\d::data::/more",
            r"upperdir=u\,p",
            "workdir=/w",
            "volatile",
            "userxattr",
        ])
        .unwrap();
        let lower = ["/a:b", r"/bundle/c\d"].map(PathBuf::from);
        assert_eq!(overlay.layers.lower, lower);
        assert_eq!(
            overlay.layers.data,
            ["/bundle/data", "/more"].map(PathBuf::from)
        );
        let upper = Some(("/bundle/u,p".into(), "/w".into()));
        assert_eq!(overlay.layers.upper, upper);
        assert!(!overlay.user_xattr_added);
        assert_eq!(
            joined(&overlay.layers),
            r"/a\:b:/bundle/c\\d::/bundle/data::/more"
        );
    }

    #[test]
    fn userxattr_is_added() {
        let overlay = sorted(&["lowerdir+=/a", "lowerdir+=/b", "index=off"]).unwrap();
        assert!(overlay.user_xattr_added);
        assert_eq!(overlay.layers.lower.len(), 2);
        let names: Vec<_> = overlay.options.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(names, ["index", "userxattr"]);
    }

    #[test]
    fn what_is_missing_or_impossible_is_told() {
        for (options, member) in [
            (&["upperdir=/u", "workdir=/w"][..], "/options"),
            (&["lowerdir=/l", "upperdir=/u"], "/options"),
            (&["lowerdir=/l", "workdir=/w"], "/options"),
            (&["lowerdir="], "/options/0"),
            (&["lowerdir=:/a"], "/options/0"),
            (&["lowerdir=/a:"], "/options/0"),
            (&["lowerdir=/a::/b:/c"], "/options/0"),
            (&["lowerdir=/a", "metacopy=on"], "/options/1"),
        ] {
            let problems = sorted(options).unwrap_err();
            assert_eq!(problems[0].0, member, "{options:?}: {problems:?}");
        }
    }
}
