//! The other program that uses the bucket: short calls to the store, past the mount.

use super::store::block_on;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, ResponseChecksumValidation};
use aws_sdk_s3::operation::get_object::GetObjectError;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketVersioningStatus, ChecksumAlgorithm, ObjectCannedAcl, ServerSideEncryption, Tag, Tagging,
    VersioningConfiguration,
};
use std::collections::HashMap;

/// One bucket of one store.
#[derive(Clone)]
pub struct Bucket {
    pub name: String,
    client: Client,
}

pub fn client(endpoint_url: &str, access_key: &str, secret_key: &str) -> Client {
    Client::from_conf(config(endpoint_url, access_key, secret_key).build())
}

/// A client that does not compare what it reads with the checksums that the store tells: moto's of whole objects that
/// were uploaded in parts are wrong.
pub fn trusting_client(endpoint_url: &str, access_key: &str, secret_key: &str) -> Client {
    let config = config(endpoint_url, access_key, secret_key);
    let trusting = config.response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    Client::from_conf(trusting.build())
}

fn config(endpoint_url: &str, access_key: &str, secret_key: &str) -> aws_sdk_s3::config::Builder {
    let credentials = Credentials::new(access_key, secret_key, None, None, "test");
    aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(endpoint_url)
        .force_path_style(true)
        .credentials_provider(credentials)
}

impl Bucket {
    pub fn create(client: &Client, name: &str) -> Self {
        block_on(client.create_bucket().bucket(name).send()).expect("a new bucket");
        Self {
            name: name.to_owned(),
            client: client.clone(),
        }
    }

    pub fn put(&self, key: &str, data: impl Into<Vec<u8>>) {
        let body = ByteStream::from(data.into());
        let request = self.client.put_object().bucket(&self.name).key(key).body(body);
        block_on(request.send()).unwrap_or_else(|error| panic!("put {key:?}: {error:?}"));
    }

    /// Everybody may read it, where the store has access control lists.
    pub fn put_public(&self, key: &str, data: impl Into<Vec<u8>>) {
        let body = ByteStream::from(data.into());
        let request = self.client.put_object().bucket(&self.name).key(key).body(body);
        let request = request.acl(ObjectCannedAcl::PublicRead);
        block_on(request.send()).unwrap_or_else(|error| panic!("put {key:?}: {error:?}"));
    }

    pub fn put_with_metadata(&self, key: &str, data: impl Into<Vec<u8>>, metadata: &[(&str, &str)]) {
        let body = ByteStream::from(data.into());
        let mut request = self.client.put_object().bucket(&self.name).key(key).body(body);
        for (name, value) in metadata {
            request = request.metadata(*name, *value);
        }
        block_on(request.send()).unwrap_or_else(|error| panic!("put {key:?}: {error:?}"));
    }

    /// With a storage class, encrypted with a key of the store's key management.
    /// With a checksum that listings show, as this program and a few others upload.
    pub fn put_marked(&self, key: &str, data: impl Into<Vec<u8>>, metadata: &[(&str, &str)]) {
        let put = self.client.put_object().bucket(&self.name).key(key);
        let put = metadata
            .iter()
            .fold(put, |put, (name, value)| put.metadata(*name, *value))
            .checksum_algorithm(ChecksumAlgorithm::Crc32C)
            .body(ByteStream::from(data.into()));
        block_on(put.send()).expect("put");
    }

    pub fn put_stored(&self, key: &str, data: impl Into<Vec<u8>>, class: &str, kms_key: &str) {
        let body = ByteStream::from(data.into());
        let request = self.client.put_object().bucket(&self.name).key(key).body(body);
        let request = request
            .storage_class(class.into())
            .server_side_encryption(ServerSideEncryption::AwsKms)
            .ssekms_key_id(kms_key);
        block_on(request.send()).unwrap_or_else(|error| panic!("put {key:?}: {error:?}"));
    }

    /// The object's user metadata.
    pub fn metadata(&self, key: &str) -> HashMap<String, String> {
        self.head(key).metadata.unwrap_or_default()
    }

    /// Many at once.
    pub fn put_all(&self, keys: impl IntoIterator<Item = String>, data: &[u8]) {
        const AT_ONCE: usize = 16;
        let keys: Vec<String> = keys.into_iter().collect();
        for keys in keys.chunks(AT_ONCE) {
            let requests = keys.iter().map(|key| {
                let body = ByteStream::from(data.to_vec());
                self.client
                    .put_object()
                    .bucket(&self.name)
                    .key(key)
                    .body(body)
                    .send()
            });
            for answer in block_on(futures_util::future::join_all(requests)) {
                answer.expect("put");
            }
        }
    }

