//! Listings of objects, versions, uploads and parts.

use super::super::checksums::{hex, unhex};
use super::super::listing::{self as pages, Entry, Query, VersionEntry, url_encode};
use super::super::state::{self, Upload, UploadName};
use super::super::store::Store;
use super::Answer;
use super::dto::{etag, timestamp, with_sum};
use super::multipart::upload_of;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};
use std::collections::BTreeSet;

const MAX_PER_PAGE: i32 = 1000;

/// # Errors
/// `InvalidArgument` for a negative number.
fn page_size(wanted: Option<i32>) -> S3Result<i32> {
    match wanted.unwrap_or(MAX_PER_PAGE) {
        negative if negative < 0 => Err(s3_error!(InvalidArgument, "the page size must not be negative")),
        size => Ok(size.min(MAX_PER_PAGE)),
    }
}

/// How names are written into an answer.
#[derive(Clone, Copy)]
struct Names {
    is_encoded: bool,
}

impl Names {
    fn new(encoding: Option<&EncodingType>) -> Self {
        Self {
            is_encoded: encoding.is_some_and(|encoding| encoding.as_str() == EncodingType::URL),
        }
    }

    fn write(self, name: &str) -> String {
        if self.is_encoded {
            url_encode(name)
        } else {
            name.to_owned()
        }
    }

    fn write_some(self, name: Option<&String>) -> Option<String> {
        name.map(|name| self.write(name))
    }
}

/// A page as both versions of the operation return it.
struct ObjectPage {
    contents: Vec<Object>,
    common_prefixes: Vec<CommonPrefix>,
    is_truncated: bool,
    /// Unencoded.
    last: Option<String>,
}

impl Store {
    fn object_page(&self, bucket: &str, query: Query<'_>, names: Names) -> S3Result<ObjectPage> {
        let quirks = self.quirks();
        let mut page = self.read(bucket, |bucket| {
            let page = pages::current_objects(bucket, query);
            let last = page.entries.last().map(|entry| entry.name().to_owned());
            let (mut contents, mut common_prefixes) = (Vec::new(), Vec::new());
            for entry in page.entries {
                match entry {
                    Entry::CommonPrefix(prefix) => {
                        common_prefixes.push(CommonPrefix {
                            prefix: Some(names.write(prefix)),
                        });
                    }
                    Entry::Key(key, versions) => {
                        let object = versions.last().and_then(|version| version.object.as_deref());
                        contents.extend(object.map(|object| listed(object, names.write(key))));
                    }
                }
            }
            Ok(ObjectPage {
                contents,
                common_prefixes,
                is_truncated: page.is_truncated,
                last,
            })
        })?;
        if quirks.unordered_listings {
            page.contents.reverse();
            page.common_prefixes.reverse();
        }
        if quirks.no_checksum_algorithms_in_listings {
            for object in &mut page.contents {
                object.checksum_algorithm = None;
                object.checksum_type = None;
            }
        }
        Ok(page)
    }
}

fn listed(object: &state::Object, key: String) -> Object {
    let class = object
        .headers
        .storage_class
        .clone()
        .unwrap_or_else(|| "STANDARD".to_owned());
    Object {
        key: Some(key),
        size: Some(object.len_bytes as i64),
        e_tag: Some(etag(&object.etag)),
        last_modified: Some(timestamp(object.modified_s)),
        storage_class: Some(ObjectStorageClass::from(class)),
        checksum_algorithm: object
            .sum
            .as_ref()
            .map(|sum| vec![ChecksumAlgorithm::from_static(sum.sum.algorithm.name())]),
        checksum_type: object
            .sum
            .as_ref()
            .map(|sum| ChecksumType::from_static(sum.kind.name())),
        ..Object::default()
    }
}

pub async fn objects(store: &Store, request: S3Request<ListObjectsV2Input>) -> Answer<ListObjectsV2Output> {
    let input = request.input;
    let names = Names::new(input.encoding_type.as_ref());
    let max_keys = page_size(input.max_keys)?;
    let resumed = input.continuation_token.as_ref().map(|token| {
        let key = unhex(token).and_then(|bytes| String::from_utf8(bytes).ok());
        key.ok_or_else(|| s3_error!(InvalidArgument, "The continuation token provided is incorrect"))
    });
    let after = resumed
        .transpose()?
        .or_else(|| input.start_after.clone())
        .unwrap_or_default();
    let query = Query {
        prefix: input.prefix.as_deref().unwrap_or_default(),
        delimiter: input.delimiter.as_deref().unwrap_or_default(),
        after: &after,
        max_entries: max_keys as usize,
    };
    let page = store.object_page(&input.bucket, query, names)?;
    Ok(S3Response::new(ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: Some(names.write(query.prefix)),
        delimiter: names.write_some(input.delimiter.as_ref()),
        max_keys: Some(max_keys),
        key_count: Some((page.contents.len() + page.common_prefixes.len()) as i32),
        is_truncated: Some(page.is_truncated),
        next_continuation_token: page
            .last
            .filter(|_| page.is_truncated)
            .map(|last| hex(last.as_bytes())),
        continuation_token: input.continuation_token,
        start_after: names.write_some(input.start_after.as_ref()),
        encoding_type: input.encoding_type,
        contents: Some(page.contents),
        common_prefixes: Some(page.common_prefixes),
        ..ListObjectsV2Output::default()
    }))
}

