//! Talking to `criu swrk` (criu(8), https://criu.org/RPC): one protobuf message a packet, requests from us, answers and
//! notifications from CRIU. Of its messages only what is used here is described.

use std::os::fd::OwnedFd;

use prost::Message;
use std::time::Duration;

use crate::error::{Doing, Error, Result};
use crate::sys;

/// `criu_req_type`: what a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Kind {
    /// Nothing.
    Empty = 0,
    /// To dump a tree of processes.
    Dump = 1,
    /// To restore one.
    Restore = 2,
    /// A moment that we are told of, and have to say that we go on.
    Notify = 6,
    /// Its version.
    Version = 10,
    /// To save the memory of a tree of processes, which goes on, and to end.
    SinglePreDump = 13,
}

/// `criu_network_lock_method`, SKIP: connections are not locked by rules of a packet filter.
pub const NETWORK_LOCK_SKIP: i32 = 3;

/// `criu_cg_mode`, IGNORE: control groups are ours to make.
pub const CGROUPS_IGNORE: i32 = 0;

/// `inherit_fd`: a file that takes the place of one in the images.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct InheritFd {
    /// The key that the dump had for it.
    #[prost(string, required, tag = "1")]
    pub key: String,
    /// Its number in the process that is CRIU.
    #[prost(int32, required, tag = "2")]
    pub fd: i32,
}

/// `criu_opts`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Opts {
    /// -1: [`Opts::images_dir`] counts.
    #[prost(int32, required, tag = "1")]
    pub images_dir_fd: i32,
    /// The first process of what is dumped.
    #[prost(int32, optional, tag = "2")]
    pub pid: Option<i32>,
    /// The processes go on after the dump.
    #[prost(bool, optional, tag = "3")]
    pub leave_running: Option<bool>,
    /// Unix sockets may have an end outside.
    #[prost(bool, optional, tag = "4")]
    pub ext_unix_sk: Option<bool>,
    /// Established TCP connections are dumped.
    #[prost(bool, optional, tag = "5")]
    pub tcp_established: Option<bool>,
    /// The terminal may be the caller's.
    #[prost(bool, optional, tag = "7")]
    pub shell_job: Option<bool>,
    /// File locks are dumped.
    #[prost(bool, optional, tag = "8")]
    pub file_locks: Option<bool>,
    /// 0 to 4.
    #[prost(int32, optional, tag = "9")]
    pub log_level: Option<i32>,
    /// The name of the log in the work directory.
    #[prost(string, optional, tag = "10")]
    pub log_file: Option<String>,
    /// Whether [`Event::Notify`] is sent.
    #[prost(bool, optional, tag = "12")]
    pub notify_scripts: Option<bool>,
    /// The root of what is restored, a mount.
    #[prost(string, optional, tag = "13")]
    pub root: Option<String>,
    /// Where the images are that these leave memory out for, as seen from [`Opts::images_dir`].
    #[prost(string, optional, tag = "14")]
    pub parent_img: Option<String>,
    /// The kernel keeps track of the memory that is written from now on.
    #[prost(bool, optional, tag = "15")]
    pub track_mem: Option<bool>,
    /// The number of the working directory, which the log is written to, in the process that made the line to CRIU.
    #[prost(int32, optional, tag = "17")]
    pub work_dir_fd: Option<i32>,
    /// Deleted files that have another name are linked, not copied.
    #[prost(bool, optional, tag = "18")]
    pub link_remap: Option<bool>,
    /// Watched files are looked for by their inodes beneath [`Opts::irmap_scan_paths`]: to open one by its handle takes
    /// CAP_DAC_READ_SEARCH in the initial user namespace.
    #[prost(bool, optional, tag = "21")]
    pub force_irmap: Option<bool>,
    /// The first restored process is a child of CRIU's parent.
    #[prost(bool, optional, tag = "26")]
    pub rst_sibling: Option<bool>,
    /// Files in the place of external ones.
    #[prost(message, repeated, tag = "27")]
    pub inherit_fd: Vec<InheritFd>,
    /// [`CGROUPS_IGNORE`].
    #[prost(int32, optional, tag = "34")]
    pub manage_cgroups_mode: Option<i32>,
    /// The largest deleted file that is copied into the images, in bytes.
    #[prost(uint32, optional, tag = "35")]
    pub ghost_limit: Option<u32>,
    /// Where watched files are looked for, the last first; CRIU cannot take `/`.
    #[prost(string, repeated, tag = "36")]
    pub irmap_scan_paths: Vec<String>,
    /// What is outside, as `mnt[…]:…` and `file[…]`.
    #[prost(string, repeated, tag = "37")]
    pub external: Vec<String>,
    /// The control group whose processes are frozen while they are seized.
    #[prost(string, optional, tag = "44")]
    pub freeze_cgroup: Option<String>,
    /// Seconds for freezing; also how long CRIU waits for a process to stop.
    #[prost(uint32, optional, tag = "45")]
    pub timeout: Option<u32>,
    /// Connections that are being made are left out.
    #[prost(bool, optional, tag = "46")]
    pub tcp_skip_in_flight: Option<bool>,
    /// A file descriptor number that CRIU writes `\0` to.
    #[prost(int32, optional, tag = "49")]
    pub status_fd: Option<i32>,
    /// The first end of the container's terminal is handed over with a notification.
    #[prost(bool, optional, tag = "50")]
    pub orphan_pts_master: Option<bool>,
    /// A configuration file.
    #[prost(string, optional, tag = "51")]
    pub config_file: Option<String>,
    /// TCP connections are restored closed.
    #[prost(bool, optional, tag = "52")]
    pub tcp_close: Option<bool>,
    /// `TYPE:NAME` of the security module's label.
    #[prost(string, optional, tag = "53")]
    pub lsm_profile: Option<String>,
    /// The SELinux context of mounts.
    #[prost(string, optional, tag = "63")]
    pub lsm_mount_context: Option<String>,
    /// [`NETWORK_LOCK_SKIP`].
    #[prost(int32, optional, tag = "64")]
    pub network_lock: Option<i32>,
    /// Whether what takes CAP_SYS_ADMIN in the initial user namespace is done without.
    #[prost(bool, optional, tag = "67")]
    pub unprivileged: Option<bool>,
    /// The images' directory.
    #[prost(string, optional, tag = "68")]
    pub images_dir: Option<String>,
}

