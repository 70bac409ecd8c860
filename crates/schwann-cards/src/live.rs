//! Live logs in Redis: what the servers of an installation show each other of the runs that they have.
//!
//! A run's stream holds the newest of its log, in blocks of whole records. The id of an entry is the id of the last record in it, so a
//! cursor of a log is a cursor of the stream: `XRANGE` from the record after it begins with the block in which that record is. What is
//! appended must follow what was appended before, which one script compares and does: so a repeated append, one of a server that was
//! given up, and one to a Redis that lost data are told apart from the next, and a log has one end. Nothing here is the only copy of
//! anything while the server of the run lives.

use std::{fmt, time::Duration};

use bytes::Bytes;
use redis::{
    Client, FromRedisValue, Pipeline, RedisError,
    aio::{ConnectionManager, ConnectionManagerConfig, PubSub},
    cmd,
};
use uuid::Uuid;

use crate::record::{self, Channel, Entry, Framed, Record};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// Longest wait for an answer, with the time that a lost connection takes to be made again.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a question waits for whom it is for.
const QUESTION: Duration = Duration::from_secs(30);
/// Requests that may be under way on the one connection.
const UNDER_WAY: usize = 1024;
/// Most of a run that is kept in Redis, in bytes. What is older is read through the run's server.
pub(crate) const KEPT: u64 = 4 << 20;
/// How long a log is kept that nobody appends to.
const OPEN: Duration = Duration::from_secs(24 * 3600);
/// How long one is kept that has ended, whose server has all of it.
const ENDED: Duration = Duration::from_secs(600);
/// How long one is kept whose server was lost.
const LOST: Duration = Duration::from_secs(7 * 24 * 3600);

/// Compares and appends. `KEYS`: stream, head. `ARGV`: the record up to which it must be, the last record of the block, the block, who
/// writes, the record from which blocks are kept, 1 if it ends the log, time to live, channel, and counts for the head.
const APPEND: &str = r"
local head = redis.call('HMGET', KEYS[2], 'at', 'by', 'ended')
local at, by, ended = head[1] or '0', head[2] or '', head[3] or '0'
if at ~= ARGV[1] or ended == '1' then return {0, at, by, ended} end
if at == '0' then redis.call('DEL', KEYS[1]) end
redis.call('XADD', KEYS[1], 'MINID', '~', ARGV[5], ARGV[2] .. '-0', 'f', ARGV[3])
redis.call('HSET', KEYS[2], 'at', ARGV[2], 'by', ARGV[4], 'ended', ARGV[6],
  'ms', ARGV[9], 'stdout', ARGV[10], 'stderr', ARGV[11])
redis.call('PEXPIRE', KEYS[1], ARGV[7])
redis.call('PEXPIRE', KEYS[2], ARGV[7])
redis.call('PUBLISH', ARGV[8], ARGV[2])
return {1, ARGV[2], ARGV[4], ARGV[6]}";

/// Redis, as the servers of one installation use it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Live {
    client: Client,
    connection: ConnectionManager,
    prefix: String,
    server: String,
}

/// Why Redis did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LiveError {
    #[error("Redis: {0}")]
    Redis(#[source] RedisError),
    #[error("Redis does not answer")]
    Silent,
}

/// Some records of a log, whole and in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) frames: Bytes,
    /// Ids of the first and the last of them.
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Whether the last is the last of the log.
    pub(crate) ended: bool,
    /// Time of the last.
    pub(crate) at_ms: u32,
    pub(crate) stdout_bytes: u64,
    pub(crate) stderr_bytes: u64,
}

/// How far a log has come in Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// The last record; 0 if there is none.
    pub(crate) at: u64,
    /// The server that appended it.
    pub(crate) by: String,
    pub(crate) ended: bool,
    /// Counts of the records so far.
    pub(crate) at_ms: u32,
    pub(crate) stdout_bytes: u64,
    pub(crate) stderr_bytes: u64,
}

