//! The page of `lodger doctor`, for people.

use super::diagnosis::Diagnosis;
use super::finding::{Finding, Mode, Weight, Who};
use super::readings::Trial;

/// No line is wider, but where a command would not be one any more.
const WIDTH: usize = 100;

/// How lines are begun that go on with what is above.
const INDENT: &str = "    ";

impl Diagnosis {
    /// The page: what works, what does not, each with what it costs, what helps, and who can do it; at the end the mode.
    pub fn page(&self) -> String {
        let mut page = format!("lodger {}\n", self.subject());
        if !self.works.is_empty() {
            page.push_str("\nWorks:\n");
            for line in &self.works {
                wrap(&mut page, "  ", "    ", line);
            }
        }
        for (weight, title) in [
            (Weight::Blocks, "Keeps all containers from running:"),
            (Weight::Reduces, "Reduces what containers can be:"),
            (Weight::Costs, "Cannot be had, if a config asks for it:"),
        ] {
            let mut of_weight = self
                .findings
                .iter()
                .filter(|f| f.weight == weight)
                .peekable();
            if of_weight.peek().is_some() {
                page.push_str(&format!("\n{title}\n"));
            }
            of_weight.for_each(|finding| tell(&mut page, finding));
        }
        page.push('\n');
        wrap(&mut page, "", INDENT, &format!("Mode: {}", self.verdict()));
        page
    }

    fn subject(&self) -> String {
        let kernel = self.readings.kernel.as_ref();
        let release = kernel.map_or("", |kernel| kernel.release.as_str());
        let uid = self.readings.caller.as_ref().map_or(0, |caller| caller.uid);
        format!(
            "on Linux {release}, for {} (uid {uid})",
            self.readings.name()
        )
    }

    /// The mode, and what it means.
    fn verdict(&self) -> String {
        let codes = |weight| {
            let of_weight = self
                .findings
                .iter()
                .filter(|finding| finding.weight == weight);
            let codes: Vec<&str> = of_weight.map(|finding| finding.code.as_str()).collect();
            codes.join(", ")
        };
        match self.mode {
            Mode::Full => "full: containers have all of your ids, and all that every container needs works here".to_owned(),
            Mode::None => format!("none: no container can be made here ({})", codes(Weight::Blocks)),
            Mode::Reduced => {
                let what = match self.readings.works(Trial::Outer) {
                    true => "containers have all of your ids, but",
                    false => "containers have your own id alone, and so",
                };
                format!("reduced: {what} something is missing in each of them ({})", codes(Weight::Reduces))
            }
        }
    }
}

fn tell(page: &mut String, finding: &Finding) {
    let who = match finding.who {
        Who::You => "you can do",
        Who::Administrator => "the administrator can do",
        Who::Surroundings => "can be done around this process",
    };
    wrap(
        page,
        "  ",
        INDENT,
        &format!("{}: {}", finding.code, finding.what),
    );
    wrap(
        page,
        INDENT,
        INDENT,
        &format!("It costs: {}.", finding.costs),
    );
    wrap(page, INDENT, INDENT, &format!("What {who}:"));
    for line in pieces(&finding.remedy) {
        match is_command(&line) {
            true => page.push_str(&format!("      {line}\n")),
            false => wrap(page, "      ", "      ", &line),
        }
    }
}

/// Whether a line is for a shell, which must find it as it is.
fn is_command(line: &str) -> bool {
    const COMMANDS: [&str; 18] = [
        "bwrap",
        "chmod",
        "docker",
        "du",
        "echo",
        "export",
        "getsubids",
        "grep",
        "install",
        "lodger",
        "podman",
        "printf",
        "quota",
        "ssh",
        "sudo",
        "systemd-run",
        "ulimit",
        "unshare",
    ];
    COMMANDS
        .iter()
        .any(|command| line.split(' ').next() == Some(command))
}

/// Adds `text` in lines of at most [`WIDTH`] characters; a word that is longer stays whole.
fn wrap(page: &mut String, first: &str, next: &str, text: &str) {
    let text = crate::error::printable(text);
    let mut line = first.to_owned();
    let mut is_empty = true;
    for word in text.split_whitespace() {
        let width = line.chars().count() + word.chars().count() + usize::from(!is_empty);
        if width > WIDTH && !is_empty {
            page.push_str(&line);
            page.push('\n');
            line = next.to_owned();
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    page.push_str(&line);
    page.push('\n');
}

/// A remedy in lines: it is broken only where a shell reads on, so that what is copied still works.
fn pieces(remedy: &str) -> Vec<String> {
    const ROOM: usize = WIDTH - 6;
    const BREAKS: [&str; 3] = ["&& ", "| ", "; "];
    let remedy = crate::error::printable(remedy);
    let mut rest = remedy.as_str();
    let mut lines: Vec<String> = Vec::new();
    while !rest.is_empty() {
        let ends = BREAKS
            .iter()
            .filter_map(|b| rest.find(b).map(|at| at + b.len()));
        let (piece, after) = rest.split_at(ends.min().unwrap_or(rest.len()));
        rest = after;
        match lines.last_mut() {
            Some(line) if line.chars().count() + piece.trim_end().chars().count() <= ROOM => {
                line.push_str(piece);
            }
            _ => lines.push(piece.to_owned()),
        }
    }
    lines
        .into_iter()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_stay_commands() {
        let long = format!(
            "sudo {} && sudo {} | tee x; done",
            "a".repeat(60),
            "b".repeat(60)
        );
        let lines = pieces(&long);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines[0].ends_with("&&") && lines[1].ends_with("done"),
            "{lines:?}"
        );
        assert_eq!(lines.join(" "), long);
        assert_eq!(pieces("chmod o+x /home"), ["chmod o+x /home"]);
    }

    #[test]
    fn text_is_wrapped_and_words_are_kept() {
        let mut page = String::new();
        wrap(&mut page, "  ", "    ", &"word ".repeat(50));
        assert!(
            page.lines()
                .all(|line| line.chars().count() <= WIDTH && line == line.trim_end())
        );
        assert_eq!(page.split_whitespace().count(), 50);
        let mut page = String::new();
        wrap(&mut page, "", "", "a\u{1b}[31mb");
        assert!(!page.contains('\u{1b}'), "{page:?}");
    }
}
