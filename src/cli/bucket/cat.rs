//! `pailfs cat`: an object's bytes, or what they mean, to standard output.
//!
//! Bytes, text and base64 are passed on as they come. What is only right as a whole (a JSON document, the object of
//! `--json`) is held in memory first, so that there is all of it or an error: it may be as large as `--memory`.

use super::args::{CatArgs, Encoding};
use super::encoding::{BadInput, Utf8Check, check_json};
use super::output::{self, Output, Stop};
use super::transfer::{Download, Limits};
use super::{block_on, connect};
use crate::base::object::ObjectId;
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::cli::units::show_bytes;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Content<'a> {
    name: &'a str,
    content_type: &'a str,
    /// Of the bytes that `data` stands for.
    length: u64,
    last_modified: String,
    data: &'a RawValue,
}

/// # Errors
/// `NotFound`, `Denied`; Failed for content that is not what `--encoding` says, and for a range that the object does not
/// reach to.
pub fn run(args: &CatArgs) -> Result<(), Failure> {
    block_on(async { output::ended(cat(args).await) })
}

async fn cat(args: &CatArgs) -> Result<(), Stop> {
    let id = args.location.object()?;
    let environment = Environment::of_process()?;
    let limits = Limits::resolve(&args.transfer, &environment)?;
    let client = connect(&args.common, &environment, &limits).await?;
    let mut download = Download::open(&client, limits.budget(), &id, args.range).await?;
    let mut output = Output::stdout();
    match (args.common.json, args.encoding) {
        (true, encoding) => {
            let bytes = whole(&id, &mut download, &limits).await?;
            let data = data(&id, bytes, encoding.unwrap_or(Encoding::Utf8))?;
            output.json_line(&content(&id, &download, &data))?;
        }
        (false, Some(Encoding::Json)) => {
            let bytes = whole(&id, &mut download, &limits).await?;
            output.bytes(data(&id, bytes, Encoding::Json)?.get().as_bytes())?;
            output.bytes(b"\n")?;
        }
        (false, encoding) => stream(&id, &mut download, encoding, &mut output).await?,
    }
    output.flush()
}

async fn stream(
    id: &ObjectId,
    download: &mut Download,
    encoding: Option<Encoding>,
    output: &mut Output,
) -> Result<(), Stop> {
    let mut check = Utf8Check::default();
    // What does not fill a group of three bytes.
    let mut rest = Vec::new();
    let mut piece = Vec::new();
    while download.next(&mut piece).await? {
        match encoding {
            Some(Encoding::Utf8) => {
                check.piece(&piece).map_err(|bad| bad_content(id, &bad))?;
                output.bytes(&piece)?;
            }
            Some(Encoding::Base64) => {
                rest.append(&mut piece);
                let whole = rest.len() / 3 * 3;
                output.bytes(STANDARD.encode(&rest[..whole]).as_bytes())?;
                rest.drain(..whole);
            }
            None | Some(Encoding::Json) => output.bytes(&piece)?,
        }
    }
    match encoding {
        Some(Encoding::Utf8) => check.end().map_err(|bad| bad_content(id, &bad))?,
        Some(Encoding::Base64) => output.line(&STANDARD.encode(&rest))?,
        None | Some(Encoding::Json) => {}
    }
    Ok(())
}

async fn whole(id: &ObjectId, download: &mut Download, limits: &Limits) -> Result<Vec<u8>, Failure> {
    let len_bytes = download.range.len();
    if len_bytes > limits.memory_bytes {
        return Err(Failure::failed(format!(
            "{id}: {} have to be in memory for this, and may use {} (--memory); `pailfs get` makes a file of any size",
            show_bytes(len_bytes),
            show_bytes(limits.memory_bytes)
        )));
    }
    let mut bytes = Vec::with_capacity(len_bytes as usize);
    let mut piece = Vec::new();
    while download.next(&mut piece).await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// The bytes as a JSON value.
fn data(id: &ObjectId, bytes: Vec<u8>, encoding: Encoding) -> Result<Box<RawValue>, Failure> {
    let string = |text: &str| {
        serde_json::value::to_raw_value(text).map_err(|error| Failure::failed(format!("{id}: {error}")))
    };
    if encoding == Encoding::Base64 {
        return string(&STANDARD.encode(bytes));
    }
    let mut check = Utf8Check::default();
    let checked = check.piece(&bytes).and_then(|()| check.end());
    checked.map_err(|bad| bad_content(id, &bad))?;
    // Nothing is replaced: it has just been checked.
    let text = String::from_utf8_lossy(&bytes);
    if encoding == Encoding::Utf8 {
        return string(&text);
    }
    check_json(&text).map_err(|bad| bad_content(id, &bad))
}

fn content<'a>(id: &'a ObjectId, download: &'a Download, data: &'a RawValue) -> Content<'a> {
    let info = &download.info;
    Content {
        name: &id.key,
        content_type: info.headers.content_type.as_deref().unwrap_or_default(),
        length: download.range.len(),
        last_modified: output::rfc3339(info.version.last_modified),
        data,
    }
}

fn bad_content(id: &ObjectId, bad: &BadInput) -> Failure {
    Failure::of_object(id, format!("{id}: {bad}"), "`--encoding base64` shows any bytes")
}
