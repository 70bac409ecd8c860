//! Nonces that a restart does not forget.
//!
//! Every admitted nonce is appended to a log before it counts as admitted. The log is cut into segments:
//! files that only grow, and are deleted whole when all in them expired. A record is 40 bytes with a
//! checksum, so what a killed process left half written is told from what it admitted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest};

use super::{Mark, MemoryNonceStore, NonceError, NonceStore, Room};
use crate::ss58::Hotkey;

const MAGIC: &[u8; 8] = b"schwnon1";
const HEADER_BYTES: usize = 8 + 32 + 32 + 8 + 8;
const RECORD_BYTES: usize = 40;
/// A segment is closed when this large, or this old.
const SEGMENT_BYTES: u64 = 4 << 20;
const SEGMENT_NS: u64 = 60_000_000_000;
/// How soon after a failure a new segment is tried again.
const RETRY_NS: u64 = 1_000_000_000;

/// What an admitted nonce must survive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// The end of this process, by whatever signal. If the machine goes down, nonces from before the
    /// store is opened again are refused instead (told by the machine's boot id, on Linux).
    #[default]
    Process,
    /// The end of the machine's power: every admission waits for the disk.
    Machine,
}

/// Nonces in memory and in a log on disk: what was admitted stays used after a restart.
///
/// If the disk is full or fails, new nonces are refused with [`NonceError::Unavailable`] until it
/// works again; nothing is admitted that could be forgotten. If part of the log is damaged, nonces from
/// before the store was opened are refused, as with a store that remembers nothing.
///
/// Admitting writes to a file and so may block for a moment (with [`Durability::Machine`], for a disk's
/// flush). One process at a time: the folder is locked.
#[derive(Debug)]
pub struct PersistentNonceStore {
    memory: MemoryNonceStore,
    log: Mutex<Log>,
}

impl PersistentNonceStore {
    /// Opens the log in a folder, which is made (0700) if missing, with the default room.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]. A damaged log is not an error: see the type.
    pub fn open(folder: &Path, durability: Durability) -> Result<PersistentNonceStore, OpenError> {
        PersistentNonceStore::open_at(folder, durability, Room::default(), super::now_ns())
    }

    /// As [`PersistentNonceStore::open`], with this much room, at this moment.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub fn open_at(
        folder: &Path,
        durability: Durability,
        room: Room,
        now_ns: u64,
    ) -> Result<PersistentNonceStore, OpenError> {
        let failed = |source| OpenError::Folder { folder: folder.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        let lock = private_file().open(folder.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(OpenError::InUse { folder: folder.to_owned() });
            }
            Err(fs::TryLockError::Error(source)) => return Err(failed(source)),
        }
        let boot = boot_id();
        let mut trusted = true;
        let mut secret = None;
        let mut floor = 0;
        let mut records = Vec::new();
        let mut closed = Vec::new();
        for (index, path) in segments(folder).map_err(failed)? {
            let mut bytes = Vec::new();
            File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(failed)?;
            let Some(header) = Header::parse(&bytes) else {
                // A header half written is a segment in which nothing was admitted yet; but so much is
                // known only if it is short.
                trusted &= bytes.len() < HEADER_BYTES;
                closed.push(Closed { index, path, newest_nonce: 0, newest_expiry: 0 });
                continue;
            };
            trusted &= *secret.get_or_insert(header.secret) == header.secret;
            trusted &= header.boot == boot || durability == Durability::Machine;
            floor = floor.max(header.floor);
            let mut segment = Closed { index, path, newest_nonce: 0, newest_expiry: 0 };
            for record in bytes[HEADER_BYTES..].chunks_exact(RECORD_BYTES) {
                let Some(record) = Record::parse(record, &header.secret) else {
                    trusted = false;
                    continue;
                };
                segment.newest_nonce = segment.newest_nonce.max(record.nonce);
                segment.newest_expiry = segment.newest_expiry.max(record.expires_ns);
                records.push(record);
            }
            closed.push(segment);
        }
        let secret = match secret {
            Some(secret) => secret,
            None => {
                // Nothing is known of before.
                trusted = false;
                let mut secret = [0; 32];
                getrandom::fill(&mut secret).map_err(|_| OpenError::NoRandomness)?;
                secret
            }
        };
        let memory = MemoryNonceStore::with_secret(room, secret);
        for record in records {
            if record.expires_ns <= now_ns {
                floor = floor.max(record.nonce.saturating_add(1));
            } else {
                match memory.admit_mark(record.mark, record.nonce, 0, record.expires_ns) {
                    Ok(()) | Err(NonceError::Replayed) => {}
                    // Less room than there was: what cannot be remembered must be too old.
                    Err(_) => trusted = false,
                }
            }
        }
        if !trusted {
            floor = floor.max(now_ns);
            tracing::warn!(
                folder = %folder.display(),
                "the nonce log is new, damaged or from before a reboot: requests signed before now are refused"
            );
        }
        memory.raise_floor(floor);
        let next = closed.last().map_or(1, |last| last.index + 1);
        let current = Segment::create(folder, next, &secret, &boot, floor, durability, now_ns)
            .map_err(failed)?;
        let mut log = Log {
            folder: folder.to_owned(),
            durability,
            secret,
            boot,
            current,
            closed,
            must_rotate: false,
            retry_ns: 0,
            _lock: lock,
            #[cfg(test)]
            full: false,
        };
        log.delete_expired(now_ns);
        Ok(PersistentNonceStore { memory, log: Mutex::new(log) })
    }

    /// How many nonces are remembered now.
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }
}

