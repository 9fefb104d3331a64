//! How often each operation was asked for, and, when switched on, with which keys.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

macro_rules! operations {
    ($($variant:ident = $($s3_name:literal)|+ , $label:literal;)*) => {
        /// What a request asks for. Rare operations share [`Operation::Other`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(usize)]
        pub enum Operation { $($variant),* }

        impl Operation {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// A short name for messages.
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label),* }
            }

            /// By the name in the S3 API reference.
            pub(super) fn by_s3_name(name: &str) -> Self {
                match name {
                    $($($s3_name)|+ => Self::$variant,)*
                    _ => Self::Other,
                }
            }
        }
    };
}

operations! {
    Get = "GetObject", "get";
    Head = "HeadObject", "head";
    List = "ListObjectsV2" | "ListObjects", "list";
    ListVersions = "ListObjectVersions", "list_versions";
    Put = "PutObject", "put";
    Copy = "CopyObject", "copy";
    Delete = "DeleteObject", "delete";
    DeleteMany = "DeleteObjects", "delete_many";
    CreateUpload = "CreateMultipartUpload", "create_upload";
    UploadPart = "UploadPart", "upload_part";
    UploadPartCopy = "UploadPartCopy", "upload_part_copy";
    Complete = "CompleteMultipartUpload", "complete";
    Abort = "AbortMultipartUpload", "abort";
    ListParts = "ListParts", "list_parts";
    ListUploads = "ListMultipartUploads", "list_uploads";
    Attributes = "GetObjectAttributes", "attributes";
    Tags = "GetObjectTagging" | "PutObjectTagging" | "DeleteObjectTagging" | "GetBucketTagging"
        | "PutBucketTagging" | "DeleteBucketTagging", "tags";
    ListBuckets = "ListBuckets", "list_buckets";
    HeadBucket = "HeadBucket" | "GetBucketLocation", "head_bucket";
    CreateBucket = "CreateBucket", "create_bucket";
    DeleteBucket = "DeleteBucket", "delete_bucket";
    Versioning = "GetBucketVersioning" | "PutBucketVersioning", "versioning";
    Other = "?", "other";
}

#[derive(Debug)]
struct Inner {
    totals: Vec<AtomicU64>,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    is_logging: AtomicBool,
    log: Mutex<Vec<(Operation, String)>>,
}

/// A handle on the counters; clones count together. Every attempt counts, also one that a fault answers.
#[derive(Clone, Debug)]
pub struct Counts(Arc<Inner>);

impl Default for Counts {
    fn default() -> Self {
        Self(Arc::new(Inner {
            totals: Operation::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            received_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            is_logging: AtomicBool::new(false),
            log: Mutex::default(),
        }))
    }
}

impl Counts {
    pub(super) fn add(&self, operation: Operation, key: &str) {
        self.0.totals[operation as usize].fetch_add(1, Ordering::Relaxed);
        if self.0.is_logging.load(Ordering::Relaxed) {
            self.log_entries().push((operation, key.to_owned()));
        }
    }

    pub fn of(&self, operation: Operation) -> u64 {
        self.0.totals[operation as usize].load(Ordering::Relaxed)
    }

    pub(super) fn add_received(&self, bytes: u64) {
        self.0.received_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn add_sent(&self, bytes: u64) {
        self.0.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Body bytes that requests announced.
    pub fn received_bytes(&self) -> u64 {
        self.0.received_bytes.load(Ordering::Relaxed)
    }

    /// Body bytes that answers announced.
    pub fn sent_bytes(&self) -> u64 {
        self.0.sent_bytes.load(Ordering::Relaxed)
    }

    pub fn total(&self) -> u64 {
        Operation::ALL.iter().map(|operation| self.of(*operation)).sum()
    }

    /// Every operation that was asked for at all.
    pub fn all(&self) -> BTreeMap<Operation, u64> {
        Operation::ALL
            .iter()
            .map(|op| (*op, self.of(*op)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Counters to zero, and the log empty.
    pub fn reset(&self) {
        for total in &self.0.totals {
            total.store(0, Ordering::Relaxed);
        }
        self.0.received_bytes.store(0, Ordering::Relaxed);
        self.0.sent_bytes.store(0, Ordering::Relaxed);
        self.log_entries().clear();
    }

    /// Switches the log of single requests on or off; it grows without bound while it is on.
    pub fn set_logging(&self, on: bool) {
        self.0.is_logging.store(on, Ordering::Relaxed);
    }

    /// Requests in the order in which they came, with their key (empty where there is none).
    pub fn log(&self) -> Vec<(Operation, String)> {
        self.log_entries().clone()
    }

    fn log_entries(&self) -> std::sync::MutexGuard<'_, Vec<(Operation, String)>> {
        self.0.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
