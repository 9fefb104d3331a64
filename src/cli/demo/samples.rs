//! The objects of the demo's two buckets: several kinds, names of several kinds, put there through the S3 API.

use crate::base::checksum::Crc32c;
use crate::base::error::ErrorKind;
use crate::base::object::{Condition, ObjectHeaders, ObjectId};
use crate::base::segments::Segments;
use crate::cli::failure::Failure;
use crate::s3::Client;
use crate::s3::types::PutRequest;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::collections::BTreeMap;

pub const LIBRARY: &str = "library";
pub const MEASUREMENTS: &str = "measurements";
pub const LARGE_OBJECT_BYTES: u64 = 48 << 20;
const UPLOADS_AT_ONCE: usize = 8;

/// A PNG image of one transparent pixel.
const PIXEL_PNG: &[u8] = &[
    0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A, 0, 0, 0, 13, b'I', b'H', b'D', b'R', 0, 0, 0, 1, 0, 0, 0,
    1, 8, 6, 0, 0, 0, 0x1F, 0x15, 0xC4, 0x89, 0, 0, 0, 13, b'I', b'D', b'A', b'T', 0x78, 0x9C, 0x63, 0, 1, 0,
    0, 5, 0, 1, 0x0D, 0x0A, 0x2D, 0xB4, 0, 0, 0, 0, b'I', b'E', b'N', b'D', 0xAE, 0x42, 0x60, 0x82,
];

/// One object to be.
#[derive(Clone, Debug)]
pub struct Sample {
    pub bucket: &'static str,
    pub key: String,
    pub body: Segments,
}

impl Sample {
    fn new(bucket: &'static str, key: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self {
            bucket,
            key: key.into(),
            body: Segments::from(body.into()),
        }
    }
}

/// All of them; the same on every call.
#[must_use]
pub fn samples() -> Vec<Sample> {
    let mut all = library();
    all.extend(measurements());
    all
}

fn library() -> Vec<Sample> {
    let mut all = Vec::new();
    let mut add = |key: String, text: String| all.push(Sample::new(LIBRARY, key, text));
    for author in [
        "Ada Ash",
        "Bruno Birch",
        "Čeněk Čáp",
        "Dôra Dún",
        "Emi 絵美",
        "Farid فريد",
    ] {
        for number in 1..=12 {
            let title = format!("Volume {number:02}");
            let text = format!("{author}\n{title}\n\n{}", paragraph(number * 7).repeat(number));
            add(format!("books/{author}/{title}.txt"), text);
        }
    }
    for month in 1..=12 {
        for day in [3, 14, 27] {
            let text = format!(
                "Dear reader,\n\nit is the {day}. of month {month}.\n\n{}",
                paragraph(month)
            );
            add(format!("letters/2024/{month:02}/{day:02} to a friend.txt"), text);
        }
    }
    add(
        "report".into(),
        "An object whose name is also a directory's: look for it as ~%report.\n".into(),
    );
    add("report/chapter 1.txt".into(), paragraph(3));
    add("report/chapter 2.txt".into(), paragraph(4));
    add(
        "odd names/100% \"quoted\" & <tagged> 'ok'; $HOME.txt".into(),
        "Any name will do.\n".into(),
    );
    add(
        "odd names/naïve – Straße – 日本語 – 🪣.txt".into(),
        "In any script.\n".into(),
    );
    add("empty.txt".into(), String::new());
    add(
        "website/index.html".into(),
        "<!doctype html><title>Pail</title><p>Served from a bucket.</p>\n".into(),
    );
    add(
        "website/style.css".into(),
        "p { font-family: sans-serif }\n".into(),
    );
    for number in 1..=20 {
        all.push(Sample::new(
            LIBRARY,
            format!("website/images/icon-{number:02}.png"),
            PIXEL_PNG,
        ));
    }
    let readme = "Every file here is an object in a bucket of that name, byte for byte.\n";
    all.push(Sample::new(LIBRARY, "README.txt", readme));
    all
}