/// `criu_req`.
#[derive(Clone, PartialEq, Eq, Message)]
struct Request {
    #[prost(enumeration = "Kind", required, tag = "1")]
    kind: i32,
    #[prost(message, optional, tag = "2")]
    opts: Option<Opts>,
    #[prost(bool, optional, tag = "3")]
    notify_success: Option<bool>,
}

/// `criu_notify`.
#[derive(Clone, PartialEq, Eq, Message)]
struct Notification {
    #[prost(string, optional, tag = "1")]
    script: Option<String>,
    #[prost(int32, optional, tag = "2")]
    pid: Option<i32>,
}

/// `criu_restore_resp`.
#[derive(Clone, PartialEq, Eq, Message)]
struct Restored {
    #[prost(int32, required, tag = "1")]
    pid: i32,
}

/// `criu_resp`.
#[derive(Clone, PartialEq, Eq, Message)]
struct Response {
    #[prost(enumeration = "Kind", required, tag = "1")]
    kind: i32,
    #[prost(bool, required, tag = "2")]
    success: bool,
    #[prost(message, optional, tag = "4")]
    restore: Option<Restored>,
    #[prost(message, optional, tag = "5")]
    notify: Option<Notification>,
    #[prost(int32, optional, tag = "7")]
    cr_errno: Option<i32>,
    #[prost(string, optional, tag = "9")]
    cr_errmsg: Option<String>,
}

/// What CRIU says.
#[derive(Debug)]
pub enum Event {
    /// It has come to this moment, and waits for [`Swrk::go_on`].
    Notify {
        /// Its name, as of an action script: `post-dump`, `setup-namespaces`, `orphan-pts-master`, ….
        script: String,
        /// The first process of what is restored, in CRIU's pid namespace, where it is known.
        pid: Option<i32>,
        /// What came with it.
        fd: Option<OwnedFd>,
    },
    /// It has done what was asked.
    Done {
        /// The first process of what was restored.
        pid: Option<i32>,
    },
    /// It has not.
    Failed {
        /// Its errno, if it tells one.
        errno: Option<i32>,
        /// Its message, if it tells one.
        message: Option<String>,
    },
    /// It has ended without an answer.
    Gone,
}

/// Our end of the conversation.
#[derive(Debug)]
pub struct Swrk(OwnedFd);