impl NonceStore for PersistentNonceStore {
    fn admit(
        &self,
        hotkey: &Hotkey,
        lane: &str,
        nonce: u64,
        now_ns: u64,
        expires_ns: u64,
    ) -> Result<(), NonceError> {
        let mark = self.memory.mark(hotkey, lane, nonce);
        self.memory.admit_mark(mark, nonce, now_ns, expires_ns)?;
        let record = Record { mark, nonce, expires_ns };
        let written = {
            let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
            log.append(&record, now_ns, &self.memory)
        };
        written.map_err(|why| {
            self.memory.retract(mark, nonce);
            NonceError::Unavailable(why.kind())
        })
    }

    fn survives_restart(&self) -> bool {
        true
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be made, read or written.
    #[error("cannot use {} for nonces", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it.
    #[error("the nonces in {} are in use by another process", folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes")]
    NoRandomness,
}

#[derive(Debug)]
struct Log {
    folder: PathBuf,
    durability: Durability,
    secret: [u8; 32],
    boot: [u8; 32],
    current: Segment,
    closed: Vec<Closed>,
    /// The current segment's state on disk is not known: nothing more may be admitted to it.
    must_rotate: bool,
    retry_ns: u64,
    _lock: File,
    #[cfg(test)]
    full: bool,
}

#[derive(Debug)]
struct Segment {
    file: File,
    index: u64,
    path: PathBuf,
    length: u64,
    opened_ns: u64,
    newest_nonce: u64,
    newest_expiry: u64,
}

#[derive(Debug)]
struct Closed {
    index: u64,
    path: PathBuf,
    newest_nonce: u64,
    newest_expiry: u64,
}

impl Log {
    fn append(
        &mut self,
        record: &Record,
        now_ns: u64,
        memory: &MemoryNonceStore,
    ) -> io::Result<()> {
        let due = self.current.length >= SEGMENT_BYTES
            || now_ns.saturating_sub(self.current.opened_ns) >= SEGMENT_NS;
        if self.must_rotate || (due && now_ns >= self.retry_ns) {
            match self.rotate(now_ns, memory) {
                Ok(()) => self.must_rotate = false,
                Err(why) if self.must_rotate => return Err(why),
                Err(why) => {
                    tracing::warn!(error = %why, "no new segment of the nonce log; the old one is kept open");
                    self.retry_ns = now_ns.saturating_add(RETRY_NS);
                }
            }
        }
        // At the end of the last whole record: half a record that a full disk took is written over.
        let bytes = record.bytes(&self.secret);
        #[cfg(test)]
        if self.full {
            self.current.file.write_all_at(&bytes[..7], self.current.length)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.current.file.write_all_at(&bytes, self.current.length)?;
        if self.durability == Durability::Machine
            && let Err(why) = self.current.file.sync_data()
        {
            // After a failed flush nobody knows what is on the disk.
            self.must_rotate = true;
            return Err(why);
        }
        self.current.length += RECORD_BYTES as u64;
        self.current.newest_nonce = self.current.newest_nonce.max(record.nonce);
        self.current.newest_expiry = self.current.newest_expiry.max(record.expires_ns);
        Ok(())
    }

    fn rotate(&mut self, now_ns: u64, memory: &MemoryNonceStore) -> io::Result<()> {
        #[cfg(test)]
        if self.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let newest = &self.current;
        let expired = self.closed.iter().filter(|segment| segment.newest_expiry <= now_ns);
        let floor =
            expired.map(|segment| segment.newest_nonce.saturating_add(1)).max().unwrap_or(0);
        let floor = floor.max(memory.highest_floor());
        let next = Segment::create(
            &self.folder,
            newest.index + 1,
            &self.secret,
            &self.boot,
            floor,
            self.durability,
            now_ns,
        )?;
        let last = std::mem::replace(&mut self.current, next);
        self.closed.push(Closed {
            index: last.index,
            path: last.path,
            newest_nonce: last.newest_nonce,
            newest_expiry: last.newest_expiry,
        });
        self.delete_expired(now_ns);
        Ok(())
    }

    /// Only after a segment with a floor above them exists.
    fn delete_expired(&mut self, now_ns: u64) {
        self.closed.retain(|segment| {
            let keep = segment.newest_expiry > now_ns;
            // One that cannot be deleted is only read again at the next start.
            keep || fs::remove_file(&segment.path)
                .is_err_and(|why| why.kind() != io::ErrorKind::NotFound)
        });
    }
}

impl Segment {
    fn create(
        folder: &Path,
        index: u64,
        secret: &[u8; 32],
        boot: &[u8; 32],
        floor: u64,
        durability: Durability,
        now_ns: u64,
    ) -> io::Result<Segment> {
        let path = folder.join(format!("{index:016}.nonces"));
        let file = private_file().truncate(true).open(&path)?;
        let written = file
            .write_all_at(&Header { secret: *secret, boot: *boot, floor }.bytes(), 0)
            .and_then(|()| {
                if durability == Durability::Machine {
                    file.sync_all()?;
                    File::open(folder)?.sync_all()?;
                }
                Ok(())
            });
        if let Err(why) = written {
            let _ = fs::remove_file(&path);
            return Err(why);
        }
        let length = HEADER_BYTES as u64;
        Ok(Segment {
            file,
            index,
            path,
            length,
            opened_ns: now_ns,
            newest_nonce: 0,
            newest_expiry: 0,
        })
    }
}

struct Header {
    secret: [u8; 32],
    boot: [u8; 32],
    floor: u64,
}

impl Header {
    fn bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..40].copy_from_slice(&self.secret);
        bytes[40..72].copy_from_slice(&self.boot);
        bytes[72..80].copy_from_slice(&self.floor.to_le_bytes());
        let sum = checksum(&[&bytes[..80]]);
        bytes[80..].copy_from_slice(&sum);
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Header> {
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        if !bytes.starts_with(MAGIC) || checksum(&[&bytes[..80]]) != bytes[80..] {
            return None;
        }
        Some(Header {
            secret: bytes[8..40].try_into().ok()?,
            boot: bytes[40..72].try_into().ok()?,
            floor: word(bytes, 72)?,
        })
    }
}

struct Record {
    mark: Mark,
    nonce: u64,
    expires_ns: u64,
}

impl Record {
    fn bytes(&self, secret: &[u8; 32]) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        let words = [self.mark.who, self.mark.what, self.nonce, self.expires_ns];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let sum = checksum(&[secret, &bytes[..32]]);
        bytes[32..].copy_from_slice(&sum);
        bytes
    }

