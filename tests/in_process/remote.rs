//! Somebody else who uses the bucket, with a plain S3 client; also how tests look at what the bucket really holds.

use super::{BUCKET, dialer, paused_runtime};
use pailfs::base::attributes::Attributes;
use pailfs::base::checksum::Crc32c;
use pailfs::base::error::ErrorKind;
use pailfs::base::object::{Condition, ObjectHeaders, ObjectId, ObjectInfo};
use pailfs::embedded::Store;
use pailfs::s3::types::{CompleteRequest, GetRequest, ListRequest, PutRequest};
use pailfs::s3::{Client, ClientOptions};
use pailfs::telemetry::Metrics;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::runtime::Runtime;

/// An object as the bucket has it.
#[derive(Clone)]
pub struct Stored {
    pub bytes: Vec<u8>,
    pub info: ObjectInfo,
}

impl Stored {
    pub fn attributes(&self) -> Attributes {
        Attributes::read(&self.info.headers.metadata)
    }
}

pub struct Remote {
    store: Store,
    client: Client,
    runtime: Runtime,
}

impl Remote {
    pub fn new(store: &Store, options: ClientOptions) -> Self {
        let runtime = paused_runtime();
        let client = Client::with_dialer(options, Arc::new(Metrics::default()), dialer(store));
        let client = runtime.block_on(client).expect("valid options");
        Self {
            store: store.clone(),
            client,
            runtime,
        }
    }

    pub fn create_bucket(&self) {
        self.runtime
            .block_on(self.client.create_bucket(BUCKET))
            .expect("a new bucket");
    }

    pub fn put(&self, key: &str, bytes: &[u8]) {
        self.put_with(key, bytes, ObjectHeaders::default());
    }

    pub fn put_with(&self, key: &str, bytes: &[u8], headers: ObjectHeaders) {
        let request = PutRequest {
            id: ObjectId::new(BUCKET, key),
            body: bytes::Bytes::copy_from_slice(bytes).into(),
            checksum: Crc32c::of(bytes),
            condition: Condition::None,
            headers,
        };
        self.runtime
            .block_on(self.client.put(&request))
            .expect("an object is put");
    }

    /// Small objects of the same bytes, without a request for each.
    pub fn multiply(&self, keys: impl IntoIterator<Item = String>) {
        let mut keys = keys.into_iter();
        let Some(first) = keys.next() else { return };
        self.put(&first, b"x");
        self.runtime
            .block_on(self.store.multiply(BUCKET, &first, keys))
            .expect("the first one is there");
    }

    /// As most tools put what is large: in parts.
    pub fn put_in_parts(&self, key: &str, parts: &[&[u8]]) {
        let id = ObjectId::new(BUCKET, key);
        self.runtime.block_on(async {
            let upload = self
                .client
                .create_upload(&id, &ObjectHeaders::default())
                .await
                .expect("an upload");
            let mut uploaded = Vec::new();
            for (number, part) in (1..).zip(parts) {
                let bytes = bytes::Bytes::copy_from_slice(part);
                let sent = self
                    .client
                    .upload_part(&id, &upload, number, bytes.into(), Crc32c::of(part))
                    .await;
                uploaded.push(sent.expect("a part"));
            }
            let request = CompleteRequest {
                id,
                upload,
                size_bytes: parts.iter().map(|part| part.len() as u64).sum(),
                parts: uploaded,
                checksum: None,
                condition: Condition::None,
            };
            self.client.complete_upload(&request).await.expect("completed");
        });
    }

    pub fn tag(&self, key: &str, name: &str, value: &str) {
        let tags = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        self.runtime
            .block_on(self.client.put_tagging(&ObjectId::new(BUCKET, key), &tags))
            .expect("an object is tagged");
    }

    /// As `name=value&…`.
    pub fn tags(&self, key: &str) -> Option<String> {
        let id = ObjectId::new(BUCKET, key);
        let tags = self.client.get_tagging(&id);
        self.runtime.block_on(tags).expect("tags are told")
    }

    pub fn delete(&self, key: &str) {
        let id = ObjectId::new(BUCKET, key);
        self.runtime
            .block_on(self.client.delete(&id, None))
            .expect("an object is deleted");
    }

    pub fn get(&self, key: &str) -> Option<Stored> {
        let request = GetRequest {
            id: ObjectId::new(BUCKET, key),
            range: None,
            if_match: None,
            version_id: None,
        };
        self.runtime.block_on(async {
            let mut reply = match self.client.get(&request).await {
                Ok(reply) => reply,
                Err(error) if error.kind() == ErrorKind::NotFound => return None,
                Err(error) => panic!("{key}: {error:?}"),
            };
            let mut bytes = Vec::new();
            while let Some(piece) = reply.body.next().await.expect("a body") {
                bytes.extend_from_slice(&piece);
            }
            Some(Stored {
                bytes,
                info: reply.info,
            })
        })
    }

    /// False where the store refuses to show the object.
    pub fn may_look_at(&self, key: &str) -> bool {
        let id = ObjectId::new(BUCKET, key);
        self.runtime.block_on(self.client.head(&id)).is_ok()
    }

    pub fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        let mut request = ListRequest {
            bucket: BUCKET.into(),
            prefix: String::new(),
            by_directory: false,
            start_after: None,
            continuation: None,
            max_keys: 1_000,
        };
        loop {
            let page = self
                .runtime
                .block_on(self.client.list(&request))
                .expect("a listing");
            keys.extend(page.objects.into_iter().map(|object| object.key));
            match page.continuation {
                Some(next) => request.continuation = Some(next),
                None => return keys,
            }
        }
    }

    /// Everything that the bucket holds.
    pub fn snapshot(&self) -> BTreeMap<String, Stored> {
        self.keys()
            .into_iter()
            .filter_map(|key| self.get(&key).map(|stored| (key, stored)))
            .collect()
    }
}
