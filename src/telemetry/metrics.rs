//! Every metric's name, unit and meaning, in one place.

use std::sync::atomic::{AtomicU64, Ordering};

/// The classes in which stores count and bill requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum RequestClass {
    Get,
    Head,
    List,
    Put,
    Copy,
    Delete,
    /// CreateMultipartUpload, CompleteMultipartUpload, AbortMultipartUpload.
    Multipart,
    UploadPart,
    UploadPartCopy,
    /// Buckets, tags and what else is rare.
    Other,
}

impl RequestClass {
    pub const ALL: [Self; 10] = [
        Self::Get,
        Self::Head,
        Self::List,
        Self::Put,
        Self::Copy,
        Self::Delete,
        Self::Multipart,
        Self::UploadPart,
        Self::UploadPartCopy,
        Self::Other,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Head => "head",
            Self::List => "list",
            Self::Put => "put",
            Self::Copy => "copy",
            Self::Delete => "delete",
            Self::Multipart => "multipart",
            Self::UploadPart => "upload_part",
            Self::UploadPartCopy => "upload_part_copy",
            Self::Other => "other",
        }
    }
}

/// Counters of one mount. Reading them is never exact while requests run.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Requests sent, each attempt counted, by class.
    requests: [AtomicU64; RequestClass::ALL.len()],
    /// Attempts that failed, by class.
    failures: [AtomicU64; RequestClass::ALL.len()],
    /// Body bytes received from the store.
    pub received_bytes: AtomicU64,
    /// Body bytes sent to the store.
    pub sent_bytes: AtomicU64,
    /// Opens after which the kernel reads the file in the disk cache by itself.
    pub passthrough_opens: AtomicU64,
}

impl Metrics {
    pub fn count_request(&self, class: RequestClass) {
        self.requests[class as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_failure(&self, class: RequestClass) {
        self.failures[class as usize].fetch_add(1, Ordering::Relaxed);
    }

    #[must_use]
    pub fn requests(&self, class: RequestClass) -> u64 {
        self.requests[class as usize].load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn failures(&self, class: RequestClass) -> u64 {
        self.failures[class as usize].load(Ordering::Relaxed)
    }
}
