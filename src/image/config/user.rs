//! Who the program is (conversion.md, "Config.User"): by number, or by the image's own passwd and group files.
//!
//! A number is an id whatever the files say of it as a name (CVE-2016-3697), and never wraps around (CVE-2024-40635).

use std::path::Path;

use super::ImageFiles;
use crate::bundle::escape;
use crate::error::{Error, Result};

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
/// More than this is neither file (CVE-2026-47262: unbounded reads), in bytes.
const LIMIT: usize = 1 << 20;
/// More groups than this a process cannot have (NGROUPS_MAX, setgroups(2)).
const MOST_GROUPS: usize = 65_536;

/// A user as the kernel knows one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) additional_gids: Vec<u32>,
}

/// One half of `user:group`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who<'a> {
    Id(u32),
    Name(&'a str),
}

/// The user that `text` names, in one of the forms of config.md. Supplementary groups are those of a user who is named,
/// without a group.
pub(super) fn resolve(text: &str, files: &dyn ImageFiles) -> Result<User> {
    let (user, group) = match text.split_once(':') {
        None => (who(text)?, None),
        Some((user, group)) => (who(user)?, Some(who(group)?)),
    };
    let (uid, own_gid) = match user {
        // Nobody need look who has both numbers.
        Who::Id(uid) if group.is_some() => (uid, 0),
        Who::Id(uid) => (uid, gid_of(uid, &read(files, PASSWD)?)),
        Who::Name(name) => {
            by_name(name, &read(files, PASSWD)?).ok_or_else(|| missing("user", name, PASSWD))?
        }
    };
    let gid = match group {
        None => own_gid,
        Some(Who::Id(gid)) => gid,
        Some(Who::Name(name)) => group_by_name(name, &read(files, GROUP)?)
            .ok_or_else(|| missing("group", name, GROUP))?,
    };
    let additional_gids = match (user, group) {
        (Who::Name(name), None) => groups_of(name, gid, &read(files, GROUP)?)?,
        _ => Vec::new(),
    };
    Ok(User {
        uid,
        gid,
        additional_gids,
    })
}

fn who(text: &str) -> Result<Who<'_>> {
    if text.is_empty() || text.contains(':') {
        return Err(
            Error::new("one half of it is empty, or there are more than two")
                .hint("a user is USER, UID, USER:GROUP, UID:GID, UID:GROUP or USER:GID"),
        );
    }
    if !is_number(text) {
        return Ok(Who::Name(text));
    }
    let id = id(text)
        .ok_or_else(|| Error::new(format!("{} is no id: they end at 4294967294", escape(text))))?;
    Ok(Who::Id(id))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// 4294967295 is (uid_t) -1, which means "do not change" to the kernel.
fn id(text: &str) -> Option<u32> {
    let number = is_number(text).then(|| text.parse().ok()).flatten();
    number.filter(|id| *id != u32::MAX)
}

fn missing(kind: &str, name: &str, file: &str) -> Error {
    Error::new(format!("there is no {kind} {name:?} in its {file}"))
        .hint("-u gives another user; UID:GID needs neither of the image's files")
}

/// The file of the image; one that is not there is as good as empty.
fn read(files: &dyn ImageFiles, path: &str) -> Result<String> {
    let content = files
        .read(Path::new(path), LIMIT)
        .map_err(|error| error.hint("-u UID:GID needs neither of the image's files"))?;
    Ok(String::from_utf8_lossy(&content.unwrap_or_default()).into_owned())
}

/// Name, uid and gid of each line that has them (passwd(5)); the others are passed over.
fn users(passwd: &str) -> impl Iterator<Item = (&str, u32, u32)> {
    passwd.split('\n').filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let (uid, gid) = (fields.nth(1)?, fields.next()?);
        Some((name, id(uid)?, id(gid)?))
    })
}

/// Name, gid and members of each line that has them (group(5)).
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.split('\n').filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?;
        Some((name, id(gid)?, fields.next().unwrap_or_default()))
    })
}

fn by_name(name: &str, passwd: &str) -> Option<(u32, u32)> {
    let mut users = users(passwd);
    users.find_map(|(found, uid, gid)| (found == name).then_some((uid, gid)))
}

/// The group of `uid`; a user who is in no passwd file is in root's.
fn gid_of(uid: u32, passwd: &str) -> u32 {
    let found = users(passwd).find(|(_, found, _)| *found == uid);
    found.map_or(0, |(_, _, gid)| gid)
}

fn group_by_name(name: &str, group: &str) -> Option<u32> {
    let found = groups(group).find(|(found, _, _)| *found == name);
    found.map(|(_, gid, _)| gid)
}

