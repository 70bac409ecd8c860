//! An object that is a file on this machine.

use std::{
    ffi::OsStr,
    fmt,
    io::{self, IoSliceMut},
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use rustix::{
    fs::{self, FileType, Mode, OFlags, ResolveFlags},
    io::{Errno, ReadWriteFlags},
};
use schwann::Error;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::failure::{Failure, Stage};

/// How much is read at a time.
const PIECE: usize = 256 * 1024;

/// `/proc`, by the kind of its file system: a link may lead there under any name.
const PROC: fs::FsWord = 0x9fa0;
/// `/sys`.
const SYSFS: fs::FsWord = 0x6265_6572;

/// Which files may be read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roots(Arc<[PathBuf]>);

/// Why a file was not opened.
#[derive(Debug)]
enum Refused {
    NotFound,
    Outside,
    NotRegular(&'static str),
    Io(Errno),
    /// The kernel has no `openat2`, so roots cannot be held.
    NoConfinement,
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT | Errno::NOTDIR => Self::NotFound,
            // RESOLVE_BENEATH: the way led out. ELOOP: by a link of `/proc`.
            Errno::XDEV => Self::Outside,
            Errno::ISDIR => Self::NotRegular("a directory"),
            Errno::NXIO => Self::NotRegular("a socket or device"),
            errno => Self::Io(errno),
        }
    }
}

impl Roots {
    /// Folders below which files may be read; none for everywhere.
    pub(crate) fn new(roots: Vec<PathBuf>) -> Self {
        Self(roots.into())
    }

    /// Opens the file of `object`, which is read from then on whatever happens to its name.
    pub(crate) async fn open(&self, object: &str, name: &Path) -> Result<FileBody, Failure> {
        let opened = match self.open_now(name, ResolveFlags::CACHED) {
            // Not in the kernel's memory, or the kernel cannot tell: the disk may take its time.
            Err(Refused::Io(Errno::AGAIN | Errno::INVAL | Errno::NOSYS)) => {
                let (roots, name) = (self.clone(), name.to_owned());
                let opening = spawn_blocking(move || roots.open_now(&name, ResolveFlags::empty()));
                opening.await.expect("opening a file does not panic")
            }
            opened => opened,
        };
        let (file, size) = opened.map_err(|why| why.of(object, name))?;
        Ok(FileBody {
            file: Arc::new(file),
            size,
            offset: 0,
            spare: [None, None],
            reading: None,
            failed: false,
        })
    }

