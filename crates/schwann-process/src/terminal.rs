//! The streams of a program: pipes, or a terminal of its own.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    pipe::{PipeFlags, pipe_with},
    pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{LocalModes, OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize},
};
use tokio::io::unix::AsyncFd;

use crate::{
    TerminalSize,
    supervisor::{try_watch_fd, watch_fd},
};

/// The program's ends.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// Our ends.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) input: Arc<Stream>,
    pub(crate) stdout: Arc<Stream>,
    /// None with a terminal, which has one stream for all.
    pub(crate) stderr: Option<Arc<Stream>>,
    pub(crate) is_terminal: bool,
}

/// A descriptor that never makes a thread wait.
#[derive(Debug)]
pub(crate) struct Stream(AsyncFd<OwnedFd>);

impl Stream {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Arc<Self>> {
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        Ok(Arc::new(Self(watch_fd(fd)?)))
    }

    /// The descriptor, of which the runtime is told nothing any more.
    pub(crate) fn mute(self) -> OwnedFd {
        self.0.into_inner()
    }

    /// The opposite. If the runtime cannot watch one more descriptor now, it comes back.
    pub(crate) fn listen(fd: OwnedFd) -> Result<Arc<Self>, OwnedFd> {
        try_watch_fd(fd).map(|fd| Arc::new(Self(fd))).map_err(|failed| failed.into_parts().0)
    }

    /// Reads what there is, as soon as there is something. Cancel-safe.
    pub(crate) async fn read(&self, piece: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|fd| read(fd.as_fd(), piece)) {
                Ok(done) => return done,
                Err(_not_ready) => {}
            }
        }
    }

    /// Reads what there is now; None if there is nothing yet.
    pub(crate) fn read_now(&self, piece: &mut Vec<u8>) -> io::Result<Option<usize>> {
        match read(self.0.as_fd(), piece) {
            Ok(n) => Ok(Some(n)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes some of it, at least one byte. Cancel-safe.
    pub(crate) async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|fd| Ok(rustix::io::write(fd.as_fd(), bytes)?)) {
                Ok(done) => return done,
                Err(_not_ready) => {}
            }
        }
    }

    /// Writes something small, if there is room for it now.
    pub(crate) fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(self.0.as_fd(), bytes)?)
    }

    pub(crate) fn resize(&self, size: TerminalSize) -> io::Result<()> {
        Ok(tcsetwinsize(self.0.as_fd(), window(size))?)
    }

    /// The character that means the end of input, if there is a terminal that
    /// knows one now.
    pub(crate) fn end_of_input(&self) -> Option<u8> {
        let modes = tcgetattr(self.0.as_fd()).ok()?;
        let end = modes.special_codes[rustix::termios::SpecialCodeIndex::VEOF];
        modes.local_modes.contains(LocalModes::ICANON).then_some(end)
    }
}

/// Appends to `piece`, as much as it has room for.
fn read(fd: BorrowedFd<'_>, piece: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        match rustix::io::read(fd, rustix::buffer::spare_capacity(piece)) {
            Ok(n) => return Ok(n),
            Err(rustix::io::Errno::INTR) => {}
            // How a terminal says that nobody has the other end any more.
            Err(rustix::io::Errno::IO) => return Ok(0),
            Err(error) => return Err(error.into()),
        }
    }
}

const fn window(size: TerminalSize) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Makes the streams of a program.
pub(crate) fn open(terminal: Option<TerminalSize>) -> io::Result<(Streams, Ends)> {
    match terminal {
        Some(size) => open_terminal(size),
        None => open_pipes(),
    }
}

fn open_pipes() -> io::Result<(Streams, Ends)> {
    let (stdin, input) = pipe_with(PipeFlags::CLOEXEC)?;
    let (output, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (errors, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    let ours = Streams {
        input: Stream::new(input)?,
        stdout: Stream::new(output)?,
        stderr: Some(Stream::new(errors)?),
        is_terminal: false,
    };
    Ok((ours, Ends { stdin, stdout, stderr }))
}

fn open_terminal(size: TerminalSize) -> io::Result<(Streams, Ends)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    unlockpt(&master)?;
    let stdin = ioctl_tiocgptpeer(&master, flags)?;
    tcsetwinsize(&master, window(size))?;
    let mut modes = tcgetattr(&stdin)?;
    // Lines end as the program ended them. A page shows both the same, and a
    // log keeps what was written.
    modes.output_modes.remove(rustix::termios::OutputModes::OPOST);
    tcsetattr(&stdin, OptionalActions::Now, &modes)?;
    let stdout = stdin.try_clone()?;
    let stderr = stdin.try_clone()?;
    let master = Stream::new(master)?;
    let ours =
        Streams { input: Arc::clone(&master), stdout: master, stderr: None, is_terminal: true };
    Ok((ours, Ends { stdin, stdout, stderr }))
}
