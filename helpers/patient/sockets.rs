//! Sockets, pipes and terminals, with what is on its way in them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use crate::{Answer, Feature, comes, filled};

/// What is queued, without taking it.
fn peek(fd: &impl AsRawFd) -> String {
    let mut text = [0_u8; 64];
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    let length = call!(recv(
        fd.as_raw_fd(),
        text.as_mut_ptr().cast(),
        text.len(),
        flags
    ));
    String::from_utf8_lossy(&text[..usize::try_from(length).unwrap()]).into_owned()
}

/// How many bytes are queued.
fn queued(fd: &impl AsRawFd) -> i32 {
    filled("ioctl", |to| {
        // SAFETY: it is the number that the request writes.
        unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, to) }
    })
}

/// What this many bytes of a stream are.
fn text(mut from: impl Read, length: usize) -> String {
    let mut text = vec![0; length];
    from.read_exact(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

/// Pairs of sockets with data on its way, and one that listens at a path.
pub(crate) struct Unix {
    stream: (UnixStream, UnixStream),
    datagram: (UnixDatagram, UnixDatagram),
    listener: UnixListener,
}

impl Unix {
    pub(crate) fn new() -> Self {
        let mut stream = UnixStream::pair().unwrap();
        stream.0.write_all(b"forth").unwrap();
        stream.1.write_all(b"back").unwrap();
        let datagram = UnixDatagram::pair().unwrap();
        datagram.0.send(b"first").unwrap();
        datagram.0.send(b"second").unwrap();
        let listener = UnixListener::bind("/socket").unwrap();
        Self {
            stream,
            datagram,
            listener,
        }
    }
}

impl Feature for Unix {
    fn look(&self, answer: &mut Answer) {
        answer.put("unix.forth", peek(&self.stream.1));
        answer.put("unix.back", peek(&self.stream.0));
        answer.put("unix.datagram", peek(&self.datagram.1));
        let address = self.listener.local_addr().unwrap();
        answer.put("unix.address", address.as_pathname().unwrap().display());
    }

    fn consume(&mut self, answer: &mut Answer) {
        answer.put("used.unix.forth", text(&self.stream.1, 5));
        answer.put("used.unix.back", text(&self.stream.0, 4));
        let mut messages = Vec::new();
        for _ in 0..2 {
            let mut message = [0; 16];
            let length = self.datagram.1.recv(&mut message).unwrap();
            messages.push(String::from_utf8_lossy(&message[..length]).into_owned());
        }
        answer.put("used.unix.datagrams", messages.join(" "));
        let mut client = UnixStream::connect("/socket").unwrap();
        client.write_all(b"hello").unwrap();
        let (server, _) = self.listener.accept().unwrap();
        answer.put("used.unix.accepted", text(server, 5));
    }
}

/// A pipe with data in it, of a size of its own, and one with a name.
pub(crate) struct Pipes {
    reader: std::io::PipeReader,
    writer: std::io::PipeWriter,
    named: std::fs::File,
}

impl Pipes {
    pub(crate) fn new() -> Self {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"in the pipe").unwrap();
        call!(fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 8192));
        call!(mkfifo(c"/fifo".as_ptr(), 0o600));
        let mut named = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/fifo")
            .unwrap();
        named.write_all(b"in the fifo").unwrap();
        Self {
            reader,
            writer,
            named,
        }
    }
}

impl Feature for Pipes {
    fn look(&self, answer: &mut Answer) {
        answer.put("pipes.queued", queued(&self.reader));
        let size = call!(fcntl(self.writer.as_raw_fd(), libc::F_GETPIPE_SZ));
        answer.put("pipes.size", size);
        answer.put("pipes.named", queued(&self.named));
    }

    fn consume(&mut self, answer: &mut Answer) {
        self.writer.write_all(b"!").unwrap();
        answer.put("used.pipes.text", text(&self.reader, 12));
        answer.put("used.pipes.named", text(&self.named, 11));
    }
}

/// A terminal of the container's own: both of its ends.
pub(crate) struct Pty {
    controller: std::fs::File,
    terminal: std::fs::File,
}

