//! What a run leaves behind: records with ids from 1 and no gap, the last of
//! which says how it ended.
//!
//! On disk a record is a frame: length and CRC-32 of its payload, then the
//! payload: kind, milliseconds since the start, id, body. All numbers are
//! little-endian. Towards clients it is the JSON of [`Entry::write_json`].

use std::io::Write as _;

use base64::{display::Base64Display, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Output that one record holds at most. Its JSON can be six times as long.
pub const MAX_DATA: usize = 4 * 1024;

/// Length and checksum.
pub(crate) const FRAME_HEAD: usize = 8;
/// Kind, time and id.
const PAYLOAD_HEAD: usize = 1 + 4 + 8;
/// What a frame with `MAX_DATA` bytes takes; no other is longer.
pub(crate) const MAX_FRAME: usize = FRAME_HEAD + PAYLOAD_HEAD + MAX_DATA;

/// Which of its two outputs a program wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Standard output, or all output of a run with a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The program is about to start.
    Start(Start),
    /// It wrote something.
    Output(Channel, Bytes),
    /// From here on its output is not kept, for it wrote more than this.
    Truncated {
        /// The limit, in bytes.
        limit_bytes: u64,
    },
    /// It ended. Always the last record, and in every log exactly once.
    Exit(Exit),
}

/// What is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Start {
    /// The run.
    pub run_id: Uuid,
    /// The card whose code it runs; none for code that belongs to no card.
    pub card_id: Option<Uuid>,
    /// The language's id.
    pub language: String,
    /// What keeps the program in, such as `bwrap+cgroup2`, or `none`.
    pub sandbox: String,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Exit {
    /// Why it ended.
    pub reason: Reason,
    /// The exit code, if it exited by itself.
    pub code: Option<i32>,
    /// The number of the signal that ended it, if one did.
    pub signal: Option<i32>,
    /// Time from its start to its end.
    pub elapsed_ms: u64,
    /// Processor time of all its processes.
    pub cpu_ms: u64,
    /// The most memory that one of its processes (or all, in a cgroup) held.
    pub max_rss_bytes: u64,
    /// What it wrote to standard output.
    pub stdout_bytes: u64,
    /// What it wrote to standard error.
    pub stderr_bytes: u64,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// By itself.
    Exit,
    /// By a signal that nobody here sent.
    Signal,
    /// Its time was over.
    Timeout,
    /// It used more processor time than it may.
    CpuLimit,
    /// It used more memory than it may.
    MemoryLimit,
    /// It started more processes than it may.
    PidsLimit,
    /// It wrote more output than is kept.
    OutputLimit,
    /// It filled its work folder.
    FolderLimit,
    /// Somebody cancelled it.
    Cancelled,
    /// It was lost with the server that ran it.
    ServerRestart,
    /// Its program could not be started.
    StartFailed,
    /// Its output could not be kept, so it was stopped.
    LogFailed,
}

impl Reason {
    /// The word that clients and the database see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Signal => "signal",
            Self::Timeout => "timeout",
            Self::CpuLimit => "cpu_limit",
            Self::MemoryLimit => "memory_limit",
            Self::PidsLimit => "pids_limit",
            Self::OutputLimit => "output_limit",
            Self::FolderLimit => "folder_limit",
            Self::Cancelled => "cancelled",
            Self::ServerRestart => "server_restart",
            Self::StartFailed => "start_failed",
            Self::LogFailed => "log_failed",
        }
    }
}

impl Reason {
    /// The reason that has this word.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        serde_json::from_value(word.into()).ok()
    }
}

impl Exit {
    /// An end of which only the reason is known.
    pub fn without_program(reason: Reason) -> Self {
        Self {
            reason,
            code: None,
            signal: None,
            elapsed_ms: 0,
            cpu_ms: 0,
            max_rss_bytes: 0,
            stdout_bytes: 0,
            stderr_bytes: 0,
        }
    }
}

/// A record in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id; the first is 1.
    pub seq: u64,
    /// Milliseconds since the start of its log.
    pub at_ms: u32,
    /// What happened.
    pub record: Record,
}

impl Entry {
    /// True for the record after which no other comes.
    pub fn is_last(&self) -> bool {
        matches!(self.record, Record::Exit(_))
    }