pub async fn objects_v1(store: &Store, request: S3Request<ListObjectsInput>) -> Answer<ListObjectsOutput> {
    let input = request.input;
    let names = Names::new(input.encoding_type.as_ref());
    let max_keys = page_size(input.max_keys)?;
    let query = Query {
        prefix: input.prefix.as_deref().unwrap_or_default(),
        delimiter: input.delimiter.as_deref().unwrap_or_default(),
        after: input.marker.as_deref().unwrap_or_default(),
        max_entries: max_keys as usize,
    };
    let page = store.object_page(&input.bucket, query, names)?;
    // Without a delimiter the last key is the marker, and S3 does not repeat it.
    let next_marker = page
        .last
        .filter(|_| page.is_truncated && !query.delimiter.is_empty());
    Ok(S3Response::new(ListObjectsOutput {
        name: Some(input.bucket),
        prefix: Some(names.write(query.prefix)),
        marker: Some(names.write(query.after)),
        next_marker: names.write_some(next_marker.as_ref()),
        delimiter: names.write_some(input.delimiter.as_ref()),
        max_keys: Some(max_keys),
        is_truncated: Some(page.is_truncated),
        encoding_type: input.encoding_type,
        contents: Some(page.contents),
        common_prefixes: Some(page.common_prefixes),
        ..ListObjectsOutput::default()
    }))
}

pub async fn versions(
    store: &Store,
    request: S3Request<ListObjectVersionsInput>,
) -> Answer<ListObjectVersionsOutput> {
    let input = request.input;
    let names = Names::new(input.encoding_type.as_ref());
    let max_keys = page_size(input.max_keys)?;
    if input.version_id_marker.is_some() && input.key_marker.is_none() {
        return Err(s3_error!(
            InvalidArgument,
            "A version-id marker cannot be specified without a key marker."
        ));
    }
    let query = Query {
        prefix: input.prefix.as_deref().unwrap_or_default(),
        delimiter: input.delimiter.as_deref().unwrap_or_default(),
        after: input.key_marker.as_deref().unwrap_or_default(),
        max_entries: max_keys as usize,
    };
    let mut output = ListObjectVersionsOutput {
        name: Some(input.bucket.clone()),
        prefix: Some(names.write(query.prefix)),
        delimiter: names.write_some(input.delimiter.as_ref()),
        key_marker: Some(names.write(query.after)),
        version_id_marker: input.version_id_marker.clone(),
        max_keys: Some(max_keys),
        encoding_type: input.encoding_type.clone(),
        ..ListObjectVersionsOutput::default()
    };
    store.read(&input.bucket, |bucket| {
        let (entries, is_truncated) = pages::versions(bucket, query, input.version_id_marker.as_deref());
        output.is_truncated = Some(is_truncated);
        if is_truncated {
            (output.next_key_marker, output.next_version_id_marker) = match entries.last() {
                Some(VersionEntry::Version { key, version, .. }) => {
                    (Some(names.write(key)), Some(version.id.clone()))
                }
                Some(VersionEntry::CommonPrefix(prefix)) => (Some(names.write(prefix)), None),
                None => (None, None),
            };
        }
        add_versions(&mut output, entries, names);
        Ok(())
    })?;
    Ok(S3Response::new(output))
}

fn add_versions(output: &mut ListObjectVersionsOutput, entries: Vec<VersionEntry<'_>>, names: Names) {
    let (mut versions, mut markers, mut prefixes) = (Vec::new(), Vec::new(), Vec::new());
    for entry in entries {
        match entry {
            VersionEntry::CommonPrefix(prefix) => {
                prefixes.push(CommonPrefix {
                    prefix: Some(names.write(prefix)),
                });
            }
            VersionEntry::Version {
                key,
                version,
                is_latest,
            } => match &version.object {
                None => markers.push(DeleteMarkerEntry {
                    key: Some(names.write(key)),
                    version_id: Some(version.id.clone()),
                    is_latest: Some(is_latest),
                    last_modified: Some(timestamp(version.modified_s)),
                    ..DeleteMarkerEntry::default()
                }),
                Some(object) => {
                    let listed = listed(object, names.write(key));
                    versions.push(ObjectVersion {
                        key: listed.key,
                        version_id: Some(version.id.clone()),
                        is_latest: Some(is_latest),
                        size: listed.size,
                        e_tag: listed.e_tag,
                        last_modified: listed.last_modified,
                        checksum_algorithm: listed.checksum_algorithm,
                        checksum_type: listed.checksum_type,
                        ..ObjectVersion::default()
                    });
                }
            },
        }
    }
    output.versions = Some(versions);
    output.delete_markers = Some(markers);
    output.common_prefixes = Some(prefixes);
}

