//! /proc/PID/limits (proc_pid_limits(5)).

use crate::plan::{RESOURCES, Rlimit};

/// More than the file ever has, in bytes.
pub const FILE_LIMIT: usize = 16 << 10;

/// How the kernel calls the resources, in the order of their numbers (`lnames` of fs/proc/base.c).
const NAMES: [&str; 16] = [
    "Max cpu time",
    "Max file size",
    "Max data size",
    "Max stack size",
    "Max core file size",
    "Max resident set",
    "Max processes",
    "Max open files",
    "Max locked memory",
    "Max address space",
    "Max file locks",
    "Max pending signals",
    "Max msgqueue size",
    "Max nice priority",
    "Max realtime priority",
    "Max realtime timeout",
];

/// The limits in `text`; lines of resources that nobody knows are passed over.
pub fn parse(text: &str) -> Vec<Rlimit> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Rlimit> {
    let named = (0u32..).zip(NAMES).zip(RESOURCES);
    let mut found = named.filter_map(|((resource, name), official)| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with(' ').then_some((resource, official, rest))
    });
    let (resource, name, rest) = found.next()?;
    let mut words = rest.split_ascii_whitespace();
    let mut value = || match words.next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    };
    Some(Rlimit {
        name: name.to_owned(),
        resource,
        soft: value()?,
        hard: value()?,
    })
}

/// Takes into `highest` what is higher in `limits`: soft and hard limits each, as restored processes have them at most.
pub fn raise(highest: &mut Vec<Rlimit>, limits: &[Rlimit]) {
    for limit in limits {
        match highest.iter_mut().find(|h| h.resource == limit.resource) {
            Some(known) => {
                known.soft = known.soft.max(limit.soft);
                known.hard = known.hard.max(limit.hard);
            }
            None => highest.push(limit.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
Limit                     Soft Limit           Hard Limit           Units     
Max cpu time              unlimited            unlimited            seconds   
Max processes             31567                31568                processes 
Max open files            1024                 524288               files     
Max nice priority         0                    0                    
Max realtime timeout      unlimited            7                    us        
Max tomatoes              1                    2                    kg        
Max data size             x                    2                    bytes     
";

    #[test]
    fn lines_of_the_kernel() {
        let parsed = parse(TEXT);
        let brief: Vec<_> = parsed
            .iter()
            .map(|l| (l.name.as_str(), l.resource, l.soft, l.hard))
            .collect();
        assert_eq!(
            brief,
            [
                ("RLIMIT_CPU", 0, u64::MAX, u64::MAX),
                ("RLIMIT_NPROC", 6, 31567, 31568),
                ("RLIMIT_NOFILE", 7, 1024, 524_288),
                ("RLIMIT_NICE", 13, 0, 0),
                ("RLIMIT_RTTIME", 15, u64::MAX, 7),
            ]
        );
    }

    #[test]
    fn the_highest_of_several_processes() {
        let limit = |resource, soft, hard| Rlimit {
            name: String::new(),
            resource,
            soft,
            hard,
        };
        let mut highest = Vec::new();
        raise(&mut highest, &[limit(7, 10, 20), limit(6, 1, 1)]);
        raise(&mut highest, &[limit(7, 5, 30), limit(6, 1, 0)]);
        assert_eq!(highest, [limit(7, 10, 30), limit(6, 1, 1)]);
    }
}
