//! `ps`.

use super::{Global, print};
use crate::error::{Error, Result};
use crate::host;
use crate::state::{Members, Store};

/// List the processes of a container
///
/// As a table: what ps(1) of the host says, the lines of the container alone. As JSON: the pids, as the host numbers
/// them. A container that has stopped has none.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lodger ps web
  lodger ps web -eo pid,user,args  all after ID is for ps(1), which must print a PID column
  lodger ps -f json web            [4711,4712]")]
pub(crate) struct Args {
    /// How to print them
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
    /// Options of ps(1) for the table [default: -ef]
    #[arg(
        value_name = "PS-OPTION",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    options: Vec<String>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    /// The lines of ps(1)
    Table,
    /// An array of pids
    Json,
}

/// Does what `ps` asks.
pub(crate) fn ps(global: &Global, args: &Args) -> Result<u8> {
    let what = || format!("cannot list the processes of container {:?}", args.id);
    let pids = pids(global, &args.id).map_err(|e| e.within(what()))?;
    let text = match args.format {
        Format::Json => {
            let pids: Vec<String> = pids.iter().map(i32::to_string).collect();
            format!("[{}]\n", pids.join(","))
        }
        Format::Table => table(&args.options, &pids).map_err(|e| e.within(what()))?,
    };
    print(&text)?;
    Ok(0)
}

fn pids(global: &Global, id: &str) -> Result<Vec<i32>> {
    let entry = Store::find_in(global.root.as_deref(), id)?;
    let record = entry.existing_record()?;
    let members = Members::of(&record)?;
    let mut pids: Vec<i32> = members.find()?.iter().map(|member| member.pid).collect();
    if !members.is_certain() {
        // Better none than a stranger's.
        pids.clear();
    }
    pids.sort_unstable();
    Ok(pids)
}

/// The header and the lines of `pids` of what the host's ps(1) prints.
fn table(options: &[String], pids: &[i32]) -> Result<String> {
    let usual = ["-ef".to_owned()];
    let options = if options.is_empty() { &usual } else { options };
    let said = host::run("ps", options).map_err(|why| {
        Error::new("cannot run ps(1)")
            .because(why)
            .hint("install procps, or ask for the pids alone with `lodger ps --format json`")
    })?;
    select(&said, pids)
}

fn select(said: &str, pids: &[i32]) -> Result<String> {
    let mut lines = said.lines();
    let header = lines.next().unwrap_or_default();
    let column = Column::of(header).ok_or_else(|| {
        Error::new("couldn't find PID field in ps output")
            .because(format!("the header is {header:?}"))
            .hint(
                "give ps(1) options with which it prints a PID column, such as -ef or -eo pid,args",
            )
    })?;
    let ours = lines.filter(|line| column.pid(line).is_some_and(|pid| pids.contains(&pid)));
    Ok(std::iter::once(header)
        .chain(ours)
        .fold(String::new(), |text, line| {
            // A process says what its command line is.
            text + &crate::error::printable(line) + "\n"
        }))
}

/// Where the pids are in what ps(1) prints.
struct Column {
    /// The column after the last letter of the title: numbers end where their title does.
    end: usize,
    /// The number of the field, for lines that are out of step.
    field: usize,
}

impl Column {
    fn of(header: &str) -> Option<Self> {
        let mut titles = header.split_whitespace();
        let field = titles.position(|title| title == "PID")?;
        let padded = format!(" {header} ");
        // One for the space that was put before it.
        let start = padded.find(" PID ")?;
        Some(Self {
            end: padded[..start].chars().count() + "PID".len(),
            field,
        })
    }

    fn pid(&self, line: &str) -> Option<i32> {
        let until: String = line.chars().take(self.end).collect();
        let ends_here = !line
            .chars()
            .nth(self.end)
            .is_some_and(|c| c.is_ascii_digit());
        let word = until.rsplit(char::is_whitespace).next().unwrap_or_default();
        let in_place = word.parse().ok().filter(|_| ends_here);
        in_place.or_else(|| line.split_whitespace().nth(self.field)?.parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_the_container_are_kept() {
        let said = "USER         PID COMMAND\nroot           1 init\nann        4711 sleep 42\nann          42 sh\n";
        assert_eq!(
            select(said, &[4711]).unwrap(),
            "USER         PID COMMAND\nann        4711 sleep 42\n"
        );
    }

    #[test]
    fn words_before_the_pid_are_passed_over() {
        let said = "COMMAND        PID\nsleep 600     4711\nsh -c 4711      42\n";
        assert_eq!(
            select(said, &[4711]).unwrap(),
            "COMMAND        PID\nsleep 600     4711\n"
        );
    }

    #[test]
    fn a_line_out_of_step_is_read_by_its_fields() {
        let said = "USER PID COMMAND\na-long-name 4711 sleep\n";
        assert_eq!(select(said, &[4711]).unwrap(), said);
    }

    #[test]
    fn a_table_without_pids_is_an_error() {
        let error = select("USER COMMAND\nroot init\n", &[1]).unwrap_err();
        assert!(
            error.message().contains("couldn't find PID field"),
            "{error}"
        );
    }

    #[test]
    fn control_characters_of_a_command_line_are_not_printed() {
        let text = select("PID CMD\n7 sh\u{1b}[2J\n", &[7]).unwrap();
        assert_eq!(text, "PID CMD\n7 sh\\u{1b}[2J\n");
    }
}