/// Uploads are few: this walks over all of them.
pub async fn uploads(
    store: &Store,
    request: S3Request<ListMultipartUploadsInput>,
) -> Answer<ListMultipartUploadsOutput> {
    let input = request.input;
    let names = Names::new(input.encoding_type.as_ref());
    let max_uploads = page_size(input.max_uploads)?;
    let prefix = input.prefix.clone().unwrap_or_default();
    let delimiter = input.delimiter.clone().unwrap_or_default();
    let mut output = ListMultipartUploadsOutput {
        bucket: Some(input.bucket.clone()),
        prefix: Some(names.write(&prefix)),
        delimiter: names.write_some(input.delimiter.as_ref()),
        key_marker: names.write_some(input.key_marker.as_ref()),
        upload_id_marker: input.upload_id_marker.clone(),
        max_uploads: Some(max_uploads),
        encoding_type: input.encoding_type.clone(),
        is_truncated: Some(false),
        ..ListMultipartUploadsOutput::default()
    };
    let is_after_marker = |name: &UploadName| match (&input.key_marker, &input.upload_id_marker) {
        (None, _) => true,
        (Some(key), None) => name.key > *key,
        (Some(key), Some(id)) => (&name.key, &name.id) > (key, id),
    };
    store.read(&input.bucket, |bucket| {
        let (mut listed, mut groups) = (Vec::new(), BTreeSet::new());
        let mut last: Option<&UploadName> = None;
        for (name, upload) in &bucket.uploads {
            let Some(rest) = name.key.strip_prefix(&prefix).filter(|_| is_after_marker(name)) else {
                continue;
            };
            let group = if delimiter.is_empty() {
                None
            } else {
                rest.find(&delimiter)
            };
            let group = group.map(|at| &name.key[..prefix.len() + at + delimiter.len()]);
            if listed.len() + groups.len() >= max_uploads as usize
                && group.is_none_or(|g| !groups.contains(g))
            {
                output.is_truncated = Some(max_uploads > 0);
                output.next_key_marker = last.map(|name| names.write(&name.key));
                output.next_upload_id_marker = last.map(|name| name.id.clone());
                break;
            }
            last = Some(name);
            match group {
                Some(group) => {
                    groups.insert(group);
                }
                None => listed.push(listed_upload(name, upload, names)),
            }
        }
        let common = |prefix: &str| CommonPrefix {
            prefix: Some(names.write(prefix)),
        };
        output.common_prefixes = Some(groups.into_iter().map(common).collect());
        output.uploads = Some(listed);
        Ok(())
    })?;
    Ok(S3Response::new(output))
}

fn listed_upload(name: &UploadName, upload: &Upload, names: Names) -> MultipartUpload {
    let algorithm = upload.plan.algorithm;
    MultipartUpload {
        key: Some(names.write(&name.key)),
        upload_id: Some(name.id.clone()),
        initiated: Some(timestamp(upload.plan.created_s)),
        checksum_algorithm: algorithm.map(|algorithm| ChecksumAlgorithm::from_static(algorithm.name())),
        checksum_type: algorithm.map(|_| ChecksumType::from_static(upload.plan.kind.name())),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        ..MultipartUpload::default()
    }
}

pub async fn parts(store: &Store, request: S3Request<ListPartsInput>) -> Answer<ListPartsOutput> {
    let input = request.input;
    let max_parts = page_size(input.max_parts)?;
    let marker = input.part_number_marker.unwrap_or(0);
    let mut output = ListPartsOutput {
        bucket: Some(input.bucket.clone()),
        key: Some(input.key.clone()),
        upload_id: Some(input.upload_id.clone()),
        max_parts: Some(max_parts),
        part_number_marker: input.part_number_marker,
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        ..ListPartsOutput::default()
    };
    store.read(&input.bucket, |bucket| {
        let (_, upload) = upload_of(bucket, &input.key, &input.upload_id)?;
        let algorithm = upload.plan.algorithm_or_default();
        let mut rest = upload.parts.range(marker.saturating_add(1)..);
        let page: Vec<Part> = rest
            .by_ref()
            .take(max_parts as usize)
            .map(|(number, part)| {
                let listed = Part {
                    part_number: Some(*number),
                    size: Some(part.len_bytes as i64),
                    e_tag: Some(etag(&part.etag)),
                    last_modified: Some(timestamp(part.modified_s)),
                    ..Part::default()
                };
                with_sum!(listed, part.sums.iter().find(|sum| sum.algorithm == algorithm))
            })
            .collect();
        output.is_truncated = Some(max_parts > 0 && rest.next().is_some());
        output.next_part_number_marker = page.last().and_then(|part| part.part_number);
        output.parts = Some(page);
        let planned = upload.plan.algorithm;
        output.checksum_algorithm = planned.map(|algorithm| ChecksumAlgorithm::from_static(algorithm.name()));
        output.checksum_type = planned.map(|_| ChecksumType::from_static(upload.plan.kind.name()));
        Ok(())
    })?;
    Ok(S3Response::new(output))
}
