//! The program and its environment.

use super::{Asked, Execution, Variable};
use crate::bundle::{Problem, escape};
use crate::error::{Error, Result};

/// Where programs are looked for if nobody says otherwise (podman's default).
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What a terminal is taken for.
const TERM: &str = "xterm";

/// `process.args`: `Entrypoint` and then `Cmd`, or what takes their place.
pub(super) fn args(config: &Execution, asked: &Asked) -> Result<Vec<String>> {
    let entrypoint = asked.entrypoint.as_ref().unwrap_or(&config.entrypoint);
    // The image's arguments are for its own program.
    let own: &[String] = match asked.entrypoint {
        None => &config.cmd,
        Some(_) => &[],
    };
    let rest = if asked.args.is_empty() {
        own
    } else {
        &asked.args
    };
    let args: Vec<String> = entrypoint.iter().chain(rest).cloned().collect();
    match args.first().map(String::as_str) {
        Some("") => Err(Error::new("the name of its program is empty").hint(
            "name another: at the end of the command line, or for a container with --entrypoint",
        )),
        Some(_) => Ok(args),
        None => Err(
            Error::new("it says no program (/config/Entrypoint, /config/Cmd)")
                .hint("name one at the end of the command line"),
        ),
    }
}

/// `process.env`: of two entries with one name the later counts, in the place of the first.
pub(super) fn env(config: &Execution, asked: &Asked) -> Result<Vec<String>> {
    let mut env = Env(Vec::new());
    for (index, entry) in config.env.iter().enumerate() {
        match entry.split_once('=') {
            Some((name, value)) if !name.is_empty() => env.set(name, value),
            // What some make of it, to look the name up at the host's, no image may ask for.
            _ => {
                let message = format!("{:?} is not NAME=VALUE", escape(entry));
                let problem = Problem::new(format!("/config/Env/{index}"), message);
                return Err(Error::new(problem.to_string()));
            }
        }
    }
    for variable in &asked.variables {
        match variable {
            Variable::Set(name, value) => env.set(name, value),
            Variable::Unset(name) => env.0.retain(|(found, _)| found != name),
        }
    }
    env.set_if_missing("PATH", PATH);
    if asked.tty {
        env.set_if_missing("TERM", TERM);
    }
    let entry = |(name, value)| format!("{name}={value}");
    Ok(env.0.into_iter().map(entry).collect())
}

/// Names and values.
struct Env(Vec<(String, String)>);

impl Env {
    fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(found, _)| found == name) {
            Some((_, present)) => value.clone_into(present),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }

    fn set_if_missing(&mut self, name: &str, value: &str) {
        if self.0.iter().all(|(found, _)| found != name) {
            self.set(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn entrypoint_and_cmd() {
        for (entrypoint, cmd, other, args, result) in [
            ("/e -x", "a b", None, "", "/e -x a b"),
            ("/e", "a b", None, "c", "/e c"),
            ("", "sh -l", None, "", "sh -l"),
            ("", "sh", None, "ls /", "ls /"),
            ("/e", "", None, "", "/e"),
            ("/e", "a", Some("/o"), "", "/o"),
            ("/e", "a", Some("/o -y"), "c", "/o -y c"),
            ("/e", "a", Some(""), "c", "c"),
        ] {
            let config = Execution {
                entrypoint: words(entrypoint),
                cmd: words(cmd),
                ..Execution::default()
            };
            let asked = Asked {
                entrypoint: other.map(words),
                args: words(args),
                ..Asked::default()
            };
            assert_eq!(
                super::args(&config, &asked),
                Ok(words(result)),
                "{entrypoint} {cmd}"
            );
        }
    }

    #[test]
    fn without_a_program_there_is_an_error() {
        let mut config = Execution::default();
        let mut asked = Asked::default();
        let told = |config: &Execution, asked: &Asked| args(config, asked).unwrap_err().message();
        assert!(told(&config, &asked).contains("it says no program"));
        config.entrypoint = vec![String::new()];
        assert!(told(&config, &asked).contains("is empty"));
        config.cmd = words("sh");
        asked.entrypoint = Some(Vec::new());
        assert!(told(&config, &asked).contains("it says no program"));
    }

    fn env_of(image: &[&str], asked: &[Variable], tty: bool) -> Result<Vec<String>> {
        let config = Execution {
            env: image.iter().map(|&entry| entry.to_owned()).collect(),
            ..Execution::default()
        };
        let asked = Asked {
            variables: asked.to_vec(),
            tty,
            ..Asked::default()
        };
        env(&config, &asked)
    }

    #[test]
    fn the_later_entry_counts() {
        let set = |name: &str, value: &str| Variable::Set(name.to_owned(), value.to_owned());
        let asked = [
            set("B", "3"),
            set("C", ""),
            Variable::Unset("D".to_owned()),
            set("E", "1\nF=2"),
        ];
        let image = ["PATH=/p", "A=1", "B=1", "A=2", "D=x", "G=a=b"];
        assert_eq!(
            env_of(&image, &asked, false).unwrap(),
            ["PATH=/p", "A=2", "B=3", "G=a=b", "C=", "E=1\nF=2"]
        );
        let path = format!("PATH={PATH}");
        assert_eq!(
            env_of(&[], &[], false).unwrap(),
            std::slice::from_ref(&path)
        );
        assert_eq!(env_of(&[], &[], true).unwrap(), [&path, "TERM=xterm"]);
        assert_eq!(
            env_of(&["TERM=dumb", "PATH="], &[], true).unwrap(),
            ["TERM=dumb", "PATH="]
        );
    }

    #[test]
    fn an_image_cannot_ask_for_a_variable_of_the_host() {
        for entry in ["HOME", "", "=x", "A\u{1b}"] {
            let message = env_of(&["A=1", entry], &[], false).unwrap_err().message();
            assert!(message.starts_with("/config/Env/1: "), "{message}");
            assert!(message.contains("is not NAME=VALUE") && !message.contains('\u{1b}'));
        }
    }
}
