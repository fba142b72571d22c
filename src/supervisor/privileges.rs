//! Gives root up: the process becomes the user of `runtime.user` once every socket is bound, and
//! can gain nothing any more.
//!
//! Before the first thread of ours and the first ring: a ring keeps the rights of who made it.
//! Threads that are there all the same (the demo's) change with this one, since the C library sees
//! to that.

use std::ffi::CString;
use std::fs::File;
use std::path::Path;

use nix::unistd::{self, Gid, ROOT, Uid, User as Account};

use super::RunError;
use crate::config::User;

/// What this process may not become any more by running a program: there is none that it runs, but
/// whoever broke in would have one. For this thread and those that it starts.
pub(super) fn gain_no_more() -> Result<(), RunError> {
    rustix::thread::set_no_new_privs(true)
        .map_err(|error| RunError(format!("privileges cannot be renounced: {error}")))
}

/// Becomes that user for good. True if root was given up; false if it was that user already, or if
/// none is configured.
pub(super) fn become_user(user: Option<&User>) -> Result<bool, RunError> {
    let Some(user) = user else { return Ok(false) };
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    if !unistd::geteuid().is_root() {
        if is_all(uid, gid)? {
            return Ok(false);
        }
        return Err(RunError(format!(
            "runtime.user is {user}, and only root can become another user: start as root, or \
             leave runtime.user out and start as {user}"
        )));
    }
    let failed = |error| RunError(format!("cannot become {user} (runtime.user): {error}"));
    unistd::setgroups(&groups(user).map_err(failed)?).map_err(failed)?;
    // The group first: afterwards there is no right to.
    unistd::setresgid(gid, gid, gid).map_err(failed)?;
    unistd::setresuid(uid, uid, uid).map_err(failed)?;
    // What must not be is not only assumed.
    if !is_all(uid, gid)? || unistd::setuid(ROOT).is_ok() {
        return Err(RunError(format!("root is not gone after becoming {user} (runtime.user)")));
    }
    Ok(true)
}

/// The user's own, such as that of a socket's or a certificate's readers; root's are gone.
fn groups(user: &User) -> nix::Result<Vec<Gid>> {
    let gid = Gid::from_raw(user.gid);
    match user.name.as_deref().map(CString::new) {
        Some(Ok(name)) => {
            let mut groups = unistd::getgrouplist(&name, gid)?;
            groups.retain(|group| group.as_raw() != 0);
            Ok(groups)
        }
        _ => Ok(vec![gid]),
    }
}

/// Whether real, effective and saved ids are all these.
fn is_all(uid: Uid, gid: Gid) -> Result<bool, RunError> {
    let failed = |error| RunError(format!("this process's user is not known: {error}"));
    let users = unistd::getresuid().map_err(failed)?;
    let groups = unistd::getresgid().map_err(failed)?;
    let are_users = [users.real, users.effective, users.saved].iter().all(|it| *it == uid);
    let are_groups = [groups.real, groups.effective, groups.saved].iter().all(|it| *it == gid);
    Ok(are_users && are_groups)
}

/// Who this process is, for the line at start.
pub(super) fn who() -> String {
    let uid = unistd::geteuid();
    match Account::from_uid(uid) {
        Ok(Some(account)) => account.name,
        _ => uid.to_string(),
    }
}

/// Tells of what will not work as this user, before somebody needs it.
pub(super) fn warn_of(user: Option<&User>, file: Option<&Path>) {
    if let (Some(user), Some(file)) = (user, file)
        && let Err(error) = File::open(file)
    {
        let file = file.display();
        tracing::warn!(
            "{file} cannot be read by {user} (runtime.user), so that no reload will work: {error}"
        );
    }
}