    fn open_now(&self, name: &Path, cached: ResolveFlags) -> Result<(OwnedFd, u64), Refused> {
        // Not waiting for a FIFO's writer; a terminal does not become ours.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = cached | ResolveFlags::NO_MAGICLINKS;
        let file = if self.0.is_empty() {
            open_anywhere(name, flags, resolve)?
        } else {
            self.open_beneath(name, flags, resolve)?
        };
        let stat = fs::fstat(&file)?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => None,
            FileType::Directory => Some("a directory"),
            FileType::Fifo => Some("a pipe"),
            FileType::Socket => Some("a socket"),
            _ => Some("a device"),
        };
        if let Some(kind) = kind {
            return Err(Refused::NotRegular(kind));
        }
        if matches!(fs::fstatfs(&file)?.f_type, PROC | SYSFS) {
            return Err(Refused::NotRegular("a part of the system"));
        }
        Ok((file, u64::try_from(stat.st_size).unwrap_or_default()))
    }

    fn open_beneath(
        &self,
        name: &Path,
        flags: OFlags,
        resolve: ResolveFlags,
    ) -> Result<OwnedFd, Refused> {
        let mut outside = Refused::Outside;
        for root in &*self.0 {
            let Ok(inner) = name.strip_prefix(root) else { continue };
            let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = fs::open(root, folder, Mode::empty())?;
            let inner = if inner.as_os_str().is_empty() { Path::new(".") } else { inner };
            let resolve = resolve | ResolveFlags::BENEATH;
            match fs::openat2(&root, inner, flags, Mode::empty(), resolve) {
                Ok(file) => return Ok(file),
                Err(Errno::NOSYS) if !resolve.contains(ResolveFlags::CACHED) => {
                    return Err(Refused::NoConfinement);
                }
                // One root may lie in another.
                Err(Errno::XDEV) => outside = Refused::Outside,
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(outside)
    }
}

fn open_anywhere(name: &Path, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Refused> {
    // Opening a device can do something, so it is not even tried.
    let system = ["/dev", "/proc", "/sys"].iter().any(|folder| name.starts_with(folder));
    if system {
        return Err(Refused::NotRegular("a part of the system"));
    }
    match fs::openat2(fs::CWD, name, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS) if !resolve.contains(ResolveFlags::CACHED) => {
            Ok(fs::open(name, flags, Mode::empty())?)
        }
        opened => Ok(opened?),
    }
}

impl Refused {
    fn of(self, object: &str, name: &Path) -> Failure {
        let stage = Stage::Source;
        let shown = name.display();
        match self {
            Self::NotFound => Failure::file_not_found(stage, object, Some(name)),
            Self::Outside => Failure::new(
                stage,
                StatusCode::FORBIDDEN,
                format!("'{shown}' is outside the folders that may be read"),
            ),
            Self::NotRegular(kind) => Failure::new(
                stage,
                StatusCode::BAD_REQUEST,
                format!("'{shown}' is {kind}, not a regular file"),
            ),
            Self::NoConfinement => Failure::new(
                stage,
                StatusCode::INTERNAL_SERVER_ERROR,
                "this kernel cannot hold files to folders (openat2 is missing)",
            ),
            Self::Io(Errno::LOOP | Errno::NAMETOOLONG) => Failure::new(
                stage,
                StatusCode::BAD_REQUEST,
                format!("'{shown}' cannot be followed to a file"),
            ),
            Self::Io(errno) => Failure::new(
                stage,
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("cannot open '{shown}': {}", io::Error::from(errno)),
            ),
        }
    }
}

/// A file's bytes, as many as it had when it was opened. Ends early only with an error.
pub(crate) struct FileBody {
    file: Arc<OwnedFd>,
    size: u64,
    offset: u64,
    /// Buffers that were given away and are used again once nobody has them.
    spare: [Option<Bytes>; 2],
    reading: Option<JoinHandle<(rustix::io::Result<usize>, BytesMut)>>,
    failed: bool,
}

impl FileBody {
    /// A buffer for the next piece, initialised.
    fn buffer(&mut self, length: usize) -> BytesMut {
        for spare in &mut self.spare {
            let Some(bytes) = spare.take() else { continue };
            match bytes.try_into_mut() {
                Ok(buffer) if buffer.len() >= length => return buffer,
                Ok(_) => {}
                Err(used) => *spare = Some(used),
            }
        }
        BytesMut::zeroed(length)
    }

    /// Turns the first `n` bytes of `buffer` into the next piece.
    fn piece(&mut self, read: rustix::io::Result<usize>, buffer: BytesMut) -> Result<Bytes, Error> {
        let n = match read {
            Ok(0) => return Err(self.fail("it became shorter while it was read")),
            Ok(n) => n,
            Err(errno) => {
                return Err(self.fail(&io::Error::from(errno).to_string()));
            }
        };
        self.offset += n as u64;
        let whole = buffer.freeze();
        let piece = whole.slice(..n);
        if self.offset < self.size {
            match &mut self.spare {
                [None, _] => self.spare[0] = Some(whole),
                [_, None] => self.spare[1] = Some(whole),
                // Both are still in use, so whoever reads holds on to them.
                _ => {}
            }
        }
        Ok(piece)
    }

    fn fail(&mut self, why: &str) -> Error {
        self.failed = true;
        Error::busy(format!("cannot read the object's file: {why}"))
            .with_status(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        if this.failed || (this.reading.is_none() && this.offset >= this.size) {
            return Poll::Ready(None);
        }
        let (read, buffer) = match &mut this.reading {
            Some(reading) => {
                let done = ready!(Pin::new(reading).poll(cx));
                this.reading = None;
                match done {
                    Ok(done) => done,
                    Err(join) => return Poll::Ready(Some(Err(this.fail(&join.to_string())))),
                }
            }
            None => {
                let left = usize::try_from(this.size - this.offset).unwrap_or(usize::MAX);
                let length = left.min(PIECE);
                let mut buffer = this.buffer(length);
                let now =
                    read(&this.file, &mut buffer, length, this.offset, ReadWriteFlags::NOWAIT);
                match now {
                    // Not in the page cache, or a file system that cannot tell.
                    Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                        let (file, offset) = (Arc::clone(&this.file), this.offset);
                        this.reading = Some(spawn_blocking(move || {
                            let flags = ReadWriteFlags::empty();
                            let n = read(&file, &mut buffer, length, offset, flags);
                            (n, buffer)
                        }));
                        return self.poll_frame(cx);
                    }
                    now => (now, buffer),
                }
            }
        };
        Poll::Ready(Some(this.piece(read, buffer).map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.offset >= self.size && self.reading.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.size - self.offset)
    }
}

fn read(
    file: &OwnedFd,
    buffer: &mut BytesMut,
    length: usize,
    offset: u64,
    flags: ReadWriteFlags,
) -> rustix::io::Result<usize> {
    loop {
        let mut slices = [IoSliceMut::new(&mut buffer[..length])];
        match rustix::io::preadv2(file, &mut slices, offset, flags) {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

impl fmt::Debug for FileBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileBody({} of {})", self.offset, self.size)
    }
}

/// Whether a root is a folder, so that a mistake is seen at the start.
pub(crate) fn is_folder(root: &Path) -> bool {
    root.as_os_str() != OsStr::from_bytes(b"") && root.is_dir()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use http_body_util::BodyExt as _;
    use proptest::{collection::vec, sample::select};

    use super::*;

    const NAMES: &[&str] = &[
        "in", "sub", "file", "..", ".", "", "out", "up", "root", "self", "loop", "secret", "proc",
    ];

    /// Files of two contents, inside and outside a root, and links that lead everywhere.
    fn tree() -> (tempfile::TempDir, Roots) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let within = root.join("in");
        std::fs::create_dir_all(within.join("sub")).unwrap();
        std::fs::create_dir_all(root.join("sub")).unwrap();
        for file in [within.join("file"), within.join("sub/file")] {
            std::fs::write(file, "inside").unwrap();
        }
        for file in [root.join("secret"), root.join("file"), root.join("sub/file")] {
            std::fs::write(file, "outside").unwrap();
        }
        for at in [&within, &within.join("sub")] {
            symlink("../secret", at.join("out")).unwrap();
            symlink("..", at.join("up")).unwrap();
            symlink("/", at.join("root")).unwrap();
            symlink(".", at.join("self")).unwrap();
            symlink("loop", at.join("loop")).unwrap();
            symlink("/proc/self/root", at.join("proc")).unwrap();
        }
        (folder, Roots::new(vec![within]))
    }

    #[test]
    fn whatever_is_named_nothing_outside_the_roots_is_read() {
        let (folder, roots) = tree();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let top = folder.path().canonicalize().unwrap();
        let mut read = 0;
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        for starts in [top.join("in"), top.clone(), "/".into()] {
            for _ in 0..1000 {
                use proptest::strategy::{Strategy as _, ValueTree as _};
                let parts = vec(select(NAMES), 0..4).new_tree(&mut runner).unwrap().current();
                let name = starts.join(parts.join("/").trim_start_matches('/'));
                runtime.block_on(async {
                    // Refused is well; what is opened has to be ours.
                    let Ok(file) = roots.open("o", &name).await else { return };
                    let bytes = file.collect().await.unwrap().to_bytes();
                    assert_eq!(bytes, "inside", "{}", name.display());
                    read += 1;
                });
            }
        }
        assert!(read > 20, "only {read} names led to a file");
    }
}
