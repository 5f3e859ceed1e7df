//! Bodies that came gzipped, with a cap on what they become.

use std::io::Read;

use bytes::Bytes;
use http::{HeaderMap, header};

use crate::failure::{Class, Failure};

/// The body without its content encoding. `identity` and `gzip` are known; the result has at most `max` bytes.
pub fn inflate(headers: &HeaderMap, body: Bytes, max: usize) -> Result<Bytes, Failure> {
    let Some(encoding) = headers.get(header::CONTENT_ENCODING) else {
        return Ok(body);
    };
    let encoding = encoding
        .to_str()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    match encoding.as_str() {
        "" | "identity" => Ok(body),
        "gzip" | "x-gzip" => gunzip(&body, max),
        _ => Err(Failure::parse(format!(
            "the content encoding `{encoding}` is not known; send gzip or none"
        ))),
    }
}

fn gunzip(body: &[u8], max: usize) -> Result<Bytes, Failure> {
    let mut whole = Vec::new();
    let mut reader = flate2::read::MultiGzDecoder::new(body).take(max as u64 + 1);
    reader
        .read_to_end(&mut whole)
        .map_err(|error| Failure::parse(format!("the body is not gzip: {error}")))?;
    if whole.len() > max {
        let message = format!("the body is larger than {max} bytes once it is unzipped");
        return Err(Failure::new(Class::TooLarge, message));
    }
    Ok(Bytes::from(whole))
}
