//! An ETL over tar shards, sample by sample: files ending in `.txt` or `.json` are written in upper case, all others as
//! they are. In and out it streams: a shard of gigabytes takes the memory of one piece of it.

use std::{
    error::Error as StdError,
    io::{self, Read, Write},
};

use schwann_etl::{EtlServer, EtlSettings, raise_open_files, transform};
use tar::{Archive, Builder};

/// Most files of one shard.
const MAX_FILES: usize = 1_000_000;

fn shard(input: &mut impl Read, output: &mut impl Write) -> io::Result<()> {
    // Small writes are put together before they leave.
    let mut out = Builder::new(io::BufWriter::with_capacity(64 * 1024, output));
    let mut files = 0;
    let mut archive = Archive::new(input);
    for entry in archive.entries()? {
        let mut entry = entry?;
        files += 1;
        if files > MAX_FILES {
            return Err(io::Error::other("more than 1,000,000 files in one shard"));
        }
        let mut header = entry.header().clone();
        let path = entry.path()?.into_owned();
        let text = path.extension().is_some_and(|end| end == "txt" || end == "json");
        if header.entry_type().is_file() {
            if text {
                out.append_data(&mut header, path, Upper(&mut entry))?;
            } else {
                out.append_data(&mut header, path, &mut entry)?;
            }
        }
    }
    // A tar ends with two blocks of zeros, and the reader stops behind the first. Without them it was cut.
    if io::copy(&mut archive.into_inner(), &mut io::sink())? < 512 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the shard has no end"));
    }
    out.into_inner()?.into_inner().map_err(|error| error.into_error())?.flush()
}

/// Upper case, as it is read.
struct Upper<R>(R);

impl<R: Read> Read for Upper<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read(buf)?;
        buf[..n].make_ascii_uppercase();
        Ok(n)
    }
}

#[tokio::main]
#[expect(clippy::disallowed_methods, reason = "a program that reads the contract's variables")]
async fn main() -> Result<(), Box<dyn StdError>> {
    let settings = EtlSettings::from_variables(|name| std::env::var(name).ok())?;
    let shards = transform::streaming(|_, input, output| shard(input, output));
    let server = EtlServer::new(settings, shards)?;
    raise_open_files();
    let listener = schwann::Server::listen(([0, 0, 0, 0], 8000).into())?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    EtlServer::http()
        .run(listener, server, async move {
            terminate.recv().await;
        })
        .await;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (name, data) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(data.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn each_sample_is_changed_by_its_ending() {
        let long = format!("{}/1.json", "folder".repeat(30));
        let jpeg = vec![0x61; 300_000];
        let input =
            tar(&[("0.txt", b"a label"), ("0.jpg", &jpeg), (&long, b"{\"n\":1}"), ("e.txt", b"")]);
        let mut out = Vec::new();
        shard(&mut &input[..], &mut out).unwrap();
        let mut archive = Archive::new(&out[..]);
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut data = Vec::new();
            entry.read_to_end(&mut data).unwrap();
            seen.push((entry.path().unwrap().display().to_string(), data));
        }
        let expected = [
            ("0.txt".to_owned(), b"A LABEL".to_vec()),
            ("0.jpg".to_owned(), jpeg),
            (long, b"{\"N\":1}".to_vec()),
            ("e.txt".to_owned(), Vec::new()),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_shard_that_is_cut_is_an_error_wherever_it_is_cut() {
        let input = tar(&[("0.txt", b"a label"), ("1.txt", &[b'x'; 2000])]);
        shard(&mut &input[..], &mut io::sink()).unwrap();
        for cut in (0..input.len()).step_by(64) {
            let cut_off = shard(&mut &input[..cut], &mut io::sink());
            assert!(cut_off.is_err(), "{cut} of {} bytes looked whole", input.len());
        }
        assert!(shard(&mut &b"no tar at all"[..], &mut io::sink()).is_err());
    }
}
