//! One run's log as a file: made, appended to, read, cut and ended. Everything
//! here blocks.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use crate::record::{self, Channel, Entry, Exit, Framed, MAX_FRAME, Reason, Record};

/// What a log begins with. Its first frame stands after it.
const MAGIC: &[u8; 8] = b"schwrun1";

/// Where the first frame is.
pub(crate) const FIRST: u64 = MAGIC.len() as u64;

/// How far apart the places are by which a cursor is found.
pub(crate) const STRIDE: u64 = 64 * 1024;

/// A log that has no last record yet.
const OPEN: &str = "open";
/// A log that has one.
const ENDED: &str = "log";

/// An open file of frames.
#[derive(Debug)]
pub(crate) struct LogFile {
    file: File,
}

/// What a log holds, as far as it can be read.
#[derive(Debug)]
pub(crate) struct Scan {
    /// Id of the last whole record; 0 if there is none.
    pub(crate) seq: u64,
    /// Where the next frame belongs.
    pub(crate) offset: u64,
    /// Bytes after that: a frame that was not written to its end.
    pub(crate) torn: u64,
    /// Time of the last whole record.
    pub(crate) at_ms: u32,
    pub(crate) stdout_bytes: u64,
    pub(crate) stderr_bytes: u64,
    /// Ids and places of some frames, in order.
    pub(crate) index: Vec<(u64, u64)>,
    /// The last record, if it was written.
    pub(crate) exit: Option<Exit>,
}

pub(crate) fn open_path(folder: &Path, run: Uuid) -> PathBuf {
    folder.join(run.to_string()).with_extension(OPEN)
}

pub(crate) fn ended_path(folder: &Path, run: Uuid) -> PathBuf {
    folder.join(run.to_string()).with_extension(ENDED)
}

/// The runs whose logs have no last record.
pub(crate) fn open_runs(folder: &Path) -> io::Result<Vec<Uuid>> {
    with_extension(folder, OPEN)
}

/// The runs whose logs have ended.
pub(crate) fn ended_runs(folder: &Path) -> io::Result<Vec<Uuid>> {
    with_extension(folder, ENDED)
}

fn with_extension(folder: &Path, extension: &str) -> io::Result<Vec<Uuid>> {
    let mut runs = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let run = stem.and_then(|stem| Uuid::parse_str(stem).ok());
        if path.extension().is_some_and(|e| e == extension) {
            runs.extend(run);
        }
    }
    Ok(runs)
}

impl LogFile {
    /// Makes an empty log that is on disk when this returns, name included.
    pub(crate) fn create(folder: &Path, run: Uuid) -> io::Result<Self> {
        let path = open_path(folder, run);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        let made = || {
            file.write_all_at(MAGIC, 0)?;
            file.sync_data()?;
            File::open(folder)?.sync_all()
        };
        if let Err(error) = made() {
            // Nobody was told of it, so nothing may be left of it.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(Self { file })
    }

    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: OpenOptions::new().read(true).write(true).open(path)? })
    }

    /// Appends frames, which are on disk when this returns.
    pub(crate) fn write(&self, frames: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(frames, offset)?;
        self.file.sync_data()
    }

    pub(crate) fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Fills `bytes` from `offset`, or gives fewer at the end of the file.
    pub(crate) fn read(&self, offset: u64, mut bytes: BytesMut) -> io::Result<Bytes> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.file.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        Ok(bytes.freeze())
    }

    /// Reads it from the beginning to the first thing that is no frame of ours.
    pub(crate) fn scan(&self) -> io::Result<Scan> {
        let mut scan = Scan {
            seq: 0,
            offset: FIRST,
            torn: 0,
            at_ms: 0,
            stdout_bytes: 0,
            stderr_bytes: 0,
            index: Vec::new(),
            exit: None,
        };
        let length = self.length()?;
        if self.read(0, BytesMut::zeroed(MAGIC.len()))? != MAGIC[..] {
            // The server was ended while it made the file.
            scan.torn = length;
            return Ok(scan);
        }
        let mut bytes = Bytes::new();
        loop {
            match record::read_frame(&bytes) {
                Framed::Entry(entry, taken) if scan.exit.is_none() && entry.seq == scan.seq + 1 => {
                    let _ = bytes.split_to(taken);
                    scan.count(entry, taken);
                    continue;
                }
                Framed::Entry(..) | Framed::Damaged => break,
                Framed::Partial => {}
            }
            let more = self.read(scan.offset, BytesMut::zeroed(8 * MAX_FRAME))?;
            if more.len() <= bytes.len() {
                break;
            }
            bytes = more;
        }
        scan.torn = length - scan.offset;
        Ok(scan)
    }

    /// Cuts off what `scan` could not read and appends `exit`, unless the log
    /// has ended.
    pub(crate) fn end(&self, scan: &Scan, exit: Exit) -> io::Result<Exit> {
        if scan.torn > 0 {
            self.file.set_len(scan.offset)?;
        }
        if let Some(exit) = &scan.exit {
            self.file.sync_data()?;
            return Ok(exit.clone());
        }
        if scan.seq == 0 {
            self.file.write_all_at(MAGIC, 0)?;
        }
        let entry = Entry { seq: scan.seq + 1, at_ms: scan.at_ms, record: Record::Exit(exit) };
        let mut frame = Vec::new();
        record::push_frame(&mut frame, &entry);
        self.write(&frame, scan.offset)?;
        let Record::Exit(exit) = entry.record else { unreachable!("made three lines above") };
        Ok(exit)
    }
}

impl Scan {
    fn count(&mut self, entry: Entry, length: usize) {
        self.seq = entry.seq;
        if self.index.last().is_none_or(|(_, last)| self.offset - last >= STRIDE) {
            self.index.push((entry.seq, self.offset));
        }
        self.offset += length as u64;
        self.at_ms = entry.at_ms;
        match entry.record {
            Record::Output(Channel::Stdout, data) => self.stdout_bytes += data.len() as u64,
            Record::Output(Channel::Stderr, data) => self.stderr_bytes += data.len() as u64,
            Record::Exit(exit) => self.exit = Some(exit),
            Record::Start(_) | Record::Truncated { .. } => {}
        }
    }

    /// An end for a run of which the log is all that is left.
    pub(crate) fn lost(&self, reason: Reason) -> Exit {
        Exit {
            elapsed_ms: self.at_ms.into(),
            stdout_bytes: self.stdout_bytes,
            stderr_bytes: self.stderr_bytes,
            ..Exit::without_program(reason)
        }
    }
}

/// Gives a log that has ended the name by which this can be seen.
pub(crate) fn rename_ended(folder: &Path, run: Uuid) -> io::Result<()> {
    fs::rename(open_path(folder, run), ended_path(folder, run))
}
