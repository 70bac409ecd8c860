//! An ETL that makes images smaller: `etl_args` is the longest side in pixels, 256 if nothing is said.
//!
//! JPEG and PNG come in, the same comes out. An image is decoded as a whole, so what it may claim is limited: a file of a
//! few bytes can say that it is 60,000 pixels wide.

use std::{error::Error as StdError, io::Cursor};

use bytes::Bytes;
use http::StatusCode;
use image::{ImageReader, Limits, imageops::FilterType};
use schwann::Error;
use schwann_etl::{EtlServer, EtlSettings, Object, raise_open_files, transform};

/// Most pixels of a side, before and after.
const MAX_SIDE: u32 = 16_384;
/// Most memory for one decoded image, in bytes.
const MAX_MEMORY: u64 = 512 << 20;
const USUAL_SIDE: u32 = 256;

fn resize(object: &Object, data: Bytes) -> Result<Bytes, Error> {
    let side = match object.etl_args() {
        "" => USUAL_SIDE,
        args => {
            args.parse().ok().filter(|side| (1..=MAX_SIDE).contains(side)).ok_or_else(|| {
                let why = "etl_args must be the longest side in pixels, from 1 to 16384";
                Error::caller(StatusCode::BAD_REQUEST, why)
            })?
        }
    };
    let mut reader = ImageReader::new(Cursor::new(data)).with_guessed_format()?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_MEMORY);
    reader.limits(limits);
    let format = reader.format().ok_or_else(|| Error::server("this is no JPEG or PNG"))?;
    let image = reader.decode().map_err(Error::server)?;
    // Never larger than it was.
    let side = side.min(image.width().max(image.height()));
    let image = image.resize(side, side, FilterType::Triangle);
    let mut out = Cursor::new(Vec::new());
    image.write_to(&mut out, format).map_err(Error::server)?;
    Ok(out.into_inner().into())
}

#[tokio::main]
#[expect(clippy::disallowed_methods, reason = "a program that reads the contract's variables")]
async fn main() -> Result<(), Box<dyn StdError>> {
    let settings = EtlSettings::from_variables(|name| std::env::var(name).ok())?;
    let server = EtlServer::new(settings, transform::buffered(resize))?;
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

    use image::{DynamicImage, ImageFormat};

    use super::*;

    fn picture(width: u32, height: u32, format: ImageFormat) -> Bytes {
        let mut out = Cursor::new(Vec::new());
        DynamicImage::new_rgb8(width, height).write_to(&mut out, format).unwrap();
        out.into_inner().into()
    }

    #[test]
    fn the_longest_side_is_as_asked_and_the_shape_stays() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg] {
            for (args, expected) in [("100", (100, 50)), ("", (256, 128)), ("9999", (800, 400))] {
                let object = Object::new("b/o", args);
                let small = resize(&object, picture(800, 400, format)).unwrap();
                assert_eq!(image::guess_format(&small).unwrap(), format);
                let small = image::load_from_memory(&small).unwrap();
                assert_eq!((small.width(), small.height()), expected);
            }
        }
    }

    #[test]
    fn what_is_no_image_too_large_or_badly_asked_for_is_refused() {
        let object = Object::new("b/o", "");
        assert_eq!(resize(&object, Bytes::from_static(b"text")).unwrap_err().status(), 500);
        // The size stands in the head; nothing of it is decoded.
        let mut png = picture(1, 1, ImageFormat::Png).to_vec();
        png[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
        assert_eq!(resize(&object, png.into()).unwrap_err().status(), 500);
        let mut cut = picture(800, 400, ImageFormat::Png);
        cut.truncate(cut.len() / 2);
        assert_eq!(resize(&object, cut).unwrap_err().status(), 500);
        for args in ["0", "-1", "large", "16385"] {
            let object = Object::new("b/o", args);
            let refused = resize(&object, picture(8, 8, ImageFormat::Png)).unwrap_err();
            assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{args}");
        }
    }
}