fn measurements() -> Vec<Sample> {
    let mut all = Vec::new();
    let mut add = |key: String, text: String| all.push(Sample::new(MEASUREMENTS, key, text));
    for month in 1..=12 {
        for station in 1..=10 {
            add(
                format!("2024/{month:02}/station-{station:02}.csv"),
                table(month, station),
            );
        }
    }
    for station in 1..=10 {
        let text =
            serde_json::json!({ "station": station, "height_m": station * 137, "active": station % 3 != 0 });
        add(format!("stations/{station:02}.json"), format!("{text:#}\n"));
    }
    let megabyte: Bytes = (0..1u32 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect::<Vec<_>>()
        .into();
    let body = (0..LARGE_OBJECT_BYTES >> 20).map(|_| megabyte.clone()).collect();
    all.push(Sample {
        bucket: MEASUREMENTS,
        key: "archive/readings-2023.bin".into(),
        body,
    });
    all
}

fn table(month: usize, station: usize) -> String {
    let rows = (1..=28).map(|day| {
        let temperature = (month * 17 + station * 5 + day * 3) % 350;
        format!(
            "2024-{month:02}-{day:02},{station},{}.{}\n",
            temperature / 10,
            temperature % 10
        )
    });
    std::iter::once("date,station,temperature_c\n".to_owned())
        .chain(rows)
        .collect()
}

fn paragraph(seed: usize) -> String {
    const WORDS: [&str; 16] = [
        "water", "carries", "a", "bucket", "over", "the", "hill", "and", "nobody", "counts", "stones",
        "while", "rain", "falls", "on", "paper",
    ];
    let words: Vec<&str> = (0..60)
        .map(|n| WORDS[(n * n + seed * 5 + n / 7) % WORDS.len()])
        .collect();
    format!("{}.\n", words.join(" "))
}

/// Makes the buckets and the objects that are not there; what is there is left alone. Returns how many were made.
///
/// # Errors
/// What the store says.
pub async fn fill(client: &Client) -> Result<usize, Failure> {
    let mut fresh = Vec::new();
    for bucket in [LIBRARY, MEASUREMENTS] {
        match client.head_bucket(bucket).await {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {
                client.create_bucket(bucket).await?;
                fresh.push(bucket);
            }
            Err(error) => return Err(error.into()),
        }
    }
    // Once they were there, what is missing was deleted by the user.
    let wanted: Vec<Sample> = samples()
        .into_iter()
        .filter(|sample| fresh.contains(&sample.bucket))
        .collect();
    let count = wanted.len();
    stream::iter(wanted)
        .map(|sample| put(client, sample))
        .buffer_unordered(UPLOADS_AT_ONCE)
        .try_collect::<()>()
        .await?;
    Ok(count)
}

async fn put(client: &Client, sample: Sample) -> Result<(), Failure> {
    let content_type = mime_guess::from_path(&sample.key)
        .first_raw()
        .unwrap_or("application/octet-stream");
    let request = PutRequest {
        id: ObjectId::new(sample.bucket, sample.key),
        checksum: Crc32c::of_segments(&sample.body),
        body: sample.body,
        condition: Condition::Absent,
        headers: ObjectHeaders {
            content_type: Some(content_type.to_owned()),
            metadata: BTreeMap::new(),
            ..ObjectHeaders::default()
        },
    };
    client.put(&request).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn there_are_a_few_hundred_of_several_kinds() {
        let all = samples();
        let names: BTreeSet<_> = all
            .iter()
            .map(|sample| (sample.bucket, sample.key.as_str()))
            .collect();
        assert_eq!(names.len(), all.len(), "a key twice");
        assert!((200..600).contains(&all.len()), "{}", all.len());
        for ending in [".txt", ".csv", ".json", ".png", ".bin", ".html"] {
            assert!(names.iter().any(|(_, key)| key.ends_with(ending)), "{ending}");
        }
        assert!(names.contains(&(LIBRARY, "report")) && names.contains(&(LIBRARY, "report/chapter 1.txt")));
        assert!(
            all.iter()
                .any(|sample| sample.body.len_bytes() == LARGE_OBJECT_BYTES)
        );
        assert!(all.iter().any(|sample| sample.body.is_empty()));
    }
}
