//! `runtime.user`: who the process is once its sockets are bound.
//!
//! Looked up when the configuration is read, so that a name which is not there is an error with a
//! line. Whether the process can become that user is not known here.

use std::fmt;

use nix::unistd::{Group, Uid, User as Account};

use super::errors::Path;
use super::leaves::Check;
use super::raw::Leaf;

const ALLOWED: &str = "a user of this machine other than root, by name or number, and a group \
                       behind a colon if it is to be another than the user's own: nobody, \
                       www-data:adm, 1000:1000";

/// A user other than root, and a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// As it was written.
    text: String,
    pub uid: u32,
    pub gid: u32,
    /// Who the groups that come with a user are looked up for; `None`: a number without a name.
    pub name: Option<String>,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `None`: nothing was written, or it is reported.
pub(super) fn user(leaf: &Leaf, at: &Path, check: &mut Check) -> Option<User> {
    // A number alone is one for YAML too.
    let number = leaf.as_ref()?.as_u64().map(|number| number.to_string());
    let text = match &number {
        Some(number) => number,
        None => check.text(at, leaf, ALLOWED)?,
    };
    match find(text) {
        Ok(user) => Some(user),
        Err(why) => {
            check.report.value(at, why, ALLOWED);
            None
        }
    }
}

fn find(text: &str) -> Result<User, String> {
    let (name, group) = match text.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (text, None),
    };
    let failed = |error: nix::Error| format!("{text:?} cannot be looked up ({error})");
    let number = name.parse().ok();
    let account = match number {
        Some(uid) => Account::from_uid(Uid::from_raw(uid)),
        None => Account::from_name(name),
    };
    let account = account.map_err(failed)?;
    let uid = account.as_ref().map(|it| it.uid.as_raw()).or(number);
    let uid = uid.ok_or_else(|| format!("no such user ({name:?})"))?;
    let gid = match group {
        Some(group) => match group.parse() {
            Ok(gid) => gid,
            Err(_) => {
                let found = Group::from_name(group).map_err(failed)?;
                found.ok_or_else(|| format!("no such group ({group:?})"))?.gid.as_raw()
            }
        },
        None => match &account {
            Some(account) => account.gid.as_raw(),
            None => return Err(format!("no such user ({name:?}), and no group is named")),
        },
    };
    if uid == 0 || gid == 0 {
        return Err(format!("{text:?} gives nothing up"));
    }
    // The kernel takes the last number for "leave it as it is".
    if uid == u32::MAX || gid == u32::MAX {
        return Err(format!("{text:?} is nobody's number"));
    }
    Ok(User { text: text.to_owned(), uid, gid, name: account.map(|it| it.name) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_name_and_by_number() {
        let nobody = find("nobody").expect("every system has it");
        assert!(nobody.uid > 0 && nobody.gid > 0, "{nobody:?}");
        assert_eq!(nobody.name.as_deref(), Some("nobody"));
        let by_number = find(&nobody.uid.to_string()).expect("the same");
        assert_eq!((by_number.uid, by_number.gid), (nobody.uid, nobody.gid));
        let with_group = find("nobody:daemon").expect("every system has it");
        assert_eq!(with_group.uid, nobody.uid);
        assert_ne!(with_group.gid, nobody.gid);
        // As in a container, which knows few users.
        let unknown = find("3999999998:3999999997").expect("numbers need no names");
        assert_eq!((unknown.uid, unknown.gid), (3_999_999_998, 3_999_999_997));
        assert_eq!(unknown.name, None);
    }

    #[test]
    fn what_is_nobody_or_stays_root() {
        for (text, why) in [
            ("nobodyy", "no such user (\"nobodyy\")"),
            ("nobody:nosuchgroup", "no such group (\"nosuchgroup\")"),
            ("", "no such user (\"\")"),
            ("nobody:", "no such group (\"\")"),
            ("3999999998", "no such user (\"3999999998\"), and no group is named"),
            ("root", "\"root\" gives nothing up"),
            ("0:65534", "\"0:65534\" gives nothing up"),
            ("nobody:root", "\"nobody:root\" gives nothing up"),
            ("4294967295:1", "\"4294967295:1\" is nobody's number"),
        ] {
            assert_eq!(find(text), Err(why.to_owned()), "{text}");
        }
    }
}