impl Block {
    /// Frames that are not counted yet.
    pub(crate) fn of(frames: Bytes) -> Self {
        let (first, last, ended) = (0, 0, false);
        Self { frames, first, last, ended, at_ms: 0, stdout_bytes: 0, stderr_bytes: 0 }
    }

    /// Adds what is said of the next record.
    pub(crate) fn count(&mut self, entry: &Entry) {
        if self.first == 0 {
            self.first = entry.seq;
        }
        self.last = entry.seq;
        self.at_ms = entry.at_ms;
        match &entry.record {
            Record::Output(Channel::Stdout, data) => self.stdout_bytes += data.len() as u64,
            Record::Output(Channel::Stderr, data) => self.stderr_bytes += data.len() as u64,
            Record::Exit(_) => self.ended = true,
            Record::Start(_) | Record::Truncated { .. } => {}
        }
    }

    /// Reads what the frames are. `None` if they are not whole frames of ours, one after the other.
    pub(crate) fn read(frames: Bytes) -> Option<Self> {
        let mut block = Self::of(frames.clone());
        let mut rest = frames;
        while !rest.is_empty() {
            let Framed::Entry(entry, length) = record::read_frame(&rest) else { return None };
            if block.ended || (block.first != 0 && entry.seq != block.last + 1) {
                return None;
            }
            block.count(&entry);
            let _ = rest.split_to(length);
        }
        (block.first != 0).then_some(block)
    }

    /// A block of one record.
    pub(crate) fn single(entry: &Entry) -> Self {
        let mut frames = Vec::new();
        record::push_frame(&mut frames, entry);
        let mut block = Self::of(frames.into());
        block.count(entry);
        block
    }
}

