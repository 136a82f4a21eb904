//! Both ends of a system call filter, for the tests: a seccomp agent on the host, and raw system calls in a container.
//!
//! `agent serve SOCKET DIRECTORY ANSWER…` takes connections at SOCKET, writes what each of them says to DIRECTORY/N (N from
//! 0), makes DIRECTORY/N.closed of what follows once it is closed, and answers every notified call: `value=N`, `errno=N` or `continue`. It writes the number and the first argument
//! of each call to DIRECTORY/calls. `agent call NUMBER ARGUMENT…` makes one call and prints `value N` or `errno N`; an
//! argument is a number or a text. `agent int80 NUMBER` makes it as a 32-bit program does.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program of its own, not part of lodger: it ends by panicking"
)]

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", socket, directory, answer] => serve(Path::new(socket), directory, answer),
        ["call", number, rest @ ..] => told(call(number.parse().unwrap(), rest)),
        ["int80", number] => told(int80(number.parse().unwrap())),
        _ => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
}

fn told(answer: Result<i64, i32>) {
    match answer {
        Ok(value) => println!("value {value}"),
        Err(errno) => println!("errno {errno}"),
    }
}

/// One system call with up to six arguments.
fn call(number: i64, words: &[&str]) -> Result<i64, i32> {
    let texts: Vec<CString> = words
        .iter()
        .map(|word| CString::new(*word).unwrap())
        .collect();
    let argument = |n: usize| -> i64 {
        let Some(text) = texts.get(n) else { return 0 };
        let address = text.as_ptr().addr().cast_signed();
        words[n].parse().unwrap_or(i64::try_from(address).unwrap())
    };
    let a: [i64; 6] = std::array::from_fn(argument);
    // SAFETY: the caller of this program chooses the call: it is made for that, and has nothing to lose. Texts outlive it.
    let answer = unsafe { libc::syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]) };
    if answer == -1 {
        return Err(std::io::Error::last_os_error().raw_os_error().unwrap());
    }
    Ok(answer)
}

/// A system call without arguments through the gate of 32-bit programs.
#[cfg(target_arch = "x86_64")]
fn int80(number: i64) -> Result<i64, i32> {
    let answer: i64;
    // SAFETY: the kernel takes what is in the registers; calls without arguments touch no memory.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("rax") number => answer, out("r8") _, out("r9") _,
            out("r10") _, out("r11") _);
    }
    if (-4095..0).contains(&answer) {
        return Err(i32::try_from(-answer).unwrap());
    }
    Ok(answer)
}

#[cfg(not(target_arch = "x86_64"))]
fn int80(_: i64) -> Result<i64, i32> {
    Err(libc::ENOSYS)
}

fn serve(socket: &Path, directory: &str, answer: &str) {
    // Whoever finds the socket finds it listening.
    let listener = UnixListener::bind(socket.with_extension("new")).unwrap();
    fs::rename(socket.with_extension("new"), socket).unwrap();
    let mut answerers = Vec::new();
    for (n, stream) in listener.incoming().enumerate() {
        let stream = stream.unwrap();
        let (state, notify) = receive(&stream);
        // Whoever sees the file sees all of it.
        let path = PathBuf::from(directory).join(n.to_string());
        fs::write(path.with_extension("new"), state).unwrap();
        fs::rename(path.with_extension("new"), &path).unwrap();
        let closed = path.with_extension("closed");
        let watcher = std::thread::Builder::new();
        answerers.push(watcher.spawn(move || await_end(stream, &closed)).unwrap());
        let calls = PathBuf::from(directory).join("calls");
        let calls = OpenOptions::new()
            .append(true)
            .create(true)
            .open(calls)
            .unwrap();
        let answer = answer.to_owned();
        let answerer = std::thread::Builder::new();
        answerers.push(
            answerer
                .spawn(move || answer_all(&notify, &answer, calls))
                .unwrap(),
        );
    }
}

/// Writes what else comes over a connection, once it is closed.
fn await_end(mut stream: UnixStream, path: &Path) {
    let mut more = Vec::new();
    stream.read_to_end(&mut more).unwrap();
    fs::write(path.with_extension("new"), more).unwrap();
    fs::rename(path.with_extension("new"), path).unwrap();
}

/// The JSON that comes over a connection, and the one fd.
fn receive(stream: &UnixStream) -> (Vec<u8>, OwnedFd) {
    let mut text = Vec::new();
    let mut fds: Vec<OwnedFd> = Vec::new();
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0u8; 4096];
        let mut data = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = rustix::net::recvmsg(stream, &mut data, &mut control, flags).unwrap();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = part {
                fds.extend(some);
            }
        }
        text.extend(&bytes[..got.bytes]);
        let whole = serde_json::from_slice::<serde_json::Value>(&text).is_ok();
        if got.bytes == 0 || whole {
            break;
        }
    }
    assert_eq!(fds.len(), 1, "exactly one fd");
    (text, fds.pop().unwrap())
}

/// SECCOMP_IOCTL_NOTIF_RECV and SECCOMP_IOCTL_NOTIF_SEND (linux/seccomp.h).
const RECV: libc::c_ulong = 0xc050_2100;
const SEND: libc::c_ulong = 0xc018_2101;

fn answer_all(notify: &OwnedFd, answer: &str, mut calls: File) {
    loop {
        // SAFETY: all-zero is what the kernel wants it to be.
        let mut request: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the request writes one seccomp_notif, whose size is part of its number.
        let received = unsafe { libc::ioctl(notify.as_raw_fd(), RECV, &raw mut request) };
        if received != 0 {
            // ENOENT: who asked is gone. Anything else: nobody will ask again.
            let errno = std::io::Error::last_os_error().raw_os_error();
            if [Some(libc::ENOENT), Some(libc::EINTR)].contains(&errno) {
                continue;
            }
            return;
        }
        writeln!(calls, "{} {}", request.data.nr, request.data.args[0]).unwrap();
        let mut response = libc::seccomp_notif_resp {
            id: request.id,
            val: 0,
            error: 0,
            flags: 0,
        };
        match answer.split_once('=') {
            Some(("value", value)) => response.val = value.parse().unwrap(),
            Some((_, errno)) => response.error = -errno.parse::<i32>().unwrap(),
            None => response.flags = 1,
        }
        // SAFETY: the request reads one seccomp_notif_resp, whose size is part of its number.
        let _who_asked_may_be_gone =
            unsafe { libc::ioctl(notify.as_raw_fd(), SEND, &raw mut response) };
        if polls_hung_up(notify) {
            return;
        }
    }
}

/// Whether nobody is left under the filter.
fn polls_hung_up(notify: &OwnedFd) -> bool {
    let mut poll = [rustix::event::PollFd::new(
        notify,
        rustix::event::PollFlags::IN,
    )];
    let _until_something_happens = rustix::event::poll(&mut poll, None);
    let happened = poll[0].revents();
    happened.contains(rustix::event::PollFlags::HUP)
        && !happened.contains(rustix::event::PollFlags::IN)
}