    /// The word in `type` and in an event stream's `event:`.
    pub fn kind(&self) -> &'static str {
        match self.record {
            Record::Start(_) => "start",
            Record::Output(Channel::Stdout, _) => "stdout",
            Record::Output(Channel::Stderr, _) => "stderr",
            Record::Truncated { .. } => "truncated",
            Record::Exit(_) => "exit",
        }
    }

    /// Appends its JSON object, without a newline. `of` adds the run's and the
    /// card's id, for streams of several runs.
    pub fn write_json(&self, of: Option<&Of>, out: &mut Vec<u8>) {
        put(out, format_args!(r#"{{"seq":{},"type":"{}""#, self.seq, self.kind()));
        if let Some(of) = of.filter(|_| !matches!(self.record, Record::Start(_))) {
            of.write_members(out);
        }
        match &self.record {
            Record::Start(start) => put_members(out, start),
            Record::Exit(exit) => put_members(out, exit),
            Record::Truncated { limit_bytes } => {
                put(out, format_args!(r#","limit_bytes":{limit_bytes}}}"#));
            }
            Record::Output(_, data) => {
                put(out, format_args!(r#","t":{},"#, self.at_ms));
                match std::str::from_utf8(data) {
                    Ok(text) => {
                        out.extend_from_slice(br#""data":"#);
                        serde_json::to_writer(&mut *out, text).expect("a string into memory");
                        out.push(b'}');
                    }
                    Err(_) => {
                        let data = Base64Display::new(data, &STANDARD);
                        put(out, format_args!(r#""b64":"{data}"}}"#));
                    }
                }
            }
        }
    }

    /// Reads an entry from a payload whose checksum was right.
    pub(crate) fn from_payload(payload: &Bytes) -> Option<Self> {
        let (kind, rest) = payload.split_first()?;
        let at_ms = u32::from_le_bytes(rest.get(..4)?.try_into().ok()?);
        let seq = u64::from_le_bytes(rest.get(4..12)?.try_into().ok()?);
        let body = payload.slice(PAYLOAD_HEAD..);
        let record = match kind {
            1 => Record::Start(serde_json::from_slice(&body).ok()?),
            2 => Record::Output(Channel::Stdout, body),
            3 => Record::Output(Channel::Stderr, body),
            4 => Record::Truncated { limit_bytes: u64::from_le_bytes(body[..].try_into().ok()?) },
            5 => Record::Exit(serde_json::from_slice(&body).ok()?),
            _ => return None,
        };
        Some(Self { seq, at_ms, record })
    }
}

/// Whose event it is, in a stream of several runs.
#[derive(Clone, Debug)]
pub struct Of {
    /// The run.
    pub run_id: Uuid,
    /// Its card, if it has one.
    pub card_id: Option<Uuid>,
}

impl Of {
    fn write_members(&self, out: &mut Vec<u8>) {
        put(out, format_args!(r#","run_id":"{}""#, self.run_id));
        if let Some(card) = self.card_id {
            put(out, format_args!(r#","card_id":"{card}""#));
        }
    }
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("memory takes everything");
}

/// The members of an object, into one that is already open.
fn put_members(out: &mut Vec<u8>, value: &impl Serialize) {
    let at = out.len();
    serde_json::to_writer(&mut *out, value).expect("plain members into memory");
    out[at] = b',';
}

/// Begins a frame and gives its place, for [`seal`].
pub(crate) fn open_frame(buffer: &mut Vec<u8>, kind: u8, at_ms: u32, seq: u64) -> usize {
    let place = buffer.len();
    buffer.extend_from_slice(&[0; FRAME_HEAD]);
    buffer.push(kind);
    buffer.extend_from_slice(&at_ms.to_le_bytes());
    buffer.extend_from_slice(&seq.to_le_bytes());
    place
}

/// Writes length and checksum of the frame at `place`, which reaches to the end.
pub(crate) fn seal(buffer: &mut [u8], place: usize) {
    let (head, payload) = buffer[place..].split_at_mut(FRAME_HEAD);
    head[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    head[4..].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
}

pub(crate) fn channel_kind(channel: Channel) -> u8 {
    match channel {
        Channel::Stdout => 2,
        Channel::Stderr => 3,
    }
}

/// Appends a sealed frame.
pub(crate) fn push_frame(buffer: &mut Vec<u8>, entry: &Entry) {
    let kind = match &entry.record {
        Record::Start(_) => 1,
        Record::Output(channel, _) => channel_kind(*channel),
        Record::Truncated { .. } => 4,
        Record::Exit(_) => 5,
    };
    let place = open_frame(buffer, kind, entry.at_ms, entry.seq);
    match &entry.record {
        Record::Start(start) => {
            serde_json::to_writer(&mut *buffer, start).expect("plain members into memory");
        }
        Record::Output(_, data) => buffer.extend_from_slice(data),
        Record::Truncated { limit_bytes } => buffer.extend_from_slice(&limit_bytes.to_le_bytes()),
        Record::Exit(exit) => {
            serde_json::to_writer(&mut *buffer, exit).expect("plain members into memory");
        }
    }
    seal(buffer, place);
}

/// What stands at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Framed {
    /// A whole entry, and how many bytes it takes.
    Entry(Entry, usize),
    /// The beginning of a frame, perhaps.
    Partial,
    /// No frame of ours.
    Damaged,
}

/// Reads the frame at the beginning of `bytes`.
pub(crate) fn read_frame(bytes: &Bytes) -> Framed {
    let Some(head) = bytes.get(..FRAME_HEAD) else { return Framed::Partial };
    let length = u32::from_le_bytes(head[..4].try_into().expect("four bytes")) as usize;
    if !(PAYLOAD_HEAD..=MAX_FRAME - FRAME_HEAD).contains(&length) {
        return Framed::Damaged;
    }
    let end = FRAME_HEAD + length;
    if bytes.len() < end {
        return Framed::Partial;
    }
    let payload = bytes.slice(FRAME_HEAD..end);
    if crc32fast::hash(&payload).to_le_bytes() != head[4..] {
        return Framed::Damaged;
    }
    Entry::from_payload(&payload).map_or(Framed::Damaged, |entry| Framed::Entry(entry, end))
}

/// How many bytes at the end are the beginning of a character that is not
/// there as a whole. At most 3.
pub fn incomplete_tail(bytes: &[u8]) -> usize {
    for length in 1..=bytes.len().min(3) {
        let tail = &bytes[bytes.len() - length..];
        if tail[0] < 0x80 {
            return 0;
        }
        if tail[0] >= 0xC0 {
            // `error_len` is none where more bytes could make it right.
            let unfinished = std::str::from_utf8(tail).is_err_and(|e| e.error_len().is_none());
            return if unfinished { length } else { 0 };
        }
    }
    0
}

/// Keeps back the beginning of a character until the rest has come, so that no
/// record ends within one.
#[derive(Debug, Default)]
pub struct Whole {
    held: Vec<u8>,
}

impl Whole {
    /// Gives what can be recorded now, in at most two parts: bytes held before
    /// with those that complete them, and the rest.
    pub fn take(&mut self, mut bytes: Bytes) -> (Bytes, Bytes) {
        let mut first = Bytes::new();
        if !self.held.is_empty() {
            // At most 3 bytes are held, so 3 more decide.
            while !bytes.is_empty() && incomplete_tail(&self.held) == self.held.len() {
                self.held.push(bytes.split_to(1)[0]);
            }
            if incomplete_tail(&self.held) == self.held.len() {
                return (first, bytes);
            }
            first = std::mem::take(&mut self.held).into();
            // The byte that broke a sequence may begin the next.
            let tail = incomplete_tail(&first);
            if tail > 0 && bytes.is_empty() {
                self.held = first.split_off(first.len() - tail).to_vec();
                return (first, bytes);
            }
            if tail > 0 {
                let mut joined = first.split_off(first.len() - tail).to_vec();
                joined.extend_from_slice(&bytes);
                bytes = joined.into();
            }
        }
        let tail = incomplete_tail(&bytes);
        self.held = bytes.split_off(bytes.len() - tail).to_vec();
        (first, bytes)
    }

    /// What was held back when there is no more: no whole character.
    pub fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.held).into()
    }
}

/// How much of `bytes` fits into `room` without cutting a character. At least
/// one byte if there is room for a whole character's worth.
pub(crate) fn fitting(bytes: &[u8], room: usize) -> usize {
    if bytes.len() <= room {
        return bytes.len();
    }
    room - incomplete_tail(&bytes[..room])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(record: Record) -> String {
        let mut out = Vec::new();
        Entry { seq: 7, at_ms: 12, record }.write_json(None, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn entries_have_the_documented_json() {
        let output = |bytes: &'static [u8]| Record::Output(Channel::Stdout, bytes.into());
        assert_eq!(
            json(output("第 0 行\n\"\u{1b}[1m\r".as_bytes())),
            r#"{"seq":7,"type":"stdout","t":12,"data":"第 0 行\n\"\u001b[1m\r"}"#
        );
        assert_eq!(json(output(b"\xff\xfe")), r#"{"seq":7,"type":"stdout","t":12,"b64":"//4="}"#);
        assert_eq!(
            json(Record::Truncated { limit_bytes: 8_388_608 }),
            r#"{"seq":7,"type":"truncated","limit_bytes":8388608}"#
        );
        let exit = Exit { code: Some(3), elapsed_ms: 3151, ..Exit::without_program(Reason::Exit) };
        assert_eq!(
            json(Record::Exit(exit)),
            r#"{"seq":7,"type":"exit","reason":"exit","code":3,"signal":null,"elapsed_ms":3151,"cpu_ms":0,"max_rss_bytes":0,"stdout_bytes":0,"stderr_bytes":0}"#
        );
        let start = Start {
            run_id: Uuid::nil(),
            card_id: None,
            language: "python".into(),
            sandbox: "none".into(),
        };
        assert_eq!(
            json(Record::Start(start)),
            r#"{"seq":7,"type":"start","run_id":"00000000-0000-0000-0000-000000000000","card_id":null,"language":"python","sandbox":"none"}"#
        );
    }

    #[test]
    fn reasons_are_one_word_in_both_forms() {
        for reason in [
            Reason::Exit,
            Reason::Signal,
            Reason::Timeout,
            Reason::CpuLimit,
            Reason::MemoryLimit,
            Reason::PidsLimit,
            Reason::OutputLimit,
            Reason::FolderLimit,
            Reason::Cancelled,
            Reason::ServerRestart,
            Reason::StartFailed,
            Reason::LogFailed,
        ] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }

    /// Text with some bytes that are none.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => "[a-z第行é🦀]{1,6}".prop_map(String::into_bytes),
            1 => proptest::collection::vec(any::<u8>(), 1..5),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn what_is_held_back_changes_no_byte(bytes in bytes(), cuts in proptest::collection::vec(1_usize..6, 1..40)) {
            let mut whole = Whole::default();
            let mut rest = &bytes[..];
            let mut out = Vec::new();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                rest = later;
                let (first, second) = whole.take(Bytes::copy_from_slice(now));
                out.extend_from_slice(&first);
                out.extend_from_slice(&second);
            }
            let tail = whole.rest();
            prop_assert!(tail.len() <= 3);
            out.extend_from_slice(&tail);
            prop_assert_eq!(out, bytes);
        }

        #[test]
        fn text_in_pieces_is_recorded_as_text(text in "[a-z第行é🦀]{0,40}", size in 1_usize..5) {
            let mut whole = Whole::default();
            for piece in text.as_bytes().chunks(size) {
                let (first, second) = whole.take(Bytes::copy_from_slice(piece));
                prop_assert!(std::str::from_utf8(&first).is_ok());
                prop_assert!(std::str::from_utf8(&second).is_ok());
            }
            prop_assert!(whole.rest().is_empty());
        }

        #[test]
        fn a_frame_is_read_as_it_was_written(data in bytes(), seq in 1_u64.., at_ms: u32) {
            let entry = Entry { seq, at_ms, record: Record::Output(Channel::Stderr, data.into()) };
            let mut buffer = Vec::new();
            push_frame(&mut buffer, &entry);
            let length = buffer.len();
            prop_assert_eq!(read_frame(&buffer.into()), Framed::Entry(entry, length));
        }
    }
}