impl Live {
    /// Connects. `installation` tells this installation's keys and channels from others'.
    ///
    /// # Errors
    ///
    /// Fails if the URL is none, or Redis does not answer.
    pub(crate) async fn connect(
        url: &str,
        installation: Uuid,
        server: &str,
    ) -> Result<Self, LiveError> {
        let client = Client::open(url).map_err(LiveError::Redis)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(ANSWER))
            .set_number_of_retries(1)
            .set_max_delay(Duration::from_millis(200))
            .set_concurrency_limit(UNDER_WAY);
        let connecting = ConnectionManager::new_with_config(client.clone(), config);
        let connection = tokio::time::timeout(2 * ANSWER, connecting).await;
        let connection = connection.map_err(|_| LiveError::Silent)?.map_err(LiveError::Redis)?;
        let prefix = format!("schwann:{}", installation.simple());
        Ok(Self { client, connection, prefix, server: server.to_owned() })
    }

    /// Whether Redis answers.
    pub(crate) async fn ping(&self) -> Result<(), LiveError> {
        self.ask::<()>(&cmd("PING")).await
    }

    /// A connection that messages come by.
    pub(crate) async fn listen(&self) -> Result<PubSub, LiveError> {
        let connecting = self.client.get_async_pubsub();
        let connected = tokio::time::timeout(CONNECT, connecting).await;
        connected.map_err(|_| LiveError::Silent)?.map_err(LiveError::Redis)
    }

    /// The channel of hints that a run's log has grown.
    pub(crate) fn run_channel(&self, run: Uuid) -> String {
        self.stream(run)
    }

    /// The channel of what is said to one server.
    pub(crate) fn server_channel(&self, server: &str) -> String {
        format!("{}:server:{server}", self.prefix)
    }

    /// The channel of what is said to all servers: of new runs.
    pub(crate) fn news_channel(&self) -> String {
        format!("{}:news", self.prefix)
    }

    fn stream(&self, run: Uuid) -> String {
        format!("{}:run:{}", self.prefix, run.simple())
    }

    fn head_key(&self, run: Uuid) -> String {
        format!("{}:run:{}:head", self.prefix, run.simple())
    }

    fn question_key(&self, question: Uuid) -> String {
        format!("{}:question:{}", self.prefix, question.simple())
    }

    /// Appends a block if the log's head is still at `expected` and has not ended. Otherwise gives the head that there is; one of this
    /// server at the block's last record means that the block was appended before.
    ///
    /// `totals` are the counts of all records up to the last of the block; blocks that end before `kept_from` may go.
    pub(crate) async fn append(
        &self,
        run: Uuid,
        expected: u64,
        block: &Block,
        kept_from: u64,
        totals: (u64, u64),
    ) -> Result<Result<(), Head>, LiveError> {
        let kept_for = if block.ended { ENDED } else { OPEN };
        self.append_for(run, expected, block, kept_from, totals, kept_for).await
    }

    /// Appends the end of a run whose server was lost.
    pub(crate) async fn append_lost(
        &self,
        run: Uuid,
        head: &Head,
        block: &Block,
    ) -> Result<Result<(), Head>, LiveError> {
        let totals = (head.stdout_bytes, head.stderr_bytes);
        self.append_for(run, head.at, block, 0, totals, LOST).await
    }

    async fn append_for(
        &self,
        run: Uuid,
        expected: u64,
        block: &Block,
        kept_from: u64,
        totals: (u64, u64),
        kept_for: Duration,
    ) -> Result<Result<(), Head>, LiveError> {
        let mut append = cmd("EVAL");
        append.arg(APPEND).arg(2).arg(self.stream(run)).arg(self.head_key(run));
        append.arg(expected).arg(block.last).arg(&block.frames[..]).arg(&self.server);
        append.arg(kept_from).arg(u8::from(block.ended)).arg(kept_for.as_millis() as u64);
        append.arg(self.run_channel(run)).arg(block.at_ms).arg(totals.0).arg(totals.1);
        let (appended, at, by, ended): (u8, u64, String, u8) = self.ask(&append).await?;
        if appended == 1 {
            return Ok(Ok(()));
        }
        Ok(Err(Head { at, by, ended: ended == 1, ..Head::default() }))
    }

    /// How far a run's log has come; `None` if Redis has none.
    pub(crate) async fn head(&self, run: Uuid) -> Result<Option<Head>, LiveError> {
        let mut get = cmd("HMGET");
        get.arg(self.head_key(run)).arg(&["at", "by", "ended", "ms", "stdout", "stderr"]);
        type Fields =
            (Option<u64>, Option<String>, Option<u8>, Option<u32>, Option<u64>, Option<u64>);
        let (at, by, ended, at_ms, stdout, stderr): Fields = self.ask(&get).await?;
        Ok(at.map(|at| Head {
            at,
            by: by.unwrap_or_default(),
            ended: ended == Some(1),
            at_ms: at_ms.unwrap_or(0),
            stdout_bytes: stdout.unwrap_or(0),
            stderr_bytes: stderr.unwrap_or(0),
        }))
    }

    /// How far several logs have come, in their order; `None` if Redis has none of a run.
    pub(crate) async fn heads_at(&self, runs: &[Uuid]) -> Result<Vec<Option<u64>>, LiveError> {
        let mut all = redis::pipe();
        for run in runs {
            all.cmd("HGET").arg(self.head_key(*run)).arg("at");
        }
        self.ask_all(&all).await
    }

    /// The blocks from the one on in which the record after `after` is, or after which it would be; at most `most`.
    ///
    /// Whether the first begins at that record or before is for the caller to see: Redis need not have all.
    pub(crate) async fn blocks(
        &self,
        run: Uuid,
        after: u64,
        most: usize,
    ) -> Result<Vec<Block>, LiveError> {
        let mut range = cmd("XRANGE");
        range.arg(self.stream(run)).arg(after.saturating_add(1)).arg("+").arg("COUNT").arg(most);
        let entries: Vec<(String, Vec<Vec<u8>>)> = self.ask(&range).await?;
        let frames = entries.into_iter().filter_map(|(_, mut fields)| fields.pop());
        // What is not ours ends it: the owner's log has the rest.
        Ok(frames.map_while(|frames| Block::read(frames.into())).collect())
    }

    /// Forgets what Redis has of a run.
    pub(crate) async fn forget(&self, run: Uuid) -> Result<(), LiveError> {
        self.ask::<()>(cmd("DEL").arg(self.stream(run)).arg(self.head_key(run))).await
    }

    /// Says something, and how many heard it.
    pub(crate) async fn publish(&self, channel: &str, message: &[u8]) -> Result<u64, LiveError> {
        self.ask(cmd("PUBLISH").arg(channel).arg(message)).await
    }

    /// Lays a question down and tells a server of it. False if it does not listen; then nothing was laid down.
    pub(crate) async fn put_question(
        &self,
        server: &str,
        question: Uuid,
        text: &[u8],
        announced: &[u8],
    ) -> Result<bool, LiveError> {
        let key = self.question_key(question);
        let mut both = redis::pipe();
        both.atomic();
        both.cmd("SET").arg(&key).arg(text).arg("PX").arg(QUESTION.as_millis() as u64).ignore();
        both.cmd("PUBLISH").arg(self.server_channel(server)).arg(announced);
        let (heard,): (u64,) = self.ask_all(&both).await?;
        if heard == 0 {
            self.take_question(question).await?;
        }
        Ok(heard > 0)
    }

    /// Takes a question away: one of those who try gets it, to answer it or because nobody has.
    pub(crate) async fn take_question(&self, question: Uuid) -> Result<Option<Bytes>, LiveError> {
        let taken: Option<Vec<u8>> =
            self.ask(cmd("GETDEL").arg(self.question_key(question))).await?;
        Ok(taken.map(Bytes::from))
    }

    async fn ask<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, LiveError> {
        let mut connection = self.connection.clone();
        within(command.query_async(&mut connection)).await
    }

    async fn ask_all<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, LiveError> {
        let mut connection = self.connection.clone();
        within(async { pipeline.query_async(&mut connection).await }).await
    }
}

