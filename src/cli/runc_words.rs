//! Words of runc's command line that no other program would understand, and that an engine writes.

use std::ffi::OsString;

/// The arguments of lodger with what go-runc writes for `restore`: it asks for `-no-subreaper`, with one dash, which is as good as two
/// for runc's parser.
pub(super) fn spelled_out(args: &[OsString]) -> Vec<OsString> {
    let verb = args.iter().position(|arg| arg == "restore");
    let last = args.iter().position(|arg| arg == "--");
    let (first, last) = (verb.unwrap_or(args.len()), last.unwrap_or(args.len()));
    let spelled = |(at, arg): (usize, &OsString)| match arg.to_str() {
        Some("-no-subreaper") if (first..last).contains(&at) => OsString::from("--no-subreaper"),
        _ => arg.clone(),
    };
    args.iter().enumerate().map(spelled).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_dash_is_enough_where_an_engine_writes_one() {
        for (given, expected) in [
            ("restore -no-subreaper -d a", "restore --no-subreaper -d a"),
            (
                "--root x restore -d -no-subreaper a",
                "--root x restore -d --no-subreaper a",
            ),
            (
                "restore --no-subreaper -- -no-subreaper",
                "restore --no-subreaper -- -no-subreaper",
            ),
            ("-no-subreaper restore a", "-no-subreaper restore a"),
            ("run -no-subreaper a", "run -no-subreaper a"),
            ("restore -no-pivot a", "restore -no-pivot a"),
        ] {
            let words: Vec<OsString> = given.split(' ').map(OsString::from).collect();
            let expected: Vec<OsString> = expected.split(' ').map(OsString::from).collect();
            assert_eq!(spelled_out(&words), expected);
        }
    }
}