impl Swrk {
    /// Our end, and that which CRIU gets by its number (`criu swrk NUMBER`).
    pub fn pair() -> Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            sys::socket::pair().doing(|| "cannot make a line to CRIU".to_owned())?;
        Ok((Self(ours), theirs))
    }

    /// The end of a line that another process has made.
    pub fn over(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// The socket, for poll(2).
    pub fn socket(&self) -> &OwnedFd {
        &self.0
    }

    /// Asks for a dump or a restore.
    pub fn ask(&self, kind: Kind, opts: Opts) -> Result<()> {
        self.send(&Request {
            kind: kind as i32,
            opts: Some(opts),
            notify_success: None,
        })
    }

    /// Answers a notification: with `false` CRIU gives up.
    pub fn go_on(&self, go_on: bool) -> Result<()> {
        self.send(&Request {
            kind: Kind::Notify as i32,
            opts: None,
            notify_success: Some(go_on),
        })
    }

    fn send(&self, request: &Request) -> Result<()> {
        let what = || "cannot talk to CRIU".to_owned();
        // Waiting for one that does not listen may take for ever.
        match sys::socket::send_some(&self.0, &request.encode_to_vec()).doing(what)? {
            Some(_) => Ok(()),
            None => Err(Error::new(what()).because("it does not listen")),
        }
    }

    /// Whether it has said something, or has ended, so that [`Swrk::next`] does not wait.
    pub fn has_spoken(&self) -> bool {
        sys::fd::is_readable(&self.0, Duration::ZERO).unwrap_or(false)
    }

    /// What it says next; waits for that.
    pub fn next(&self) -> Result<Event> {
        let what = || "cannot hear from CRIU".to_owned();
        let packet = match sys::socket::receive(&self.0) {
            // It has ended with something of ours unread.
            Err(error) if error.is(nix::libc::ECONNRESET) => None,
            received => received.doing(what)?,
        };
        let Some(packet) = packet else {
            return Ok(Event::Gone);
        };
        let response = Response::decode(packet.content.as_slice())
            .map_err(|error| Error::new(what()).because(error))?;
        if response.kind == Kind::Notify as i32 {
            let told = response.notify.unwrap_or_default();
            return Ok(Event::Notify {
                script: told.script.unwrap_or_default(),
                pid: told.pid,
                fd: packet.fd,
            });
        }
        Ok(match response.success {
            true => Event::Done {
                pid: response.restore.map(|restored| restored.pid),
            },
            false => Event::Failed {
                errno: response.cr_errno,
                message: response.cr_errmsg,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As CRIU's own program lays it out (rpc.proto): the numbers of the fields are a contract.
    #[test]
    fn a_request_is_laid_out_as_criu_reads_it() {
        let opts = Opts {
            images_dir_fd: -1,
            pid: Some(7),
            images_dir: Some("i".to_owned()),
            unprivileged: Some(true),
            ..Opts::default()
        };
        let request = Request {
            kind: Kind::Dump as i32,
            opts: Some(opts),
            notify_success: None,
        };
        let minus_one = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        let mut opts = vec![0x08];
        opts.extend(minus_one);
        opts.extend([0x10, 7, 0x98, 0x04, 1, 0xa2, 0x04, 1, b'i']);
        let mut expected = vec![0x08, 1, 0x12, u8::try_from(opts.len()).unwrap()];
        expected.extend(opts);
        assert_eq!(request.encode_to_vec(), expected);
    }

    fn heard(response: &Response) -> Event {
        let (ours, theirs) = Swrk::pair().unwrap();
        sys::socket::send(&theirs, &response.encode_to_vec()).unwrap();
        ours.next().unwrap()
    }

    #[test]
    fn what_criu_says_is_understood() {
        let response = Response {
            kind: Kind::Restore as i32,
            success: true,
            restore: Some(Restored { pid: 42 }),
            ..Response::default()
        };
        assert!(matches!(heard(&response), Event::Done { pid: Some(42) }));
        let response = Response {
            kind: Kind::Dump as i32,
            success: false,
            cr_errno: Some(1),
            ..Response::default()
        };
        assert!(matches!(
            heard(&response),
            Event::Failed { errno: Some(1), .. }
        ));
        let response = Response {
            kind: Kind::Notify as i32,
            success: true,
            notify: Some(Notification {
                script: Some("post-dump".to_owned()),
                pid: None,
            }),
            ..Response::default()
        };
        assert!(matches!(heard(&response), Event::Notify { script, .. } if script == "post-dump"));
        let (ours, theirs) = Swrk::pair().unwrap();
        drop(theirs);
        assert!(matches!(ours.next().unwrap(), Event::Gone));
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let (ours, theirs) = Swrk::pair().unwrap();
        sys::socket::send(&theirs, b"\xff\xff\xff").unwrap();
        assert!(ours.next().is_err());
    }
}