/// The connection has limits of its own; this one holds for all of them together.
async fn within<T>(answer: impl Future<Output = Result<T, RedisError>>) -> Result<T, LiveError> {
    let answer = tokio::time::timeout(ANSWER, answer).await;
    answer.map_err(|_| LiveError::Silent)?.map_err(LiveError::Redis)
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may have a password in it.
        f.debug_struct("Live").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Exit, Reason};

    fn line(seq: u64) -> Record {
        Record::Output(Channel::Stdout, format!("<{seq}>").into())
    }

    fn frames(entries: &[(u64, Record)]) -> Vec<u8> {
        let mut all = Vec::new();
        for (seq, record) in entries {
            let entry = Entry { seq: *seq, at_ms: 7, record: record.clone() };
            record::push_frame(&mut all, &entry);
        }
        all
    }

    #[test]
    fn a_block_is_whole_records_one_after_the_other_and_none_after_the_last() {
        let end = || Record::Exit(Exit::without_program(Reason::Exit));
        let read = |frames: Vec<u8>| Block::read(frames.into());
        let whole = frames(&[(4, line(4)), (5, line(5)), (6, end())]);
        let block = read(whole.clone()).unwrap();
        assert_eq!((block.first, block.last, block.ended), (4, 6, true));
        assert_eq!((block.stdout_bytes, block.stderr_bytes, block.at_ms), (6, 0, 7));
        assert!(!read(frames(&[(4, line(4))])).unwrap().ended);
        let wrong = [
            ("nothing", Vec::new()),
            ("one is missing", frames(&[(4, line(4)), (6, line(6))])),
            ("one is there twice", frames(&[(4, line(4)), (4, line(4))])),
            ("it goes back", frames(&[(4, line(4)), (3, line(3))])),
            ("after the last", frames(&[(4, end()), (5, line(5))])),
            ("a second end", frames(&[(4, end()), (5, end())])),
            ("a part of one", whole[..whole.len() - 1].to_vec()),
            ("something else after it", [&whole[..], b"x"].concat()),
        ];
        for (what, frames) in wrong {
            assert_eq!(read(frames), None, "{what}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert_eq!(read(changed), None, "byte {at}");
        }
    }
}
