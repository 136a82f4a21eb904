//! The configuration that `lodger spec` writes.

/// A complete config.json: a shell in a root filesystem beside it.
///
/// It asks for what `runc spec` asks for, without the resource limits that need a cgroup of one's own,
/// and without ambient capabilities.
pub fn template() -> &'static str {
    include_str!("template.json")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::bundle::Bundle;

    #[test]
    fn template_is_a_valid_bundle_without_warnings() {
        let bundle = Bundle::parse(PathBuf::from("/b"), template().into()).unwrap();
        assert_eq!(bundle.warnings, []);
        assert!(template().ends_with("}\n"));
    }
}