    /// An object that has another's bytes so many times, without sending them.
    pub fn repeat(&self, from: &str, times: i32, key: &str) {
        use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
        let request = self.client.create_multipart_upload().bucket(&self.name).key(key);
        let created = block_on(request.send()).expect("an upload");
        let upload = created.upload_id.expect("an id");
        let parts = (1..=times).map(|number| {
            let copy = self.client.upload_part_copy().bucket(&self.name).key(key);
            let copy = copy
                .copy_source(format!("{}/{from}", self.name))
                .upload_id(&upload);
            let copied = block_on(copy.part_number(number).send()).expect("a part");
            let e_tag = copied.copy_part_result.and_then(|result| result.e_tag);
            CompletedPart::builder()
                .part_number(number)
                .set_e_tag(e_tag)
                .build()
        });
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.collect()));
        let complete = self
            .client
            .complete_multipart_upload()
            .bucket(&self.name)
            .key(key);
        let complete = complete.upload_id(&upload).multipart_upload(parts.build());
        block_on(complete.send()).expect("an object");
    }

    /// An upload that stays open, with these parts: its id, and their tags without quotes.
    pub fn begin_upload(
        &self,
        key: &str,
        parts: &[&[u8]],
        (name, value): (&str, &str),
    ) -> (String, Vec<String>) {
        let request = self.client.create_multipart_upload().bucket(&self.name).key(key);
        let request = request.metadata(name, value);
        let created = block_on(request.send()).expect("an upload");
        let upload_id = created.upload_id.expect("an id");
        let etags = (1..).zip(parts).map(|(number, part)| {
            let request = self.client.upload_part().bucket(&self.name).key(key);
            let request = request
                .upload_id(&upload_id)
                .part_number(number)
                .body(part.to_vec().into());
            let etag = block_on(request.send()).expect("a part").e_tag;
            etag.expect("a tag").trim_matches('"').to_owned()
        });
        let etags = etags.collect();
        (upload_id, etags)
    }

    /// The object's bytes; `None` when there is no such key.
    pub fn find(&self, key: &str) -> Option<Vec<u8>> {
        let request = self.client.get_object().bucket(&self.name).key(key);
        match block_on(request.send()) {
            Ok(answer) => Some(block_on(answer.body.collect()).expect("a whole body").to_vec()),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(GetObjectError::is_no_such_key) =>
            {
                None
            }
            Err(error) => panic!("get {key:?}: {error:?}"),
        }
    }

    #[track_caller]
    pub fn get(&self, key: &str) -> Vec<u8> {
        self.find(key)
            .unwrap_or_else(|| panic!("there is no object {key:?} but {:?}", self.keys("")))
    }

    #[track_caller]
    pub fn text(&self, key: &str) -> String {
        String::from_utf8(self.get(key)).expect("text")
    }

    pub fn head(&self, key: &str) -> HeadObjectOutput {
        let request = self.client.head_object().bucket(&self.name).key(key);
        block_on(request.send()).unwrap_or_else(|error| panic!("head {key:?}: {error:?}"))
    }

    /// Whether everybody may read the object.
    pub fn is_public(&self, key: &str) -> bool {
        let request = self.client.get_object_acl().bucket(&self.name).key(key);
        let acl = block_on(request.send()).unwrap_or_else(|error| panic!("ACL of {key:?}: {error:?}"));
        let mut grantees = acl.grants().iter().filter_map(|grant| grant.grantee()?.uri());
        grantees.any(|uri| uri.ends_with("/AllUsers"))
    }

    pub fn tag(&self, key: &str, name: &str, value: &str) {
        let tag = Tag::builder().key(name).value(value).build().expect("a tag");
        let tags = Tagging::builder().tag_set(tag).build().expect("tags");
        let request = self.client.put_object_tagging().bucket(&self.name).key(key);
        block_on(request.tagging(tags).send()).unwrap_or_else(|error| panic!("tag {key:?}: {error:?}"));
    }

    pub fn tags(&self, key: &str) -> Vec<(String, String)> {
        let request = self.client.get_object_tagging().bucket(&self.name).key(key);
        let answer = block_on(request.send()).unwrap_or_else(|error| panic!("tags of {key:?}: {error:?}"));
        let tags = answer.tag_set.into_iter();
        tags.map(|tag| (tag.key, tag.value)).collect()
    }

    pub fn keep_versions(&self) {
        let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled);
        let request = self.client.put_bucket_versioning().bucket(&self.name);
        let request = request.versioning_configuration(enabled.build());
        block_on(request.send()).expect("versioning is on");
    }

    pub fn delete(&self, key: &str) {
        let request = self.client.delete_object().bucket(&self.name).key(key);
        block_on(request.send()).unwrap_or_else(|error| panic!("delete {key:?}: {error:?}"));
    }

    /// All keys with this prefix, in the store's order.
    /// Many at once.
    pub fn delete_all(&self, keys: &[String]) {
        use aws_sdk_s3::types::{Delete, ObjectIdentifier};
        for keys in keys.chunks(1_000) {
            let objects = keys
                .iter()
                .map(|key| ObjectIdentifier::builder().key(key).build().expect("a key"));
            let delete = Delete::builder().set_objects(Some(objects.collect())).build();
            let request = self.client.delete_objects().bucket(&self.name);
            block_on(request.delete(delete.expect("keys")).send()).expect("deleted");
        }
    }

    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let request = self.client.list_objects_v2().bucket(&self.name).prefix(prefix);
        let pages = request.into_paginator().send();
        let pages = block_on(pages.collect::<Result<Vec<_>, _>>()).expect("a listing");
        let objects = pages
            .into_iter()
            .flat_map(|page| page.contents.unwrap_or_default());
        objects.filter_map(|object| object.key).collect()
    }

    /// The uploads that were begun and neither completed nor aborted.
    pub fn open_uploads(&self) -> Vec<String> {
        let request = self.client.list_multipart_uploads().bucket(&self.name);
        let uploads = block_on(request.send())
            .expect("a listing of uploads")
            .uploads
            .unwrap_or_default();
        uploads.into_iter().filter_map(|upload| upload.key).collect()
    }
}
