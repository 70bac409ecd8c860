//! The roles of the conformance client: what `interop/etl/reference_app.py` does, in Rust.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::HeaderValue;
use md5::{Digest as _, Md5};
use schwann::{BoxHandler, Error, Handler as _};
use schwann_etl::{
    FileNotFound, Object,
    transform::{Input, Output, buffered, streaming},
};
use serde_json::json;

/// What a streaming role reads and writes at a time.
const CHUNK: usize = 64 * 1024;

const PROBE: HeaderValue = HeaderValue::from_static("application/x-probe");

/// The transform of a role.
pub(crate) fn role(name: &str) -> Option<BoxHandler> {
    Some(match name {
        "echo" => buffered(|_, data| Ok(data)).boxed(),
        "echo-stream" => streaming(|_, input, output| echo(input, output)).boxed(),
        "md5" => buffered(|_, data| Ok(hex(&Md5::digest(&data)))).boxed(),
        "upper" => streaming(|_, input, output| upper(input, output)).boxed(),
        "gzip" => streaming(|_, input, output| gzip(input, output)).boxed(),
        "probe" | "fqn" => buffered(probe).content_type(PROBE).boxed(),
        "probe-stream" => streaming(probe_stream).content_type(PROBE).boxed(),
        _ => return None,
    })
}

fn echo(input: &mut Input, output: &mut Output) -> io::Result<()> {
    while let Some(chunk) = input.chunk()? {
        output.write_bytes(chunk)?;
    }
    Ok(())
}

fn upper(input: &mut Input, output: &mut Output) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let n = fill(input, &mut chunk)?;
        if n == 0 {
            return Ok(());
        }
        chunk[..n].make_ascii_uppercase();
        output.write_all(&chunk[..n])?;
    }
}

fn gzip(input: &mut Input, output: &mut Output) -> io::Result<()> {
    let output = io::BufWriter::with_capacity(CHUNK, output);
    let mut encoder = GzEncoder::new(output, Compression::fast());
    io::copy(input, &mut encoder)?;
    encoder.finish()?.flush()
}

/// Buffered; `etl_args` says what it does.
fn probe(object: &Object, data: Bytes) -> Result<Bytes, Error> {
    let data = match object.file() {
        Some(file) => fs::read(file).map_err(|error| missing(error, file))?.into(),
        None => data,
    };
    let (command, value) = command(object);
    Ok(match command {
        "raise" => return Err(Error::server(boom(value))),
        "raise-fnf" => {
            let file = if value.is_empty() { "/x/y" } else { value };
            return Err(FileNotFound(PathBuf::from(file)).into());
        }
        "empty" => Bytes::new(),
        "sleep" => {
            thread::sleep(seconds(value)?);
            data
        }
        "size" => vec![b'z'; number(value)?].into(),
        "pass" => data,
        _ => {
            // Of a file, Python's transform has the name, and counts its characters.
            let (kind, length) = match object.file() {
                Some(file) => ("str", file.as_os_str().len()),
                None => ("bytes", data.len()),
            };
            info(object, kind, length, &Md5::digest(&data)).into()
        }
    })
}

/// Streaming; `etl_args` says what it does.
fn probe_stream(object: &Object, input: &mut Input, output: &mut Output) -> io::Result<()> {
    let (command, value) = command(object);
    let mut chunk = vec![0; CHUNK];
    match command {
        "raise-before" => Err(boom(value)),
        "raise-after" | "raise-os-after" => {
            io::copy(&mut input.take(number(value)?), output)?;
            Err(match command {
                "raise-after" => boom("boom-after"),
                _ => io::Error::from_raw_os_error(5),
            })
        }
        "empty" => {
            while fill(input, &mut chunk)? > 0 {}
            Ok(())
        }
        "early" => {
            let mut some = vec![0; number(value)?];
            let n = fill(input, &mut some)?;
            output.write_all(&some[..n])
        }
        "ignore" => output.write_all(b"ignored"),
        "first-then-sleep" => {
            let n = fill(input, &mut chunk[..4])?;
            output.write_all(&chunk[..n])?;
            thread::sleep(seconds(value)?);
            echo(input, output)
        }
        "drain-then-yield" | "info" => {
            let (mut all, mut digest) = (0, Md5::new());
            loop {
                match fill(input, &mut chunk)? {
                    0 => break,
                    n => {
                        all += n;
                        digest.update(&chunk[..n]);
                    }
                }
            }
            match command {
                "info" => output.write_all(&info(object, "reader", all, &digest.finalize())),
                _ => output.write_all(all.to_string().as_bytes()),
            }
        }
        "gen" => {
            let block = Bytes::from(vec![b'g'; 1 << 20]);
            for _ in 0..number::<usize>(value)? {
                output.write_bytes(block.clone())?;
            }
            Ok(())
        }
        "readall" => {
            let mut all = Vec::new();
            input.read_to_end(&mut all)?;
            output.write_all(&all)
        }
        _ => echo(input, output),
    }
}

/// `COMMAND:VALUE`, as `etl_args` has it.
fn command(object: &Object) -> (&str, &str) {
    object.etl_args().split_once(':').unwrap_or((object.etl_args(), ""))
}

/// Reads until the buffer is full or the input ends.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut at = 0;
    while at < buffer.len() {
        match input.read(&mut buffer[at..])? {
            0 => break,
            n => at += n,
        }
    }
    Ok(at)
}

fn info(object: &Object, kind: &str, length: usize, digest: &[u8]) -> Vec<u8> {
    let info = json!({
        "path": object.path(), "etl_args": object.etl_args(), "type": kind,
        "data": object.file().map(|file| file.display().to_string()), "len": length,
        "md5": hex(digest),
    });
    info.to_string().into_bytes()
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn boom(why: &str) -> io::Error {
    io::Error::other(if why.is_empty() { "boom" } else { why })
}

fn missing(error: io::Error, file: &Path) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => FileNotFound(file.to_owned()).into(),
        _ => error.into(),
    }
}

fn seconds(text: &str) -> io::Result<Duration> {
    Duration::try_from_secs_f64(number(text)?).map_err(io::Error::other)
}

fn number<T: std::str::FromStr>(text: &str) -> io::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.parse().map_err(io::Error::other)
}