/// The groups that `name` is a member of, besides its own.
fn groups_of(name: &str, own: u32, group: &str) -> Result<Vec<u32>> {
    let is_member = |members: &str| members.split(',').any(|member| member == name);
    let mut gids: Vec<u32> = groups(group)
        .filter(|(_, gid, members)| *gid != own && is_member(members))
        .map(|(_, gid, _)| gid)
        .collect();
    gids.sort_unstable();
    gids.dedup();
    if gids.len() > MOST_GROUPS {
        return Err(Error::new(format!(
            "{name:?} is a member of {} groups, and a process can have {MOST_GROUPS}",
            gids.len()
        )));
    }
    Ok(gids)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files(&'static str, &'static str);

    impl ImageFiles for Files {
        fn read(&self, path: &Path, limit: usize) -> Result<Option<Vec<u8>>> {
            assert_eq!(limit, 1 << 20);
            let text = match path.to_str() {
                Some(PASSWD) => self.0,
                Some(GROUP) => self.1,
                _ => panic!("{path:?}"),
            };
            match text {
                "FIFO" => Err(Error::new(format!("{path:?} is no regular file"))),
                "" => Ok(None),
                text => Ok(Some(text.into())),
            }
        }
    }

    const FILES: Files = Files(
        "root:x:0:0:root:/root:/bin/sh\n\
         1000:x:0:0::/:\n\
         big:x:4294967296:0::/:\nminus:x:-1:0::/:\nlast:x:4294967295:1::/:\nshort:x:5\nplus:x:+7:0::/:\n\
         www:x:33:34::/:\nwww:x:0:0::/:\n::::\n+@nis::::::\nu\u{1b}:x:9:9::/:\n\
         app:x:1000:50::/app:/bin/sh",
        "root:x:0:\nwww:x:34:www\nadm:x:4:app,www\nssl:x:101:www,x\nssl2:x:101:www\n33:x:0:\nbad:x:z:www\nnomembers:x:7\n",
    );

    #[test]
    fn users_are_found() {
        for (text, uid, gid, additional) in [
            ("root", 0, 0, &[][..]),
            ("www", 33, 34, &[4, 101]),
            ("app", 1000, 50, &[4]),
            // A number is no name.
            ("1000", 1000, 50, &[]),
            ("0", 0, 0, &[]),
            ("33", 33, 34, &[]),
            ("0033", 33, 34, &[]),
            ("77", 77, 0, &[]),
            ("77:78", 77, 78, &[]),
            ("33:33", 33, 33, &[]),
            ("33:adm", 33, 4, &[]),
            ("www:adm", 33, 4, &[]),
            ("www:0", 33, 0, &[]),
            ("www:nomembers", 33, 7, &[]),
            ("4294967294:4294967294", 4_294_967_294, 4_294_967_294, &[]),
        ] {
            let expected = User {
                uid,
                gid,
                additional_gids: additional.to_vec(),
            };
            assert_eq!(resolve(text, &FILES), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn anything_else_is_an_error() {
        for (text, told) in [
            ("nobody", "there is no user \"nobody\" in its /etc/passwd"),
            (
                "www:nobody",
                "there is no group \"nobody\" in its /etc/group",
            ),
            ("4294967295", "4294967295 is no id: they end at 4294967294"),
            ("4294967296", "no id"),
            ("99999999999999999999999999999", "no id"),
            ("1:4294967295", "no id"),
            ("-1", "no user \"-1\""),
            ("+1", "no user \"+1\""),
            (" 1", "no user"),
            ("0x0", "no user"),
            ("big", "no user"),
            ("minus", "no user"),
            ("last", "no user"),
            ("plus", "no user"),
            ("short", "no user"),
            ("www:bad", "no group"),
            ("", "empty"),
            (":", "empty"),
            ("1:", "empty"),
            (":1", "empty"),
            ("1:2:3", "more than two"),
            ("www\nroot:x:0:0", "more than two"),
            ("\u{1b}[2J", "no user \"\\u{1b}[2J\""),
        ] {
            let message = resolve(text, &FILES).unwrap_err().message();
            assert!(message.contains(told), "{text:?}: {message}");
            assert!(!message.contains('\u{1b}'), "{message:?}");
        }
    }

    #[test]
    fn files_are_read_only_where_they_are_needed() {
        const FIFOS: Files = Files("FIFO", "FIFO");
        for text in ["0:0", "1000:1000"] {
            assert!(resolve(text, &FIFOS).is_ok(), "{text}");
        }
        for text in ["0", "root", "0:root"] {
            let error = resolve(text, &FIFOS).unwrap_err();
            assert!(error.message().contains("is no regular file"), "{error}");
            assert!(error.hints().unwrap().contains("-u UID:GID"), "{error}");
        }
        const NONE: Files = Files("", "");
        assert_eq!(resolve("5", &NONE).map(|user| user.gid), Ok(0));
        assert!(resolve("root", &NONE).is_err());
    }
}