impl Pty {
    pub(crate) fn new() -> Self {
        let controller = call!(posix_openpt(libc::O_RDWR | libc::O_NOCTTY));
        call!(grantpt(controller));
        call!(unlockpt(controller));
        let mut name = [0; 64];
        call!(ptsname_r(controller, name.as_mut_ptr(), name.len()));
        let terminal = call!(open(name.as_ptr(), libc::O_RDWR | libc::O_NOCTTY));
        let size = libc::winsize {
            ws_row: 33,
            ws_col: 77,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        call!(ioctl(terminal, libc::TIOCSWINSZ, &raw const size));
        let mut modes: libc::termios = filled("tcgetattr", |to| {
            // SAFETY: it is what the call fills.
            unsafe { libc::tcgetattr(terminal, to) }
        });
        modes.c_lflag &= !(libc::ECHO | libc::ICANON);
        call!(tcsetattr(terminal, libc::TCSANOW, &raw const modes));
        // SAFETY: it was just made, and nobody else has it.
        let file = |fd| unsafe { std::fs::File::from_raw_fd(fd) };
        Self {
            controller: file(controller),
            terminal: file(terminal),
        }
    }
}

impl Feature for Pty {
    fn look(&self, answer: &mut Answer) {
        let fd = self.terminal.as_raw_fd();
        let size: libc::winsize = filled("ioctl", |to| {
            // SAFETY: it is what the request fills.
            unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, to) }
        });
        answer.put("pty.size", format!("{}x{}", size.ws_row, size.ws_col));
        let modes: libc::termios = filled("tcgetattr", |to| {
            // SAFETY: it is what the call fills.
            unsafe { libc::tcgetattr(fd, to) }
        });
        answer.put("pty.modes", format!("{:#x}", modes.c_lflag));
    }

    fn consume(&mut self, answer: &mut Answer) {
        self.terminal.write_all(b"out").unwrap();
        answer.put("used.pty.out", text(&self.controller, 3));
        self.controller.write_all(b"in").unwrap();
        answer.put("used.pty.in", text(&self.terminal, 2));
    }
}

/// A port that is listened at.
pub(crate) struct Listen(TcpListener);

impl Listen {
    pub(crate) fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:7070").unwrap())
    }
}

impl Feature for Listen {
    fn look(&self, answer: &mut Answer) {
        answer.put("listen.address", self.0.local_addr().unwrap());
    }

    fn consume(&mut self, answer: &mut Answer) {
        let mut client = TcpStream::connect("127.0.0.1:7070").unwrap();
        client.write_all(b"hello").unwrap();
        answer.put("used.listen.accepted", text(self.0.accept().unwrap().0, 5));
    }
}

/// A connection, with data on its way in both directions.
pub(crate) struct Tcp {
    client: TcpStream,
    server: TcpStream,
    listener: TcpListener,
}

impl Tcp {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:7777").unwrap();
        let mut client = TcpStream::connect("127.0.0.1:7777").unwrap();
        client.set_nodelay(true).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"to the server").unwrap();
        server.write_all(b"to the client").unwrap();
        // The kernel brings it over in its own time.
        assert!(comes(|| queued(&client) == 13 && queued(&server) == 13));
        Self {
            client,
            server,
            listener,
        }
    }
}

impl Feature for Tcp {
    fn look(&self, answer: &mut Answer) {
        answer.put("tcp.server", peek(&self.server));
        answer.put("tcp.client", peek(&self.client));
        answer.put("tcp.from", self.client.local_addr().unwrap());
        answer.put("tcp.to", self.client.peer_addr().unwrap());
        answer.put("tcp.nodelay", self.client.nodelay().unwrap());
        answer.put("tcp.listens", self.listener.local_addr().unwrap());
    }

    fn consume(&mut self, answer: &mut Answer) {
        answer.put("used.tcp.server", text(&self.server, 13));
        answer.put("used.tcp.client", text(&self.client, 13));
        self.client.write_all(b"more").unwrap();
        answer.put("used.tcp.more", text(&self.server, 4));
        let mut client = TcpStream::connect("127.0.0.1:7777").unwrap();
        client.write_all(b"new").unwrap();
        answer.put("used.tcp.new", text(self.listener.accept().unwrap().0, 3));
    }
}

/// A port for datagrams.
pub(crate) struct Udp(UdpSocket);

impl Udp {
    pub(crate) fn new() -> Self {
        Self(UdpSocket::bind("127.0.0.1:5353").unwrap())
    }
}

impl Feature for Udp {
    fn look(&self, answer: &mut Answer) {
        answer.put("udp.address", self.0.local_addr().unwrap());
    }

    fn consume(&mut self, answer: &mut Answer) {
        self.0.send_to(b"datagram", "127.0.0.1:5353").unwrap();
        let mut message = [0; 16];
        let (length, _) = self.0.recv_from(&mut message).unwrap();
        answer.put(
            "used.udp.message",
            String::from_utf8_lossy(&message[..length]),
        );
    }
}