    fn parse(bytes: &[u8], secret: &[u8; 32]) -> Option<Record> {
        if bytes.len() != RECORD_BYTES || checksum(&[secret, &bytes[..32]]) != bytes[32..] {
            return None;
        }
        Some(Record {
            mark: Mark { who: word(bytes, 0)?, what: word(bytes, 8)? },
            nonce: word(bytes, 16)?,
            expires_ns: word(bytes, 24)?,
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

fn checksum(parts: &[&[u8]]) -> [u8; 8] {
    let mut hasher = Blake2b::<U32>::new();
    parts.iter().for_each(|part| hasher.update(part));
    let hash = hasher.finalize();
    std::array::from_fn(|at| hash[at])
}

fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options
}

fn segments(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let index = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_suffix(".nonces"))
            .and_then(|index| index.parse().ok());
        found.extend(index.map(|index| (index, path)));
    }
    found.sort_unstable();
    Ok(found)
}

/// A hash of this boot's id; zeros where the system has none, so that reboots are not noticed.
fn boot_id() -> [u8; 32] {
    match fs::read("/proc/sys/kernel/random/boot_id") {
        Ok(id) => Blake2b::<U32>::digest(id).into(),
        Err(_) => [0; 32],
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    use super::*;

    const NOW: u64 = 1_795_219_399_075_121_210;
    const SECOND: u64 = 1_000_000_000;
    const WINDOW: u64 = 64 * SECOND;

    fn open(folder: &Path, now: u64) -> PersistentNonceStore {
        PersistentNonceStore::open_at(folder, Durability::Process, Room::default(), now).unwrap()
    }

    fn admit(store: &PersistentNonceStore, nonce: u64, now: u64) -> Result<(), NonceError> {
        store.admit(&Hotkey::from_bytes([7; 32]), "lane", nonce, now, nonce + WINDOW)
    }

    fn files(folder: &Path) -> usize {
        segments(folder).unwrap().len()
    }

    #[test]
    fn a_nonce_stays_used_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path(), NOW);
        assert_eq!(admit(&store, NOW + 5, NOW), Ok(()));
        assert_eq!(admit(&store, NOW + 5, NOW), Err(NonceError::Replayed));
        drop(store);
        let store = open(folder.path(), NOW + SECOND);
        assert_eq!(admit(&store, NOW + 5, NOW + SECOND), Err(NonceError::Replayed));
        // In flight while the server was down, and never admitted: still good.
        assert_eq!(admit(&store, NOW + 4, NOW + SECOND), Ok(()));
    }

    #[test]
    fn what_expired_is_refused_even_if_the_clock_goes_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path(), NOW);
        assert_eq!(admit(&store, NOW + 5, NOW), Ok(()));
        drop(store);
        let late = NOW + 100 * SECOND;
        drop(open(folder.path(), late));
        assert_eq!(files(folder.path()), 1, "the expired segment was not deleted");
        let store = open(folder.path(), NOW + SECOND);
        assert!(matches!(admit(&store, NOW + 5, NOW + SECOND), Err(NonceError::TooOld { .. })));
    }

    #[test]
    fn a_new_folder_refuses_what_was_signed_before() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder.path().join("deep/er"), NOW);
        assert!(matches!(admit(&store, NOW - 1, NOW), Err(NonceError::TooOld { .. })));
        assert_eq!(admit(&store, NOW, NOW), Ok(()));
    }

    #[test]
    fn half_a_record_at_the_end_is_no_damage() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path(), NOW);
        assert_eq!(admit(&store, NOW + 1, NOW), Ok(()));
        drop(store);
        let (_, path) = segments(folder.path()).unwrap().pop().unwrap();
        let length = fs::metadata(&path).unwrap().len();
        File::options().write(true).open(&path).unwrap().write_all_at(b"torn", length).unwrap();
        for _ in 0..2 {
            let store = open(folder.path(), NOW + 10);
            assert_eq!(admit(&store, NOW + 1, NOW + 10), Err(NonceError::Replayed));
            assert!(matches!(admit(&store, NOW + 2, NOW + 10), Ok(()) | Err(NonceError::Replayed)));
        }
    }

    #[test]
    fn damage_refuses_all_from_before() {
        for at in [3, 20, 60, 75, 85, 90, 110, 125] {
            let folder = tempfile::tempdir().unwrap();
            let store = open(folder.path(), NOW);
            assert_eq!(admit(&store, NOW + 1, NOW), Ok(()));
            assert_eq!(admit(&store, NOW + 2, NOW), Ok(()));
            drop(store);
            let (_, path) = segments(folder.path()).unwrap().pop().unwrap();
            let mut bytes = fs::read(&path).unwrap();
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            let store = open(folder.path(), NOW + SECOND);
            for nonce in [NOW + 1, NOW + 2, NOW + 3] {
                assert!(admit(&store, nonce, NOW + SECOND).is_err(), "byte {at}, nonce {nonce}");
            }
            assert_eq!(admit(&store, NOW + SECOND, NOW + SECOND), Ok(()));
        }
    }

    #[test]
    fn a_full_disk_refuses_and_recovers() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path(), NOW);
        store.log.lock().unwrap().full = true;
        for _ in 0..3 {
            let refused = admit(&store, NOW + 1, NOW).unwrap_err();
            assert_eq!(refused, NonceError::Unavailable(io::ErrorKind::StorageFull));
            assert!(refused.to_string().contains("nonce store cannot write"), "{refused}");
        }
        // A new segment is due, and cannot be made either.
        assert!(admit(&store, NOW + 61 * SECOND, NOW + 61 * SECOND).is_err());
        assert!(store.is_empty());
        store.log.lock().unwrap().full = false;
        assert_eq!(admit(&store, NOW + 1, NOW), Ok(()));
        assert_eq!(admit(&store, NOW + 2, NOW), Ok(()));
        drop(store);
        let store = open(folder.path(), NOW + 10);
        assert_eq!(admit(&store, NOW + 1, NOW + 10), Err(NonceError::Replayed));
        assert_eq!(admit(&store, NOW + 2, NOW + 10), Err(NonceError::Replayed));
        assert_eq!(admit(&store, NOW + 3, NOW + 10), Ok(()));
    }

    #[test]
    fn old_segments_go_and_the_log_stays_small() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path(), NOW);
        for second in 0..2_000 {
            let now = NOW + second * SECOND;
            assert_eq!(admit(&store, now, now), Ok(()));
        }
        assert!(files(folder.path()) <= 4, "{} segments", files(folder.path()));
        assert!(store.len() < 80, "{} nonces", store.len());
    }

    #[test]
    fn two_processes_cannot_share_a_log() {
        let folder = tempfile::tempdir().unwrap();
        let _first = open(folder.path(), NOW);
        let second = PersistentNonceStore::open(folder.path(), Durability::Process);
        assert!(matches!(second, Err(OpenError::InUse { .. })));
    }

    /// The test starts itself as the process to kill, and that one finds the
    /// folder in its environment.
    #[test]
    fn a_killed_process_forgets_nothing_it_admitted() {
        #[expect(clippy::disallowed_methods, reason = "how the test tells its child the folder")]
        if let Ok(folder) = std::env::var("SCHWANN_TEST_NONCES") {
            return admit_until_killed(Path::new(&folder));
        }
        let folder = tempfile::tempdir().unwrap();
        let mut known = Vec::new();
        for round in 0..3 {
            #[expect(clippy::disallowed_methods, reason = "the test needs a process to kill")]
            let mut child = std::process::Command::new(std::env::current_exe().unwrap())
                .args([
                    "nonce::persistent::tests::a_killed_process_forgets_nothing_it_admitted",
                    "--exact",
                    "--nocapture",
                ])
                .env("SCHWANN_TEST_NONCES", folder.path())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let mut seen = 0;
            for line in lines.map_while(Result::ok) {
                // The harness prints the test's name on the first line, without ending it.
                let Some((_, nonce)) = line.split_once("admitted ") else { continue };
                known.extend(nonce.parse::<u64>());
                seen += 1;
                if seen == 200 + round * 37 {
                    child.kill().unwrap();
                }
            }
            child.wait().unwrap();
        }
        assert!(known.len() > 600);
        let store = PersistentNonceStore::open(folder.path(), Durability::Process).unwrap();
        let now = super::super::now_ns();
        for nonce in known {
            assert_eq!(admit(&store, nonce, now), Err(NonceError::Replayed));
        }
    }

    fn admit_until_killed(folder: &Path) {
        let store = PersistentNonceStore::open(folder, Durability::Process).unwrap();
        for _ in 0..u32::MAX {
            let nonce = super::super::now_ns();
            if admit(&store, nonce, nonce).is_ok() {
                use std::io::Write as _;
                writeln!(io::stdout(), "admitted {nonce}").unwrap();
            }
        }
    }
}
